"""How much of a response's likelihood hangs on one component of its input: drops, their mean, the share that is kept.

A drop is log q(y_i | x_i) less log q(y_i | x_i without a component, or with that of item j in its place), in nats per
response; items lie along B, their partners j along m. Source: docs/components.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from remid.estimate.exact import orderings
from remid.estimate.inference import Labels, estimate
from remid.estimate.information import Influence
from remid.types import FloatArray, IntArray

UNIT = "nats/response"


@dataclass(frozen=True, slots=True)
class Kept:
    """A ratio of two means with its interval; an end is NaN where the interval has no bound there."""

    value: float
    ci_low: float
    ci_high: float


def mean_drop(drop_Bm: FloatArray, partner_Bm: IntArray | None) -> Influence:
    """Mean over items of each item's mean drop over its partners; nats per response.

    drop_Bm: (B, m), NaN where a pair could not be scored. partner_Bm: (B, m), the item whose component stands in; None
    where nobody's does (it is removed), and items are independent.
    An item without any drop is left out. An item occurs in pairs as itself and as another's partner, so pairs that
    share an item are not independent: the spread of phi_B is widened to the dyadic variance (Fafchamps and Gubert
    2007; corrected for few items, `_widening`), never narrowed. A component that makes every response unlikely then
    counts in full.
    """
    n = drop_Bm.shape[0]
    known_Bm = np.isfinite(drop_Bm)
    count_B = known_Bm.sum(axis=1)
    used_B = count_B > 0
    phi_B = np.full(n, np.nan)
    phi_B[used_B] = np.where(known_Bm, drop_Bm, 0.0).sum(axis=1)[used_B] / count_B[used_B]
    used = int(used_B.sum())
    stratum_B = np.zeros(n, dtype=np.int64)
    if not used:
        return Influence(float("nan"), phi_B, 0, n, UNIT, stratum_B)
    value = float(phi_B[used_B].mean())
    if partner_Bm is None:
        return Influence(value, phi_B, used, n - used, UNIT, stratum_B)
    wide_B = value + (phi_B - value) * _widening(drop_Bm, known_Bm, partner_Bm, count_B, value)
    return Influence(float(np.nanmean(wide_B)), wide_B, used, n - used, UNIT, stratum_B)


def _widening(
    drop_Bm: FloatArray, known_Bm: npt.NDArray[np.bool_], partner_Bm: IntArray, count_B: IntArray, value: float
) -> float:
    """Root of the dyadic variance over the variance of independent items, at least 1.

    Drops are held against their own mean, so the products of all pairs of pairs sum to 0, and those of pairs that share
    an item to too little: 1 - f of it is left, f being the weight of pairs of pairs that share one (3 / n with one
    partner, towards 4 / n with more; 1 where all do, which leaves nothing to tell by). 1 + 2 / n, behind the
    n / (n - 1) that every variance gets: this one has about n / 2 degrees of freedom, and n - 1 are reckoned with.
    """
    row_E, column_E = np.nonzero(known_Bm)
    partner_E = partner_Bm[row_E, column_E]
    weight_E = 1 / count_B[row_E]
    part_E = (drop_Bm[row_E, column_E] - value) * weight_E
    n = int((count_B > 0).sum())
    apart = 1 - _sharing(weight_E / n, row_E, partner_E, count_B.size)
    plain = float(np.sum(np.bincount(row_E, part_E) ** 2))
    if not plain > 0 or apart < 1e-9:
        return 1.0
    dyadic = _sharing(part_E, row_E, partner_E, count_B.size) / apart * (1 + 2 / n)
    return float(np.sqrt(max(1.0, dyadic / plain)))


def _sharing(part_E: FloatArray, row_E: IntArray, partner_E: IntArray, n: int) -> float:
    """Sum of products over pairs of pairs that share an item.

    It is the sum over items of (all that the item is in) squared, less what that counts twice: a pair with itself, and
    a pair i, j with j, i.
    """
    item_B = np.bincount(row_E, part_E, n) + np.bincount(partner_E, part_E, n)
    low_E, high_E = np.minimum(row_E, partner_E), np.maximum(row_E, partner_E)
    _, edge_E = np.unique(low_E * n + high_E, return_inverse=True)
    return float(np.sum(item_B**2) - np.sum(np.bincount(edge_E, part_E) ** 2))


def shapley(value: Mapping[frozenset[int], FloatArray]) -> FloatArray:
    """(..., 3): each of three players' mean gain over the six orders; they sum to v(all) - v(none).

    value: v of each of the eight sets of players 0, 1, 2, any one shape. NaN in any of them makes all three NaN.
    """
    total = np.zeros((*value[frozenset()].shape, 3))
    for order in orderings():
        before: frozenset[int] = frozenset()
        for player in order:
            after = before | {player}
            total[..., player] += value[after] - value[before]
            before = after
    total /= 6
    return np.where(np.isfinite(total).all(-1, keepdims=True), total, np.nan)


def kept_share(
    policy: Influence,
    reference: Influence,
    apart: Influence,
    *,
    confidence: float = 0.95,
    clusters: Labels | None = None,
) -> Kept:
    """Share of the reference's mean drop that the policy's is (Fieller 1954). apart: of the policy's drops less the
    reference's; all three over the same pairs.

    The interval holds every r for which mean(policy - r reference) is not significantly away from 0. Its variance is
    quadratic in r, and known at three places: r = 0, r = 1 and where the reference stands alone. So each keeps the
    widening for shared items (`mean_drop`) that is its own. Where the reference's own mean cannot be told from 0 that
    set has no bounds and the ends are NaN; a reference at or below 0 gives no share at all.
    """
    both_B = np.isfinite(policy.phi_B) & np.isfinite(reference.phi_B)
    nothing = Kept(float("nan"), float("nan"), float("nan"))
    if both_B.sum() < 2:
        return nothing
    top, base = float(policy.phi_B[both_B].mean()), float(reference.phi_B[both_B].mean())
    if base <= 0:
        return nothing
    made = [estimate(one, confidence=confidence, clusters=clusters) for one in (policy, reference, apart)]
    constant, quadratic, at_one = (one.stderr**2 for one in made)
    linear = at_one - constant - quadratic
    t = max(((one.ci_high - one.value) / one.stderr for one in made if one.stderr > 0), default=float("nan"))
    a, b, c = base**2 - t**2 * quadratic, -2 * base * top - t**2 * linear, top**2 - t**2 * constant
    if not (a > 0 and b**2 >= 4 * a * c):
        return replace(nothing, value=top / base)
    half = float(np.sqrt(b**2 - 4 * a * c))
    return Kept(top / base, (-b - half) / (2 * a), (-b + half) / (2 * a))
