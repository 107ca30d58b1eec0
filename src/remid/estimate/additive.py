"""Split the negatives into input effects, response effects and pair noise: S_ij = mu + a_i + b_j + e_ij.

By Hoeffding's decomposition the four parts are uncorrelated whatever the law of the items. CLUB's influence of item i
is S_ii - mu - a_i - b_i. With few negatives, row and column means are poor stand-ins for a_i and b_i: the row mean
carries the b_j of the m responses that happened to be drawn, and responses differ in length far more than in anything
else. Least squares over the sparse pairs removes them exactly (docs/theory.md, "Uncertainty").
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph
from scipy.sparse.linalg import splu

from remid.types import FloatArray, IntArray

#: Below this many residual degrees of freedom per item the residuals say too little, and the contributions are asked.
_RESIDUAL_DF_PER_ITEM = 0.5

#: Standard errors taken off an estimate of the pair noise that rests on the contributions alone (`_noise`). Chosen by
#: simulation: 0 covers 93% in the worst world at n = 400, 1 is needlessly wide at n = 100 (docs/theory.md).
_CAUTION = 0.5


@dataclass(frozen=True, slots=True)
class _Pattern:
    """What depends only on which pairs exist (n items, E pairs): the factorised fit and how it passes noise on.

    component_V: connected component of each of the V = 2n nodes (rows, then columns). linked_B: row and column of the
    item hang together, so a_i + b_i is identified. leverage_BB: (L, L) covariance of the fitted a_i + b_i of the L
    linked items in units of var(e); only its diagonal (L,) where the residuals identify var(e). residual_df: E - rank.
    """

    solver: Any
    component_V: IntArray
    linked_B: np.ndarray[tuple[int], np.dtype[np.bool_]]
    leverage_BB: FloatArray
    residual_df: int


@dataclass(frozen=True, slots=True)
class AdditiveFit:
    """contribution_B: S_ii minus the fitted effects, mean not yet centred (unit of the scores).

    noise_excess: estimate of how much of the contributions' variance is pair noise that the mean over items does not
    carry (unit squared, >= 0, 0 where it cannot be told). noise_floor: var(e) / m, which the variance cannot go below.
    """

    contribution_B: FloatArray
    noise_excess: float
    noise_floor: float


@lru_cache(maxsize=64)
def _pattern(row_bytes: bytes, column_bytes: bytes, n: int) -> _Pattern:
    """Factorise the bipartite graph Laplacian of the pairs. Cached: policies, units and contrasts share the pattern."""
    row_E, column_E = (np.frombuffer(part, dtype=np.int64) for part in (row_bytes, column_bytes))
    ones_E = np.ones(row_E.size)
    links_VV = sparse.coo_matrix((ones_E, (row_E, n + column_E)), shape=(2 * n, 2 * n)).tocsr()
    n_components, component_V = csgraph.connected_components(links_VV, directed=False)
    laplacian_VV = csgraph.laplacian(links_VV + links_VV.T)
    # Effects are free up to a constant per component: pinning one node of each makes the matrix definite and leaves
    # the differences that we read unchanged.
    pinned_V = np.zeros(2 * n)
    pinned_V[np.unique(component_V, return_index=True)[1]] = 1.0
    solver = splu(sparse.csc_matrix(laplacian_VV + sparse.diags(pinned_V)))
    residual_df = row_E.size - 2 * n + int(n_components)
    linked_B = component_V[:n] == component_V[n:]
    whole = residual_df < _RESIDUAL_DF_PER_ITEM * n
    return _Pattern(solver, component_V, linked_B, _leverage(solver, linked_B, whole=whole), residual_df)


def _leverage(solver: Any, linked_B: np.ndarray[tuple[int], np.dtype[np.bool_]], *, whole: bool) -> FloatArray:
    """U' L^-1 U with u_i = row node i - column node i; in slices, so that memory stays at 2n x 256 numbers."""
    n = linked_B.size
    items_L = np.flatnonzero(linked_B)
    leverage = np.zeros((items_L.size, items_L.size) if whole else items_L.size)
    for start in range(0, items_L.size, 256):
        part = items_L[start : start + 256]
        contrast_VP = np.zeros((2 * n, part.size))
        contrast_VP[part, np.arange(part.size)] = 1.0
        contrast_VP[n + part, np.arange(part.size)] = -1.0
        solved_VP = solver.solve(contrast_VP)
        if whole:
            leverage[:, start : start + part.size] = solved_VP[items_L] - solved_VP[n + items_L]
        else:
            leverage[start : start + part.size] = np.sum(contrast_VP * solved_VP, axis=0)
    return leverage


def fit_additive(positive_B: FloatArray, row_E: IntArray, column_E: IntArray, score_E: FloatArray) -> AdditiveFit:
    """Contributions of n items to CLUB from their n positives and E >= 1 negatives (none missing; same unit all).

    row_E, column_E: item whose input, whose response the pair uses; every item occurs in at least one.
    An item whose effects are not identified (always so for m = 1) falls back to plain row and column means, which is
    unbiased and conservative. Where pairs are missing, an item's effects weigh as much as its share of the pairs.
    """
    n = positive_B.size
    pattern = _pattern(row_E.tobytes(), column_E.tobytes(), n)
    node_E2 = (row_E, n + column_E)
    count_V = np.concatenate([np.bincount(row_E, minlength=n), np.bincount(column_E, minlength=n)]).astype(np.float64)
    centre = float(score_E.mean())
    total_V = np.concatenate([np.bincount(row_E, score_E - centre, n), -np.bincount(column_E, score_E - centre, n)])
    effect_V = pattern.solver.solve(total_V)
    residual_E = score_E - centre - effect_V[node_E2[0]] + effect_V[node_E2[1]]

    weight_V = count_V * n / score_E.size
    level_V = _component_level(pattern.component_V, count_V, effect_V, n)
    own_V = weight_V * (effect_V - level_V)
    fitted_B = (level_V[:n] - level_V[n:]) + own_V[:n] - own_V[n:]
    plain_V = total_V * n / score_E.size  # weight times mean, 0 where there is no pair
    contribution_B = positive_B - centre - np.where(pattern.linked_B, fitted_B, plain_V[:n] - plain_V[n:])
    noise = _noise(pattern, contribution_B[pattern.linked_B], residual_E)
    m = score_E.size / n
    leverage_L = np.diagonal(pattern.leverage_BB) if pattern.leverage_BB.ndim == 2 else pattern.leverage_BB
    excess = noise * float(np.sum(np.maximum(leverage_L - 1 / m, 0.0))) / max(n - 1, 1)
    return AdditiveFit(contribution_B, excess, noise / m)


def _component_level(component_V: IntArray, count_V: FloatArray, effect_V: FloatArray, n: int) -> FloatArray:
    """Per node, the pair-weighted mean effect of the rows (or of the columns) of its component."""
    side_V = 2 * component_V.astype(np.int64) + (np.arange(2 * n) >= n)
    weight_G = np.bincount(side_V, count_V)
    mean_G = np.bincount(side_V, count_V * effect_V) / np.where(weight_G > 0, weight_G, 1.0)
    return np.asarray(mean_G[side_V], dtype=np.float64)


def _noise(pattern: _Pattern, contribution_L: FloatArray, residual_E: FloatArray) -> float:
    """Estimate var(e), the pair noise (unit squared), never negative.

    m >= 3: from the residuals. m = 2 leaves one residual degree of freedom in all, but the fit makes neighbours on the
    design's circle share noise: Cov(contributions) = V I + var(e) K with K known, so the projection of their centred
    products on the part of K orthogonal to I is unbiased for var(e). That is noisy, and too high an estimate would make
    the interval too short, so its standard error under no noise (Gaussian) is taken off. Few items: mostly 0.
    """
    if pattern.leverage_BB.ndim == 1:
        return float(np.sum(residual_E**2)) / pattern.residual_df
    n = contribution_L.size
    if n < 3:
        return 0.0
    K_LL = pattern.leverage_BB
    K_LL = K_LL - K_LL.mean(axis=0) - K_LL.mean(axis=1)[:, None] + K_LL.mean()
    W_LL = K_LL - np.trace(K_LL) / (n - 1) * (np.eye(n) - 1 / n)
    scale = float(np.sum(W_LL**2))
    if scale < 1e-9:
        return 0.0
    g_L = contribution_L - contribution_L.mean()
    estimate = float(g_L @ W_LL @ g_L) / scale
    return max(0.0, estimate - _CAUTION * float(g_L @ g_L) / (n - 1) * float(np.sqrt(2 / scale)))
