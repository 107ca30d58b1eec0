"""From item contributions to a number with its uncertainty: intervals, pooling, and contrasts of policies and laws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy import special

from remid.estimate.information import Influence
from remid.types import Estimate, FloatArray, IntArray

#: How the degrees of freedom shrink with the share of the variance that is kept when the noise of the negatives is
#: taken off: the power of that share. Independent items: Satterthwaite's rule for a subtraction. Groups: the share is
#: held from below and so steadier; 0 covers 91% and 2 covers 99% in the worst world, 1/2 was chosen by simulation.
_POWER_INDEPENDENT, _POWER_GROUPS = 2.0, 0.5

#: Residuals, or sums of them, that are smaller than this share of the largest contribution are rounding, not spread.
_ROUNDING = 1e-12

#: Group labels of the B items, of any type that numpy can sort (character names, say).
Labels = npt.ArrayLike


def estimate(influence: Influence, *, confidence: float = 0.95, clusters: Labels | None = None) -> Estimate:
    """Student-t interval and two-sided p-value against zero for a mean of contributions.

    The variance is that of the contributions less the noise of the negatives that they count too often; df = n - 1,
    less (Satterthwaite) what that correction or pooling costs (docs/theory.md, "Uncertainty").
    clusters: (B,) labels of groups of items that are not independent (same character, same user). Contributions are
    then summed within a group, and bias and degrees of freedom are those of groups of such sizes (`_clustered`). Where
    items vary and the residuals of each group sum to 0, the variance is that of independent items.
    Fewer than 2 items or groups: stderr, interval and p are NaN.
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


def share_interval(made: Estimate, confidence: float = 0.95) -> Estimate:
    """The estimate of a mean of shares, each in [0, 1], with Wilson's score interval (1927) instead of Student's.

    It stays in [0, 1], and where all items say the same (stderr 0) it has the width that so many yes-or-no answers
    leave open instead of none. n in Wilson's formula: what yes-or-no answers would need for this standard error; where
    that is 0, what is independent (clusters, not the items in them).
    """
    p, spread = made.value, made.value * (1 - made.value)
    if not (made.df > 0 and 0 <= p <= 1):
        return made
    n = spread / made.stderr**2 if made.stderr > 0 and spread > 0 else min(made.n, made.df + 1)
    low, high = wilson(p, n, float(special.stdtrit(made.df, (1 + confidence) / 2)))
    return replace(made, ci_low=low, ci_high=high)


def wilson(share: float, n: float, reach: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval (1927) of a share of n yes-or-no answers, NaN of none.

    reach: quantile a side, by default 95%.
    """
    if not n > 0:
        return float("nan"), float("nan")
    z2 = reach**2
    middle, half = share + z2 / (2 * n), float(np.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n**2))))
    return max(0.0, (middle - half) / (1 + z2 / n)), min(1.0, (middle + half) / (1 + z2 / n))


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
        weight_S=np.concatenate([part.weight_S for part in parts]),
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
    return Influence(value, phi_B, n, phi_B.size - n, a.unit, a.stratum_B, zeros_S, zeros_S, a.weight_S)


def _require_same_unit(parts: Sequence[Influence]) -> None:
    units = {part.unit for part in parts}
    if len(units) != 1:
        raise ValueError(f"need influences in one unit, got {sorted(units) or 'none at all'}")


def _variance_of_mean(influence: Influence, clusters: Labels | None) -> tuple[float, float]:
    """Variance of the value (unit squared) and its degrees of freedom; (NaN, 0) where it cannot be told.

    Squared residuals, or squared sums of them within groups, give a variance that is too large by the noise that the
    contributions count too often; that share is taken off. It has left its spread behind, so fewer degrees of freedom
    remain. With few items that can cost more (below 1 of them, even) than it gains in variance. Without it the
    interval is conservative, so the shorter of the two is taken.
    """
    used_B = np.isfinite(influence.phi_B)
    phi_U, stratum_U = influence.phi_B[used_B], influence.stratum_B[used_B]
    n_S = np.bincount(stratum_U, minlength=influence.noise_excess_S.size)
    # A stratum of one item says nothing about its own spread: it is held against the overall mean, which is wider and
    # on the scale of its contribution once it has the stratum's weight.
    mean_S = np.bincount(stratum_U, phi_U, minlength=n_S.size) / np.maximum(n_S, 1)
    residual_U = phi_U - np.where(n_S == 1, influence.weight_S * influence.value, mean_S)[stratum_U]
    rounding = _ROUNDING * float(np.abs(phi_U).max(initial=0.0))
    if influence.n and float(np.abs(residual_U).max()) <= rounding:
        residual_U = np.zeros_like(residual_U)
    df_S = np.maximum(n_S - 1, 1)
    square_S = np.bincount(stratum_U, residual_U**2, minlength=n_S.size) / df_S
    whole, df = _independent((n_S * square_S)[n_S > 0], df_S[n_S > 0])
    least, power = whole, _POWER_INDEPENDENT
    if clusters is not None:
        labels_B = np.asarray(clusters)
        if labels_B.shape != influence.phi_B.shape:
            raise ValueError(f"clusters need one label per item, shape {influence.phi_B.shape}, got {labels_B.shape}")
        whole, df = _clustered(residual_U, stratum_U, n_S, labels_B[used_B])
        power = _POWER_GROUPS
        if whole <= influence.n * rounding**2:
            # Sums that are equal by chance would give an interval of no width. What is there without groups is the
            # least that items which do not repel each other can have; the groups' degrees of freedom stay.
            whole = least
    if influence.n < 2 or np.isnan(whole):
        return float("nan"), 0.0
    if whole == 0:
        return 0.0, df
    # Items of a group that do not repel each other make `whole` at least what it were without groups; where it is
    # smaller by chance, the noise must not be held against so small a number.
    excess_S = np.minimum(influence.noise_excess_S, np.maximum(square_S - influence.noise_floor_S, 0.0))
    keep = 1 - float(n_S @ excess_S) / max(whole, least)
    if keep == 1:
        return whole / influence.n**2, df
    part, df_part = whole * keep, df * keep**power
    if _reach(whole, df) < _reach(part, df_part):
        return whole / influence.n**2, df
    return part / influence.n**2, df_part


def _reach(variance: float, df: float) -> float:
    """Half-width of a 95% interval, up to a factor common to both variances that are compared."""
    return float(special.stdtrit(df, 0.975) * np.sqrt(variance))


def _independent(sum_S: FloatArray, df_S: IntArray) -> tuple[float, float]:
    """Variance of the sum of contributions, nothing subtracted, and its df by Welch and Satterthwaite over strata."""
    whole, most = float(sum_S.sum()), float(np.sum(df_S))
    return whole, min(whole**2 / float(np.sum(sum_S**2 / df_S)), most) if whole > 0 else most


def _clustered(
    residual_U: FloatArray, stratum_U: IntArray, n_S: IntArray, label_U: npt.NDArray[np.generic]
) -> tuple[float, float]:
    """Variance of the sum of contributions from the squared sums of residuals within groups, and its df.

    With few groups of unequal size that sum of squares is biased and has fewer degrees of freedom than groups less
    one. Both follow from a working model (Bell and McCaffrey 2002): contributions of one group have one correlation
    rho, estimated from the residuals. Their residual sums then have covariance (1 - rho) M + rho M M with
    M = diag(group sizes) - N diag(1 / n_S) N', N the items per group and stratum. With groups of one size this is
    G / (G - 1) and G - 1.
    """
    groups, group_U = np.unique(label_U, return_inverse=True)
    n_G = np.bincount(group_U, minlength=groups.size).astype(np.float64)
    sum_G = np.bincount(group_U, residual_U, minlength=groups.size)
    if groups.size < 2:
        return float("nan"), 0.0
    count_GS = np.zeros((groups.size, n_S.size))
    np.add.at(count_GS, (group_U, stratum_U), 1.0)
    scaled_GS = count_GS / np.sqrt(np.where(n_S > 1, n_S, np.inf))
    M_GG = np.diag(n_G) - scaled_GS @ scaled_GS.T
    pairs, square = float(np.sum(n_G * (n_G - 1))), float(np.sum(residual_U**2))
    rho = 0.0
    if pairs > 0 and square > 0:
        rho = float(np.clip((np.sum(sum_G**2) - square) / pairs / (square / residual_U.size), 0.0, 1.0))
    model_GG = (1 - rho) * M_GG + rho * (n_G[:, None] * M_GG - scaled_GS @ (scaled_GS.T @ M_GG))
    trace = float(np.trace(model_GG))
    if trace < 1e-9 * residual_U.size:  # every stratum is a single group
        return float("nan"), 0.0
    total = (1 - rho) * residual_U.size + rho * float(np.sum(n_G**2))
    return float(np.sum(sum_G**2)) * total / trace, trace**2 / float(np.sum(model_GG**2))


def _as_estimate(
    value: float, variance: float, df: float, confidence: float, *, n: int, n_missing: int, unit: str
) -> Estimate:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    stderr = float(np.sqrt(variance))
    half = float(special.stdtrit(df, (1 + confidence) / 2)) * stderr if df > 0 else float("nan")
    p_value = float(2 * special.stdtr(df, -abs(value) / stderr)) if stderr > 0 else float("nan")
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
