"""What may be trained on: the split, planted leaks of every kind and near misses, and examples as exact token ids."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from remid.data import mini_benchmark_paths, read_benchmark
from remid.errors import ConfigError, DataError
from remid.lm.chat import ChatRenderer
from remid.lm.models import LoadedModel
from remid.pipeline.prompts import role_play_messages
from remid.pipeline.reason import trace_messages
from remid.pipeline.traces import compact_from_full
from remid.train.examples import Example, q1_example, q2_example, refuse_leaks, split_training
from remid.types import TRAIN, Benchmark, Sample, Turn

COMPACT = "## Core Features\nContent: It answers.\nStyle: Short; with *marks* ＆ 中文."


def sample(number: int, pair: int | None = None, **fields: object) -> Sample:
    """A training sample; `pair` numbers its user and character."""
    pair = number if pair is None else pair
    made = Sample(
        sample_id=f"t{number}",
        split="IDTrain",
        subset="IDTrain",
        shift=TRAIN,
        user=f"User {pair}",
        character=f"Character {pair}",
        dialogue=(Turn("user", "Hello."), Turn("agent", "Good day."), Turn("user", f"What is number {number}?")),
        reference=f"The number you ask for is {number}, dear.",
        place=f"b.json: IDTrain[{number}]",
    )
    return replace(made, **fields)  # type: ignore[arg-type]


def benchmark(*samples: Sample) -> Benchmark:
    return Benchmark(samples, "b.json", "0" * 64)


MANY = benchmark(*(sample(n, n // 3) for n in range(90)), sample(200, shift="id", split="IDTest"))


def test_train_and_held_out_are_all_training_samples_and_share_no_user_with_character() -> None:
    split = split_training(MANY, None, 0.2, 3)
    assert {s.sample_id for s in (*split.train, *split.held_out)} == {f"t{n}" for n in range(90)}
    assert len(split.train) + len(split.held_out) == 90
    assert len(split.held_out) == 18
    assert not {s.user for s in split.train} & {s.user for s in split.held_out}
    order = [int(s.sample_id[1:]) for s in split.train]
    assert order == sorted(order)


def test_a_split_is_a_function_of_data_and_seed() -> None:
    one, again, other = (split_training(MANY, 40, 0.25, seed) for seed in (1, 1, 2))
    assert one == again
    assert one.digest != other.digest
    assert len(one.train) + len(one.held_out) == 40
    changed = benchmark(*(replace(s, reference=s.reference + "!") for s in MANY.samples))
    assert split_training(changed, 40, 0.25, 1).digest != one.digest


@pytest.mark.parametrize(
    ("pairs", "holdout", "held"),
    [
        ([0] * 10, 0.2, 2),  # one group: it has to be divided
        ([0] * 6 + [1] * 4, 0.2, 4),  # the smaller of two is not too much
        ([0] * 5 + [1] * 5, 0.2, 5),
        ([0, 1], 0.1, 1),
        ([0, 1], 0.89, 1),
    ],
)
def test_groups_too_large_for_the_share(pairs: list[int], holdout: float, held: int) -> None:
    data = benchmark(*(sample(n, pair) for n, pair in enumerate(pairs)))
    split = split_training(data, None, holdout, 0)
    assert len(split.held_out) == held
    assert len(split.train) == len(pairs) - held


def test_without_training_data_the_split_is_named() -> None:
    with pytest.raises(ConfigError, match=r"IDTrain.*taxonomy"):
        split_training(benchmark(sample(1, shift="id")), None, 0.1, 0)


def test_training_samples_with_one_id_are_refused() -> None:
    with pytest.raises(DataError, match=r"IDTrain\[1\]: sample_ID") as caught:
        split_training(benchmark(sample(1), sample(2), replace(sample(3), sample_id="t1")), None, 0.1, 0)
    assert len(caught.value.problems) == 2


TEST = sample(
    900,
    shift="id",
    sample_id="x1",
    user="Ann,  a COOK.",
    reference="Gone with the last tide, I fear.",
    place="b.json: IDTest[0]",
)


@pytest.mark.parametrize(
    ("leak", "field"),
    [
        (sample(1, sample_id="x1"), "sample_ID"),
        (
            sample(1, user="ann, a ｃｏｏｋ.", character=TEST.character, dialogue=TEST.dialogue),
            "user_persona, agent_character, dialogue_context",
        ),
        (sample(1, reference=" gone with the LAST tide,\nI fear. "), "agent_golden_response"),
    ],
)
def test_each_kind_of_leak_is_named(leak: Sample, field: str) -> None:
    with pytest.raises(DataError) as caught:
        refuse_leaks([sample(0), leak], [sample(950, shift="user"), TEST])
    (problem,) = caught.value.problems
    assert (problem.file, problem.record, problem.field) == ("b.json", "IDTrain[1]", field)
    assert "b.json: IDTest[0]" in problem.message


def test_near_misses_pass() -> None:
    short = replace(TEST, reference="Yes, I do.")
    turns = (*TEST.dialogue[:-1], Turn("user", "What is number 901?"))
    near = [
        sample(1, sample_id="x1 "),
        sample(2, user=TEST.user, character=TEST.character, dialogue=turns),
        sample(3, user=TEST.user, character="Another", dialogue=TEST.dialogue),
        sample(4, reference="Yes, I do."),
        sample(5, reference="Gone with the last tide, I hope."),
        # The same words, but another cut between user and character.
        sample(6, user="", character=f"{TEST.user}{TEST.character}", dialogue=TEST.dialogue),
    ]
    refuse_leaks(near, [TEST, replace(short, sample_id="x2", dialogue=turns[:1])])


def test_the_mini_benchmark_has_no_leaks() -> None:
    mini = read_benchmark(mini_benchmark_paths()[:1])
    split = split_training(mini, None, 0.15, 0)
    refuse_leaks((*split.train, *split.held_out), mini.test)


def test_examples_are_prompt_and_exact_completion(embedded: LoadedModel) -> None:
    renderer = ChatRenderer(embedded.tokenizer)
    one = sample(1, reference="Gone,\n\nwith the tide  – 再见。")
    made = q1_example(one, COMPACT, "compact", renderer, 2048)
    assert isinstance(made, Example)
    assert list(made.prompt_ids) == renderer.prompt_ids(trace_messages(one, "compact"))
    assert renderer.decode(made.completion_ids[:-1]) == COMPACT
    for features in (None, "Content: It answers.\nStyle: Short."):
        made = q2_example(one, features, renderer, 2048)
        assert isinstance(made, Example)
        assert list(made.prompt_ids) == renderer.prompt_ids(role_play_messages(one, features))
        assert renderer.decode(made.completion_ids[:-1]) == one.reference
        assert made.completion_ids[-1] == renderer.end_of_turn_id
        length = len(made.prompt_ids) + len(made.completion_ids)
        assert q2_example(one, features, renderer, length) == made
        assert q2_example(one, features, renderer, length - 1) == f"longer than {length - 1} tokens"


def test_traces_that_q1_must_not_learn_have_a_reason(embedded: LoadedModel) -> None:
    renderer = ChatRenderer(embedded.tokenizer)
    record = json.loads(Path(mini_benchmark_paths()[0]).read_text(encoding="utf-8"))["IDTrain"][0]
    full = record["SThought"]
    assert q1_example(sample(1), "Content: no heading", "compact", renderer, 2048) == "the trace does not parse"
    assert q1_example(sample(1), full, "compact", renderer, 2048) == "the trace is not in the compact format"
    assert q1_example(sample(1), COMPACT, "full", renderer, 2048) == "the trace is not in the full format"
    assert isinstance(q1_example(sample(1), full, "full", renderer, 2048), Example)
    assert isinstance(q1_example(sample(1), compact_from_full(full) or "", "compact", renderer, 2048), Example)
