from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from estimate_oracles import discrete_truth, discrete_world, pair_scores, slow_club, slow_club_with_missing
from hypothesis import given, settings
from hypothesis import strategies as st

from remid.estimate import UNITS, club, contrast, contrast_scores, in_unit, remi
from remid.types import FloatArray, PairScores

SIZES = st.tuples(st.integers(3, 12), st.integers(1, 12), st.integers(0, 10_000))


def matrix(n: int, seed: int) -> FloatArray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, n)) + 20 * rng.normal(size=n) + np.diag(np.full(n, 3.0))


def drop(scores: PairScores, rng: np.random.Generator, share: float) -> PairScores:
    gone_B, gone_Bm = rng.random(scores.positive_B.shape) < share, rng.random(scores.negative_Bm.shape) < share
    positive_B = np.where(gone_B, np.nan, scores.positive_B)
    return replace(scores, positive_B=positive_B, negative_Bm=np.where(gone_Bm, np.nan, scores.negative_Bm))


@given(SIZES)
@settings(deadline=None)
def test_value_and_contributions_equal_the_slow_twin(size: tuple[int, int, int]) -> None:
    n, m, seed = size
    scores = pair_scores(matrix(n, seed), m, seed)
    fast, (value, phi) = club(scores), slow_club(scores)
    assert fast.value == pytest.approx(value, abs=1e-9)
    assert fast.value == np.nanmean(fast.phi_B)
    assert (fast.n, fast.n_missing) == (n, 0)
    if m >= 2:  # with one negative each, effects are not identified and plain means stand in
        np.testing.assert_allclose(fast.phi_B, phi, atol=1e-8)


def test_contributions_on_the_full_design_have_the_closed_form_of_the_theory() -> None:
    n = 9
    S_BB = matrix(n, 1)
    off_BB = np.where(np.eye(n, dtype=bool), np.nan, S_BB)
    R_B, C_B, centre = np.nanmean(off_BB, axis=1), np.nanmean(off_BB, axis=0), np.nanmean(off_BB)
    expected_B = np.diagonal(S_BB) - centre - (R_B + C_B - 2 * centre) * (n - 1) / (n - 2)
    np.testing.assert_allclose(club(pair_scores(S_BB, n - 1)).phi_B, expected_B, atol=1e-9)


def test_one_negative_each_falls_back_to_row_and_column_means() -> None:
    scores = pair_scores(matrix(6, 2), 1)
    column_B = np.empty(6)
    column_B[scores.design.negatives_Bm[:, 0]] = scores.negative_Bm[:, 0]
    expected_B = scores.positive_B - scores.negative_Bm[:, 0] - column_B + scores.negative_Bm.mean()
    fit = club(scores)
    np.testing.assert_allclose(fit.phi_B, expected_B)
    assert fit.noise_excess_S[0] == 0


@given(SIZES)
@settings(deadline=None)
def test_offsets_of_inputs_and_responses_cancel(size: tuple[int, int, int]) -> None:
    n, m, seed = size
    S_BB, rng = matrix(n, seed), np.random.default_rng(seed + 1)
    moved_BB = S_BB + 100 * rng.normal(size=(n, 1)) + 100 * rng.normal(size=n)
    plain, moved = club(pair_scores(S_BB, m, seed)), club(pair_scores(moved_BB, m, seed))
    assert moved.value == pytest.approx(plain.value, abs=1e-8)
    if m >= 2:
        np.testing.assert_allclose(moved.phi_B, plain.phi_B, atol=1e-7)
        np.testing.assert_allclose(moved.noise_excess_S, plain.noise_excess_S, atol=1e-6)


@given(SIZES)
@settings(deadline=None)
def test_the_order_of_the_items_does_not_matter(size: tuple[int, int, int]) -> None:
    n, m, seed = size
    scores = drop(pair_scores(matrix(n, seed), m, seed), np.random.default_rng(seed), 0.05)
    order_B = np.random.default_rng(seed + 2).permutation(n)
    place_B = np.argsort(order_B)
    design = replace(scores.design, negatives_Bm=place_B[scores.design.negatives_Bm[order_B]])
    shuffled = replace(
        scores, positive_B=scores.positive_B[order_B], negative_Bm=scores.negative_Bm[order_B], design=design
    )
    a, b = club(scores), club(shuffled)
    np.testing.assert_allclose(b.phi_B, a.phi_B[order_B], atol=1e-8)
    np.testing.assert_allclose(b.noise_excess_S, a.noise_excess_S, atol=1e-7)


def test_units_divide_each_response_by_its_own_length() -> None:
    scores = replace(pair_scores(matrix(5, 3), 2), tokens_B=np.array([1.0, 2, 4, 0, np.nan]), bytes_B=np.full(5, 8.0))
    assert in_unit(scores, "nats/response") is scores
    per_token = in_unit(scores, "nats/token")
    np.testing.assert_allclose(per_token.positive_B[:3], scores.positive_B[:3] / [1, 2, 4])
    for i in range(5):
        for k, j in enumerate(scores.design.negatives_Bm[i]):
            expected = scores.negative_Bm[i, k] / {0: 1, 1: 2, 2: 4}[j] if j < 3 else np.nan
            np.testing.assert_allclose(per_token.negative_Bm[i, k], expected)
    assert np.isnan(per_token.positive_B[3:]).all()
    assert club(scores, "nats/byte").value == pytest.approx(club(scores).value / 8)
    with pytest.raises(ValueError, match="unknown unit"):
        in_unit(scores, "bits")


@given(SIZES, st.floats(0, 0.6))
@settings(deadline=None)
def test_missing_pairs_are_left_out_as_in_the_slow_twin(size: tuple[int, int, int], share: float) -> None:
    n, m, seed = size
    S_BB = matrix(n, seed)
    scores = drop(pair_scores(S_BB, m, seed), np.random.default_rng(seed), share)
    fit = club(scores)
    np.testing.assert_allclose(fit.value, slow_club_with_missing(S_BB, scores), atol=1e-9)
    assert fit.n + fit.n_missing == n
    assert int(np.isfinite(fit.phi_B).sum()) == fit.n
    if fit.n:
        assert fit.value == np.nanmean(fit.phi_B)


def test_a_missing_item_on_the_full_design_equals_scoring_without_it() -> None:
    n = 8
    S_BB = matrix(n, 4)
    scores = pair_scores(S_BB, n - 1)
    scores.positive_B[2] = np.nan
    kept = [i for i in range(n) if i != 2]
    reduced = club(pair_scores(S_BB[np.ix_(kept, kept)], n - 2))
    fit = club(scores)
    assert fit.value == pytest.approx(reduced.value)
    np.testing.assert_allclose(fit.phi_B[kept], reduced.phi_B, atol=1e-9)
    np.testing.assert_allclose(fit.noise_excess_S, reduced.noise_excess_S)
    assert (fit.n, fit.n_missing) == (7, 1)


def test_two_missing_neighbours_on_the_circle_cost_two_items_and_no_more() -> None:
    scores = pair_scores(matrix(30, 4), 2)
    gone = [0, int(scores.design.negatives_Bm[0, 0])]
    scores.positive_B[gone] = np.nan
    assert club(scores).n == 28


@pytest.mark.parametrize("n", [0, 1])
def test_without_pairs_there_is_no_value(n: int) -> None:
    fit = club(pair_scores(np.zeros((n, n)), 2))
    assert np.isnan(fit.value)
    assert (fit.n, fit.n_missing) == (0, n)


def test_reference_against_itself_is_exactly_zero() -> None:
    for unit in UNITS:
        fit = remi(scores := pair_scores(matrix(20, 5), 2), scores, unit)
        assert fit.value == 0.0
        assert np.all(fit.phi_B == 0.0)
        assert fit.noise_excess_S[0] == 0.0


def test_remi_is_the_difference_of_two_clubs_and_leaves_out_of_both() -> None:
    policy, reference = pair_scores(matrix(15, 6), 3), pair_scores(matrix(15, 7), 3)
    assert remi(policy, reference).value == pytest.approx(club(policy).value - club(reference).value)
    reference.positive_B[4] = np.nan
    policy_too = replace(policy, positive_B=np.where(np.arange(15) == 4, np.nan, policy.positive_B))
    fit = remi(policy, reference)
    assert fit.n_missing == 1
    assert fit.value == pytest.approx(club(policy_too).value - club(reference).value)


def test_contrasts_of_policies() -> None:
    a, b, reference = (pair_scores(matrix(15, seed), 2) for seed in (8, 9, 10))
    exact = contrast_scores(a, b, reference)
    quick = contrast(remi(a, reference), remi(b, reference))
    assert exact.value == pytest.approx(quick.value)
    np.testing.assert_allclose(exact.phi_B, quick.phi_B, atol=1e-8)
    reference.negative_Bm[3, 0] = np.nan
    reference.positive_B[7] = np.nan
    common = contrast_scores(a, b, reference)
    assert common.value == pytest.approx(remi(a, reference).value - remi(b, reference).value)
    assert np.isnan(common.phi_B[7])
    with pytest.raises(ValueError, match="same design"):
        remi(a, pair_scores(matrix(15, 9), 2, seed=1))


@pytest.mark.parametrize("m", [2, 6, 39])
def test_expectation_in_a_known_discrete_world(m: int) -> None:
    """With the exact q: E CLUB = I + KL(p(x)p(y) || p(x,y)), on sparse designs as on the full one."""
    information, reverse, expected = discrete_truth()
    assert expected == pytest.approx(information + reverse)
    rng = np.random.default_rng(m)
    values = [club(discrete_world(rng, 40, m)).value for _ in range(400)]
    assert abs(np.mean(values) - expected) < 4 * np.std(values) / 20
