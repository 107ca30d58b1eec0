"""Many (policy, shift) cells are looked at together; this keeps the chance of any false alarm at the stated level."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from remid.types import FloatArray


def holm(p_values: Sequence[float] | FloatArray) -> FloatArray:
    """Adjust p-values by Holm's step-down rule; valid under any dependence between the cells.

    p_values: (N,), NaN where there was no test: it stays NaN and does not count towards the number of tests.
    Returns (N,): adjusted p_(k) = max over j <= k of min(1, (N' - j + 1) p_(j)), in the order of the input.
    Raises ValueError for a p-value outside [0, 1]. Source: Holm 1979, Scand. J. Statist. 6.
    """
    p_N = np.asarray(p_values, dtype=np.float64)
    tested_N = ~np.isnan(p_N)
    p_T = p_N[tested_N]
    if np.any((p_T < 0) | (p_T > 1)):
        raise ValueError("p-values must lie in [0, 1]")
    order_T = np.argsort(p_T, kind="stable")
    stepped_T = np.maximum.accumulate(p_T[order_T] * np.arange(p_T.size, 0, -1))
    adjusted_T = np.empty_like(p_T)
    adjusted_T[order_T] = np.minimum(stepped_T, 1.0)
    adjusted_N = np.full(p_N.shape, np.nan)
    adjusted_N[tested_N] = adjusted_T
    return adjusted_N
