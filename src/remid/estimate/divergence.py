"""Jensen-Shannon divergence between two sets of texts, from their embeddings. In nats: 0 (same law) to ln 2.

Two estimators that fail differently. RJSD sees second moments only and is biased up in small samples, which a
permutation null takes off. The classifier sees whatever is linear in the embedding and errs low.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

from remid.estimate.logistic import fit_logistic
from remid.types import FloatArray, IntArray

#: Entropies are exact to about 1e-12; below this two laws are the same.
_ZERO = 1e-9
#: Groups that the jackknife leaves out in turn, per side. More cost more and settle the standard error little.
_JACKKNIFE_GROUPS = 10
#: Fewer different texts on a side cannot show how that side would vary.
_MIN_DISTINCT = 3


@dataclass(frozen=True, slots=True)
class Divergence:
    """RJSD of two samples of embeddings, in nats.

    value = raw - null_mean, may be negative (then clip it only where a formula needs a divergence). null_mean: mean of
    the raw value when the labels are permuted. p_value: share of permutations at least as far apart, one-sided.
    ci_low, ci_high: 95% by delete-a-group jackknife, NaN where a side has fewer than 3 different texts.
    n_*: embeddings used. n_distinct_*: different ones among them; if few, the p-value rests on repeats of one text.
    """

    value: float
    raw: float
    null_mean: float
    p_value: float
    ci_low: float
    ci_high: float
    n_id: int
    n_ood: int
    n_distinct_id: int
    n_distinct_ood: int


def rjsd(id_ND: FloatArray, ood_MD: FloatArray, *, n_permutations: int = 200, seed: int) -> Divergence:
    """Representation Jensen-Shannon divergence, S(mean of both) - mean of S, S the von Neumann entropy.

    id_ND (N, D), ood_MD (M, D): embeddings; rows that are not finite or have no length are left out. Cosine kernel;
    each side's covariance has trace 1 and both count the same, whatever N and M. Fewer than 3 rows on a side: all NaN.
    Where the raw value is 0 (the same texts on both sides, or one text everywhere) the two are not two samples, there
    is no sampling bias to take off, and the value is 0 with null_mean 0, p 1 and no interval.
    The jackknife leaves out a tenth of one side at a time (each row in turn below 10 rows). It is not a bootstrap:
    repeated rows distort a Gram matrix. Its interval is poor near 0, where the p-value is the thing to read.
    Source: Hoyos-Osorio et al. 2023 (2305.16446); docs/theory.md, "Divergence".
    """
    id_ND, ood_MD = _unit_rows(id_ND), _unit_rows(ood_MD)
    n_id, n_ood = len(id_ND), len(ood_MD)
    counts = (n_id, n_ood, _distinct(id_ND), _distinct(ood_MD))
    nan = float("nan")
    if min(n_id, n_ood) < 3:
        return Divergence(nan, nan, nan, nan, nan, nan, *counts)
    z_NR = _coordinates(np.concatenate([id_ND, ood_MD]))
    is_ood_N = np.arange(n_id + n_ood) >= n_id
    raw = _raw_rjsd(z_NR[~is_ood_N], z_NR[is_ood_N])
    if raw < _ZERO:
        return Divergence(0.0, raw, 0.0, 1.0, nan, nan, *counts)

    rng = np.random.default_rng(np.random.SeedSequence(seed))
    null_P = np.empty(n_permutations)
    for p in range(n_permutations):
        mixed_N = rng.permutation(is_ood_N)
        null_P[p] = _raw_rjsd(z_NR[~mixed_N], z_NR[mixed_N])
    null_mean = float(null_P.mean()) if n_permutations else nan
    p_value = float((1 + np.sum(null_P >= raw - _ZERO)) / (1 + n_permutations))
    value = raw - null_mean
    half = nan
    if min(counts[2:]) >= _MIN_DISTINCT:
        half = _jackknife_half_width(z_NR[~is_ood_N], z_NR[is_ood_N], rng)
    return Divergence(value, raw, null_mean, p_value, value - half, value + half, *counts)


def _usable_rows(x_ND: FloatArray) -> npt.NDArray[np.bool_]:
    """Rows that are finite and have a length."""
    length_N = np.linalg.norm(np.asarray(x_ND, dtype=np.float64), axis=1)
    return np.asarray(np.isfinite(length_N) & (length_N > 0))


def _unit_rows(x_ND: FloatArray) -> FloatArray:
    x_ND = np.asarray(x_ND, dtype=np.float64)[_usable_rows(x_ND)]
    return cast(FloatArray, x_ND / np.linalg.norm(x_ND, axis=1)[:, None])


def _distinct(x_ND: FloatArray) -> int:
    """Different rows, up to the rounding with which one text can be embedded twice."""
    return len(np.unique(np.round(x_ND, 5), axis=0))


def _coordinates(x_ND: FloatArray) -> FloatArray:
    """The rows in an orthonormal basis of their span, (N, R): the same kernel at the least width, found once."""
    n, d = x_ND.shape
    spectrum, basis = np.linalg.eigh(x_ND @ x_ND.T if n < d else x_ND.T @ x_ND)
    kept = spectrum > spectrum[-1] * 1e-13
    if n < d:
        return cast(FloatArray, basis[:, kept] * np.sqrt(spectrum[kept]))
    return cast(FloatArray, x_ND @ basis[:, kept])


def _entropy(matrix: FloatArray) -> float:
    """Von Neumann entropy (nats) of a positive semidefinite matrix, scaled to trace 1."""
    spectrum = np.maximum(np.linalg.eigvalsh(matrix), 0.0)
    spectrum = spectrum[spectrum > 0] / spectrum.sum()
    return float(-np.sum(spectrum * np.log(spectrum)))


def _raw_rjsd(p_NR: FloatArray, q_MR: FloatArray) -> float:
    """Plug-in RJSD (nats) of rows of unit length; uses whichever of Gram and covariance matrix is smaller."""
    r = p_NR.shape[1]
    covariances = [x.T @ x / len(x) for x in (p_NR, q_MR)]
    parts = [_entropy(x @ x.T if len(x) < r else c) for x, c in zip((p_NR, q_MR), covariances, strict=True)]
    return max(0.0, _entropy(covariances[0] + covariances[1]) - sum(parts) / 2)


def _jackknife_half_width(p_NR: FloatArray, q_MR: FloatArray, rng: np.random.Generator) -> float:
    """Half width of the 95% interval: t quantile times the delete-a-group jackknife standard error of the raw value.

    The upward bias is nearly the same in every replicate and so drops out of their spread.
    """
    variance, fewest = 0.0, len(p_NR) + len(q_MR)
    for x, left_out in ((p_NR, 0), (q_MR, 1)):
        groups = min(_JACKKNIFE_GROUPS, len(x))
        group_N = rng.permutation(np.arange(len(x)) % groups)
        rest = [x[group_N != g] for g in range(groups)]
        theta_G = [_raw_rjsd(part, q_MR) if left_out == 0 else _raw_rjsd(p_NR, part) for part in rest]
        variance += (groups - 1) * float(np.var(theta_G))
        fewest = min(fewest, groups)
    return float(stats.t.ppf(0.975, fewest - 1) * np.sqrt(variance))


def classifier_js(id_ND: FloatArray, ood_MD: FloatArray, *, seed: int, folds: int = 5) -> float:
    """ln 2 minus the balanced cross-entropy (nats) of a classifier that never saw what it is scored on.

    For any classifier fixed beforehand this is a lower bound on JS in expectation, both sides counting the same
    whatever N and M (2606.16411). Logistic regression on principal components, L2 strength and a calibrating slope
    (>= 0, so that it can withdraw to "cannot tell" and the null stays near 0) from folds inside each training fold.
    Slightly negative under no shift. NaN with fewer than 4 usable rows on a side. Raises ValueError for folds < 2.
    """
    logit_N, logit_M = cross_fitted_logits(id_ND, ood_MD, seed=seed, folds=folds)
    return js_from_logits(logit_N, logit_M)


def js_from_logits(logit_id_N: FloatArray, logit_ood_M: FloatArray) -> float:
    """ln 2 minus the balanced cross-entropy (nats) of logits for "OOD"; rows that are NaN are left out."""
    logit_N, logit_M = (x[np.isfinite(x)] for x in (logit_id_N, logit_ood_M))
    if min(logit_N.size, logit_M.size) < 4:
        return float("nan")
    y_N = np.repeat([0, 1], [logit_N.size, logit_M.size])
    return float(np.log(2) - _balanced_cross_entropy(np.concatenate([logit_N, logit_M]), y_N, 0.0, 1.0))


def cross_fitted_logits(
    a_ND: FloatArray, b_MD: FloatArray, *, seed: int, folds: int = 5, paired: bool = False
) -> tuple[FloatArray, FloatArray]:
    """Estimates of log b(x)/a(x), the ratio of the two laws, at each row of a (N,) and of b (M,), in nats.

    Each from the calibrated classifier of `classifier_js` fitted to other rows. paired: row k of both sides belongs to
    one item, so that both stay on one side of every split (then N = M, and an item unusable on one side is left out).
    NaN where a row is unusable, everywhere with fewer than 4 usable rows on a side. Raises ValueError for folds < 2.
    """
    if folds < 2:
        raise ValueError(f"cross-fitting needs at least 2 folds, got {folds}")
    usable_N, usable_M = _usable_rows(a_ND), _usable_rows(b_MD)
    if paired:
        usable_N = usable_M = usable_N & usable_M
    logit_N, logit_M = np.full(len(a_ND), np.nan), np.full(len(b_MD), np.nan)
    n, m = int(usable_N.sum()), int(usable_M.sum())
    if min(n, m) < 4:
        return logit_N, logit_M
    x_ND = np.concatenate([_unit_rows(a_ND[usable_N]), _unit_rows(b_MD[usable_M])])
    y_N = (np.arange(n + m) >= n).astype(np.int64)
    group_N = np.tile(np.arange(n), 2) if paired else None
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    logit = np.empty(n + m)
    for train_N, test_N in _splits(y_N, folds, rng, group_N):
        group = None if group_N is None else group_N[train_N]
        logit[test_N] = _calibrated_logits(x_ND[train_N], y_N[train_N], x_ND[test_N], rng, group)
    logit_N[usable_N], logit_M[usable_M] = logit[:n], logit[n:]
    return logit_N, logit_M


def _splits(
    y_N: IntArray, folds: int, rng: np.random.Generator, group_N: IntArray | None = None
) -> Iterator[tuple[IntArray, IntArray]]:
    """Stratified folds (train rows, test rows); no more folds than the smaller class has rows. Groups stay whole."""
    folds = min(folds, int(np.bincount(y_N).min()))
    fold_N = np.empty(y_N.size, dtype=np.int64)
    if group_N is not None:  # a row of each class per group: balanced without further care
        groups, rank_N = np.unique(group_N, return_inverse=True)
        fold_N[:] = (rng.permutation(groups.size) % folds)[rank_N]
    else:
        for label in (0, 1):
            rows = np.flatnonzero(y_N == label)
            fold_N[rows] = rng.permutation(rows.size) % folds
    for fold in range(folds):
        yield np.flatnonzero(fold_N != fold), np.flatnonzero(fold_N == fold)


def _balanced_cross_entropy(logit_N: FloatArray, y_N: IntArray, low: float, high: float) -> float:
    """Mean over both classes of the class mean of -log p, nats; low and high are the targets for classes 0 and 1."""
    target_N = np.where(y_N == 1, high, low)
    loss_N = np.logaddexp(0.0, logit_N) - target_N * logit_N
    return float((loss_N[y_N == 0].mean() + loss_N[y_N == 1].mean()) / 2)


def _calibrated_logits(
    train_ND: FloatArray, y_N: IntArray, test_MD: FloatArray, rng: np.random.Generator, group_N: IntArray | None
) -> FloatArray:
    """Logits (M,) for the test rows from a model whose strength and slope were chosen within the training rows."""
    train_NK, test_MK = _principal_components(train_ND, test_MD)
    inner = list(_splits(y_N, 3, rng, group_N))
    # Platt's targets: with few rows even a perfect separation is no ground for certainty.
    n_0, n_1 = np.bincount(y_N)
    low, high = 1 / (n_0 + 2), (n_1 + 1) / (n_1 + 2)
    best = (np.inf, 0.0, 1.0)
    for strength in (0.01, 0.1, 1.0):
        logit_N = np.empty(y_N.size)
        for fit_N, held_N in inner:
            weight_K, intercept = fit_logistic(train_NK[fit_N], y_N[fit_N], strength)
            logit_N[held_N] = train_NK[held_N] @ weight_K + intercept

        def loss(log_slope: float, logit_N: FloatArray = logit_N) -> float:
            return _balanced_cross_entropy(np.exp(log_slope) * logit_N, y_N, low, high)

        # Unimodal in the slope; -12 is as good as a slope of 0, which is where a useless model ends.
        found = optimize.minimize_scalar(loss, bounds=(-12.0, 3.0), method="bounded", options={"xatol": 0.05})
        best = min(best, (float(found.fun), float(np.exp(found.x)), strength))
    _, slope, strength = best
    weight_K, intercept = fit_logistic(train_NK, y_N, strength)
    return slope * (test_MK @ weight_K + intercept)


def _principal_components(train_ND: FloatArray, test_MD: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Both in the training rows' leading components (at most 20 of them below 400 rows), scaled to mean variance 1."""
    n, d = train_ND.shape
    centre_D = train_ND.mean(axis=0)
    centred_ND = train_ND - centre_D
    width = min(20 if n < 400 else 64, n - 1, d)
    if n < d:
        spectrum_N, left_NN = np.linalg.eigh(centred_ND @ centred_ND.T)
        basis_DK = centred_ND.T @ left_NN[:, -width:] / np.sqrt(np.maximum(spectrum_N[-width:], 1e-12))
    else:
        basis_DK = np.linalg.eigh(centred_ND.T @ centred_ND)[1][:, -width:]
    train_NK, test_MK = centred_ND @ basis_DK, (test_MD - centre_D) @ basis_DK
    scale = float(np.sqrt(np.mean(train_NK**2)))
    return (train_NK / scale, test_MK / scale) if scale > 1e-9 else (0 * train_NK, 0 * test_MK)
