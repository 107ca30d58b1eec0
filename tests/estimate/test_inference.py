from __future__ import annotations

import numpy as np
import pytest
from estimate_oracles import additive_world, discrete_truth, discrete_world, pair_scores
from scipy import stats

from remid.estimate import (
    Influence,
    balanced_design,
    club,
    contrast,
    estimate,
    pool,
    remi,
    remid,
    share_interval,
    wilson,
)
from remid.estimate.sequential import at_full_shares
from remid.types import FloatArray


def influence(phi_B: list[float] | FloatArray) -> Influence:
    phi_B = np.asarray(phi_B, dtype=float)
    n = int(np.isfinite(phi_B).sum())
    value = float(np.nanmean(phi_B)) if n else float("nan")
    return Influence(value, phi_B, n, phi_B.size - n, "nats/response", np.zeros(phi_B.size, dtype=np.int64))


def test_plain_mean_gets_the_t_interval() -> None:
    phi = [1.0, 2.0, 4.0, 7.0, np.nan]
    got, expected = estimate(influence(phi), confidence=0.9), stats.ttest_1samp(phi[:4], 0)
    interval = expected.confidence_interval(0.9)
    assert (got.n, got.n_missing, got.df) == (4, 1, 3)
    assert (got.ci_low, got.ci_high, got.p_value) == pytest.approx((interval.low, interval.high, expected.pvalue))


def test_remid_is_welchs_comparison() -> None:
    a, b = [1.0, 2.0, 4.0, 7.0], [0.5, -3.0, 1.0, 1.5, 0.0, 9.0]
    got, expected = remid(influence(a), influence(b)), stats.ttest_ind(a, b, equal_var=False)
    assert (got.value, got.p_value, got.df) == pytest.approx((np.mean(a) - np.mean(b), expected.pvalue, expected.df))
    assert (got.n, got.n_missing) == (10, 0)


def test_too_little_to_tell() -> None:
    for phi in ([], [np.nan], [2.0]):
        got = estimate(influence(phi))
        assert np.isnan([got.stderr, got.ci_low, got.ci_high, got.p_value]).all()
        assert np.isnan(remid(influence(phi), influence([1.0, 2.0])).stderr)


def test_no_variance_gives_no_p_value() -> None:
    zero = estimate(influence([0.0] * 5))
    assert (zero.value, zero.stderr, zero.ci_low, zero.ci_high) == (0, 0, 0, 0)
    assert np.isnan(zero.p_value)
    same = estimate(influence([0.1 + 1e-17, 0.1, 0.1]))
    assert same.stderr == 0
    assert np.isnan(same.p_value)
    assert remid(influence([0.0] * 3), influence([1.0, 2.0])).stderr == pytest.approx(0.5)


def test_clusters() -> None:
    phi_B = np.random.default_rng(0).normal(size=12)
    alone = estimate(influence(phi_B), clusters=np.arange(12))
    assert alone.stderr == pytest.approx(estimate(influence(phi_B)).stderr)
    doubled = estimate(influence(np.repeat(phi_B, 2)), clusters=np.repeat([f"user {i}" for i in range(12)], 2))
    assert (doubled.stderr, doubled.df) == pytest.approx((alone.stderr, 11))
    assert np.isnan(estimate(influence(phi_B), clusters=["one"] * 12).stderr)
    with pytest.raises(ValueError, match="one label per item"):
        estimate(influence(phi_B), clusters=[1, 2])


def test_pooling_weighs_items_and_keeps_variances_within() -> None:
    a, b = [1.0, 2.0, 3.0], [101.0, 103.0, 105.0, 107.0, np.nan]
    pooled = pool([influence(a), influence(b)])
    got = estimate(pooled)
    assert pooled.value == pytest.approx(np.nanmean(a + b))
    assert (pooled.n, pooled.n_missing) == (7, 1)
    assert got.stderr == pytest.approx(np.sqrt(3 * np.var(a, ddof=1) + 4 * np.var(b[:4], ddof=1)) / 7)
    assert estimate(pool([influence(a)])) == estimate(influence(a))
    nested = pool([pool([influence(a), influence(b)]), influence(a)])
    assert estimate(nested) == estimate(pool([influence(part) for part in (a, b, a)]))
    empty = pool([influence(a), influence([np.nan])])
    assert (empty.n, empty.n_missing) == (3, 1)
    assert estimate(empty).stderr == pytest.approx(estimate(influence(a)).stderr)
    with pytest.raises(ValueError, match="one unit"):
        pool([])


@pytest.mark.parametrize("whole", [[30, 70], [90, 10], [6, 1]])
def test_a_subset_of_one_item_is_held_against_the_mean_on_its_own_scale(whole: list[int]) -> None:
    """Where zero lies says nothing about the spread, also where subsets keep their share of the whole."""
    rng = np.random.default_rng(8)
    a, b = rng.normal(5, 1, 6), np.array([2.0])
    here, far = (at_full_shares([influence(a + up), influence(b + up)], whole) for up in (0.0, 1000.0))
    assert estimate(far).stderr == pytest.approx(estimate(here).stderr)
    share = whole[1] / sum(whole)
    spread = (1 - share) ** 2 * np.var(a, ddof=1) / 6 + (share * (b[0] - here.value)) ** 2
    assert estimate(here).stderr == pytest.approx(np.sqrt(spread))
    apart = contrast(far, at_full_shares([influence(0 * a), influence(0 * b)], whole))
    assert estimate(apart).stderr == pytest.approx(estimate(here).stderr)


@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_clusters_that_happen_to_sum_to_the_same_do_not_make_items_certain(scale: float) -> None:
    labels = list("aabbccdd")
    for phi in ([1.0, -1, 2, -2, 3, -3, 4, -4], [1.0, 3, 2, 2, 0, 4, -1, 5]):
        phi_B = scale * np.array(phi)
        alone, grouped = estimate(influence(phi_B)), estimate(influence(phi_B), clusters=labels)
        assert grouped.stderr == pytest.approx(alone.stderr)
        assert grouped.df == pytest.approx(3)  # clusters less one
        assert grouped.ci_high - grouped.ci_low > alone.ci_high - alone.ci_low
    assert estimate(influence(np.full(8, 0.1)), clusters=labels).stderr == 0  # items that do not vary


def test_contrast_uses_items_that_both_used() -> None:
    got = contrast(influence([1.0, np.nan, 3.0, 5.0]), influence([0.0, 1.0, 1.0, np.nan]))
    assert (got.value, got.n, got.n_missing) == (1.5, 2, 2)
    with pytest.raises(ValueError, match="same items"):
        contrast(influence([1.0]), influence([1.0, 2.0]))


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="confidence"):
        estimate(influence([1.0, 2.0]), confidence=95)
    per_token = club(pair_scores(np.eye(4), 2), "nats/token")
    with pytest.raises(ValueError, match="one unit"):
        remid(per_token, influence([1.0, 2.0]))


@pytest.mark.parametrize(("n", "m"), [(12, 2), (12, 8), (25, 2), (100, 2), (100, 8)])
def test_remid_intervals_cover(n: int, m: int) -> None:
    """R-EMI(ID) = 1, R-EMI(OOD) = 0.4 in truth. 500 runs: at least 93% (binomial: 95% less 2 of its 1% errors)."""
    rng = np.random.default_rng(n * 10 + m)
    hits_remi = hits_remid = 0
    for _ in range(500):
        sides = []
        for truth in (1.0, 0.4):
            design = balanced_design(n, m, int(rng.integers(5)))  # few, so that their factors are cached
            policy, reference = (additive_world(rng, design, truth=2.0 + gain) for gain in (truth, 0.0))
            sides.append(remi(policy, reference))
        remi_id, drop = estimate(sides[0]), remid(sides[0], sides[1])
        hits_remi += remi_id.ci_low <= 1.0 <= remi_id.ci_high
        hits_remid += drop.ci_low <= 0.6 <= drop.ci_high
    assert hits_remi >= 465
    assert hits_remid >= 465


def test_intervals_in_a_known_discrete_world_cover_and_are_not_wasteful() -> None:
    rng = np.random.default_rng(0)
    _, _, truth = discrete_truth()
    got = [estimate(club(discrete_world(rng, 100, 2))) for _ in range(500)]
    covered = np.mean([e.ci_low <= truth <= e.ci_high for e in got])
    ratio = np.sqrt(np.mean([e.stderr**2 for e in got])) / np.std([e.value for e in got])
    assert covered >= 0.93
    assert 0.93 < ratio < 1.4


def slow_clustered(phi: list[float], labels: list[str], rho: float) -> tuple[float, float]:
    """Variance of the mean and df for one stratum, from the working model by dense matrices."""
    n, names = len(phi), sorted(set(labels))
    indicator = np.array([[float(label == name) for name in names] for label in labels])
    centring = np.eye(n) - np.full((n, n), 1 / n)
    model = (1 - rho) * np.eye(n) + rho * indicator @ indicator.T
    sums = indicator.T @ centring
    covariance = sums @ model @ sums.T
    observed = sums @ np.array(phi)
    scale = np.ones(n) @ model @ np.ones(n) / np.trace(covariance)
    return scale * observed @ observed / n**2, np.trace(covariance) ** 2 / np.trace(covariance @ covariance)


def test_unequal_clusters_equal_the_slow_twin() -> None:
    rng = np.random.default_rng(3)
    labels = [name for name, size in zip("abcdefg", (2, 6, 3, 5, 2, 4, 3), strict=True) for _ in range(size)]
    effect = dict(zip("abcdefg", rng.normal(size=7), strict=True))
    phi = [effect[label] + float(rng.normal()) for label in labels]
    residual = np.array(phi) - np.mean(phi)
    within = sum(residual[i] * residual[j] for i in range(25) for j in range(25) if i != j and labels[i] == labels[j])
    rho = within / sum(s * (s - 1) for s in (2, 6, 3, 5, 2, 4, 3)) / np.mean(residual**2)
    assert 0 < rho < 1
    variance, df = slow_clustered(phi, labels, rho)
    got = estimate(influence(phi), clusters=labels)
    assert (got.stderr**2, got.df) == pytest.approx((variance, df))
    assert got.df < 6  # fewer than clusters less one


def test_clusters_that_reach_over_strata_and_strata_of_one_cluster() -> None:
    rng = np.random.default_rng(4)
    a, b = influence(rng.normal(size=8)), influence(10 + rng.normal(size=4))
    assert np.isnan(estimate(pool([a, b]), clusters=["x"] * 8 + ["y"] * 4).stderr)
    lone = estimate(pool([a, b]), clusters=[*np.repeat(["p", "q", "r", "s"], 2), *["y"] * 4])
    assert lone.stderr > 0  # the lone cluster's share of the variance is taken from the others
    assert lone.df <= 3 + 1e-9
    across = estimate(pool([a, b]), clusters=[*np.repeat(["p", "q", "r", "s"], 2), "p", "q", "r", "s"])
    assert 0 < across.df <= 3 + 1e-9


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_taken_off_within_clusters_too(seed: int) -> None:
    """Groups of one item must give what no groups give, up to how the degrees of freedom are counted."""
    rng = np.random.default_rng(seed)
    scores = pair_scores(rng.normal(size=(60, 60)) + 5 * rng.normal(size=60), 4, seed)
    alone, grouped = estimate(club(scores)), estimate(club(scores), clusters=list(range(60)))
    assert grouped.stderr == pytest.approx(alone.stderr)
    assert alone.stderr**2 < np.var(club(scores).phi_B, ddof=1) / 60


def test_the_interval_of_a_share_covers_where_it_is_rare() -> None:
    rng = np.random.default_rng(0)
    covered = {"student": 0, "wilson": 0}
    for _ in range(400):
        made = estimate(influence((rng.random(16) < 0.04).astype(np.float64)))
        share = share_interval(made)
        assert 0 <= share.ci_low <= share.value <= share.ci_high <= 1
        covered["student"] += made.ci_low <= 0.04 <= made.ci_high
        covered["wilson"] += share.ci_low <= 0.04 <= share.ci_high
    assert covered["wilson"] >= 0.93 * 400
    assert covered["student"] < 0.6 * 400  # half of the samples have none, and an interval of no width


def test_the_interval_of_a_share_leaves_open_what_so_many_answers_do() -> None:
    none = share_interval(estimate(influence(np.zeros(16))))
    t2 = 2.1314**2
    assert (none.ci_low, none.ci_high) == (0.0, pytest.approx(t2 / (16 + t2), rel=1e-3))
    one = share_interval(estimate(influence(np.zeros(1))))
    assert np.isnan(one.ci_low)
    assert np.isnan(one.ci_high)
    many = np.tile([0.2, 0.3], 500)  # shares that differ little: narrower than yes-or-no answers
    narrow, wide = estimate(influence(many)), share_interval(estimate(influence(many)))
    assert wide.ci_high - wide.ci_low == pytest.approx(narrow.ci_high - narrow.ci_low, rel=0.01)


def test_no_answers_leave_a_share_open() -> None:
    assert np.isnan(wilson(0.5, 0)).all()
    assert np.isnan(wilson(0.5, float("nan"))).all()


def test_the_interval_of_a_share_counts_clusters_where_all_agree() -> None:
    clusters = [k // 20 for k in range(100)]
    grouped = share_interval(estimate(influence(np.zeros(100)), clusters=clusters))
    five = share_interval(estimate(influence(np.zeros(5))))
    assert grouped.ci_high == pytest.approx(five.ci_high)
