"""Signals of a step against cases whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remid.train.signals import (
    WINDOW,
    Said,
    across_prompts,
    distinct,
    examples,
    mean_of,
    slope,
    step_signals,
    trace_gap,
    unique_share,
    within_group,
)

WEIGHTS = {"likelihood": 1.0, "format": 0.5}


def said(group: str, text: str, ids: tuple[int, ...], likelihood: float | None = 0.1, fine: bool = True) -> Said:
    rewards = None if likelihood is None else {"likelihood": likelihood, "format": float(fine)}
    return Said(group, text, ids, fine, fine, rewards)


def test_a_step_of_two_prompts() -> None:
    found = step_signals(
        [
            said("a", "x", (1, 2, 3, 4), 0.1),
            said("a", "y", (1, 2, 5), 0.3, fine=False),
            said("b", "z", (7, 8), 0.2),
            said("b", "z", (7, 8), None),
        ],
        WEIGHTS,
    )
    assert (found["n"], found["groups"]) == (4, 2)
    assert found["length"] == 11 / 4
    assert found["distinct_1"] == 7 / 11
    assert found["distinct_2"] == 5 / 7  # 12 23 34 25 78 over those and a second 12 and 78
    assert found["own_distinct_2"] == 1
    assert found["unique"] == 0.5
    assert (found["failures"], found["unfinished"], found["missing"]) == (0.25, 0.25, 0.25)
    # b has one reward left, so only a has a spread: 0.1 + 0.5 and 0.3 + 0.
    assert found["spread"] == pytest.approx(0.3 / math.sqrt(2))
    assert found["spread/format"] == pytest.approx(1 / math.sqrt(2))
    assert found["no_spread"] == 0
    assert found["cross_identical"] == 0
    assert found["cross_overlap"] == 0


def test_the_same_text_for_every_prompt() -> None:
    found = step_signals([said(group, "same", (1, 2, 3)) for group in "aabbcc"], WEIGHTS)
    assert (found["cross_identical"], found["cross_overlap"]) == (1, 1)
    assert found["cross_distinct_2"] == pytest.approx(1 / 3)
    assert (found["unique"], found["no_spread"], found["spread"]) == (0, 1, 0)


def test_what_cannot_be_told_is_absent() -> None:
    assert step_signals([], WEIGHTS) == {}
    alone = step_signals([said("a", "", (1,), None)], WEIGHTS)
    assert not {"distinct_2", "unique", "spread", "no_spread", "cross_identical"} & set(alone)
    assert alone["missing"] == 1
    assert unique_share([["a"], []]) is None
    assert within_group([[1.0]]) == (None, None)
    assert distinct([(), (1,)], 2) is None
    assert across_prompts([[said("a", "x", (1, 2))]]) == {}


def test_distinct_does_not_fall_because_texts_are_long() -> None:
    short = distinct([tuple(range(WINDOW))], 2)
    long = distinct([(*range(WINDOW), *([1] * 500))], 2)
    assert short == long == 1


def test_repetition_is_told_whatever_others_say() -> None:
    """Over all completions the share falls with their number; each for itself it does not."""
    short, long = (step_signals([said(str(k), "", (1, 2, 3)) for k in range(n)], WEIGHTS) for n in (2, 50))
    assert (short["distinct_2"], long["distinct_2"]) == (1 / 2, 1 / 50)
    assert short["own_distinct_2"] == long["own_distinct_2"] == 1
    looping = step_signals([said("a", "", (1, 2) * 20), said("b", "", (1, 2, 3))], WEIGHTS)
    assert looping["own_distinct_2"] == pytest.approx((2 / 39 + 1) / 2)


def test_empty_completions_of_different_prompts_are_alike() -> None:
    found = step_signals([said(group, "", (9,)) for group in "ab"], WEIGHTS)
    assert (found["cross_identical"], found["cross_overlap"]) == (1, 1)


def test_many_prompts_are_compared_with_some() -> None:
    found = step_signals([said(str(k), str(k), (k, k + 1, k + 2)) for k in range(300)], WEIGHTS)
    assert found["cross_identical"] == 0


def test_trace_gap_passes_over_what_is_missing() -> None:
    found = trace_gap(np.array([-1.0, -2.0, np.nan, -1.5]), np.array([-1.5, -2.0, -1.0, -2.5]))
    assert found.value == pytest.approx(0.5)
    assert found.n == 3
    assert found.se == pytest.approx(0.5 / math.sqrt(3))
    assert mean_of(np.array([np.nan])).value is None
    assert mean_of(np.array([1.0])).se is None


@settings(max_examples=50, deadline=None)
@given(st.floats(-5, 5), st.floats(-5, 5), st.integers(3, 12))
def test_slope_of_a_line(a: float, b: float, n: int) -> None:
    found = slope(list(range(n)), [a + b * x for x in range(n)])
    assert found.value == pytest.approx(b, abs=1e-9)
    assert found.se == pytest.approx(0, abs=1e-6)
    assert found.n == n


def test_slope_covers_the_truth() -> None:
    rng = np.random.default_rng(0)
    x = list(range(12))
    z = []
    for _ in range(500):
        found = slope(x, [0.3 * t + e for t, e in zip(x, rng.normal(0, 1, len(x)), strict=True)])
        assert found.value is not None
        assert found.se is not None
        z.append((found.value - 0.3) / found.se)
    assert 0.92 < np.mean(np.abs(z) < 2.228) < 0.98  # Student's t with 10 degrees of freedom
    assert slope([1, 1], [0, 2]).value is None
    assert slope([0, 1], [0, None]).value is None


def test_examples_are_one_per_prompt() -> None:
    found = examples([said("a", "x", (1,)), said("a", "y", (1,)), said("b", "z", (1,), None)])
    assert [(row["sample_ID"], row["text"], row["rewards"]) for row in found] == [
        ("a", "x", {"likelihood": 0.1, "format": 1.0}),
        ("b", "z", None),
    ]
