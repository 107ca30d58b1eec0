"""From item contributions to a number with its uncertainty: intervals, pooling, and contrasts of policies and laws."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

from remid.estimate.information import Influence
from remid.types import Estimate, FloatArray

#: Group labels of the B items, of any type that numpy can sort (character names, say).
Labels = npt.ArrayLike


def estimate(influence: Influence, *, confidence: float = 0.95, clusters: Labels | None = None) -> Estimate:
    """Student-t interval and two-sided p-value against zero for a mean of contributions.

    The variance is that of the contributions less the noise of the negatives that they count too often; df = n - 1,
    less (Satterthwaite) what that correction or pooling costs (docs/theory.md, "Uncertainty").
    clusters: (B,) labels of groups of items that are not independent (same character, same user). The standard error
    then sums contributions within a group, df = groups - 1, and nothing is subtracted: pair noise within a group may
    be correlated. Fewer than 2 items or groups: stderr, interval and p are NaN.
    Contributions without any variance give stderr 0 and p NaN: there is no scale to test against.
    Raises ValueError for a confidence outside (0, 1) or for clusters of another shape.
    """
    variance, df = _variance_of_mean(influence, clusters)
    n, n_missing = influence.n, influence.n_missing
    return _as_estimate(influence.value, variance, df, confidence, n=n, n_missing=n_missing, unit=influence.unit)


def remid(
    id_: Influence,
    ood: Influence,
    *,
    confidence: float = 0.95,
    clusters_id: Labels | None = None,
    clusters_ood: Labels | None = None,
) -> Estimate:
    """R-EMID = R-EMI(ID) - R-EMI(OOD), two independent samples: SE^2 adds, df by Welch and Satterthwaite.

    Positive: the model loses under the shift. Given two contrasts between policies, it is their R-EMID contrast.
    n and n_missing are summed over both sides. A character or user present on both sides breaks the independence.
    Raises ValueError if the units differ.
    """
    _require_same_unit((id_, ood))
    variance_id, df_id = _variance_of_mean(id_, clusters_id)
    variance_ood, df_ood = _variance_of_mean(ood, clusters_ood)
    variance = variance_id + variance_ood
    df = df_id + df_ood
    if variance > 0:
        df = variance**2 / (variance_id**2 / df_id + variance_ood**2 / df_ood)
    n, n_missing = id_.n + ood.n, id_.n_missing + ood.n_missing
    value = id_.value - ood.value
    return _as_estimate(value, variance, df, confidence, n=n, n_missing=n_missing, unit=id_.unit)


def pool(parts: Sequence[Influence]) -> Influence:
    """All subsets of a shift as one: every item counts the same; negatives and variances stay within the subsets.

    The subsets are taken as fixed (these languages, not a draw of languages), so differences between them are no
    sampling error. phi_B is the parts' in order. Raises ValueError for no parts or for different units.
    """
    _require_same_unit(parts)
    phi_B = np.concatenate([part.phi_B for part in parts])
    offset, stratum_parts = 0, []
    for part in parts:
        stratum_parts.append(part.stratum_B + offset)
        offset += part.noise_excess_S.size
    n = sum(part.n for part in parts)
    return Influence(
        value=float(np.nanmean(phi_B)) if n else float("nan"),
        phi_B=phi_B,
        n=n,
        n_missing=sum(part.n_missing for part in parts),
        unit=parts[0].unit,
        stratum_B=np.concatenate(stratum_parts),
        noise_excess_S=np.concatenate([part.noise_excess_S for part in parts]),
        noise_floor_S=np.concatenate([part.noise_floor_S for part in parts]),
    )


def contrast(a: Influence, b: Influence) -> Influence:
    """a minus b over the items that both used: two policies on the same items (R-EMI against R-EMI).

    Exact where both used the same pairs. Otherwise the contributions of the common items stand in for a recomputation,
    which needs the scores: `contrast_scores`. No noise correction (conservative), for the same reason.
    Raises ValueError if units, items or subsets differ.
    """
    _require_same_unit((a, b))
    if not np.array_equal(a.stratum_B, b.stratum_B):
        raise ValueError("a contrast needs the same items in the same order and the same subsets on both sides")
    phi_B = a.phi_B - b.phi_B
    n = int(np.isfinite(phi_B).sum())
    zeros_S = np.zeros_like(a.noise_excess_S)
    value = float(np.nanmean(phi_B)) if n else float("nan")
    return Influence(value, phi_B, n, phi_B.size - n, a.unit, a.stratum_B, zeros_S, zeros_S)


def _require_same_unit(parts: Sequence[Influence]) -> None:
    units = {part.unit for part in parts}
    if len(units) != 1:
        raise ValueError(f"need influences in one unit, got {sorted(units) or 'none at all'}")


def _variance_of_mean(influence: Influence, clusters: Labels | None) -> tuple[float, float]:
    """Variance of the value (unit squared) and its degrees of freedom; (NaN, 0) where it cannot be told."""
    used_B = np.isfinite(influence.phi_B)
    phi_U, stratum_U = influence.phi_B[used_B], influence.stratum_B[used_B]
    n_S = np.bincount(stratum_U, minlength=influence.noise_excess_S.size)
    # A stratum of one item says nothing about its own spread: it is held against the overall mean, which is wider.
    mean_S = np.bincount(stratum_U, phi_U, minlength=n_S.size) / np.maximum(n_S, 1)
    residual_U = phi_U - np.where(n_S == 1, influence.value, mean_S)[stratum_U]
    if influence.n and float(np.abs(residual_U).max()) <= 1e-12 * float(np.abs(phi_U).max()):
        residual_U = np.zeros_like(residual_U)  # rounding, not spread
    if clusters is not None:
        labels_B = np.asarray(clusters)
        if labels_B.shape != influence.phi_B.shape:
            raise ValueError(f"clusters need one label per item, shape {influence.phi_B.shape}, got {labels_B.shape}")
        return _clustered(residual_U, labels_B[used_B])
    if influence.n < 2:
        return float("nan"), 0.0
    df_S = np.maximum(n_S - 1, 1)
    square_S = np.bincount(stratum_U, residual_U**2, minlength=n_S.size) / df_S
    variance_S = np.maximum(square_S - influence.noise_excess_S, influence.noise_floor_S)
    variance_S = np.where(square_S > 0, variance_S, 0.0)
    variance, spread = float(np.sum(n_S * variance_S)), float(np.sum((n_S * square_S) ** 2 / df_S))
    df_most = float(np.sum(df_S[n_S > 0]))
    if variance == 0:
        return 0.0, df_most
    # Satterthwaite: what was subtracted as noise has left its spread behind, so fewer degrees of freedom remain. With
    # one stratum and nothing subtracted this is n - 1.
    df = min(variance**2 / spread, df_most)
    # With few items the subtraction can cost more in degrees of freedom (below 1, even) than it gains in variance.
    # Without it the interval is conservative, so the shorter of the two is taken.
    whole = float(np.sum(n_S * square_S))
    df_whole = min(whole**2 / spread, df_most)
    if _reach(whole, df_whole) < _reach(variance, df):
        variance, df = whole, df_whole
    return variance / influence.n**2, df


def _reach(variance: float, df: float) -> float:
    """Half-width of a 95% interval, up to a factor common to both variances that are compared."""
    return float(stats.t.ppf(0.975, df) * np.sqrt(variance))


def _clustered(residual_U: FloatArray, label_U: npt.NDArray[np.generic]) -> tuple[float, float]:
    """Between-group variance of the mean: G / (G - 1) times the sum of squared group sums, over n squared."""
    groups, group_U = np.unique(label_U, return_inverse=True)
    if groups.size < 2:
        return float("nan"), 0.0
    sum_G = np.bincount(group_U, residual_U, minlength=groups.size)
    scale = groups.size / (groups.size - 1) / residual_U.size**2
    return float(np.sum(sum_G**2)) * scale, float(groups.size - 1)


def _as_estimate(
    value: float, variance: float, df: float, confidence: float, *, n: int, n_missing: int, unit: str
) -> Estimate:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    stderr = float(np.sqrt(variance))
    half = float(stats.t.ppf((1 + confidence) / 2, df)) * stderr if df > 0 else float("nan")
    p_value = float(2 * stats.t.sf(abs(value) / stderr, df)) if stderr > 0 else float("nan")
    return Estimate(
        value=value,
        stderr=stderr,
        ci_low=value - half,
        ci_high=value + half,
        n=n,
        n_missing=n_missing,
        df=df,
        unit=unit,
        p_value=p_value,
    )
