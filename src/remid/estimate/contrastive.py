"""What the estimators of estimators.py share: columns of scores, their softmax pieces, and the way to an Influence.

A column is one response y_j with its own input and the K = m other inputs that the design scored it under. Every
estimator is a mean over columns of h_j. Item i enters it twice: as the owner of column i, and as a candidate in m other
columns. Its influence is h_i plus the effect of its weight as a candidate (infinitesimal jackknife).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from remid.estimate.information import Influence
from remid.types import FloatArray, IntArray, PairScores

BoolArray = npt.NDArray[np.bool_]

#: Covariances between neighbours on the design's circle are summed only where there are few of them for the items.
_ITEMS_PER_LAG = 6


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """B columns with K candidates each, nats.

    own_B: S_jj. other_BK: S_ij of the candidates, -inf where missing. row_BK: their i. here_BK: not missing.
    count_B: candidates that are there. own_B is NaN in a column that cannot be used (fewer than `least` candidates).
    """

    own_B: FloatArray
    other_BK: FloatArray
    row_BK: IntArray
    here_BK: BoolArray
    count_B: IntArray

    def mean(self, value_BK: FloatArray) -> FloatArray:
        """Mean over the candidates that are there; 0 in a column without any."""
        total_B = np.where(self.here_BK, value_BK, 0.0).sum(axis=1)
        return np.asarray(total_B / np.maximum(self.count_B, 1), dtype=np.float64)

    def centred(self, value_BK: FloatArray) -> FloatArray:
        """Values less their column's mean, 0 where missing."""
        return np.where(self.here_BK, value_BK - self.mean(value_BK)[:, None], 0.0)


#: Of columns: the column terms h_B (NaN where the column is not used), and the effects d_BK on h_j of the candidates'
#: weights, which sum to 0 in each column.
Terms = Callable[[Columns], tuple[FloatArray, FloatArray]]


def columns(scores: PairScores, *, least: int = 1) -> Columns:
    """Turn rows of negatives into columns of candidates. Pairs are left out as CLUB does (information.py).

    least: candidates that a column needs. Raises ValueError if some response is not used exactly m times.
    """
    negatives_Bm = scores.design.negatives_Bm
    n, m = negatives_Bm.shape
    if np.any(np.bincount(negatives_Bm.ravel(), minlength=n) != m):
        raise ValueError(f"the design is not balanced: every response must be a negative exactly {m} times")
    order_E = np.argsort(negatives_Bm.ravel(), kind="stable")
    row_BK = (order_E // max(m, 1)).reshape(n, m)
    other_BK = scores.negative_Bm.ravel()[order_E].reshape(n, m)
    scored_B = np.isfinite(scores.positive_B)
    here_BK = np.isfinite(other_BK) & scored_B[:, None] & scored_B[row_BK]
    count_B = here_BK.sum(axis=1)
    own_B = np.where(scored_B & (count_B >= least), scores.positive_B, np.nan)
    return Columns(own_B, np.where(here_BK, other_BK, -np.inf), row_BK, here_BK, count_B)


def measured(
    policy: PairScores, reference: PairScores | None, terms: Terms, *, least: int, unit: str = "nats/response"
) -> Influence:
    """Information of the policy, or with a reference the paired difference over the pairs that both have (R-EMI).

    Raises ValueError if the two were not scored on the same design.
    """
    if reference is None:
        h_B, effect_B = _parts(policy, terms, least)
    else:
        ours, theirs = common(policy, reference)
        (h_B, effect_B), (h_ref_B, effect_ref_B) = _parts(ours, terms, least), _parts(theirs, terms, least)
        h_B, effect_B = h_B - h_ref_B, effect_B - effect_ref_B
    return _influence(h_B, effect_B, policy.design.negatives_Bm, unit)


def common(a: PairScores, b: PairScores) -> tuple[PairScores, PairScores]:
    """Both with NaN wherever either is not finite. Raises ValueError if the designs differ."""
    if not np.array_equal(a.design.negatives_Bm, b.design.negatives_Bm):
        raise ValueError("both must be scored on the same design: a paired contrast needs the same negatives")
    gone_B = ~(np.isfinite(a.positive_B) & np.isfinite(b.positive_B))
    gone_Bm = ~(np.isfinite(a.negative_Bm) & np.isfinite(b.negative_Bm))
    if not gone_B.any() and not gone_Bm.any():
        return a, b
    return _without(a, gone_B, gone_Bm), _without(b, gone_B, gone_Bm)


def _without(scores: PairScores, gone_B: BoolArray, gone_Bm: BoolArray) -> PairScores:
    positive_B = np.where(gone_B, np.nan, scores.positive_B)
    return replace(scores, positive_B=positive_B, negative_Bm=np.where(gone_Bm, np.nan, scores.negative_Bm))


def _parts(scores: PairScores, terms: Terms, least: int) -> tuple[FloatArray, FloatArray]:
    """h_B, and per item the sum of its effects as a candidate in other columns (B,)."""
    n, m = scores.design.negatives_Bm.shape
    if m == 0:
        return np.full(n, np.nan), np.zeros(n)
    cols = columns(scores, least=least)
    h_B, effect_BK = terms(cols)
    counted_BK = cols.here_BK & np.isfinite(h_B)[:, None]
    weight_BK = np.where(counted_BK, effect_BK, 0.0)
    effect_B = np.bincount(cols.row_BK.ravel(), weight_BK.ravel(), minlength=n)
    return h_B, np.asarray(effect_B, dtype=np.float64)


def _influence(h_B: FloatArray, effect_B: FloatArray, negatives_Bm: IntArray, unit: str) -> Influence:
    """phi_i = h_i + (effects of i as a candidate), with mean h as the value.

    An item whose column is not used has no contribution; what it does as a candidate is then not in the standard
    error. Nothing is subtracted as noise (conservative). With few candidates the effects of their weights carry much
    pair noise and say little about what another candidate would have done. So where n >= 6 m the contributions are
    scaled to a variance of the mean that needs no effects: columns up to m apart on the design's circle share items,
    farther ones do not, so the covariances up to that lag are summed (not below the variance of h alone, since the sum
    is noisy). That is what the mean of such a sequence varies by, whatever the estimator.
    """
    total, m = negatives_Bm.shape
    used_B = np.isfinite(h_B)
    n = int(used_B.sum())
    phi_B, stratum_B = np.full(total, np.nan), np.zeros(total, dtype=np.int64)
    if n == 0:
        return Influence(float("nan"), phi_B, 0, total, unit, stratum_B)
    value = float(h_B[used_B].mean())
    phi_B[used_B] = h_B[used_B] + effect_B[used_B] - effect_B[used_B].mean()
    residual_B = np.where(used_B, h_B - value, 0.0)
    spread = float(np.sum((phi_B[used_B] - value) ** 2))
    if n >= _ITEMS_PER_LAG * m and spread > 0:
        # negatives_Bm[i, l] is the item l + 1 places after i on the circle, so this sums the covariances at all lags.
        along = float(residual_B @ (residual_B + 2 * residual_B[negatives_Bm].sum(axis=1)))
        phi_B = value + (phi_B - value) * np.sqrt(max(float(residual_B @ residual_B), along) / spread)
    return Influence(float(np.nanmean(phi_B)), phi_B, n, total - n, unit, stratum_B)


def log_sum(score_BK: FloatArray) -> FloatArray:
    """log sum exp over the last axis; -inf for a column without candidates. Scores of -500 nats are no trouble."""
    top_B = score_BK.max(axis=1)
    safe_B = np.where(np.isfinite(top_B), top_B, 0.0)
    with np.errstate(divide="ignore"):
        return np.asarray(safe_B + np.log(np.exp(score_BK - safe_B[:, None]).sum(axis=1)), dtype=np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """Per column and candidate h, the log mean of exp S over the other candidates: a baseline made without the pair.

    log_mean_BK: that baseline, nats. Its first derivative by the weight of candidate l is what `spread` uses.
    """

    cols: Columns
    log_mean_BK: FloatArray
    _log_sum_BK: FloatArray
    _top_B: IntArray

    def spread(self, gradient_BK: FloatArray) -> FloatArray:
        """Effect of the candidates' weights through the baselines: sum over h != l of gradient_h times the derivative
        of log_mean_h by the weight of l, which is exp(S_l) / sum over the others than h, less 1 / (K - 1)."""
        cols, rows_B = self.cols, np.arange(len(self._top_B))
        g_BK = np.where(cols.here_BK, gradient_BK, 0.0)
        top_score_B = cols.other_BK[rows_B, self._top_B]
        share_BK = np.exp(cols.other_BK - top_score_B[:, None])
        # Without h, for every h but the largest: the sum still holds the largest, so nothing overflows.
        scaled_BK = g_BK * np.exp(np.minimum(top_score_B[:, None] - self._log_sum_BK, 0.0))
        scaled_BK[rows_B, self._top_B] = 0.0
        effect_BK = share_BK * (scaled_BK.sum(axis=1)[:, None] - scaled_BK)
        top_gradient_B = g_BK[rows_B, self._top_B]
        rest_B = self._log_sum_BK[rows_B, self._top_B]
        without_top_BK = np.exp(np.minimum(cols.other_BK - rest_B[:, None], 0.0))
        without_top_BK[rows_B, self._top_B] = 0.0
        effect_BK += top_gradient_B[:, None] * without_top_BK
        rest_BK = (g_BK.sum(axis=1)[:, None] - g_BK) / np.maximum(cols.count_B - 1, 1)[:, None]
        return np.where(cols.here_BK, effect_BK - rest_BK, 0.0)


def held_out(cols: Columns) -> HeldOut:
    """Baselines that leave out one candidate at a time, for columns of at least two candidates."""
    rows_B = np.arange(len(cols.own_B))
    usable_B = cols.count_B >= 2
    score_BK = np.where(usable_B[:, None], cols.other_BK, 0.0)  # any number: those columns are not used
    top_B = np.argmax(score_BK, axis=1)
    all_B = log_sum(score_BK)
    rest_BK = score_BK.copy()
    rest_BK[rows_B, top_B] = -np.inf
    with np.errstate(divide="ignore"):
        log_sum_BK = all_B[:, None] + np.log1p(-np.exp(np.minimum(score_BK - all_B[:, None], 0.0)))
    # Of the largest, all minus itself would cancel to nothing: the others are summed instead.
    log_sum_BK[rows_B, top_B] = log_sum(rest_BK) if score_BK.shape[1] > 1 else 0.0
    safe = Columns(cols.own_B, score_BK, cols.row_BK, cols.here_BK, cols.count_B)
    count_B = np.maximum(cols.count_B - 1, 1)
    return HeldOut(safe, log_sum_BK - np.log(count_B)[:, None], log_sum_BK, top_B)
