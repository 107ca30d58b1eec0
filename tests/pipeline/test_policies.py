"""Whose responses are measured, and what the controls say."""

from __future__ import annotations

import pytest
from pipeline_fakes import sample

from remid.errors import ConfigError
from remid.estimate import balanced_design
from remid.pipeline.policies import CONTROLS, GENERIC_SENTENCE, chosen_policies, subset_texts
from remid.types import Benchmark, Turn


def benchmark(*names: str) -> Benchmark:
    rows = [sample(number, responses={name: f"{name} says"}) for number, name in enumerate(names)]
    return Benchmark(tuple(rows), "b.json", "0")


def test_without_a_choice_every_policy_is_measured_in_order_of_appearance() -> None:
    assert chosen_policies(benchmark("b", "a", "b"), None) == ("b", "a")


def test_a_choice_keeps_its_order_and_names_each_policy_once() -> None:
    assert chosen_policies(benchmark("a", "b", "c"), ["c", "a", "c"]) == ("c", "a")


def test_no_policies_at_all_is_a_choice() -> None:
    assert chosen_policies(benchmark("a"), []) == ()


def test_an_unknown_policy_is_told_with_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no responses of nobody in the data \(there are: a, b\)"):
        chosen_policies(benchmark("a", "b"), ["a", "nobody"])
    with pytest.raises(ConfigError, match="there are: none"):
        chosen_policies(benchmark(), ["a"])


def test_names_from_the_data_cannot_steer_a_terminal() -> None:
    with pytest.raises(ConfigError) as caught:
        chosen_policies(benchmark("evil\x1b[2J"), ["\u202ex"])
    assert str(caught.value).isprintable()


def test_controls_come_first_and_say_what_they_are_defined_to() -> None:
    samples = [sample(number, dialogue=(Turn("user", "hi"), Turn("user", f"last {number}"))) for number in range(5)]
    design = balanced_design(5, 2, seed=3)
    texts = subset_texts(samples, ["one"], design)
    assert tuple(texts) == (*CONTROLS, "one")
    assert texts["reference"] == [s.reference for s in samples]
    assert texts["generic"] == [GENERIC_SENTENCE] * 5
    assert texts["parrot"] == [f"last {number}" for number in range(5)]
    assert texts["shuffled"] == [samples[j].reference for j in design.negatives_Bm[:, 0]]
    assert sorted(map(str, texts["shuffled"])) == sorted(s.reference for s in samples)
    assert all(said != s.reference for said, s in zip(texts["shuffled"], samples, strict=True))


def test_a_missing_or_blank_answer_is_missing_and_never_empty() -> None:
    given = [{"one": "yes"}, {}, {"one": ""}, {"one": " \n\t"}, {"two": "no"}]
    samples = [sample(number, responses=responses) for number, responses in enumerate(given)]
    texts = subset_texts(samples, ["one"], balanced_design(5, 2, seed=0))
    assert texts["one"] == ["yes", None, None, None, None]


def test_a_lone_sample_has_nobody_elses_reference_to_say() -> None:
    texts = subset_texts([sample(0)], [], balanced_design(1, 2, seed=0))
    assert texts["shuffled"] == [None]
    assert texts["reference"] == ["reference IDTest 0"]
