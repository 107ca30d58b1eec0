"""From a small pilot to the size of the real measurement: how many samples and negatives reach a wished precision.

On the balanced design Var(R-EMI) = (item + pair / m) / n: `item` is the variance between items, `pair` the noise of one
negative (docs/theory.md, "Uncertainty"). A pilot estimates both; more samples shrink all of it, more negatives the
second part only, and they cost differently.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from remid.estimate.inference import Labels, estimate
from remid.estimate.information import remi
from remid.types import PairScores

#: Fewest negatives that let a pilot tell its pair noise.
_M_TELLING = 3
#: Fewest negatives that are proposed (below, intervals are too wide under 100 items), and the most worth considering.
_M_LEAST, _M_MOST = 4, 16
#: Largest sample that is proposed; beyond it the wish is called out of reach.
_N_MOST = 1_000_000

Goal = Literal["stderr", "half-width", "detect"]


@dataclass(frozen=True, slots=True)
class Components:
    """Variance of R-EMI in one law, as a pilot saw it (unit squared, of one item's contribution).

    item: between items, clustering included. pair: of one negative. n: the pilot's items, m: its negatives per item.
    counted: how much of `pair` the pilot's contributions held. df_item, df_pair: degrees of freedom behind both;
    df_pair is 0 where the pilot could not tell `pair` (m < 3): it is then part of `item`, and plans are cautious.
    """

    item: float
    pair: float
    n: int
    m: float
    counted: float
    df_item: float
    df_pair: float

    def variance(self, m: float) -> float:
        """Of the mean of n items with m negatives each, times n."""
        return self.item + self.pair / m


@dataclass(frozen=True, slots=True)
class Cost:
    """Tokens per prompt and per response (means), and how many answer: the reference and every policy."""

    prompt_tokens: float
    response_tokens: float
    answerers: int

    def of(self, n: int, m: int) -> float:
        """Tokens that go through the model for n samples, each prompt computed once."""
        return n * (self.prompt_tokens + (1 + m) * self.response_tokens * self.answerers)


@dataclass(frozen=True, slots=True)
class Plan:
    """A size that reaches the goal at least cost. n: items per side. tokens: over all sides.

    stderr, stderr_low, stderr_high: predicted standard error with a 95% interval for how little the pilot knows.
    """

    n: int
    m: int
    stderr: float
    stderr_low: float
    stderr_high: float
    pairs: int
    tokens: float


def components(policy: PairScores, reference: PairScores, *, clusters: Labels | None = None) -> Components:
    """Variance components of R-EMI in nats per response from a pilot's scores of one subset.

    clusters: labels as in `estimate`; the plan then assumes clusters of the pilot's sizes. Raises ValueError with fewer
    than 3 items scored, or where the scores do not vary.
    """
    influence = remi(policy, reference)
    if influence.n < 3:
        raise ValueError(f"a pilot needs at least 3 scored items, got {influence.n}")
    n, m = influence.n, policy.design.negatives_Bm.shape[1]
    spread = float(np.nanvar(influence.phi_B, ddof=1))
    if spread == 0:
        raise ValueError("the pilot's scores do not vary: there is nothing to plan from")
    excess, floor = float(influence.noise_excess_S[0]), float(influence.noise_floor_S[0])
    if m < _M_TELLING:
        excess = floor = 0.0  # what the contributions alone say about the noise is too unsure to plan with
    item = max(spread - excess - floor, 0.0)
    if clusters is not None:
        alone, grouped = estimate(influence).stderr, estimate(influence, clusters=clusters).stderr
        item *= max(1.0, (grouped / alone) ** 2) if grouped > 0 else 1.0
    pair = floor * m
    df_pair = max(n * (m - 2) + 1, 0) if m >= _M_TELLING else 0
    counted = (excess + floor) / pair if pair > 0 else 0.0
    return Components(item, pair, n, m, counted, n - 1, df_pair)


def pooled_components(parts: Sequence[Components]) -> Components:
    """Several subsets of one shift as one: each weighs as many items as it has. Raises ValueError for none."""
    if not parts:
        raise ValueError("no pilot to plan from")
    n_S = np.array([part.n for part in parts], dtype=np.float64)

    def mean(values: Sequence[float]) -> float:
        return float(n_S @ np.array(values) / n_S.sum())

    return Components(
        item=mean([part.item for part in parts]),
        pair=mean([part.pair for part in parts]),
        n=int(n_S.sum()),
        m=mean([part.m for part in parts]),
        counted=mean([part.counted for part in parts]),
        df_item=sum(part.df_item for part in parts),
        df_pair=sum(part.df_pair for part in parts),
    )


def predict(sides: Sequence[Components], n: int, m: int) -> tuple[float, float, float]:
    """Standard error with n items per side and m negatives, and a 95% interval for it from the pilot's size.

    sides: one law for R-EMI, two (ID and shift) for R-EMID. The interval is chi-squared, its degrees of freedom by
    Satterthwaite: the contributions' variance has df_item of them, the pair noise taken from it df_pair.
    """
    variance = sum(side.variance(m) for side in sides)
    spread = 0.0  # half the variance of that estimate
    for side in sides:
        spread += (side.item + side.counted * side.pair) ** 2 / max(side.df_item, 1)
        if side.df_pair:
            spread += ((side.counted - 1 / m) * side.pair) ** 2 / side.df_pair
    df = max(variance**2 / spread, 1.0) if spread > 0 else float("inf")
    stderr = float(np.sqrt(variance / n))
    if not np.isfinite(df):
        return stderr, stderr, stderr
    low, high = (stderr * float(np.sqrt(df / stats.chi2.ppf(q, df))) for q in (0.975, 0.025))
    return stderr, low, high


def precision(stderr: float, n: int, sides: int, goal: Goal) -> float:
    """What a standard error with n items per side amounts to in the goal's terms (same unit).

    half-width: of the 95% interval. detect: the difference from 0 that a two-sided test at 5% finds in 80% of cases.
    """
    if goal == "stderr":
        return stderr
    df = max(sides * (n - 1), 1)
    reach = float(stats.t.ppf(0.975, df))
    return stderr * (reach if goal == "half-width" else reach + float(stats.t.ppf(0.8, df)))


def plan(sides: Sequence[Components], goal: Goal, wish: float, cost: Cost) -> Plan:
    """The cheapest n per side and m (4 to 16) that reach the wish: R-EMI for one side, R-EMID for two.

    wish: nats per response, what `precision` gives at most. Raises ValueError for a wish that is not positive or needs
    more than a million items per side.
    """
    if not wish > 0:
        raise ValueError(f"a wished precision must be positive, got {wish}")
    sizes = {m: _least_n(sides, m, goal, wish) for m in range(_M_LEAST, _M_MOST + 1)}
    reachable = {m: n for m, n in sizes.items() if n is not None}
    if not reachable:
        raise ValueError(f"{wish:g} nats would need more than {_N_MOST:,} samples per side")
    m = min(reachable, key=lambda k: (cost.of(reachable[k], k), k))
    n = reachable[m]
    stderr, low, high = predict(sides, n, m)
    return Plan(n, m, stderr, low, high, n * m * len(sides), cost.of(n, m) * len(sides))


def _least_n(sides: Sequence[Components], m: int, goal: Goal, wish: float) -> int | None:
    """By bisection: precision improves with n. At least 2 m + 1, below which pairs repeat in both directions."""
    variance = sum(side.variance(m) for side in sides)

    def enough(n: int) -> bool:
        return precision(float(np.sqrt(variance / n)), n, len(sides), goal) <= wish

    low, high = 2 * m + 1, _N_MOST
    if not enough(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low
