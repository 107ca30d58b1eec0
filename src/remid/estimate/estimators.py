"""Estimators of I(X;Y) other than CLUB, over the same pair scores S_ij = log q(y_j | x_i, r_i).

Contrasts are over inputs for a fixed response (columns), K = m candidates beside the own input. Each function takes a
policy's scores and gives its information, or with a reference (or another policy) the paired difference: R-EMI. Their
standard errors are for the estimator's own expectation at this K, which is not I. A term of the response alone (its
length) cancels from all of them exactly; a term of the input alone cancels from CLUB only.

Write J = E log[q(y|x) / E_x' q(y|x')]. For any q, J <= I, with equality where q(y|x) = c(y) p(y|x) (docs/theory.md).
Sources: Poole et al. 2019 (1905.06922), Song and Ermon 2020 (1910.06222), van den Oord et al. 2018 (1807.03748).
"""

from __future__ import annotations

import numpy as np

from remid.estimate.contrastive import Columns, columns, held_out, log_sum, measured
from remid.estimate.information import Influence
from remid.types import FloatArray, PairScores

#: exp of more nats than this is not formed: the bound it enters is vacuous long before, and the fourth power of it,
#: which degrees of freedom take, must be finite. Cutting off can only raise a value near -1e43.
_MOST_NATS = 100.0

#: The weight of the pair's own score in `interpolated`: between NWJ (0) and InfoNCE (1).
ALPHA = 0.5

#: Where `smile` clips log-ratios, nats; the value that its authors recommend.
CLIP = 5.0


def l1out(policy: PairScores, reference: PairScores | None = None) -> Influence:
    """Leave-one-out: mean of S_jj - log mean over the candidates of exp S_ij. Nats/response.

    Biased upward against J at any K, for any q (Jensen), less so with more candidates; hence with q = p(y|x) an upper
    bound on I in expectation. For another q no bound on I. With few candidates it lies near CLUB. Poole et al., eq. 12.
    """
    return measured(policy, reference, _l1out, least=1)


def infonce(policy: PairScores, reference: PairScores | None = None) -> Influence:
    """InfoNCE: mean of S_jj - log mean over own input and candidates of exp S_ij. Nats/response.

    A lower bound on I in expectation for any q fixed beforehand, at any K; at most log(K + 1) (`ceiling`), which text
    reaches at once: near it neither value nor interval says much (docs/theory.md). van den Oord et al., eq. 4.
    """
    return measured(policy, reference, _infonce, least=1)


def infonce_tempered(policy: PairScores, reference: PairScores | None = None) -> Influence:
    """InfoNCE with the critic S_ij / sqrt(tokens of y_j): a fixed temperature against sums of many tokens' errors.

    A lower bound on I (nats/response) in expectation for any q, as every critic fixed beforehand gives one; at most
    log(K + 1). Where q is over-confident it is the tighter one, where q is exact the looser one. A column whose length
    is missing is left out.
    """
    return measured(_tempered(policy), None if reference is None else _tempered(reference), _infonce, least=1)


def nwj(policy: PairScores, reference: PairScores | None = None) -> Influence:
    """NWJ (TUBA): 1 + mean log-ratio of the positives - mean ratio of the negatives. Nats/response.

    The log-ratio is S_ij - a(y_j), with a = log mean exp S over the column's candidates without the pair's: each
    candidate in turn is the negative, and the others are the baseline of it and of the positive. So it is a lower bound
    on I in expectation for any q fixed beforehand. It needs K >= 2, does not saturate, and its variance grows as
    exp of the spread of scores: on text it is mostly vacuous (far below 0). Poole et al., eq. 8.
    """
    return measured(policy, reference, lambda cols: _mixed(cols, 0.0), least=2)


def interpolated(policy: PairScores, reference: PairScores | None = None, *, alpha: float = ALPHA) -> Influence:
    """I_alpha: NWJ with the baseline (alpha / K) exp S_ij + (1 - alpha / K) exp a(y_j). Nats/response.

    alpha = 0 is `nwj`; alpha = 1 is InfoNCE with K candidates, the own input among them. A lower bound on I in
    expectation for any q fixed beforehand; at most log(K / alpha); K >= 2. Poole et al., section 2.4, with held-out
    candidates as the marginal. Raises ValueError unless 0 <= alpha <= 1.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie between 0 and 1, got {alpha}")
    return measured(policy, reference, lambda cols: _mixed(cols, alpha), least=2)


def smile(policy: PairScores, reference: PairScores | None = None, *, clip: float = CLIP) -> Influence:
    """SMILE: mean log-ratio of the positives - log mean of the negatives' ratios, clipped to exp(-clip) ... exp(clip).

    Log-ratios as in `nwj`. No bound in either direction: clipping and the logarithm of a mean push it up, a poor q
    down. Within `clip` nats of leave-one-out with one candidate fewer. K >= 2. Song and Ermon, eq. 10. Nats/response.
    """
    return measured(policy, reference, lambda cols: _smile(cols, clip), least=2)


def retrieval(policy: PairScores, reference: PairScores | None = None) -> Influence:
    """Share of responses that are likeliest under their own input, ties counted in part; chance is 1 / (K + 1).

    Unit: share. No bound on I; for reading. Falls with K. Standard errors are conservative (docs/theory.md).
    """
    return measured(policy, reference, _retrieval, least=1, unit="share")


def ceiling(scores: PairScores, *, alpha: float | None = None) -> float:
    """The most that InfoNCE can be on these pairs: mean over columns of log(K + 1), nats; NaN without columns.

    With alpha, the same for `interpolated`: log(K / alpha).
    """
    least = 1 if alpha is None else 2
    if scores.design.negatives_Bm.shape[1] < least:
        return float("nan")
    cols = columns(scores, least=least)
    count_U = cols.count_B[np.isfinite(cols.own_B)]
    if not count_U.size:
        return float("nan")
    return float(np.log(count_U + 1 if alpha is None else count_U / alpha).mean())


def _tempered(scores: PairScores) -> PairScores:
    root_B = np.sqrt(np.where(scores.tokens_B > 0, scores.tokens_B, np.nan))
    negative_Bm = scores.negative_Bm / root_B[scores.design.negatives_Bm]
    return PairScores(scores.positive_B / root_B, negative_Bm, scores.tokens_B, scores.bytes_B, scores.design)


def _l1out(cols: Columns) -> tuple[FloatArray, FloatArray]:
    log_sum_B = log_sum(cols.other_BK)
    log_sum_B = np.where(cols.count_B > 0, log_sum_B, 0.0)
    h_B = cols.own_B - log_sum_B + np.log(np.maximum(cols.count_B, 1))
    return h_B, -cols.centred(np.exp(cols.other_BK - log_sum_B[:, None]))


def _infonce(cols: Columns) -> tuple[FloatArray, FloatArray]:
    own_B = np.where(np.isfinite(cols.own_B), cols.own_B, 0.0)
    log_sum_B = log_sum(np.column_stack([own_B, cols.other_BK]))
    h_B = cols.own_B - log_sum_B + np.log(cols.count_B + 1)
    return h_B, -cols.centred(np.exp(cols.other_BK - log_sum_B[:, None]))


def _mixed(cols: Columns, alpha: float) -> tuple[FloatArray, FloatArray]:
    """NWJ with the critic log[e^f / (w e^f + (1 - w) e^a)], w = alpha / K; h_B and the candidates' effects."""
    out = held_out(cols)
    w_B1 = alpha / np.maximum(cols.count_B, 1)[:, None]
    own_B1 = np.where(np.isfinite(cols.own_B), cols.own_B, 0.0)[:, None]
    critic_own_BK, slope_own_BK = _critic(own_B1, out.log_mean_BK, w_B1)
    critic_BK, slope_BK = _critic(out.cols.other_BK, out.log_mean_BK, w_B1)
    ratio_BK = np.exp(np.minimum(critic_BK, _MOST_NATS))
    term_BK = critic_own_BK - ratio_BK
    h_B = np.where(np.isfinite(cols.own_B), 1 + cols.mean(term_BK), np.nan)
    per_BK = np.where(cols.here_BK, 1.0, 0.0) / np.maximum(cols.count_B, 1)[:, None]
    gradient_BK = np.where(cols.here_BK, ratio_BK * slope_BK - slope_own_BK, 0.0) * per_BK
    return h_B, cols.centred(term_BK) * per_BK + out.spread(gradient_BK)


def _critic(score: FloatArray, log_mean_BK: FloatArray, w_B1: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The critic, and minus its derivative by the baseline; 0 and 1 where a missing score makes it -inf."""
    with np.errstate(divide="ignore", invalid="ignore"):
        mixed_BK = np.log1p(-w_B1) + log_mean_BK - score
        critic_BK = -np.logaddexp(np.log(w_B1), mixed_BK)
        slope_BK = np.exp(np.minimum(mixed_BK + critic_BK, 0.0))
    lost_BK = np.isnan(critic_BK) | np.isnan(slope_BK)
    return np.where(lost_BK, 0.0, critic_BK), np.where(lost_BK, 1.0, slope_BK)


def _smile(cols: Columns, clip: float) -> tuple[FloatArray, FloatArray]:
    """Linear in the columns around the mean ratio, so that the mean of h is the estimate itself."""
    out = held_out(cols)
    per_BK = np.where(cols.here_BK, 1.0, 0.0) / np.maximum(cols.count_B, 1)[:, None]
    used_B = np.isfinite(cols.own_B)
    with np.errstate(invalid="ignore"):
        log_ratio_BK = np.where(cols.here_BK, out.cols.other_BK - out.log_mean_BK, 0.0)
    ratio_BK = np.exp(np.clip(log_ratio_BK, -clip, clip))
    inside_BK = np.abs(log_ratio_BK) < clip
    joint_B = cols.own_B - cols.mean(out.log_mean_BK)
    column_B = cols.mean(ratio_BK)
    z = float(column_B[used_B].mean()) if used_B.any() else 1.0
    h_B = joint_B - np.log(z) - (column_B / z - 1)
    gradient_BK = (ratio_BK * inside_BK / z - 1) * per_BK
    return h_B, out.spread(gradient_BK) - cols.centred(out.log_mean_BK + ratio_BK / z) * per_BK


def _retrieval(cols: Columns) -> tuple[FloatArray, FloatArray]:
    """Effects: what taking the candidate out of the column would change."""
    with np.errstate(invalid="ignore"):
        above_BK, tied_BK = cols.other_BK > cols.own_B[:, None], cols.other_BK == cols.own_B[:, None]
    n_above_B, n_tied_B = above_BK.sum(axis=1), tied_BK.sum(axis=1)
    h_B = np.where(n_above_B > 0, 0.0, 1 / (1 + n_tied_B))
    lone_BK = above_BK & (n_above_B == 1)[:, None]
    shared_BK = tied_BK & (n_above_B == 0)[:, None]
    loss_BK = np.where(lone_BK, 1 / (1 + n_tied_B)[:, None], 0.0)
    loss_BK = loss_BK + np.where(shared_BK, (1 / np.maximum(n_tied_B, 1) - h_B)[:, None], 0.0)
    return np.where(np.isfinite(cols.own_B), h_B, np.nan), -cols.centred(loss_BK)
