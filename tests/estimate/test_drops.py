"""Drops by component: Shapley's shares, an interval that knows shared items, the share that is kept."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from remid.estimate import balanced_design, estimate
from remid.estimate.components import Kept, kept_share, mean_drop, shapley

SETS = [frozenset(s) for size in range(4) for s in combinations(range(3), size)]


@given(arrays(np.float64, (8, 2), elements=st.floats(-50, 50)))
def test_shapley_shares_sum_to_the_whole_and_are_the_textbook_ones(values: np.ndarray) -> None:
    value = dict(zip(SETS, values, strict=True))
    shares = shapley(value)
    np.testing.assert_allclose(shares.sum(-1), value[SETS[-1]] - value[SETS[0]], atol=1e-9)
    for player in range(3):
        a, b = (frozenset({other}) for other in range(3) if other != player)
        me = frozenset({player})
        textbook = (value[me] - value[frozenset()]) / 3 + (value[SETS[-1]] - value[a | b]) / 3
        textbook = textbook + (value[a | me] - value[a]) / 6 + (value[b | me] - value[b]) / 6
        np.testing.assert_allclose(shares[:, player], textbook, atol=1e-9)


def test_shapley_without_one_of_its_values_has_none() -> None:
    value = {one: np.array([float(len(one)), 1.0]) for one in SETS}
    value[SETS[3]] = np.array([np.nan, 1.0])
    np.testing.assert_array_equal(shapley(value), [[np.nan] * 3, [0.0] * 3])


def test_an_item_without_a_drop_is_missing_and_the_others_count_once_each() -> None:
    drop_Bm = np.array([[1.0, 3.0], [np.nan, 5.0], [np.nan, np.nan]])
    made = mean_drop(drop_Bm, np.array([[1, 2], [2, 0], [0, 1]]))
    assert (made.value, made.n, made.n_missing, made.unit) == (pytest.approx(3.5), 2, 1, "nats/response")
    assert np.isnan(made.phi_B[2])
    nothing = mean_drop(np.full((2, 1), np.nan), np.array([[1], [0]]))
    assert np.isnan(nothing.value)
    assert (nothing.n, nothing.n_missing) == (0, 2)


@pytest.mark.parametrize("m", [1, 2, 3])
def test_the_spread_is_that_of_pairs_that_share_items(m: int) -> None:
    """Against the sum written out: products of all pairs of pairs with an item in common.

    Held against the share that such pairs of pairs have, and against the t of half as many degrees of freedom.
    """
    rng = np.random.default_rng(m)
    n = 9
    partner_Bm = balanced_design(n, m, 0).negatives_Bm
    worth = rng.normal(size=n)
    drop_Bm = 2 + worth[:, None] + worth[partner_Bm] + 0.1 * rng.normal(size=(n, m))
    drop_Bm[0, 0] = np.nan
    made = mean_drop(drop_Bm, partner_Bm)
    edges = [
        (i, int(partner_Bm[i, k]), (drop_Bm[i, k] - made.value) / np.isfinite(drop_Bm[i]).sum())
        for i in range(n)
        for k in range(m)
        if np.isfinite(drop_Bm[i, k])
    ]
    dyadic = sum(x * y for *e, x in edges for *f, y in edges if set(e) & set(f))
    weights = [1 / np.isfinite(drop_Bm[i]).sum() for i, _, _ in edges]
    ends = [{i, j} for i, j, _ in edges]
    share = sum(v * w for e, v in zip(ends, weights, strict=True) for f, w in zip(ends, weights, strict=True) if e & f)
    used = int(np.isfinite(drop_Bm).any(axis=1).sum())
    wanted = dyadic / (1 - share / sum(weights) ** 2) * (1 + 2 / used)
    assert np.nansum((made.phi_B - made.value) ** 2) == pytest.approx(wanted)


@pytest.mark.parametrize("m", [1, 2, 4])
def test_with_few_items_the_spread_is_not_too_small(m: int) -> None:
    """Drops are held against their own mean: of 10 items' variance, two to three tenths were missing."""
    rng = np.random.default_rng(m)
    n, found, values = 10, [], []
    partner_Bm = balanced_design(n, m, 0).negatives_Bm
    for _ in range(1500):
        worth = rng.normal(size=n)
        made = mean_drop(worth[:, None] + worth[partner_Bm] + 0.3 * rng.normal(size=(n, m)), partner_Bm)
        values.append(made.value)
        found.append(float(np.sum((made.phi_B - made.value) ** 2)) / n**2)
    assert 1.05 < np.mean(found) / np.var(values) < 1.4  # 1 + 2 / n is meant, and the larger of two where they are near


def test_where_all_pairs_share_an_item_they_tell_nothing_of_sharing() -> None:
    drop_Bm = np.array([[1.0], [2.0], [6.0]])
    made = mean_drop(drop_Bm, np.array([[1], [2], [0]]))
    np.testing.assert_allclose(made.phi_B, drop_Bm[:, 0])


def test_intervals_cover_where_own_and_standing_in_go_together() -> None:
    """A strong component is worth much to its own response and hurts another's: plain spread covers too little."""
    rng = np.random.default_rng(5)
    n, rounds, hit, plain = 40, 400, 0, 0
    partner_Bm = balanced_design(n, 1, 0).negatives_Bm
    for _ in range(rounds):
        strength_B = rng.normal(size=n)
        drop_Bm = 1 + strength_B[:, None] + strength_B[partner_Bm] + 0.3 * rng.normal(size=(n, 1))
        made = estimate(mean_drop(drop_Bm, partner_Bm))
        hit += made.ci_low <= 1 <= made.ci_high
        plain += abs(drop_Bm.mean() - 1) <= 2.02 * drop_Bm.std(ddof=1) / np.sqrt(n)
    assert plain / rounds < 0.88
    assert 0.92 <= hit / rounds <= 0.99


def pair(seed: int, top: float, base: float, n: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    own = rng.normal(size=n)
    a, b = top + own + rng.normal(size=n), base + own + rng.normal(size=n)
    return a[:, None], b[:, None], balanced_design(n, 1, seed).negatives_Bm


@pytest.mark.parametrize(("top", "base"), [(0.0, 3.0), (1.5, 3.0), (4.0, 3.0), (-1.0, 2.0)])
def test_what_is_kept_has_the_interval_of_the_shares_that_are_not_refuted(top: float, base: float) -> None:
    a_B1, b_B1, partner_Bm = pair(7, top, base, n=240)
    kept = _kept(a_B1, b_B1, partner_Bm)
    assert kept.value == pytest.approx(a_B1.mean() / b_B1.mean())
    grid = np.linspace(-3, 4, 1401)
    inside = []
    for share in grid:
        made = estimate(mean_drop(a_B1 - share * b_B1, partner_Bm))
        inside.append(made.ci_low <= 0 <= made.ci_high)
    kept_grid = grid[np.array(inside)]
    assert kept.ci_low == pytest.approx(kept_grid.min(), abs=0.02)
    assert kept.ci_high == pytest.approx(kept_grid.max(), abs=0.02)


def _kept(a_Bm: np.ndarray, b_Bm: np.ndarray, partner_Bm: np.ndarray) -> Kept:
    return kept_share(*(mean_drop(drop_Bm, partner_Bm) for drop_Bm in (a_Bm, b_Bm, a_Bm - b_Bm)))


def test_with_several_partners_the_interval_of_what_is_kept_still_covers() -> None:
    """Policy and reference lose alike with the item, and each in its own way with the partner that stands in."""
    hit, rounds, n, m = 0, 400, 60, 4
    for seed in range(rounds):
        rng = np.random.default_rng(seed)
        partner_Bm = balanced_design(n, m, seed).negatives_Bm
        own_B1, theirs_2B, noise_2Bm = rng.normal(size=(n, 1)), rng.normal(size=(2, n)), rng.normal(size=(2, n, m))
        a_Bm, b_Bm = 1.5 + own_B1 + theirs_2B[0][partner_Bm], 3 + own_B1 + theirs_2B[1][partner_Bm]
        kept = _kept(a_Bm + noise_2Bm[0], b_Bm + noise_2Bm[1], partner_Bm)
        hit += kept.ci_low <= 0.5 <= kept.ci_high
    assert 0.90 <= hit / rounds <= 0.98


def test_a_reference_that_takes_nothing_leaves_no_share() -> None:
    a_B1, b_B1, partner_Bm = pair(1, 1.0, 0.02)
    kept = _kept(a_B1, np.abs(b_B1) * 0 - 1, partner_Bm)
    assert np.isnan([kept.value, kept.ci_low, kept.ci_high]).all()
    weak = _kept(a_B1, b_B1 - b_B1.mean() + 0.02, partner_Bm)
    assert np.isfinite(weak.value)
    assert np.isnan([weak.ci_low, weak.ci_high]).all()
