"""Works are handed out once each and together in time; a lane's failure or the taker's is everybody's end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import VOCABULARY, conversations, ids, tiny

from remid.lm.lanes import Pool, lanes_for, parts_of, run_lanes
from remid.lm.scoring import Scorer
from remid.lm.tree import shared
from remid.lm.work import Work


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def works(lengths: list[tuple[int, list[int]]]) -> list[Work]:
    """Prompts that share half of their beginning, answers of these lengths."""
    return [
        Work((*ids(length // 2, 1), *ids(length - length // 2, 2 + k)), tuple(map(tuple, conversations(answers))))
        for k, (length, answers) in enumerate(lengths)
    ]


sizes = st.lists(
    st.tuples(st.integers(2, 400), st.lists(st.integers(1, 1500), min_size=1, max_size=6)), min_size=1, max_size=12
)


@given(sizes, st.integers(1, 5), st.randoms(use_true_random=False))
def test_every_continuation_is_handed_out_once_whoever_takes_it(
    lengths: list[tuple[int, list[int]]], takers: int, random: object
) -> None:
    work = works(lengths)
    parts = parts_of(work)
    asked = [(w, k) for w, item in enumerate(work) for k in range(len(item.continuations))]
    assert sorted((w, k) for w, ks in parts for k in ks) == asked
    pool = Pool(work, parts, takers)
    walks = [pool.walk() for _ in range(takers)]
    before: list[tuple[int, ...]] = [()] * takers
    seen = []
    while walks:
        which = random.randrange(len(walks))  # type: ignore[attr-defined]
        try:
            number, kept = next(walks[which])
        except StopIteration:
            del walks[which], before[which]
            continue
        seen.append(number)
        prompt = work[parts[number][0]].prompt
        # What is kept is what this taker has just run, never somebody else's.
        assert kept == min(shared(before[which], prompt), len(prompt) - 1)
        before[which] = prompt
    assert sorted(seen) == list(range(len(parts)))


def test_many_answers_to_one_prompt_are_shared_out() -> None:
    [one] = works([(100, [300] * 40)])
    parts = parts_of([one])
    assert len(parts) > 4
    assert max(300 * len(ks) for _, ks in parts) <= 2048
    assert lanes_for(parts, 2) == 2
    assert lanes_for(parts_of(works([(100, [300])])), 2) == 1
    assert lanes_for(parts, 1000) <= 8


def test_lanes_give_everything_and_divide_the_threads() -> None:
    torch.set_num_threads(4)
    numbers, seen = iter(range(100)), set()
    lock = threading.Lock()

    def body() -> Iterator[int]:
        seen.add((threading.current_thread().name, torch.get_num_threads()))
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            yield number

    assert sorted(run_lanes(2, body)) == list(range(100))
    assert seen == {("lane-0", 2), ("lane-1", 2)}
    assert torch.get_num_threads() == 4


def test_what_a_lane_raises_is_raised_after_what_all_have_given() -> None:
    ready = threading.Barrier(2)

    def body() -> Iterator[str]:
        ready.wait()
        if threading.current_thread().name == "lane-1":
            yield "from the one that fails"
            raise ZeroDivisionError
        while True:
            yield "from the other"
            time.sleep(0.001)

    given: list[str] = []
    with pytest.raises(ZeroDivisionError):
        given.extend(run_lanes(2, body))
    assert "from the one that fails" in given
    assert not [t for t in threading.enumerate() if t.name.startswith("lane-")]


def test_lanes_end_when_nobody_takes_their_results_any_more() -> None:
    def body() -> Iterator[int]:
        while True:
            yield 1

    results = run_lanes(3, body)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name.startswith("lane-")]


def test_a_lane_that_runs_out_of_memory_costs_nobody_anything() -> None:
    torch.set_num_threads(2)
    model, work = tiny("llama"), works([(90, [5, 30, 9]), (200, [40] * 9), (60, [3]), (150, [1, 2])])
    assert max(max(w.prompt) for w in work) < VOCABULARY
    expected = {(s.work, s.continuation): s.logp_T for b in Scorer(model, layout="plain").score(work) for s in b}
    failing = [True]

    def fail(_: object, inputs: tuple[torch.Tensor, ...]) -> None:
        if failing and inputs[0].shape[1] > 100:
            failing.pop()
            raise MemoryError

    hook = model.model.model.layers[1].register_forward_pre_hook(fail)
    try:
        found = [s for b in Scorer(model, layout="tree", rows=256).score(work) for s in b]
    finally:
        hook.remove()
    assert not failing
    assert sorted((s.work, s.continuation) for s in found) == sorted(expected)
    for scored in found:
        assert scored.logp_T is not None
        np.testing.assert_allclose(scored.logp_T, expected[scored.work, scored.continuation], atol=1e-4)  # type: ignore[arg-type]


def test_who_is_quick_leaves_a_part_to_who_has_not_begun() -> None:
    # A pass takes several small works before it runs; threads start one by one.
    work = works([(50, [5]), (60, [5])])
    pool = Pool(work, parts_of(work), 2)
    first, second = pool.walk(), pool.walk()
    taken = [number for number, _ in first]
    assert len(taken) == 1
    assert sorted([*taken, *(number for number, _ in second)]) == [0, 1]
