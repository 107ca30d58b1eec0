from __future__ import annotations

import math

import numpy as np
import pytest
from estimate_oracles import pair_scores

from remid.estimate import upper_bound
from remid.types import PairScores


def scores(positive: float, negative: float, n: int = 5) -> PairScores:
    return pair_scores(np.full((n, n), negative) + np.eye(n) * (positive - negative), 2)


def test_the_formula() -> None:
    reference = scores(-20.0, -50.0)
    reference.positive_B[3] = -30.0  # the least likely reference response decides
    js = {"user": 0.16, "character": 0.04, "dialogue": -0.01}
    got = upper_bound(scores(-10.0, -40.0), reference, js, delta_id=0.0016, delta_ood=-0.3)
    assert got.h_hat == pytest.approx(30 + 40)
    assert got.input_term == pytest.approx(math.sqrt(2 / 3) * 70 * (0.4 + 0.2))
    assert got.delta == pytest.approx(0.0016)
    assert got.reference_term == pytest.approx(8 * 0.2)
    assert got.value == got.input_term + got.reference_term
    assert got.share == pytest.approx({"user": 2 / 3, "character": 1 / 3, "dialogue": 0.0})
    assert got.js == js
    assert (got.n_id, got.n_ood, got.n_missing) == (5, 5, 0)


def test_no_shift_has_no_share() -> None:
    got = upper_bound(scores(-1, -2), scores(-1, -2), {"user": -0.1, "character": 0.0}, delta_id=0, delta_ood=0)
    assert (got.value, got.share) == (0.0, None)


def test_missing_scores_are_left_out_and_counted() -> None:
    policy, reference = scores(-10.0, -40.0), scores(-20.0, -50.0)
    policy.negative_Bm[0] = np.nan
    reference.positive_B[1] = np.nan
    got = upper_bound(policy, reference, {"user": 0.1}, delta_id=0.0, delta_ood=0.0)
    assert got.h_hat == pytest.approx(60)
    assert (got.n_id, got.n_ood, got.n_missing) == (4, 4, 2)


def test_what_cannot_be_estimated_is_nan_and_not_zero() -> None:
    whole, empty = scores(-10.0, -40.0), scores(np.nan, np.nan)
    for policy, reference in ((whole, empty), (empty, whole)):
        assert math.isnan(upper_bound(policy, reference, {"user": 0.1}, delta_id=0.0, delta_ood=0.0).value)
    got = upper_bound(whole, whole, {"user": math.nan, "character": 0.1}, delta_id=0.0, delta_ood=0.0)
    assert math.isnan(got.value)
    assert got.share is None
    assert math.isnan(upper_bound(whole, whole, {"user": 0.1}, delta_id=math.nan, delta_ood=0.0).value)
