"""The proven bounds T0 to T4 on R-EMID with estimates put in. Estimates, not certificates; nats/response throughout.

Finite samples of text cannot bound a total variation from above, and a classifier tells two laws apart no better than
it can, so every weight here errs low while CLUB's contributions err high. Statements and proofs of the exact bounds:
docs/theory.md, "The bound"; exact values: `exact_bounds`.

V is the policy's law of a response given the input, W the reference's; P, Q the input laws in and out of distribution.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from remid.estimate.divergence import js_from_logits
from remid.estimate.exact import LN2, binary_entropy
from remid.estimate.exact_bounds import largest_total_variation
from remid.estimate.inference import Labels, remid
from remid.estimate.information import Influence
from remid.types import FloatArray, PairScores

NAMES = ("T0", "T1", "T1'", "T2", "T3", "T4", "T5")
NO_ALPHABET = "needs the number of possible responses, which text does not have"
NO_OUTPUT_DISTANCE = (
    "needs distances between output laws, which finite text cannot bound; it lies at most 2 h(t) (1.39 nats) below T1"
)
NO_INPUT_WEIGHTS = "inputs of ID and shift could not be compared: fewer than 4 on a side"
NO_RESPONSE_WEIGHTS = "responses of policy and reference could not be compared: fewer than 4 pairs on a side"
UNSEEN_SHIFT = (
    "the classifier does not tell the inputs of ID and shift apart: at this n no evidence that they are alike, so the "
    "weights, and a bound made of them, would be near 0 without ground"
)
UNSEEN_DIFFERENCE = (
    "the classifier does not tell the policy's responses from the references: at this n no evidence that they are "
    "alike, so a bound made of its weights would be near 0 without ground"
)
NO_SCORES = "no scored pairs on a side"


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """One law's B items. Logits are estimates of log-ratios, from a classifier that never saw the item; NaN: unknown.

    influence: CLUB of the one channel whose information counts here: the policy's on ID, the reference's under the
    shift. gain_B: `response_gains` of the same scores. shift_logit_B: log Q/P at the item's input.
    policy_logit_B, reference_logit_B: log V/W at the policy's and at the reference's response. clusters: as `estimate`.
    """

    influence: Influence
    gain_B: FloatArray
    shift_logit_B: FloatArray
    policy_logit_B: FloatArray
    reference_logit_B: FloatArray
    clusters: Labels | None = None


@dataclass(frozen=True, slots=True)
class PluginBound:
    """value with the interval of its information part (weights and slack taken as given), or the reason why not.

    information, slack: the two parts that add up to value. All NaN where reason is given.
    """

    value: float
    ci_low: float
    ci_high: float
    information: float
    slack: float
    reason: str | None


@dataclass(frozen=True, slots=True)
class PluginBounds:
    """bounds: by name, in the order of NAMES. least: name of the smallest, None where there is none.

    t: TV of the input laws as the classifier sees it; js: its lower bound on their JS (nats). eps_id, eps_ood: mean TV
    of the policy's and the reference's response to one input. NaN where unknown.
    """

    bounds: Mapping[str, PluginBound]
    least: str | None
    t: float
    js: float
    eps_id: float
    eps_ood: float


def response_gains(scores: PairScores) -> FloatArray:
    """(B,) own positive minus the mean of the same response's negatives, nats; NaN where either is missing.

    Its mean is CLUB where every pair is there. With q = p(y|x) its expectation at a fixed input x is at least
    KL(p(.|x) || p(y)) (Jensen), which `Influence.phi_B` does not promise: that one takes the input's own effect off,
    so it may not be reweighted by input.
    """
    column_E = scores.design.negatives_Bm.ravel()
    score_E = scores.negative_Bm.ravel()
    kept_E = np.isfinite(score_E) & np.isfinite(scores.positive_B)[column_E]
    count_B = np.bincount(column_E[kept_E], minlength=scores.positive_B.size)
    total_B = np.bincount(column_E[kept_E], score_E[kept_E], minlength=scores.positive_B.size)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(scores.positive_B - total_B / count_B)


def plugin_bounds(on_id: Side, on_ood: Side, *, confidence: float = 0.95) -> PluginBounds:
    """T0 to T4 of one policy and one shift, with what they were made from. T1' and T5 are missing, with their reasons.

    With w = (1 - Q/P)_+ or (1 - P/Q)_+ at an item's input, u = (1 - W/V)_+ or (1 - V/W)_+ at its response, g the gain,
    sums over the two sides (policy on ID, reference under the shift), hh(t) = h(t), held at ln 2 above 1/2:

        T0  sum of CLUB                                  T1  sum of mean(w g), plus 2 h(t)
        T2  sum of mean(u g) + eps ln(1/eps) + h(eps)    T3  sum of mean(w u g) + t [e ln(1/e) + h(e)] + min(hh(t),
        T4  T0 + 2 hh(t from JS)                             eps ln 2 + hh(eps)),  e = mean(w eps) / t

    T1, T3 and T4 take the reference channel for shared, which text cannot verify. With the true ratios, q, t and eps
    none lies below the bound it stands for, in expectation: t I(P',V) <= E[w ln V/PV] for any output law PV, and the
    law of a residual response is at most V (1 - W/V)_+ / eps_x, which costs eps ln(1/eps). With t and eps estimated
    the slack errs low by O(1/n), since h is concave.
    Intervals are Student's t on the items' weighted gains. Raises ValueError for a confidence outside (0, 1).
    """
    sides = (on_id, on_ood)
    w = (_above(on_id.shift_logit_B), _above(-on_ood.shift_logit_B))
    u = (_above(-on_id.policy_logit_B), _above(on_ood.reference_logit_B))
    # Both responses tell of the TV at their input: under V it is the mean of (1 - W/V)_+, under W of (1 - V/W)_+.
    apart = tuple((_above(-s.policy_logit_B) + _above(s.reference_logit_B)) / 2 for s in sides)
    t = float(np.mean([_mean(x) for x in w]))
    eps = tuple(_mean(x) for x in apart)
    js = js_from_logits(on_id.shift_logit_B, on_ood.shift_logit_B)

    no_inputs = NO_INPUT_WEIGHTS if np.isnan(js) else UNSEEN_SHIFT if js <= 0 else None
    no_responses = _untold(on_id) or _untold(on_ood)
    both = tuple(a * b for a, b in zip(w, u, strict=True))
    slack_2 = sum(_price(e) for e in eps)
    slack_3 = sum(
        t * _price(_ratio(_mean(a * b), t)) + min(_held(t), e * LN2 + _held(e))
        for a, b, e in zip(w, apart, eps, strict=True)
    )
    from_js = float(largest_total_variation(np.array(js))) if np.isfinite(js) else float("nan")
    found = {
        "T0": _bound(sides, None, 0.0, None, confidence),
        "T1": _bound(sides, w, 2 * _h(t), no_inputs, confidence),
        "T1'": _missing(NO_OUTPUT_DISTANCE),
        "T2": _bound(sides, u, slack_2, no_responses, confidence),
        "T3": _bound(sides, both, slack_3, no_inputs or no_responses, confidence),
        "T4": _bound(sides, None, 2 * _held(from_js), no_inputs, confidence),
        "T5": _missing(NO_ALPHABET),
    }
    known = {name: bound.value for name, bound in found.items() if bound.reason is None}
    least = min(known, key=lambda name: known[name]) if known else None
    return PluginBounds(found, least, t, js, *eps)


def _untold(side: Side) -> str | None:
    """Why nothing can be said about how far policy and reference are apart; logits of exactly 0 say they are one."""
    js = js_from_logits(side.reference_logit_B, side.policy_logit_B)
    if np.isnan(js):
        return NO_RESPONSE_WEIGHTS
    return UNSEEN_DIFFERENCE if js <= 0 and np.any(np.nan_to_num(side.policy_logit_B) != 0) else None


def _above(logit_B: FloatArray) -> FloatArray:
    """(1 - ratio)_+ for a log-ratio; NaN stays."""
    return np.asarray(-np.expm1(np.minimum(logit_B, 0.0)))


def _mean(x_B: FloatArray) -> float:
    finite = x_B[np.isfinite(x_B)]
    return float(finite.mean()) if finite.size else float("nan")


def _ratio(part: float, whole: float) -> float:
    return min(part / whole, 1.0) if whole > 0 else (0.0 if whole == 0 else float("nan"))


def _h(t: float) -> float:
    return float(binary_entropy(np.array(t))) if np.isfinite(t) else float("nan")


def _held(t: float) -> float:
    """h(t), held at ln 2 above 1/2, so that it never falls."""
    return LN2 if t > 0.5 else _h(t)


def _price(eps: float) -> float:
    """eps ln(1/eps) + h(eps): what it costs to speak of the residual channel by its weights in the whole one."""
    return (-eps * float(np.log(eps)) if eps > 0 else 0.0 * eps) + _h(eps)


def _bound(
    sides: tuple[Side, Side],
    weights: tuple[FloatArray, ...] | None,
    slack: float,
    reason: str | None,
    confidence: float,
) -> PluginBound:
    """Sum over both sides of the mean (weighted) gain, plus slack. weights None: CLUB itself. reason: why not."""
    if any(side.influence.n == 0 for side in sides):
        return _missing(NO_SCORES)
    if reason is not None:
        return _missing(reason)
    if weights is None:
        parts = [side.influence for side in sides]
    else:
        parts = [_weighted(side, weight_B) for side, weight_B in zip(sides, weights, strict=True)]
    if any(part.n == 0 for part in parts):
        return _missing(NO_SCORES)
    # A sum is the difference to the other side's negative.
    last = replace(parts[1], value=-parts[1].value, phi_B=-parts[1].phi_B)
    labels = {"clusters_id": sides[0].clusters, "clusters_ood": sides[1].clusters}
    made = remid(parts[0], last, confidence=confidence, **labels)
    return PluginBound(made.value + slack, made.ci_low + slack, made.ci_high + slack, made.value, slack, None)


def _weighted(side: Side, weight_B: FloatArray) -> Influence:
    """The mean of weight times gain over the items that have both. No noise is subtracted: conservative."""
    part_B = weight_B * side.gain_B
    n = int(np.isfinite(part_B).sum())
    zeros_S = np.zeros_like(side.influence.noise_excess_S)
    value = float(np.nanmean(part_B)) if n else float("nan")
    stratum_B, unit = side.influence.stratum_B, side.influence.unit
    return Influence(value, part_B, n, part_B.size - n, unit, stratum_B, zeros_S, zeros_S, np.ones_like(zeros_S))


def _missing(reason: str) -> PluginBound:
    nan = float("nan")
    return PluginBound(nan, nan, nan, nan, nan, reason)
