"""The gap between a policy and the reference: information that it does not earn, and information that it only repeats.

R-EMI adds both kinds of information up, so a parrot tops it. Here each has its own direction (docs/theory.md, "The gap"):

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

import numpy as np
from scipy import special

from remid.types import Estimate, FloatArray, IntArray

#: Unit of the gap, its two parts and its changes.
GAP_UNIT = "nats/token"
#: Resamples behind each interval; p-values are multiples of about its inverse.
RESAMPLES = 9_999


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """What each of B responses tells, all (B,), NaN where it is missing.

    earned_B + repeated_B = log q(y|x) - log q(y), nats/response (estimate/copier.py). blind_B: -log q(y), how surprising
    the response is without its input, nats/response. tokens_B: its length, end-of-turn token included.
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

    missing, excess: signed, nats/token; `value` cuts. df: contexts (or groups) less subsets.
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
    columns = (np.where(here_B, column, np.nan) for column in (short_B, over_B, reference.tokens_B))
    group_B = np.arange(n) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    return Paired(*columns, np.zeros(n, dtype=np.int64), np.ones(1), group_B.astype(np.int64))


def together(parts: Sequence[Paired], whole: Sequence[int] | None = None) -> Paired:
    """Several subsets as one cell, each drawn anew by itself. whole: their sizes, where only a part was scored."""
    sizes = np.array([part.short_B.size for part in parts] if whole is None else whole, dtype=np.float64)
    stratum = [np.full(part.short_B.size, s) for s, part in enumerate(parts)]
    # A group that reaches into several subsets is one group per subset: subsets are drawn apart.
    starts = np.cumsum([0, *(int(part.group_B.max(initial=-1)) + 1 for part in parts[:-1])])
    group = [part.group_B + start for part, start in zip(parts, starts, strict=True)]
    joined = [np.concatenate([getattr(part, name) for part in parts]) for name in ("short_B", "over_B", "length_B")]
    return Paired(*joined, np.concatenate(stratum), sizes / sizes.sum(), np.concatenate(group))


def measure_gap(pairs: Paired, *, seed: int, resamples: int = RESAMPLES, confidence: float = 0.95) -> Gap:
    """The gap of one cell. seed: the same for every policy of a cell, whose resamples then are of the same contexts.

    Resamples lie farther from the estimate than drawing with replacement puts them, by sqrt(n / (n - 1)) and by the
    ratio of Student's and the normal quantile, without which intervals of small samples do not cover.
    """
    weight_RB, df = _weights(pairs, np.random.default_rng(seed), resamples)
    columns = (pairs.short_B, pairs.over_B, pairs.length_B)
    here_B = np.isfinite(pairs.short_B)
    short_R, over_R, length_R = (weight_RB @ np.where(here_B, column, 0.0) for column in columns)
    with np.errstate(invalid="ignore", divide="ignore"):
        missing_R, excess_R = short_R / length_R, over_R / (weight_RB @ here_B.astype(np.float64))
        widen = np.sqrt((df + 1) / df) * special.stdtrit(df, (1 + confidence) / 2) / special.ndtri((1 + confidence) / 2)
    missing, excess = float(missing_R[0]), float(excess_R[0])  # the first "resample" is the data themselves
    spread = [middle + widen * (drawn_R[1:] - middle) for middle, drawn_R in ((missing, missing_R), (excess, excess_R))]
    return Gap(missing, excess, *spread, n=pairs.n, n_missing=pairs.short_B.size - pairs.n, df=df)


def gap_estimate(gap: Gap, confidence: float) -> Estimate:
    """The gap as a number with its interval, nats/token. No p-value: it cannot lie below 0."""
    made = drawn_estimate(gap.value, gap.value_R, gap, confidence)
    return replace(made, p_value=float("nan"))


def gap_difference(gap: Gap, other: Gap, confidence: float) -> Estimate:
    """gap - other, nats/token, p-value against 0 from the resamples: two policies on one cell, or one policy on two.

    Resamples of one seed and cell are of the same contexts, so that a difference of policies is a paired one; cells
    need seeds of their own, since their contexts are independent.
    """
    less = gap if gap.n <= other.n else other
    made = drawn_estimate(gap.value - other.value, gap.value_R - other.value_R, less, confidence)
    return replace(made, n=gap.n + other.n)


def drawn_estimate(value: float, drawn_R: FloatArray, of: Gap, confidence: float) -> Estimate:
    """A value with the percentiles of its resamples. NaN where there are too few contexts to draw from."""
    seen_R = drawn_R[np.isfinite(drawn_R)]
    if of.df < 1 or seen_R.size < 0.95 * drawn_R.size:
        nan = float("nan")
        return Estimate(value, nan, nan, nan, of.n, of.n_missing, of.df, GAP_UNIT, nan)
    low, high = np.quantile(seen_R, [(1 - confidence) / 2, (1 + confidence) / 2])
    tails = min(np.sum(seen_R <= 0), np.sum(seen_R >= 0))
    p_value = min(1.0, 2 * (float(tails) + 1) / (seen_R.size + 1))
    spread = float(seen_R.std())
    return Estimate(value, spread, float(low), float(high), of.n, of.n_missing, of.df, GAP_UNIT, p_value)


def gap_bound(on_id: Paired, length_ood: float, t: float) -> float:
    """The most by which the gap can grow under a shift that moves a share t of the inputs (docs/theory.md, "The gap").

    For channels that the shift does not change: t [range of (short - missing length) / length under the shift + range
    of over], ranges over inputs of conditional means. On data they are taken over single responses, so that this is a
    plug-in estimate: the range that was seen may be too small, single responses make it too large. nats/token.
    """
    here_B = np.isfinite(on_id.short_B)
    if not here_B.any() or not np.isfinite([length_ood, t]).all() or length_ood <= 0:
        return float("nan")
    share_B = on_id.share_S[on_id.stratum_B] / np.bincount(on_id.stratum_B)[on_id.stratum_B] * here_B
    missing = float(share_B @ np.where(here_B, on_id.short_B, 0) / (share_B @ np.where(here_B, on_id.length_B, 0)))
    h_B = (on_id.short_B - missing * on_id.length_B)[here_B]
    return float(t * (np.ptp(h_B) / length_ood + np.ptp(on_id.over_B[here_B])))


def _cut(part: FloatArray | float) -> FloatArray:
    return np.maximum(part, 0.0)


def _weights(pairs: Paired, rng: np.random.Generator, resamples: int) -> tuple[FloatArray, float]:
    """(1 + R, B) weights of contexts, the first row the data as they are, and degrees of freedom."""
    n = pairs.short_B.size
    weight_RB, df = np.zeros((resamples + 1, n)), 0.0
    for s, share in enumerate(pairs.share_S):
        inside_B = pairs.stratum_B == s
        labels, group_B = np.unique(pairs.group_B[inside_B], return_inverse=True)
        if not labels.size:
            continue
        count_RG = rng.multinomial(labels.size, np.full(labels.size, 1 / labels.size), size=resamples)
        count_RG = np.concatenate([np.ones((1, labels.size)), count_RG])
        drawn = count_RG[:, group_B]
        weight_RB[:, inside_B] = share * drawn / drawn.sum(axis=1, keepdims=True)
        df += labels.size - 1
    return weight_RB, df
