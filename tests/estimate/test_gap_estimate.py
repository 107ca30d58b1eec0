"""The gap from data: cases by hand, what is missing, how contexts are drawn, whether intervals and p-values hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from remid.estimate.gap import (
    Gap,
    Paired,
    Told,
    draw_contexts,
    gap_bound,
    gap_difference,
    gap_estimate,
    mean_length,
    measure_gap,
    paired,
    part_estimate,
    together,
)
from remid.types import Estimate, FloatArray

NAN = float("nan")
QUICK = settings(max_examples=40, deadline=None, derandomize=True, database=None)


def told(earned: Sequence[float], repeated: Sequence[float], tokens: Sequence[float]) -> Told:
    columns = [np.array(column, dtype=np.float64) for column in (earned, repeated, tokens)]
    return Told(columns[0], columns[1], np.full(len(earned), 9.0), columns[2])


def measured(pairs: Paired, seed: int = 0, resamples: int = 400) -> Gap:
    return measure_gap(pairs, draw_contexts(pairs, seed=seed, resamples=resamples))


REFERENCE = told([6, 4, 8], [1, 0, 2], [10, 20, 10])


def test_both_parts_by_hand() -> None:
    # Earned: 18 against 9, over 40 tokens. Repeated per token: 0.1, 0, 0.2 against 0.5, 0.2, 0.5.
    gap = measured(paired(told([3, 2, 4], [10, 1, 5], [20, 5, 10]), REFERENCE))
    assert gap.missing == pytest.approx(9 / 40)
    assert gap.excess == pytest.approx((0.4 + 0.2 + 0.3) / 3)
    assert gap.value == pytest.approx(9 / 40 + 0.3)
    assert (gap.n, gap.n_missing, gap.df) == (3, 0, 2)


def test_one_part_does_not_make_up_for_the_other() -> None:
    parrot = measured(paired(told([60, 40, 80], [5, 4, 6], [10, 20, 10]), REFERENCE))
    assert parrot.missing < 0 < parrot.excess
    assert parrot.value == pytest.approx(parrot.excess)
    silent = measured(paired(told([0, 0, 0], [0, 0, 0], [1, 1, 1]), REFERENCE))
    assert silent.excess < 0 < silent.missing
    assert silent.value == pytest.approx(18 / 40)


def test_who_answers_as_the_reference_has_no_gap() -> None:
    made = gap_estimate(measured(paired(REFERENCE, REFERENCE)), 0.95)
    assert (made.value, made.ci_low, made.ci_high) == (0, 0, 0)
    assert np.isnan(made.p_value)


def test_a_longer_response_that_tells_the_same_is_no_worse() -> None:
    # Twice the tokens, nothing more earned or repeated.
    longer = measured(paired(told([6, 4, 8], [1, 0, 2], [20, 40, 20]), REFERENCE))
    assert longer.value == 0


def test_what_is_missing_is_left_out_and_counted() -> None:
    policy = told([3, NAN, 4], [10, 1, 5], [20, 5, 10])
    found = measured(paired(policy, REFERENCE))
    keep = [0, 2]
    rest = paired(told([3, 4], [10, 5], [20, 10]), told([6, 8], [1, 2], [10, 10]))
    assert (found.n, found.n_missing) == (2, 1)
    assert found.missing == pytest.approx(measured(rest).missing)
    assert found.excess == pytest.approx(measured(rest).excess)
    lost = told([6, 8], [1, 2], [0, 10])  # no token to spread what is repeated over
    pairs = paired(lost, told(REFERENCE.earned_B[keep], REFERENCE.repeated_B[keep], REFERENCE.tokens_B[keep]))
    assert pairs.n == 1


def test_contexts_without_a_value_give_no_freedom() -> None:
    policy, reference = (told([m, *[NAN] * 97, m + 1, m + 3], [1] * 100, [9] * 100) for m in (2, 5))
    found = measured(paired(policy, reference))
    assert (found.n, found.n_missing, found.df) == (3, 97, 2)


def test_nothing_there_is_no_value_and_one_context_no_interval() -> None:
    nothing = gap_estimate(measured(paired(told([NAN], [NAN], [NAN]), told([1], [1], [1]))), 0.95)
    assert np.isnan(nothing.value)
    assert nothing.n == 0
    assert nothing.n_missing == 1
    one = gap_estimate(measured(paired(told([1], [1], [1]), told([2], [1], [1]))), 0.95)
    assert one.value == 1
    assert np.isnan(one.ci_low)
    assert np.isnan(one.ci_high)


def test_different_contexts_are_refused() -> None:
    with pytest.raises(ValueError, match="same contexts"):
        paired(told([1], [1], [1]), REFERENCE)
    with pytest.raises(ValueError, match="same contexts"):
        paired(REFERENCE, REFERENCE, groups=["a"])


def random_pairs(n: int, seed: int, groups: Sequence[str] | None = None) -> Paired:
    rng = np.random.default_rng(seed)
    sides = [told(rng.normal(m, 3, n).tolist(), rng.normal(1, 2, n).tolist(), rng.integers(5, 40, n).tolist())
             for m in (4, 6)]  # fmt: skip
    return paired(sides[0], sides[1], groups)


def test_contexts_of_one_group_are_drawn_together() -> None:
    once = random_pairs(30, 1)
    columns = (once.short_B, once.over_B, once.length_B)
    thrice = [np.repeat(column, 3) for column in columns]
    labels = np.repeat(np.arange(30), 3)

    def width(group_B: np.ndarray) -> float:
        pairs = Paired(*thrice, np.zeros(90, dtype=np.int64), np.ones(1), group_B.astype(np.int64))
        made = part_estimate(measured(pairs, resamples=2000), "missing", 0.95)
        return made.ci_high - made.ci_low

    alone = part_estimate(measured(once, resamples=2000), "missing", 0.95)
    assert width(labels) == pytest.approx(alone.ci_high - alone.ci_low, rel=0.1)
    assert width(np.arange(90)) < 0.7 * width(labels)


def test_subsets_weigh_as_their_whole_sizes_say() -> None:
    small, large = random_pairs(10, 2), random_pairs(40, 3)
    cell = together([small, large], whole=[300, 100])
    share = np.array([0.75, 0.25])
    short = share @ [part.short_B.mean() for part in (small, large)]
    length = share @ [part.length_B.mean() for part in (small, large)]
    over = share @ [part.over_B.mean() for part in (small, large)]
    gap = measured(cell)
    assert (gap.missing, gap.excess) == (pytest.approx(short / length), pytest.approx(over))
    assert gap.df == 9 + 39
    plain = measured(together([small, large]))
    assert plain.excess == pytest.approx(np.concatenate([small.over_B, large.over_B]).mean())


def test_a_subset_keeps_its_share_whatever_it_misses() -> None:
    full, holed = random_pairs(10, 2), random_pairs(10, 3)
    for column in (holed.short_B, holed.over_B, holed.length_B):
        column[:8] = NAN
    found = measured(together([full, holed]))
    assert found.excess == pytest.approx((full.over_B.mean() + holed.over_B[8:].mean()) / 2)
    assert found.missing == pytest.approx(
        (full.short_B.mean() + holed.short_B[8:].mean()) / (full.length_B.mean() + holed.length_B[8:].mean())
    )
    holed.short_B[8:] = NAN  # nothing is left: the other subset alone
    assert measured(together([full, holed])).excess == pytest.approx(full.over_B.mean())


def test_subsets_that_share_no_group_are_drawn_apart() -> None:
    labels = ["a", "a", "b"]
    cell = together([random_pairs(3, 4, labels), random_pairs(3, 5, labels)])
    assert len(set(cell.group_B[:3]) & set(cell.group_B[3:])) == 0
    drawn_RB = draw_contexts(cell, seed=0, resamples=50)
    assert (drawn_RB[:, 0] == drawn_RB[:, 1]).all()
    assert (drawn_RB[0] == 1).all()
    assert not (drawn_RB[:, 0] == drawn_RB[:, 3]).all()


def test_a_group_in_several_subsets_is_drawn_once_for_all_of_them() -> None:
    rng, runs, labels = np.random.default_rng(12), 300, [str(i) for i in range(12)]

    def cell() -> Paired:
        shared = rng.normal(0, 0.8, 12)
        each = np.full(12, 20.0)
        fixed = (np.zeros(12, dtype=np.int64), np.ones(1), np.arange(12))
        parts = [Paired(20 * (shared + rng.normal(0, 0.6, 12)), each, each, *fixed) for _ in range(5)]
        return together(parts, groups=labels * 5)

    draws = draw_contexts(cell(), seed=0, resamples=1000)
    assert (draws[:, :12] == draws[:, 12:24]).all()
    gaps = [measure_gap(cell(), draws) for _ in range(runs)]
    assert gaps[0].df == 11
    parts = [part_estimate(gap, "missing", 0.95) for gap in gaps]
    held = sum(part.ci_low <= 0 <= part.ci_high for part in parts)
    assert abs(held - 0.95 * runs) < 3.5 * np.sqrt(0.95 * 0.05 * runs)


@given(st.integers(0, 10_000), st.integers(2, 12))
@QUICK
def test_the_gap_is_never_below_zero_and_the_order_of_contexts_says_nothing(seed: int, n: int) -> None:
    pairs = random_pairs(n, seed)
    gap = measured(pairs, resamples=20)
    assert gap.value >= 0
    assert (gap.value_R >= 0).all()
    order = np.random.default_rng(seed).permutation(n)
    columns = (pairs.short_B[order], pairs.over_B[order], pairs.length_B[order])
    turned = measured(Paired(*columns, pairs.stratum_B, pairs.share_S, pairs.group_B), resamples=20)
    assert (turned.missing, turned.excess) == (pytest.approx(gap.missing), pytest.approx(gap.excess))


@given(st.integers(0, 10_000), st.floats(0.01, 100))
@QUICK
def test_another_unit_of_information_scales_everything(seed: int, unit: float) -> None:
    pairs = random_pairs(8, seed)
    scaled = Paired(unit * pairs.short_B, unit * pairs.over_B, pairs.length_B, pairs.stratum_B, pairs.share_S,
                    pairs.group_B)  # fmt: skip
    one, other = (gap_estimate(measured(p, resamples=50), 0.95) for p in (pairs, scaled))
    for field in ("value", "ci_low", "ci_high", "stderr"):
        assert getattr(other, field) == pytest.approx(unit * getattr(one, field))


@given(st.integers(0, 10_000))
@QUICK
def test_an_interval_holds_its_value_and_never_reaches_below_zero(seed: int) -> None:
    made = gap_estimate(measured(random_pairs(12, seed), resamples=200), 0.95)
    assert 0 <= made.ci_low <= made.value <= made.ci_high


def noisy(n: int, missing: float, excess: float, rng: np.random.Generator, shared: FloatArray | None = None) -> Paired:
    """Contexts whose true parts are given; skewed, and length moves with what is earned. shared: noise by context."""
    length_B = rng.integers(10, 60, n).astype(np.float64)
    common = np.zeros(n) if shared is None else shared
    short_B = length_B * (missing + 0.3 * (rng.gamma(2, 1, n) - 2) + common)
    over_B = excess + 0.1 * (rng.gamma(2, 1, n) - 2) + common
    return Paired(short_B, over_B, length_B, np.zeros(n, dtype=np.int64), np.ones(1), np.arange(n))


@pytest.mark.parametrize(("missing", "excess"), [(0.3, 0.0), (0.0, 0.1), (0.3, 0.1), (-0.2, 0.0)])
def test_intervals_cover_also_where_a_part_is_exactly_zero(missing: float, excess: float) -> None:
    truth, runs = max(missing, 0.0) + max(excess, 0.0), 250
    rng = np.random.default_rng(7)
    draws = draw_contexts(noisy(60, missing, excess, rng), seed=0, resamples=1000)  # they do not look at values
    gaps = [measure_gap(noisy(60, missing, excess, rng), draws) for _ in range(runs)]
    made = [gap_estimate(gap, 0.95) for gap in gaps]
    held = sum(m.ci_low <= truth <= m.ci_high for m in made)
    # 95% of 250, three and a half standard errors down; skewed data of 60 contexts cost two points.
    assert held >= runs * (0.93 - 3.5 * np.sqrt(0.95 * 0.05 / runs))


def test_intervals_cover_where_a_cell_is_made_of_many_small_subsets() -> None:
    rng, runs = np.random.default_rng(11), 400

    def cell() -> Paired:
        return together([_normal(2, rng) for _ in range(10)])

    draws = draw_contexts(cell(), seed=0, resamples=1000)
    parts = [part_estimate(measure_gap(cell(), draws), "missing", 0.95) for _ in range(runs)]
    held = sum(part.ci_low <= 0 <= part.ci_high for part in parts)
    assert abs(held - 0.95 * runs) < 3.5 * np.sqrt(0.95 * 0.05 * runs)


def test_p_values_of_a_part_are_uniform_where_nothing_is_missing() -> None:
    rng, n = np.random.default_rng(3), 40
    draws = draw_contexts(_normal(n, rng), seed=0, resamples=1000)
    gaps = [measure_gap(_normal(n, rng), draws) for _ in range(200)]
    p_values = [part_estimate(gap, "missing", 0.95).p_value for gap in gaps]
    assert stats.kstest(p_values, "uniform").pvalue > 0.001
    assert abs(np.mean(np.array(p_values) < 0.05) - 0.05) < 3.5 * np.sqrt(0.05 * 0.95 / 200)


def test_a_p_value_of_a_large_effect_is_not_held_up_by_the_number_of_resamples() -> None:
    pairs = _normal(60, np.random.default_rng(4))
    level = 20 * pairs.short_B.std() / np.sqrt(60) / 20.0
    sure, faint = (
        measured(replace(pairs, short_B=pairs.short_B - pairs.short_B.mean() + 20.0 * level * share), resamples=1000)
        for share in (1.0, 0.05)
    )
    made = part_estimate(sure, "missing", 0.95)
    reach = stats.t.ppf(0.975, made.df) / stats.norm.ppf(0.975)  # of the interval: the spread of its resamples has it
    assert made.p_value == pytest.approx(2 * stats.t.sf(reach * made.value / made.stderr, made.df), rel=1e-6, abs=0)
    assert 0 < made.p_value < 1e-12
    assert 0.1 < part_estimate(faint, "missing", 0.95).p_value < 0.7  # one standard error: the resamples' own share


def test_draws_of_many_contexts_fit_into_memory() -> None:
    many = _normal(3000, np.random.default_rng(1))
    draws = draw_contexts(many, seed=0, resamples=1200)
    assert draws.nbytes == draws.size
    assert (draws.sum(axis=1, dtype=int) == 3000).all()


def _normal(n: int, rng: np.random.Generator) -> Paired:
    fixed = (np.zeros(n, dtype=np.int64), np.ones(1), np.arange(n))
    return Paired(rng.normal(0, 5, n), rng.normal(0, 0.1, n), np.full(n, 20.0), *fixed)


def test_a_difference_of_policies_on_one_cell_is_paired() -> None:
    rng, n = np.random.default_rng(5), 80
    shared = rng.normal(0, 0.3, n)
    first, second = (noisy(n, 0.6, level, np.random.default_rng(8), shared) for level in (0.5, 0.55))
    draws = draw_contexts(first, seed=1, resamples=1000)
    better, worse = measure_gap(first, draws), measure_gap(second, draws)
    made = gap_difference(worse, better, 0.95)
    assert made.value == pytest.approx(0.05)
    assert (made.stderr, made.ci_low, made.ci_high) == (0, made.value, made.value)
    assert np.isnan(made.p_value)  # the same everywhere, up to rounding: no scale to test against
    other = measure_gap(second, draw_contexts(second, seed=2, resamples=1000))
    apart = gap_difference(other, better, 0.95)
    assert apart.ci_low < 0 < apart.ci_high
    assert apart.p_value > 0.05
    assert (made.n, made.n_missing) == (160, 0)


def answers(short: Sequence[float] | FloatArray, over: float = -0.5) -> Paired:
    """Contexts with references of 20 tokens, whose repetition is known exactly."""
    n = len(short)
    fixed = (np.full(n, 20.0), np.zeros(n, dtype=np.int64), np.ones(1), np.arange(n))
    return Paired(np.asarray(short, dtype=np.float64), np.full(n, over), *fixed)


def difference(ours: Paired, theirs: Paired, draws: NDArray[np.uint8] | None = None) -> Estimate:
    """Of two policies on one cell."""
    draws = draw_contexts(ours, seed=0, resamples=1000) if draws is None else draws
    return gap_difference(measure_gap(ours, draws), measure_gap(theirs, draws), 0.95)


def test_three_contexts_do_not_settle_a_contrast() -> None:
    ours, theirs = [20, 24, 22], [14, 15, 18]
    made = difference(answers(ours), answers(theirs))
    assert made.p_value == pytest.approx(stats.ttest_rel(ours, theirs).pvalue, rel=0.1)


@pytest.mark.parametrize("kind", ["contrast", "change"])
@pytest.mark.parametrize("n", [2, 3, 5])
def test_a_small_p_value_of_a_difference_of_equals_is_rare_with_few_contexts(n: int, kind: str) -> None:
    rng, runs = np.random.default_rng(n), 500
    draws = [
        draw_contexts(answers(np.zeros(n)), seed=side, resamples=1000) for side in (0, 1 if kind == "change" else 0)
    ]
    found = []
    for _ in range(runs):
        common = rng.normal(20, 2, n)
        gaps = [measure_gap(answers(common + rng.normal(0, 3, n)), draw) for draw in draws]
        found.append(gap_difference(gaps[0], gaps[1], 0.95).p_value)
    for level in (0.05, 0.01):
        assert np.mean(np.array(found) < level) <= level + 3.5 * np.sqrt(level * (1 - level) / runs)


def test_a_p_value_and_its_interval_say_the_same() -> None:
    """Also where one policy's part is seen and the other's is not, so that the ends come from different resamples."""
    rng, n = np.random.default_rng(6), 5
    draws = draw_contexts(answers(np.zeros(n)), seed=0, resamples=1000)
    excluded = 0
    for _ in range(400):
        made = difference(*(answers(rng.normal(level, 3, n), 0.1) for level in (2.0, 7.0)), draws=draws)
        excludes = made.ci_high < 0 or made.ci_low > 0
        assert made.p_value < 0.15 if excludes else made.p_value >= 0.05
        excluded += excludes
    assert 100 < excluded < 300


def test_contexts_that_all_say_the_same_give_no_p_value() -> None:
    for n in (2, 3, 7):
        same, none = answers([0.3] * n), answers([0.0] * n)
        gap = measured(same)
        for made in (difference(same, none), part_estimate(gap, "missing", 0.95), gap_estimate(gap, 0.95)):
            assert made.value == pytest.approx(0.3 / 20)
            assert (made.stderr, made.ci_low, made.ci_high) == (0, made.value, made.value)
            assert np.isnan(made.p_value)
        equal = difference(same, same)
        assert (equal.value, equal.stderr, equal.ci_low, equal.ci_high, equal.p_value) == (0, 0, 0, 0, 1)
    varied = difference(answers([0.3] * 5), answers([0.1, 0.2, 0.3, 0.2, 0.1]))
    assert varied.stderr > 0
    assert 0 < varied.p_value < 0.05


def test_an_end_that_does_not_vary_is_not_tested_against() -> None:
    """What is missing is not seen, so that the lower end has only what is repeated: the same in every context."""
    unsure = [-3.0, 5.0, 4.0, -2.0, 1.0]
    made = difference(answers(unsure, 0.5), answers([-1.0] * 5, 0.2))
    assert made.ci_low == pytest.approx(0.3)
    assert made.ci_high > made.value > made.ci_low
    assert np.isnan(made.p_value)
    assert difference(answers(unsure), answers([-1.0] * 5)).p_value == 1  # the lower end is 0


def test_a_difference_of_equals_is_seldom_called_one() -> None:
    rng, found = np.random.default_rng(9), []
    draws = [draw_contexts(noisy(50, 0.3, 0.0, rng), seed=side, resamples=1000) for side in (0, 1)]
    for _ in range(150):
        gaps = [measure_gap(noisy(50, 0.3, 0.0, rng), draw) for draw in draws]
        found.append(gap_difference(gaps[0], gaps[1], 0.95).p_value)
    assert np.mean(np.array(found) < 0.05) < 0.05 + 3.5 * np.sqrt(0.05 * 0.95 / 150)


def test_the_bound_by_hand_and_where_there_is_none() -> None:
    pairs = paired(told([3, 2, 4], [10, 1, 5], [20, 5, 10]), REFERENCE)
    # h = short - 9/40 length: 3 - 2.25, 2 - 4.5, 4 - 2.25; over: 0.4, 0.2, 0.3.
    assert gap_bound(pairs, 20.0, 0.5) == pytest.approx(0.5 * (4.25 / 20 + 0.2))
    assert gap_bound(pairs, 20.0, 0.0) == 0
    assert np.isnan(gap_bound(pairs, 0.0, 0.5))
    assert np.isnan(gap_bound(pairs, 20.0, NAN))


@given(st.integers(0, 10_000))
@QUICK
def test_the_bound_holds_between_laws_on_the_same_contexts(seed: int) -> None:
    """Contexts as inputs: P and Q are two laws on them, which strata of one context each can express."""
    rng, n = np.random.default_rng(seed), 6
    whole, moved = rng.dirichlet(np.ones(n), 2)
    base = random_pairs(n, seed)

    def under(law_B: FloatArray) -> Paired:
        each = np.arange(n)
        return Paired(base.short_B, base.over_B, base.length_B, each, law_B, each)

    t = 0.5 * np.abs(whole - moved).sum()
    grows = measured(under(moved), resamples=1).value - measured(under(whole), resamples=1).value
    assert grows <= gap_bound(under(whole), float(moved @ base.length_B), float(t)) + 1e-9


@pytest.mark.parametrize("answered", [1, 2, 3])
def test_a_subset_of_which_next_to_nothing_is_there_does_not_take_the_interval_from_the_others(answered: int) -> None:
    """Resamples that draw none of its contexts leave it out; they are no missing intervals."""
    rng = np.random.default_rng(answered)
    parts = []
    for n, there in ((60, 60), (24, answered)):
        earned = rng.normal(4, 2, n)
        earned[there:] = NAN
        reference = told(rng.normal(6, 2, n).tolist(), [1.0] * n, [10.0] * n)
        parts.append(paired(told(earned.tolist(), [1.0] * n, [10.0] * n), reference))
    made = gap_estimate(measured(together(parts)), 0.95)
    alone = gap_estimate(measured(parts[0]), 0.95)
    assert np.isfinite([made.ci_low, made.ci_high]).all()
    assert 0.5 < (made.ci_high - made.ci_low) / (alone.ci_high - alone.ci_low) < 3


def test_mean_length_weighs_subsets_by_their_share() -> None:
    short, long = (
        paired(told([1] * n, [0] * n, [9] * n), told([2] * n, [0] * n, [t] * n)) for n, t in ((4, 10), (2, 40))
    )
    assert mean_length(together([short, long])) == pytest.approx(20)
    assert mean_length(together([short, long], whole=[10, 30])) == pytest.approx(32.5)
    assert np.isnan(mean_length(paired(told([NAN], [0], [9]), told([2], [0], [5]))))
