"""How closely two columns of cells follow each other: Pearson and Kendall, with an interval over subsets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import special

from remid.pipeline.measure import number
from remid.types import FloatArray

_FEWEST = 5  # groups that an interval is made from
_ROUNDING = 1e-9


def pearson(x_N: FloatArray, y_N: FloatArray) -> float:
    """Pearson's r; NaN with fewer than 3 cells or where a side does not vary."""
    x_N, y_N = _centred(x_N), _centred(y_N)
    scale = float(np.sqrt(np.sum(x_N**2) * np.sum(y_N**2)))
    return float(np.sum(x_N * y_N)) / scale if x_N.size >= 3 and scale > 0 else float("nan")


def kendall(x_N: FloatArray, y_N: FloatArray) -> float:
    """Kendall's tau-b; NaN with fewer than 3 cells or where a side does not vary."""
    if x_N.size < 3:
        return float("nan")
    upper = np.triu_indices(x_N.size, 1)
    a, b = (np.sign(z[:, None] - z)[upper] for z in (x_N, y_N))
    scale = float(np.sqrt(np.sum(a**2) * np.sum(b**2)))
    return float(np.sum(a * b)) / scale if scale > 0 else float("nan")


def agreement(x_N: FloatArray, y_N: FloatArray, groups: Sequence[str], *, confidence: float) -> dict[str, Any]:
    """Pearson and Kendall of two columns, each with an interval over groups.

    groups: which cells move together (the subset: its items are shared by all policies). The standard error is the
    jackknife's over whole groups; the interval is Student's with groups less one, on Fisher's scale (arctanh), where a
    coefficient near 1 does not lean to one side. Not in it: that all cells of a policy share its ID sample. Cells with
    a NaN on either side are left out. No interval with fewer than 5 groups or without spread; what cannot be told is
    None.
    """
    kept_N = np.isfinite(x_N) & np.isfinite(y_N)
    x_N, y_N = x_N[kept_N], y_N[kept_N]
    names, group_N = np.unique(np.asarray(groups, dtype=object)[kept_N].astype(str), return_inverse=True)
    row: dict[str, Any] = {"n_cells": int(x_N.size), "n_groups": int(names.size)}
    for name, statistic in (("pearson", pearson), ("kendall", kendall)):
        value, (low, high) = statistic(x_N, y_N), (float("nan"), float("nan"))
        if names.size >= _FEWEST:
            without_G = np.array([statistic(x_N[group_N != g], y_N[group_N != g]) for g in range(names.size)])
            low, high = _interval(value, without_G, confidence)
        row |= {name: number(value), f"{name}_low": number(low), f"{name}_high": number(high)}
    return row


def _interval(value: float, without_G: FloatArray, confidence: float) -> tuple[float, float]:
    """Of a coefficient from those without each group; NaN where there is no spread or one of them is not there."""
    fewer = without_G.size - 1
    variance = fewer / without_G.size * float(np.sum((without_G - without_G.mean()) ** 2))
    if not np.isfinite([value, variance]).all() or abs(value) > 1 - _ROUNDING or variance <= _ROUNDING**2:
        return float("nan"), float("nan")
    half = float(special.stdtrit(fewer, (1 + confidence) / 2)) * np.sqrt(variance) / (1 - value**2)
    return float(np.tanh(np.arctanh(value) - half)), float(np.tanh(np.arctanh(value) + half))


def _centred(x_N: FloatArray) -> FloatArray:
    return x_N - x_N.mean() if x_N.size else x_N
