"""Logistic regression on a few columns by Newton's method, for the thousands of small fits behind a run's divergences.

scikit-learn takes six times as long on fits of this size, most of it for checking its input (docs/log.md).
"""

from __future__ import annotations

import numpy as np
from scipy import linalg, special

from remid.types import FloatArray, IntArray

_STEPS = 100
#: A step that changes no coefficient by more than this is the last.
_SMALL = 1e-9


def fit_logistic(x_NK: FloatArray, y_N: IntArray, strength: float) -> tuple[FloatArray, float]:
    """Coefficients (K,) and intercept of the logit for y = 1, both classes counting the same.

    Least sum of w_n -log p_n plus |coefficients|^2 / (2 strength), with weights w of mean 1 that make both classes
    equal; the intercept is free. y_N: 0 or 1. Raises ValueError where a class is missing.
    """
    n, k = x_NK.shape
    ones = int(y_N.sum())
    if not 0 < ones < n:
        raise ValueError("logistic regression needs both classes")
    weight_N = np.where(y_N == 1, n / (2 * ones), n / (2 * (n - ones)))
    design = np.column_stack([x_NK, np.ones(n)])
    penalty = np.append(np.full(k, 1 / strength), 0.0)
    beta = np.zeros(k + 1)
    height = _height(design, y_N, weight_N, penalty, beta)
    for _ in range(_STEPS):
        p_N = special.expit(design @ beta)
        slope = design.T @ (weight_N * (p_N - y_N)) + penalty * beta
        bend = (design.T * (weight_N * p_N * (1 - p_N))) @ design + np.diag(penalty + 1e-12)
        step = linalg.solve(bend, slope, assume_a="pos")
        scale = 1.0
        # The loss is convex; a full step may still leap over its minimum where classes are nearly apart.
        while (lower := _height(design, y_N, weight_N, penalty, beta - scale * step)) > height and scale > 1e-6:
            scale /= 2
        beta, height = beta - scale * step, min(lower, height)
        if np.abs(scale * step).max() < _SMALL:
            break
    return beta[:k], float(beta[k])


def _height(design: FloatArray, y_N: IntArray, weight_N: FloatArray, penalty: FloatArray, beta: FloatArray) -> float:
    logit_N = design @ beta
    loss_N = np.logaddexp(0.0, logit_N) - y_N * logit_N
    return float(weight_N @ loss_N + penalty @ beta**2 / 2)
