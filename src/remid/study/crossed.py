"""Means over items and trainings: the same test items under several seeds, both a sample of what might have been."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from remid.types import FloatArray


@dataclass(frozen=True, slots=True)
class Crossed:
    """A mean or a ratio of means with its standard error, degrees of freedom, and two-sided p-value against zero."""

    value: float
    stderr: float
    df: float
    p_value: float

    def interval(self, confidence: float) -> tuple[float, float]:
        """The t interval, NaN where there is no standard error."""
        from scipy import stats

        half = float(stats.t.ppf((1 + confidence) / 2, self.df)) * self.stderr
        return self.value - half, self.value + half


def crossed_mean(values_SI: FloatArray) -> Crossed:
    """Mean over S seeds and I items, both random and crossed: every item is seen under every seed.

    Var(mean) = (MS_items + MS_seeds - MS_rest) / (S I), as in a two-way random-effects analysis of variance (Searle,
    Casella, McCulloch 1992, Variance Components), never below what either gives alone; degrees of freedom after
    Satterthwaite. With one seed, items alone: nothing is then said about other trainings. NaN for the standard error
    with fewer than two items.
    """
    seeds, items = values_SI.shape
    mean = float(values_SI.mean()) if values_SI.size else float("nan")
    if items < 2:
        return Crossed(mean, float("nan"), float("nan"), float("nan"))
    item_I, seed_S = values_SI.mean(axis=0), values_SI.mean(axis=1)
    by_items = seeds * float(item_I.var(ddof=1))
    if seeds == 1:
        return _tested(mean, by_items / items, items - 1.0)
    by_seeds = items * float(seed_S.var(ddof=1))
    rest_df = (seeds - 1.0) * (items - 1.0)
    rest_SI = values_SI - item_I[None, :] - seed_S[:, None] + mean
    rest = float((rest_SI**2).sum()) / rest_df
    squares = [(by_items, items - 1.0), (by_seeds, seeds - 1.0)]
    total, df = by_items + by_seeds - rest, 0.0
    if total > max(by_items, by_seeds):
        df = total**2 / sum(square**2 / own for square, own in (*squares, (rest, rest_df)))
    else:
        total, df = max(squares)
    return _tested(mean, total / (seeds * items), df)


def crossed_ratio(top_SI: FloatArray, bottom_SI: FloatArray) -> Crossed:
    """Ratio of the two means; its error is that of the mean of (top - ratio bottom) / mean bottom (delta method)."""
    below = float(bottom_SI.mean()) if bottom_SI.size else float("nan")
    if not below or not np.isfinite(below):
        return Crossed(float("nan"), float("nan"), float("nan"), float("nan"))
    ratio = float(top_SI.mean()) / below
    error = crossed_mean((top_SI - ratio * bottom_SI) / below)
    return _tested(ratio, error.stderr**2, error.df)


def _tested(value: float, variance: float, df: float) -> Crossed:
    from scipy import stats

    stderr = float(np.sqrt(variance))
    if not stderr > 0:
        return Crossed(value, stderr, df, float("nan"))
    return Crossed(value, stderr, df, float(2 * stats.t.sf(abs(value) / stderr, df)))
