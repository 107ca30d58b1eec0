"""Rewards are the paper's functions of numbers; what cannot be computed is missing in every part."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remid.pipeline.traces import COMPACT_HEADING, FULL_HEADINGS
from remid.train.rewards import (
    Completion,
    Likelihood,
    RewardBatch,
    length_reward,
    likelihood_reward,
    response_shape_reward,
    trace_format_reward,
    typical_reward,
)

COMPACT = f"{COMPACT_HEADING}\nContent: she asks for bread.\nStyle: dry."
likelihoods = st.builds(Likelihood, st.floats(-500, 0), st.integers(1, 200))


@given(likelihoods)
def test_the_papers_reward_is_the_geometric_mean_probability(found: Likelihood) -> None:
    assert likelihood_reward(found, None, "exp") == pytest.approx(math.exp(found.nats / found.tokens))
    assert 0 <= likelihood_reward(found, None, "exp") <= 1
    assert likelihood_reward(found, None, "sum") == found.nats


@given(likelihoods, likelihoods)
def test_the_advantage_of_a_trace_is_what_it_adds_per_token(found: Likelihood, without: Likelihood) -> None:
    assert likelihood_reward(found, without, "advantage") == pytest.approx(
        likelihood_reward(found, None, "mean") - likelihood_reward(without, None, "mean")
    )
    with pytest.raises(ValueError, match="without"):
        likelihood_reward(found, None, "advantage")


@given(likelihoods, likelihoods, st.sampled_from(["mean", "sum"]))
def test_a_response_at_least_as_likely_as_the_reference_scores_one(
    found: Likelihood, reference: Likelihood, ratio: str
) -> None:
    reward = typical_reward(found, reference, ratio)
    gap = found.mean - reference.mean if ratio == "mean" else found.nats - reference.nats
    assert reward == pytest.approx(min(math.exp(gap) if gap < 700 else math.inf, 1.0))
    assert typical_reward(reference, reference, ratio) == 1.0


def test_a_compact_trace_has_its_format_or_not() -> None:
    assert trace_format_reward(COMPACT, "compact") == 1.0
    for broken in ("", "Content: a\nStyle: b", f"{COMPACT_HEADING}\nContent: a", f"{COMPACT}\nand more"):
        assert trace_format_reward(broken, "compact") == 0.0


def test_a_full_trace_earns_half_for_its_fence_and_half_for_its_headings() -> None:
    headings = "\n".join(FULL_HEADINGS)
    assert trace_format_reward(headings + "\n```\nContent\n```", "full") == 1.0
    assert trace_format_reward("```\nContent\n```", "full") == 0.5
    assert trace_format_reward(headings, "full") == 0.5
    assert trace_format_reward(headings + "\n" + FULL_HEADINGS[0], "full") == 0.0  # said twice


def test_length_is_rewarded_up_to_the_target_and_no_further() -> None:
    assert [length_reward(n, 600) for n in (0, 300, 600, 9000)] == [0.0, 0.5, 1.0, 1.0]


@pytest.mark.parametrize(
    ("text", "finished", "reward"),
    [
        ("Aye, bring the boat about.", True, 1.0),
        ("", True, 0.0),
        ("  \n", True, 0.0),
        ("Aye, bring the boat", False, 0.0),
        ("Aye.\nUser: and then?", True, 0.0),
        ("## Core Features\nContent: x", True, 0.0),
        ("我已经退休了。", True, 1.0),
    ],
)
def test_a_response_ends_says_something_and_is_nothing_but_a_response(text: str, finished: bool, reward: float) -> None:
    assert response_shape_reward(text, finished) == reward


def test_parts_are_computed_once_and_missing_together() -> None:
    calls: list[list[Completion]] = []

    def compute(said: Sequence[Completion]) -> list[Mapping[str, float] | None]:
        calls.append(list(said))
        return [None if one.sample == "b" else {"likelihood": 0.5, "format": 1.0} for one in said]

    shown: list[Any] = []
    weights = {"likelihood": 1.0, "format": 0.5}
    batch = RewardBatch(compute, weights, lambda one: one.finished, end_of_turn=9, show=shown.extend)
    logged: dict[str, list[float]] = {}
    arguments: dict[str, Any] = {
        "prompts": ["p", "q"],
        "completions": [[{"role": "assistant", "content": "one"}], "two"],
        "completion_ids": [[1, 9], [2]],
        "sample_id": ["a", "b"],
        "log_metric": lambda name, value: logged.setdefault(name, []).append(value),
    }
    likelihood, form = (reward(**arguments) for reward in batch.functions)
    assert [reward.__name__ for reward in batch.functions] == ["likelihood", "format"]
    assert likelihood == [0.5, None]
    assert form == [1.0, None]  # not 1.0: TRL would add it up as if the likelihood were 0
    assert calls == [[Completion("a", "one", (1, 9), True), Completion("b", "two", (2,), False)]]
    assert logged["signals/missing"] == [0.5]
    assert logged["signals/failures"] == [0.5]
    assert [row["text"] for row in shown] == ["one", "two"]
    batch.functions[0](**arguments | {"completion_ids": [[1, 9], [3]]})
    assert len(calls) == 2
