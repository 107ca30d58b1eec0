"""How closely two columns of cells follow each other: Pearson and Kendall, with an interval over subsets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from remid.pipeline.measure import number
from remid.types import FloatArray

_RESAMPLES = 1000


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


def agreement(
    x_N: FloatArray, y_N: FloatArray, groups: Sequence[str], *, confidence: float, seed: int
) -> dict[str, Any]:
    """Pearson and Kendall of two columns, each with a percentile interval from resampled groups.

    groups: which cells move together (the subset: its items are shared by all policies); whole groups are drawn with
    replacement, 1,000 times. Not in the interval: that all cells of a policy share its ID sample. Cells with a NaN on
    either side are left out. No interval with fewer than 5 groups; what cannot be told is None.
    """
    kept_N = np.isfinite(x_N) & np.isfinite(y_N)
    x_N, y_N = x_N[kept_N], y_N[kept_N]
    names, group_N = np.unique(np.asarray(groups, dtype=object)[kept_N].astype(str), return_inverse=True)
    row: dict[str, Any] = {"n_cells": int(x_N.size), "n_groups": int(names.size)}
    for name, statistic in (("pearson", pearson), ("kendall", kendall)):
        row[name] = number(statistic(x_N, y_N))
        low = high = float("nan")
        if names.size >= 5:
            rng = np.random.default_rng(np.random.SeedSequence(seed))
            members = [np.flatnonzero(group_N == g) for g in range(names.size)]
            drawn = [np.concatenate([members[g] for g in rng.integers(names.size, size=names.size)])
                     for _ in range(_RESAMPLES)]  # fmt: skip
            found = np.array([statistic(x_N[rows], y_N[rows]) for rows in drawn])
            if np.isfinite(found).mean() > 0.9:
                low, high = np.nanquantile(found, [(1 - confidence) / 2, (1 + confidence) / 2])
        row |= {f"{name}_low": number(float(low)), f"{name}_high": number(float(high))}
    return row


def _centred(x_N: FloatArray) -> FloatArray:
    return x_N - x_N.mean() if x_N.size else x_N
