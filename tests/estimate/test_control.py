"""Control variates: what they must not change, what they save, and coverage with them."""

from __future__ import annotations

import numpy as np
import pytest

from remid.estimate import balanced_design, club, estimate, remi
from remid.estimate.control import best_slopes, club_controlled, interaction_r2, interactions, remi_controlled
from remid.types import FloatArray, PairScores
from remid.verify.null import pair_scores
from remid.verify.simulated import DiscreteScores, GaussianScores, World

N = 30


def matrices(world: World, n: int, replications: int, seed: int) -> FloatArray:
    """(3, R, n, n) scores of every pair."""
    design = balanced_design(n, n - 1, 0)
    drawn = world.draw(np.random.default_rng(seed), replications, "id", design.negatives_Bm, np.arange(n))
    made = np.empty((*drawn.positive_PRB.shape, n))
    made[..., np.arange(n), np.arange(n)] = drawn.positive_PRB
    for k, other_B in enumerate(design.negatives_Bm.T):
        made[..., np.arange(n), other_B] = drawn.negative_PRBm[..., k]
    return made


def noisy(S_BB: FloatArray, rng: np.random.Generator, r2: float) -> FloatArray:
    """A control whose interactions explain r2 of those of S; with large effects of its own."""
    n = len(S_BB)
    spread = float(interactions(S_BB)[~np.eye(n, dtype=bool)].std())
    effects_BB = rng.normal(0, 50, (n, 1)) + rng.normal(0, 50, n)
    return 3.0 * (S_BB + rng.normal(0, spread * np.sqrt(1 / r2 - 1), (n, n)) + effects_BB)


@pytest.fixture(scope="module")
def pair() -> tuple[FloatArray, FloatArray]:
    made = matrices(GaussianScores(), N, 1, 3)[:, 0]
    return made[1], made[0]


def test_interactions_are_what_least_squares_leaves() -> None:
    rng = np.random.default_rng(0)
    C_BB = rng.normal(size=(7, 7))
    off = ~np.eye(7, dtype=bool)
    i, j = np.nonzero(off)
    X = np.zeros((42, 14))
    X[np.arange(42), i] = X[np.arange(42), 7 + j] = 1
    rest = C_BB[off] - X @ np.linalg.lstsq(X, C_BB[off], rcond=None)[0]
    assert np.allclose(interactions(C_BB)[off], rest)
    assert np.allclose(interactions(C_BB).sum(axis=0), 0)
    assert not np.diagonal(interactions(C_BB)).any()


@pytest.mark.parametrize("m", [1, 2, 4])
def test_controls_without_interactions_change_nothing(pair: tuple[FloatArray, FloatArray], m: int) -> None:
    policy, reference = (pair_scores(S_BB, balanced_design(N, m, 0)) for S_BB in pair)
    rng = np.random.default_rng(1)
    for C_BB in (np.full((N, N), 7.3), rng.normal(0, 9, (N, 1)) + rng.normal(0, 9, N)):
        made = remi_controlled(policy, reference, C_BB[None])
        plain = remi(policy, reference)
        assert made.slope_K.tolist() == [0.0]
        assert made.influence.value == plain.value
        assert np.array_equal(made.influence.phi_B, plain.phi_B)


def test_a_perfect_control_gives_what_all_pairs_give(pair: tuple[FloatArray, FloatArray]) -> None:
    whole = [pair_scores(S_BB, balanced_design(N, N - 1, 0)) for S_BB in pair]
    some = [pair_scores(S_BB, balanced_design(N, 4, 0)) for S_BB in pair]
    rng = np.random.default_rng(2)
    C_BB = 2.0 * (pair[0] - pair[1]) + rng.normal(0, 30, (N, 1)) + rng.normal(0, 30, N)
    made = remi_controlled(*some, C_BB[None])
    assert made.slope_K[0] == pytest.approx(0.5)
    assert made.explained == pytest.approx(1.0)
    assert made.influence.value == pytest.approx(remi(*whole).value)
    assert remi(*some).value != pytest.approx(remi(*whole).value, abs=1e-3)


def test_with_all_pairs_any_control_changes_nothing(pair: tuple[FloatArray, FloatArray]) -> None:
    scores = pair_scores(pair[0], balanced_design(N, N - 1, 0))
    C_BB = noisy(pair[0], np.random.default_rng(3), 0.5)
    assert club_controlled(scores, C_BB[None]).influence.value == pytest.approx(club(scores).value)


def test_few_negatives_take_no_slope_from_the_data_but_one_that_is_given(pair: tuple[FloatArray, FloatArray]) -> None:
    gain_BB = pair[0] - pair[1]
    C_KBB = gain_BB[None]
    for m in (1, 2):
        some = [pair_scores(S_BB, balanced_design(N, m, 0)) for S_BB in pair]
        assert remi_controlled(*some, C_KBB).influence.value == remi(*some).value
        given = remi_controlled(*some, C_KBB, slope_K=best_slopes(gain_BB, C_KBB))
        whole = [pair_scores(S_BB, balanced_design(N, N - 1, 0)) for S_BB in pair]
        assert given.influence.value == pytest.approx(remi(*whole).value)


def test_the_share_explained_is_the_share_of_noise_saved(pair: tuple[FloatArray, FloatArray]) -> None:
    gain_BB = pair[0] - pair[1]
    rng = np.random.default_rng(4)
    for r2 in (0.3, 0.8):
        C_KBB = noisy(gain_BB, rng, r2)[None]
        assert interaction_r2(gain_BB, C_KBB) == pytest.approx(r2, abs=0.1)
        values = []
        for seed in range(150):
            some = [pair_scores(S_BB, balanced_design(N, 4, seed)) for S_BB in pair]
            values.append([remi(*some).value, remi_controlled(*some, C_KBB).influence.value])
        plain, controlled = np.var(values, axis=0, ddof=1)
        assert controlled / plain == pytest.approx(1 - r2, abs=0.25)


def test_a_useless_control_is_shrunk_away(pair: tuple[FloatArray, FloatArray]) -> None:
    rng = np.random.default_rng(5)
    some = [pair_scores(S_BB, balanced_design(N, 4, 0)) for S_BB in pair]
    slopes = [remi_controlled(*some, rng.normal(size=(1, N, N))).slope_K[0] for _ in range(60)]
    assert np.mean(np.array(slopes) == 0) > 0.5


@pytest.mark.parametrize("world", [GaussianScores(), DiscreteScores()], ids=lambda w: w.name)
def test_intervals_cover_with_controls(world: World) -> None:
    """600 draws: Monte-Carlo error 0.9 points. R-EMI and CLUB, two controls of which one is useless."""
    rng = np.random.default_rng(6)
    truth = world.truth("id")
    S_PRBB = matrices(world, N, 600, 7)
    held, error = [], []
    for r in range(600):
        design = balanced_design(N, 4, r % 5)
        policy, reference = (pair_scores(S_PRBB[p, r], design) for p in (1, 0))
        useless_BB = rng.normal(size=(N, N))
        C_KBB = np.stack([noisy(S_PRBB[1, r] - S_PRBB[0, r], rng, 0.6), useless_BB])
        of_club = np.stack([noisy(S_PRBB[1, r], rng, 0.6), useless_BB])
        found = estimate(remi_controlled(policy, reference, C_KBB).influence)
        other = estimate(club_controlled(policy, of_club).influence)
        targets = (float(truth[1] - truth[0]), float(truth[1]))
        held.append([one.ci_low <= at <= one.ci_high for one, at in zip((found, other), targets, strict=True)])
        error.append([found.value - targets[0], found.stderr])
    low, high = 0.925, 0.985
    assert all(low <= share <= high for share in np.mean(held, axis=0))
    misses_R, stderr_R = np.array(error).T
    assert abs(misses_R.mean()) < 4 * misses_R.std() / np.sqrt(600)
    assert np.sqrt(np.mean(stderr_R**2)) / misses_R.std() == pytest.approx(1.0, abs=0.12)


def test_missing_pairs_stay_missing(pair: tuple[FloatArray, FloatArray]) -> None:
    design = balanced_design(N, 4, 0)
    whole = pair_scores(pair[0], design)
    negative_Bm = whole.negative_Bm.copy()
    negative_Bm[3] = np.nan
    positive_B = whole.positive_B.copy()
    positive_B[5] = np.nan
    lost = PairScores(positive_B, negative_Bm, whole.tokens_B, whole.bytes_B, design)
    made = club_controlled(lost, noisy(pair[0], np.random.default_rng(8), 0.6)[None])
    assert made.influence.n == club(lost).n == N - 1
    assert np.isfinite(made.influence.value)


def test_bad_controls_are_refused(pair: tuple[FloatArray, FloatArray]) -> None:
    scores = pair_scores(pair[0], balanced_design(N, 4, 0))
    broken_BB = np.zeros((N, N))
    broken_BB[0, 1] = np.nan
    for C_KBB in (np.zeros((N, N)), np.zeros((1, N, N - 1)), broken_BB[None]):
        with pytest.raises(ValueError, match="controls must"):
            club_controlled(scores, C_KBB)
    with pytest.raises(ValueError, match="at least 3 items"):
        interactions(np.zeros((2, 2)))
