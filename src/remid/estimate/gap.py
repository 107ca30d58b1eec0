"""The gap between policy and reference: information that the policy does not earn, and what it only repeats.

R-EMI adds both kinds of information up, so a parrot tops it. Here each has its direction (docs/theory.md, "The gap"):

    missing = max(0, mean of the references' earned - mean of the policy's earned) / mean length of the references
    excess  = max(0, mean of the policy's repeated per token - mean of the references' repeated per token)
    gap     = missing + excess                                                              nats/token

Lower is better, 0 is as good as the reference. Totals are compared on the left, since a long response spreads what it
earns over more tokens and is no worse for it; rates on the right, since a long response repeats more in all.
Intervals are from a bootstrap over contexts, as nothing linear describes a maximum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, special
from scipy.sparse import csgraph

from remid.types import Estimate, FloatArray, IntArray

CountArray = NDArray[np.uint8]

#: Unit of the gap, its two parts and its changes.
GAP_UNIT = "nats/token"
#: Resamples behind each interval.
RESAMPLES = 9_999
#: A spread below this share of the gap's size is rounding: all contexts say the same.
_ROUNDING = 1e-10
#: Resamples that are drawn, and weighed, at once: all of 10,000 contexts would take gigabytes.
_AT_ONCE = 500


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """What each of B responses tells, all (B,), NaN where it is missing.

    earned_B + repeated_B = log q(y|x) - log q(y), nats/response (estimate/copier.py). blind_B: -log q(y), how
    surprising the response is without its input, nats/response. tokens_B: its length, end-of-turn token included.
    """

    earned_B: FloatArray
    repeated_B: FloatArray
    blind_B: FloatArray
    tokens_B: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Paired:
    """Policy and reference on the same contexts, and how these may be drawn anew. All (B,), NaN where either misses.

    short_B: the reference's earned less the policy's, nats/response. over_B: the policy's repeated per token less the
    reference's. length_B: tokens of the reference. stratum_B: which subset a context belongs to; share_S: each subset's
    weight, adding up to 1. group_B: contexts of one group are drawn together.
    """

    short_B: FloatArray
    over_B: FloatArray
    length_B: FloatArray
    stratum_B: IntArray
    share_S: FloatArray
    group_B: IntArray

    @property
    def n(self) -> int:
        """Contexts with a value."""
        return int(np.isfinite(self.short_B).sum())


@dataclass(frozen=True, slots=True, eq=False)
class Gap:
    """The gap with its two parts, and the same for each resample (R,), before negative parts are cut off.

    missing, excess: signed, nats/token; `value` cuts. df: contexts (or groups) less what is drawn by itself.
    """

    missing: float
    excess: float
    missing_R: FloatArray
    excess_R: FloatArray
    n: int
    n_missing: int
    df: float

    @property
    def value(self) -> float:
        """missing + excess, each 0 where it is negative."""
        return float(_cut(self.missing) + _cut(self.excess))

    @property
    def value_R(self) -> FloatArray:
        """The value of each resample."""
        return np.asarray(_cut(self.missing_R) + _cut(self.excess_R))

    def sure_R(self, confidence: float) -> FloatArray:
        """The value of each resample without a part whose own interval reaches 0.

        What is cut off at 0 errs upwards near 0, so that the lower end of an interval must not count it there.
        """
        level = (1 - confidence) / 2
        parts = [part_R for part_R in (self.missing_R, self.excess_R) if _quantile(part_R, level) > 0]
        return np.asarray(sum((_cut(part_R) for part_R in parts), np.zeros_like(self.missing_R)))


def paired(policy: Told, reference: Told, groups: Sequence[str] | None = None) -> Paired:
    """One subset's policy against its reference. groups: labels of contexts that are not independent.

    Raises ValueError where shapes differ.
    """
    n = reference.earned_B.size
    if policy.earned_B.shape != reference.earned_B.shape or (groups is not None and len(groups) != n):
        raise ValueError("policy, reference and groups must be about the same contexts")
    with np.errstate(invalid="ignore", divide="ignore"):
        over_B = policy.repeated_B / policy.tokens_B - reference.repeated_B / reference.tokens_B
    short_B = reference.earned_B - policy.earned_B
    here_B = np.isfinite(short_B) & np.isfinite(over_B) & np.isfinite(reference.tokens_B)
    short_B, over_B, length_B = (np.where(here_B, c, np.nan) for c in (short_B, over_B, reference.tokens_B))
    group_B = np.arange(n) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    return Paired(short_B, over_B, length_B, np.zeros(n, dtype=np.int64), np.ones(1), group_B.astype(np.int64))


def together(
    parts: Sequence[Paired], whole: Sequence[int] | None = None, groups: Sequence[str] | None = None
) -> Paired:
    """Several subsets as one cell. whole: their sizes, where only a part was scored.

    groups: labels of all contexts in order, of which one may stand in several subsets; without it none does.
    """
    sizes = np.array([part.short_B.size for part in parts] if whole is None else whole, dtype=np.float64)
    stratum = [np.full(part.short_B.size, s) for s, part in enumerate(parts)]
    starts = np.cumsum([0, *(int(part.group_B.max(initial=-1)) + 1 for part in parts[:-1])])
    apart_B = np.concatenate([part.group_B + start for part, start in zip(parts, starts, strict=True)])
    group_B = apart_B if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1].astype(np.int64)
    return Paired(
        np.concatenate([part.short_B for part in parts]),
        np.concatenate([part.over_B for part in parts]),
        np.concatenate([part.length_B for part in parts]),
        np.concatenate(stratum),
        sizes / sizes.sum(),
        group_B,
    )


def draw_contexts(pairs: Paired, *, seed: int, resamples: int = RESAMPLES) -> CountArray:
    """(1 + resamples, B) how often each context is drawn, whole groups at once; the first row is the data.

    One for all policies of a cell: it does not look at values.
    """
    rng = np.random.default_rng(seed)
    drawn_RB = np.ones((resamples + 1, pairs.short_B.size), dtype=np.uint8)
    apart_B = _drawn_apart(pairs)
    for one in np.unique(apart_B):
        inside = np.flatnonzero(apart_B == one)
        labels, group_B = np.unique(pairs.group_B[inside], return_inverse=True)
        share_G = np.full(labels.size, 1 / labels.size)
        for start in range(1, resamples + 1, _AT_ONCE):
            end = min(start + _AT_ONCE, resamples + 1)
            # Counts have mean 1, so 255 is never reached.
            count_RG = rng.multinomial(labels.size, share_G, size=end - start).astype(np.uint8)
            drawn_RB[start:end, inside] = count_RG[:, group_B]
    return drawn_RB


def _drawn_apart(pairs: Paired) -> IntArray:
    """(B,) what is drawn by itself: a subset, or several that share a group and so depend."""
    subsets = pairs.share_S.size
    if np.unique(pairs.group_B * subsets + pairs.stratum_B).size == np.unique(pairs.group_B).size:
        return pairs.stratum_B
    edges = (np.ones(pairs.stratum_B.size), (pairs.stratum_B, subsets + pairs.group_B))
    nodes = subsets + int(pairs.group_B.max(initial=-1)) + 1
    _, linked = csgraph.connected_components(sparse.coo_array(edges, shape=(nodes, nodes)), directed=False)
    return np.asarray(linked[pairs.stratum_B], dtype=np.int64)


def measure_gap(pairs: Paired, drawn_RB: CountArray, *, confidence: float = 0.95) -> Gap:
    """The gap of one cell, on the draws of `draw_contexts`.

    Resamples lie farther from the estimate than drawing with replacement puts them, by sqrt(n / df) and by the
    ratio of Student's and the normal quantile, without which intervals of small samples do not cover.
    """
    short_R, over_R, length_R, here_R = _means(pairs, drawn_RB).T
    n, df = _freedom(pairs)
    with np.errstate(invalid="ignore", divide="ignore"):
        missing_R, excess_R = short_R / length_R, over_R / here_R
        widen = np.sqrt(np.divide(n, df)) * _longer_tail(df, confidence)
    missing, excess = float(missing_R[0]), float(excess_R[0])
    missing_R, excess_R = missing + widen * (missing_R[1:] - missing), excess + widen * (excess_R[1:] - excess)
    return Gap(missing, excess, missing_R, excess_R, pairs.n, pairs.short_B.size - pairs.n, df)


def _longer_tail(df: float, confidence: float) -> float:
    """Student's quantile over the normal one: what resamples are drawn apart by, so that few contexts cover."""
    tail = (1 + confidence) / 2
    return float(special.stdtrit(df, tail) / special.ndtri(tail))


def _means(pairs: Paired, drawn_RB: CountArray) -> FloatArray:
    """(R, 4) means of short, over and length of the contexts that are there, and the share of the subsets they are in.

    A subset keeps its share whatever it misses; one without any context that is there drops out, of the data as of a
    resample (of two contexts every fourth resample draws neither).
    """
    here_B = np.isfinite(pairs.short_B)
    columns_B4 = np.stack([pairs.short_B, pairs.over_B, pairs.length_B, np.ones(here_B.size)], axis=1)
    sums_R4 = np.zeros((len(drawn_RB), 4))
    for s, share in enumerate(pairs.share_S):
        inside_B = here_B & (pairs.stratum_B == s)
        if inside_B.any():
            starts = range(0, len(drawn_RB), _AT_ONCE)
            parts = [drawn_RB[r : r + _AT_ONCE, inside_B].astype(float) @ columns_B4[inside_B] for r in starts]
            drawn_R4 = np.concatenate(parts)
            sums_R4 += share * drawn_R4 / np.maximum(drawn_R4[:, 3:], 1)
    return sums_R4


def _freedom(pairs: Paired) -> tuple[float, float]:
    """Contexts with a value, or groups of them; and these less one for whatever is drawn by itself."""
    here_B, apart_B = np.isfinite(pairs.short_B), _drawn_apart(pairs)
    sizes = [np.unique(pairs.group_B[here_B & (apart_B == one)]).size for one in np.unique(apart_B)]
    return float(sum(sizes)), float(sum(size - 1 for size in sizes if size))


def gap_estimate(gap: Gap, confidence: float) -> Estimate:
    """The gap as a number with its interval, nats/token. No p-value: it cannot lie below 0."""
    made = _estimate(gap.value, gap.sure_R(confidence), gap.value_R, gap, confidence)
    return replace(made, p_value=float("nan"))


def part_estimate(gap: Gap, part: Literal["missing", "excess"], confidence: float) -> Estimate:
    """One part with its sign, nats/token: below 0 the policy earns more, or repeats less, than the reference."""
    drawn_R = getattr(gap, f"{part}_R")
    return _estimate(getattr(gap, part), drawn_R, drawn_R, gap, confidence)


def gap_difference(gap: Gap, other: Gap, confidence: float) -> Estimate:
    """gap - other, nats/token, with a p-value against 0 (`_p_value`): two policies on one cell, or one policy on two.

    With the draws of one cell a difference of policies is a paired one; cells need draws of their own seeds, since
    their contexts are independent. n: contexts of both.
    """
    fewer = gap if gap.df <= other.df else other
    low_R = gap.sure_R(confidence) - other.value_R
    high_R = gap.value_R - other.sure_R(confidence)
    made = _estimate(gap.value - other.value, low_R, high_R, fewer, confidence)
    return replace(made, n=gap.n + other.n, n_missing=gap.n_missing + other.n_missing)


def _estimate(value: float, low_R: FloatArray, high_R: FloatArray, of: Gap, confidence: float) -> Estimate:
    """A value between percentiles of its resamples, NaN where there are too few contexts to draw from.

    Without spread, as in `estimate`: stderr 0, an interval of no width, no p-value.
    """
    level = (1 - confidence) / 2
    low, high = _quantile(low_R, level), _quantile(high_R, 1 - level)
    if of.df < 1 or not np.isfinite([value, low, high]).all():
        nan = float("nan")
        return Estimate(value, nan, nan, nan, of.n, of.n_missing, of.df, GAP_UNIT, nan)
    spread = float(np.nanstd(np.concatenate([low_R, high_R])))
    rounding = _ROUNDING * max(abs(value), abs(of.missing), abs(of.excess))
    p_value = _p_value(value, low_R if value > 0 else -high_R, of.df, confidence, rounding)
    if spread <= rounding:
        spread, low, high = 0.0, value, value
    return Estimate(value, spread, low, high, of.n, of.n_missing, of.df, GAP_UNIT, p_value)


def _p_value(value: float, facing_R: FloatArray, df: float, confidence: float, rounding: float) -> float:
    """Against 0, from the resamples of the interval's end that faces it, turned so that 0 lies below them.

    Student's tail of the value over their standard error, or twice the share of them beyond 0 where that is more.
    Shares alone say too little far out: of n contexts the lowest resample is drawn in n^-n of cases, and there is none
    beyond it. 1 for a value of 0. NaN where these resamples are all alike: there is no scale to test against.
    """
    beyond, spread = float(np.mean(~(facing_R > 0))), float(np.nanstd(facing_R))
    if value == 0 or beyond == 1:
        return 1.0
    if spread <= rounding:
        return float("nan")
    stderr = spread / _longer_tail(df, confidence)  # Student's tail must not be counted twice
    return min(1.0, 2 * max(beyond, float(special.stdtr(df, -abs(value) / stderr))))


def _quantile(drawn_R: FloatArray, level: float) -> float:
    """NaN where more than a twentieth of the resamples drew nothing that is there."""
    seen_R = drawn_R[np.isfinite(drawn_R)]
    return float(np.quantile(seen_R, level)) if seen_R.size >= max(0.95 * drawn_R.size, 1) else float("nan")


def mean_length(pairs: Paired) -> float:
    """Mean tokens of the references that the gap weighs by, NaN where no context is there."""
    _, _, length, here = _means(pairs, np.ones((1, pairs.short_B.size), dtype=np.uint8))[0]
    return float(length / here) if here > 0 else float("nan")


def gap_bound(on_id: Paired, length_ood: float, t: float) -> float:
    """The most by which the gap can grow under a shift that moves a share t of the inputs (docs/theory.md, "The gap").

    For channels that the shift does not change: t [range of (short - missing length) / length under the shift + range
    of over], ranges over inputs of conditional means. On data they are taken over single responses, so that this is a
    plug-in estimate: the range that was seen may be too small, single responses make it too large. nats/token.
    """
    here_B = np.isfinite(on_id.short_B)
    if not here_B.any() or not np.isfinite([length_ood, t]).all() or length_ood <= 0:
        return float("nan")
    short, _, length, _ = _means(on_id, np.ones((1, here_B.size), dtype=np.uint8))[0]
    missing = float(short / length)
    h_B = (on_id.short_B - missing * on_id.length_B)[here_B]
    return float(t * (np.ptp(h_B) / length_ood + np.ptp(on_id.over_B[here_B])))


def _cut(part: FloatArray | float) -> FloatArray:
    return np.maximum(part, 0.0)
