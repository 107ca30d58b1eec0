"""Means over items and trainings: the same test items under several seeds, both a sample of what might have been."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from remid.types import FloatArray


@dataclass(frozen=True, slots=True)
class Crossed:
    """A mean or a ratio of means, and the mean squares of items, seeds and rest, each over the number of values.

    by_items, by_seeds, rest: unit of the value squared; the first alone is the squared standard error of the mean of
    per-item means. by_seeds and rest are 0 with one seed. NaN where there are fewer than two items.
    """

    value: float
    by_items: float
    by_seeds: float
    rest: float
    n_items: int
    n_seeds: int

    @property
    def stderr(self) -> float:
        """Of a two-way random-effects analysis of variance, never below what items or seeds alone give."""
        return float(np.sqrt(max(self.by_items + self.by_seeds - self.rest, self.by_items, self.by_seeds)))

    @property
    def p_value(self) -> float:
        """Two-sided, against zero: 1 less the confidence at which the interval just touches 0. NaN without spread."""
        if not self.stderr > 0:
            return float("nan")
        alone = _p_value(abs(self.value), self.by_items, self.n_items - 1)
        return max(alone, self._p_both()) if self.by_seeds > 0 else alone

    def interval(self, confidence: float) -> tuple[float, float]:
        """Longer of the interval over items alone and that over items and seeds, NaN where there is no spread.

        The half-width of the second is the root of t(I-1)^2 (by_items - rest) + t(S-1)^2 by_seeds: each variance with
        the t of its own degrees of freedom covers whatever their shares (Banerjee 1960, Sankhya 22:357; here
        by simulation, docs/ablation.md). Satterthwaite's rule does not: where 2 or 3 seeds agree by chance it gives
        items' degrees of freedom to what is mostly seeds. Nothing much shorter covers.
        """
        half = self._half(1 - confidence)
        return self.value - half, self.value + half

    def _half(self, p: float) -> float:
        alone = float(np.sqrt(self.by_items)) * _reach(p, self.n_items - 1)
        return max(alone, self._half_both(p)) if self.by_seeds > 0 else alone

    def _half_both(self, p: float) -> float:
        over_rest = float(np.sqrt(max(self.by_items - self.rest, 0.0)))
        return float(
            np.hypot(over_rest * _reach(p, self.n_items - 1), np.sqrt(self.by_seeds) * _reach(p, self.n_seeds - 1))
        )

    def _p_both(self) -> float:
        """Where `_half_both` is |value|: not below what seeds alone give, nor above the fewest df for everything."""
        from scipy import optimize

        size, least_df = abs(self.value), min(self.n_items, self.n_seeds) - 1
        low = _p_value(size, self.by_seeds, self.n_seeds - 1)
        high = _p_value(size, max(self.by_items - self.rest, 0.0) + self.by_seeds, least_df)
        if not 0 < low < high:  # no more than rounding between them, or below what a float holds
            return high
        ends = float(np.log(low)) - 1e-6, min(float(np.log(high)) + 1e-6, 0.0)
        return float(np.exp(optimize.brentq(lambda log_p: self._half_both(float(np.exp(log_p))) - size, *ends)))


def crossed_mean(values_SI: FloatArray) -> Crossed:
    """Mean over S seeds and I items, both random and crossed: every item is seen under every seed.

    Var(mean) = (MS_items + MS_seeds - MS_rest) / (S I), as in a two-way random-effects analysis of variance (Searle,
    Casella, McCulloch 1992, Variance Components). With one seed, items alone: nothing is then said about other
    trainings.
    """
    seeds, items = values_SI.shape
    mean = float(values_SI.mean()) if values_SI.size else float("nan")
    if items < 2:
        return Crossed(mean, float("nan"), float("nan"), float("nan"), items, seeds)
    item_I, seed_S = values_SI.mean(axis=0), values_SI.mean(axis=1)
    by_items = float(item_I.var(ddof=1)) / items
    if seeds == 1:
        return Crossed(mean, by_items, 0.0, 0.0, items, seeds)
    by_seeds = float(seed_S.var(ddof=1)) / seeds
    rest_SI = values_SI - item_I[None, :] - seed_S[:, None] + mean
    rest = float((rest_SI**2).sum()) / ((seeds - 1.0) * (items - 1.0)) / values_SI.size
    return Crossed(mean, by_items, by_seeds, rest, items, seeds)


def crossed_ratio(top_SI: FloatArray, bottom_SI: FloatArray) -> Crossed:
    """Ratio of the two means; its error is that of the mean of (top - ratio bottom) / mean bottom (delta method)."""
    below = float(bottom_SI.mean()) if bottom_SI.size else float("nan")
    if not below or not np.isfinite(below):
        return crossed_mean(np.full((1, 0), np.nan))
    ratio = float(top_SI.mean()) / below
    return replace(crossed_mean((top_SI - ratio * bottom_SI) / below), value=ratio)


def _reach(p: float, df: int) -> float:
    """Quantile of Student's t with p outside on both sides together."""
    from scipy import stats

    return float(stats.t.isf(p / 2, df))


def _p_value(size: float, variance: float, df: int) -> float:
    from scipy import stats

    return float(2 * stats.t.sf(size / np.sqrt(variance), df)) if variance > 0 else 0.0
