"""Estimators other than CLUB: against slow twins, against exact truth, and what must not move them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from estimate_oracles import (
    discrete_world,
    expectation,
    information,
    pair_scores,
    slow_influence,
    slow_retrieval,
    slow_weighted,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from remid.estimate import (
    Influence,
    ceiling,
    club,
    estimate,
    infonce,
    infonce_tempered,
    interpolated,
    l1out,
    nwj,
    pool,
    remid,
    retrieval,
    smile,
)
from remid.types import FloatArray, PairScores

Estimator = Callable[[PairScores], Influence]
COLUMNWISE = {f.__name__: f for f in (l1out, infonce, infonce_tempered, nwj, interpolated, smile, retrieval)}
LOWER = {f.__name__: f for f in (infonce, infonce_tempered, nwj, interpolated)}
TWINS = {"l1out": l1out, "infonce": infonce, "interpolated": interpolated, "nwj": nwj, "smile": smile}


def matrix(n: int, seed: int = 0, spread: float = 2.0) -> FloatArray:
    rng = np.random.default_rng(seed)
    return rng.normal(-30, spread, (n, n)) + spread * np.eye(n) + rng.normal(0, 5, n)


@pytest.mark.parametrize("m", [1, 2, 3, 6])
@pytest.mark.parametrize("name", TWINS)
def test_value_and_influences_match_the_slow_twin(name: str, m: int) -> None:
    scores = pair_scores(matrix(7), m)
    got = TWINS[name](scores)
    if m == 1 and name in {"interpolated", "nwj", "smile"}:
        assert (got.n, got.n_missing) == (0, 7)
        assert np.isnan(got.value)
        return
    alpha = 0.0 if name == "nwj" else 0.5
    assert got.value == pytest.approx(slow_weighted(name, scores, [1.0] * 7, alpha))
    assert got.phi_B == pytest.approx(slow_influence(name, scores, alpha), rel=1e-5, abs=1e-5)
    assert np.mean(got.phi_B) == pytest.approx(got.value)


@pytest.mark.parametrize("seed", range(5))
def test_retrieval_matches_the_slow_twin_with_ties(seed: int) -> None:
    scores = pair_scores(np.random.default_rng(seed).integers(0, 3, (8, 8)).astype(float), 3)
    got = retrieval(scores)
    assert got.value == pytest.approx(slow_retrieval(scores))
    assert np.mean(got.phi_B) == pytest.approx(got.value)
    assert got.unit == "share"


def test_what_taking_a_candidate_out_does_to_retrieval() -> None:
    """Column 0 has one rival, column 1 two, column 2 none: only the lone rival matters."""
    S_BB = np.array([[0.0, 5.0, 0.0], [1.0, 0.0, 0.0], [-1.0, 5.0, 9.0]])
    got = retrieval(pair_scores(S_BB, 2))
    h_B, effect_B = np.array([0.0, 0.0, 1.0]), np.array([0.0, -0.5, 0.5])
    assert got.phi_B == pytest.approx(h_B + effect_B)


def test_the_ends_of_the_interpolation() -> None:
    scores = pair_scores(matrix(9, seed=4), 3)
    assert interpolated(scores, alpha=0.0).value == nwj(scores).value
    # alpha = 1: InfoNCE over own input and all candidates but one, averaged over which one is left out
    columns = [[i for i in range(9) if j in scores.design.negatives_Bm[i]] for j in range(9)]
    S_BB = matrix(9, seed=4)
    expected = np.mean(
        [
            S_BB[j, j] - np.log(np.mean([np.exp(S_BB[i, j]) for i in [j, *others] if i != left_out]))
            for j, others in enumerate(columns)
            for left_out in others
        ]
    )
    assert interpolated(scores, alpha=1.0).value == pytest.approx(expected)
    with pytest.raises(ValueError, match="alpha"):
        interpolated(scores, alpha=1.5)


def joints(seed: int) -> FloatArray:
    """A joint law of two inputs and two responses, from nearly independent to nearly deterministic."""
    rng = np.random.default_rng(seed)
    p_XY = rng.dirichlet(np.full(4, [0.3, 1.0, 5.0][seed % 3])).reshape(2, 2) + 1e-4
    return p_XY / p_XY.sum()


@pytest.mark.parametrize("seed", range(9))
@pytest.mark.parametrize("n", [3, 4])
def test_exact_expectations_lie_on_the_right_side_of_the_truth_with_the_exact_conditional(seed: int, n: int) -> None:
    joint_XY = joints(seed)
    truth, log_q_XY = information(joint_XY), np.log(joint_XY / joint_XY.sum(axis=1, keepdims=True))
    for name, estimator in LOWER.items():
        assert expectation(estimator, joint_XY, log_q_XY, n) <= truth + 1e-12, name
    assert expectation(l1out, joint_XY, log_q_XY, n) >= truth - 1e-12
    assert expectation(club, joint_XY, log_q_XY, n) >= truth - 1e-12


@pytest.mark.parametrize("seed", range(9))
def test_lower_bounds_hold_for_any_q_and_upper_ones_do_not(seed: int) -> None:
    joint_XY = joints(seed)
    truth = information(joint_XY)
    log_q_XY = np.random.default_rng(100 + seed).normal(0, 1.5, (2, 2))
    for name, estimator in LOWER.items():
        assert expectation(estimator, joint_XY, log_q_XY, 3) <= truth + 1e-12, name
    assert expectation(lambda s: interpolated(s, alpha=0.1), joint_XY, log_q_XY, 3) <= truth + 1e-12
    upside_down = -np.log(joint_XY / joint_XY.sum(axis=1, keepdims=True))
    if truth > 0.2:
        assert expectation(l1out, joint_XY, upside_down, 3) < truth
        assert expectation(club, joint_XY, upside_down, 3) < truth


@pytest.mark.parametrize("seed", range(4))
def test_leave_one_out_lies_above_what_q_can_tell_and_falls_towards_it(seed: int) -> None:
    """J = E log q(y|x) / E_x q(y|x) <= I for any q; leave-one-out is above J and decreases with more candidates."""
    joint_XY = joints(seed)
    log_q_XY = np.random.default_rng(seed).normal(0, 1, (2, 2))
    marginal_Y = joint_XY.sum(axis=1) @ np.exp(log_q_XY)
    told = float(np.sum(joint_XY * (log_q_XY - np.log(marginal_Y))))
    three, four = (expectation(l1out, joint_XY, log_q_XY, n) for n in (3, 4))
    assert told <= information(joint_XY) + 1e-12
    assert three >= four >= told


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), m=st.integers(2, 7), scale=st.sampled_from([1.0, 30.0, 400.0]))
def test_response_offsets_move_none_of_them(seed: int, m: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    S_BB = matrix(8, seed)
    moved_BB = S_BB + rng.normal(0, scale, 8)
    for name, estimator in COLUMNWISE.items():
        before, after = estimator(pair_scores(S_BB, m, seed)), estimator(pair_scores(moved_BB, m, seed))
        assert after.phi_B == pytest.approx(before.phi_B, rel=1e-7, abs=1e-7), name


@pytest.mark.parametrize("name", COLUMNWISE)
def test_input_offsets_move_all_of_them_but_not_club(name: str) -> None:
    S_BB = matrix(8) + 10 * np.eye(8)
    offset_B = np.random.default_rng(1).normal(0, 40, 8)
    plain, moved = pair_scores(S_BB, 3), pair_scores(S_BB + offset_B[:, None], 3)
    assert club(moved).value == pytest.approx(club(plain).value)
    assert abs(COLUMNWISE[name](moved).value - COLUMNWISE[name](plain).value) > 0.01


@pytest.mark.parametrize("name", COLUMNWISE)
def test_the_order_of_items_means_nothing(name: str) -> None:
    scores = pair_scores(matrix(9), 3)
    order_B = np.random.default_rng(3).permutation(9)
    place_B = np.argsort(order_B)
    negatives_Bm = place_B[scores.design.negatives_Bm[order_B]]
    shuffled = PairScores(
        scores.positive_B[order_B],
        scores.negative_Bm[order_B],
        scores.tokens_B,
        scores.bytes_B,
        replace(scores.design, negatives_Bm=negatives_Bm),
    )
    before, after = COLUMNWISE[name](scores), COLUMNWISE[name](shuffled)
    assert after.phi_B == pytest.approx(before.phi_B[order_B])


@pytest.mark.parametrize("m", [1, 2, 5, 11])
def test_ceilings(m: int) -> None:
    scores = pair_scores(matrix(12) + 900 * np.eye(12), m)
    assert ceiling(scores) == pytest.approx(np.log(m + 1))
    assert infonce(scores).value == pytest.approx(np.log(m + 1))
    assert retrieval(scores).value == 1
    for seed in range(20):
        some = pair_scores(matrix(12, seed, spread=6), m)
        assert infonce(some).value <= np.log(m + 1)
        assert infonce_tempered(some).value <= np.log(m + 1)
        if m > 1:
            assert interpolated(some).value <= ceiling(some, alpha=0.5) == pytest.approx(np.log(m / 0.5))


def test_a_temperature_mends_an_over_confident_q() -> None:
    """Sums over 100 tokens of a weak signal and strong noise: plain InfoNCE falls far below 0, the truth is above."""
    rng = np.random.default_rng(0)
    S_BB = 10 * np.eye(200) + rng.normal(-300, 10, (200, 200))
    scores = replace(pair_scores(S_BB, 4), tokens_B=np.full(200, 100.0))
    assert infonce(scores).value < -2
    assert infonce_tempered(scores).value > 0.1


@pytest.mark.parametrize("name", COLUMNWISE)
@pytest.mark.filterwarnings("error")
def test_scores_of_text_are_no_trouble(name: str) -> None:
    rng = np.random.default_rng(0)
    S_BB = rng.normal(-500, 60, (12, 12)) + 900 * np.eye(12)[::-1] - 400 * np.eye(12)
    for m in (2, 11):
        got = COLUMNWISE[name](pair_scores(S_BB, m))
        assert np.isfinite(got.phi_B).all()
        assert np.isfinite(estimate(got).stderr)


def test_nwj_says_nothing_on_scores_that_differ_by_tens_of_nats_and_the_interpolation_still_does() -> None:
    rng = np.random.default_rng(0)
    scores = pair_scores(rng.normal(-500, 20, (40, 40)) + 60 * np.eye(40), 2)
    assert nwj(scores).value < -1e6
    assert 0 < interpolated(scores).value < ceiling(scores, alpha=0.5)


@pytest.mark.parametrize("name", COLUMNWISE)
@pytest.mark.filterwarnings("error")
def test_missing_pairs_are_left_out(name: str) -> None:
    estimator = COLUMNWISE[name]
    scores = pair_scores(matrix(10), 3)
    positive_B, negative_Bm = scores.positive_B.copy(), scores.negative_Bm.copy()
    positive_B[2] = np.nan  # neither a response nor an input any more
    negative_Bm[:, 0] = np.nan  # one candidate of every column
    got = estimator(replace(scores, positive_B=positive_B, negative_Bm=negative_Bm))
    assert np.isnan(got.phi_B[2])
    assert got.n + got.n_missing == 10
    assert np.nanmean(got.phi_B) == pytest.approx(got.value)
    # the same numbers as a design without the first of the three shifts, where item 2 does not reach
    fewer = replace(scores, negative_Bm=scores.negative_Bm[:, 1:])
    fewer = replace(fewer, design=replace(scores.design, negatives_Bm=scores.design.negatives_Bm[:, 1:]))
    untouched = replace(scores, negative_Bm=np.where(np.arange(3) == 0, np.nan, scores.negative_Bm))
    assert estimator(untouched).phi_B == pytest.approx(estimator(fewer).phi_B)
    nothing = replace(scores, positive_B=np.full(10, np.nan))
    assert (estimator(nothing).n, estimator(nothing).n_missing) == (0, 10)
    assert np.isnan(ceiling(nothing))


@pytest.mark.parametrize("name", COLUMNWISE)
def test_paired_differences(name: str) -> None:
    estimator = COLUMNWISE[name]
    a, b, c = (pair_scores(matrix(10, seed), 3) for seed in range(3))
    assert not estimator(a, a).phi_B.any()
    assert estimator(a, b).phi_B == pytest.approx(estimator(a).phi_B - estimator(b).phi_B)
    assert estimator(a, b).value - estimator(c, b).value == pytest.approx(estimator(a, c).value)
    gap = replace(b, negative_Bm=np.where(np.arange(10)[:, None] == 4, np.nan, b.negative_Bm))
    both = replace(a, negative_Bm=np.where(np.isnan(gap.negative_Bm), np.nan, a.negative_Bm))
    assert estimator(a, gap).value == pytest.approx(estimator(both).value - estimator(gap).value)
    with pytest.raises(ValueError, match="same design"):
        estimator(a, pair_scores(matrix(10), 3, seed=5))


@pytest.mark.parametrize("name", COLUMNWISE)
@pytest.mark.parametrize("odd", [np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_missing_on_both_sides_of_a_difference(name: str, odd: float) -> None:
    estimator = COLUMNWISE[name]
    a, b = (pair_scores(matrix(10, seed), 3) for seed in range(2))
    here_B, here_Bm = np.arange(10) != 7, np.indices((10, 3))[0] != 4

    def holed(scores: PairScores, by: float) -> PairScores:
        positive_B = np.where(here_B, scores.positive_B, by)
        return replace(scores, positive_B=positive_B, negative_Bm=np.where(here_Bm, scores.negative_Bm, by))

    for ours, theirs in ((holed(a, odd), b), (a, holed(b, odd))):
        got, expected = estimator(ours, theirs), estimator(holed(a, np.nan), holed(b, np.nan))
        assert got.phi_B == pytest.approx(expected.phi_B, nan_ok=True)
        assert got.n == expected.n


def test_they_go_through_pooling_and_remid() -> None:
    a, b = (infonce(pair_scores(matrix(20, seed), 2)) for seed in range(2))
    assert pool([a, b]).value == pytest.approx((a.value + b.value) / 2)
    assert remid(a, b).value == pytest.approx(a.value - b.value)
    assert np.isfinite(estimate(pool([a, b])).stderr)
    share = retrieval(pair_scores(matrix(20), 2))
    with pytest.raises(ValueError, match="one unit"):
        remid(a, share)


def test_contributions_vary_as_the_mean_does_along_the_circle() -> None:
    """A candidate with an input effect of its own lowers its m columns together: weights alone do not show that."""
    rng = np.random.default_rng(0)
    a_B = rng.normal(0, 6, 64)
    scores = pair_scores(a_B[:, None] + rng.normal(0, 0.1, (64, 64)) - np.diag(a_B), 2)
    got = l1out(scores)
    next_B, second_B = scores.design.negatives_Bm.T
    columns = [[i for i in range(64) if j in scores.design.negatives_Bm[i]] for j in range(64)]
    terms = [scores.positive_B[j] for j in range(64)]
    for j, others in enumerate(columns):
        values = [scores.negative_Bm[i, list(scores.design.negatives_Bm[i]).index(j)] for i in others]
        terms[j] -= np.log(np.mean(np.exp(values)))
    h_B = np.array(terms) - np.mean(terms)
    along = h_B @ h_B + 2 * h_B @ h_B[next_B] + 2 * h_B @ h_B[second_B]
    assert np.sum((got.phi_B - got.value) ** 2) == pytest.approx(along)
    assert along > np.sum((np.array(slow_influence("l1out", scores)) - got.value) ** 2)


@pytest.mark.parametrize(("n", "m"), [(2, 1), (1, 1), (0, 1), (3, 2)])
@pytest.mark.filterwarnings("error")
def test_few_items(n: int, m: int) -> None:
    scores = pair_scores(matrix(n), m)
    for name, estimator in COLUMNWISE.items():
        got = estimator(scores)
        needed = 3 if name in {"nwj", "interpolated", "smile"} else 2
        assert got.n == (n if n >= needed else 0), name


def test_an_unbalanced_design_is_refused() -> None:
    scores = pair_scores(matrix(5), 2)
    lopsided = replace(scores.design, negatives_Bm=np.ones_like(scores.design.negatives_Bm))
    with pytest.raises(ValueError, match="not balanced"):
        infonce(replace(scores, design=lopsided))


@pytest.mark.parametrize("name", ["l1out", "infonce", "infonce_tempered", "nwj", "interpolated", "smile", "retrieval"])
@pytest.mark.parametrize("m", [2, 39])
def test_intervals_cover_the_expectation_in_a_known_discrete_world(name: str, m: int) -> None:
    """300 runs of 40 items: at least 91% (95% less 3 standard errors of the count), and not needlessly wide."""
    rng = np.random.default_rng(0)
    got = [estimate(COLUMNWISE[name](discrete_world(rng, 40, m))) for _ in range(300)]
    truth = np.mean([e.value for e in got])
    covered = np.mean([e.ci_low <= truth <= e.ci_high for e in got])
    ratio = np.sqrt(np.mean([e.stderr**2 for e in got])) / np.std([e.value for e in got])
    assert covered >= 0.91
    assert 0.9 < ratio < 1.5
