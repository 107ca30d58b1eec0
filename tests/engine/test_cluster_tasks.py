"""Cutting work into tasks: everything once, neighbours together, the same whatever the number of workers."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from remid.engine.cluster_tasks import Piece, Task, alone, cut_chats, cut_works
from remid.engine.work import Work
from remid.lm.tree import arrange

_TOKENS = st.integers(0, 3)
_SEQUENCE = st.lists(_TOKENS, min_size=1, max_size=12).map(tuple)
_WORK = st.builds(Work, _SEQUENCE, st.lists(_SEQUENCE, max_size=40).map(tuple))


def _work(prompt: int, continuations: int, each: int, first: int = 0) -> Work:
    """A prompt of so many tokens, all of them `first`, and continuations of `each` tokens."""
    return Work((first,) * prompt, ((1,) * each,) * continuations)


def _pieces(tasks: list[Task]) -> list[Piece]:
    return [item for task in tasks for item in task.items if isinstance(item, Piece)]


@settings(max_examples=100, deadline=None)
@given(st.lists(_WORK, max_size=12), st.integers(1, 200))
def test_every_continuation_is_in_exactly_one_task(work: list[Work], limit: int) -> None:
    found = Counter((p.work, c) for p in _pieces(cut_works(work, limit)) for c in range(p.start, p.stop))
    assert found == Counter((w, c) for w, each in enumerate(work) for c in range(len(each.continuations)))


@settings(max_examples=100, deadline=None)
@given(st.lists(_WORK, max_size=12), st.integers(1, 200))
def test_tasks_hold_neighbours_in_an_engine_s_order_and_the_most_expensive_comes_first(
    work: list[Work], limit: int
) -> None:
    tasks, order = cut_works(work, limit), [index for index, _ in arrange(work)]
    assert [task.cost for task in tasks] == sorted((task.cost for task in tasks), reverse=True)
    for task in tasks:
        places = [(order.index(p.work), p.start) for p in _pieces([task])]
        assert places == sorted(places)


@settings(max_examples=100, deadline=None)
@given(st.lists(_WORK, max_size=12), st.integers(1, 200))
def test_a_task_above_the_limit_is_a_single_piece(work: list[Work], limit: int) -> None:
    assert all(len(task.items) == 1 for task in cut_works(work, limit) if task.cost > limit)


def test_costs_count_a_shared_prefix_once() -> None:
    (task,) = cut_works([Work((1,) * 10, ((2, 3),)), Work((1,) * 10 + (4,), ((2,),))], 1000)
    assert task.cost == 12 + 2


def test_a_work_of_very_many_continuations_is_split_and_pays_for_its_prompt_seldom() -> None:
    tasks = cut_works([_work(10, 1000, 5)], 100)
    assert len(tasks) > 20
    assert sum(task.cost for task in tasks) < 5000 * (1 + 1 / 14)


def test_a_work_with_a_long_prompt_stays_whole() -> None:
    assert len(cut_works([_work(5000, 100, 5)], 1000)) == 1


def test_a_cut_falls_between_groups_rather_than_into_one() -> None:
    group = [_work(50, 1, 1, first) for first in (0, 0, 0, 0, 1, 1, 1, 1)]
    # Four works of a group cost 54, and the first of the next would still fit.
    tasks = cut_works(group, 108)
    assert [[p.work for p in _pieces([task])] for task in tasks] == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_nothing_gives_no_task() -> None:
    assert cut_works([], 10) == []
    assert cut_works([Work((1,), ())], 10) == []
    assert cut_chats(0, 8) == []


def test_chats_are_cut_from_the_front_into_whole_batches() -> None:
    assert [task.items for task in cut_chats(7, 3)] == [(0, 1, 2), (3, 4, 5), (6,)]


def test_a_deadly_task_is_taken_apart_with_its_deaths() -> None:
    task = Task((Piece(0, 0, 3), Piece(1, 0, 2)), 40, losses=2)
    assert [(t.items, t.losses) for t in alone(task)] == [((Piece(0, 0, 3),), 2), ((Piece(1, 0, 2),), 2)]
