"""Upper bounds on EMID(P, Q) that hold on every finite world; the paper's form beside them. Exact, batched, nats.

V: the policy's channel. W, W_Q: the reference channel under ID and under OOD ("shared": the same). P, Q: input laws,
t = TV(P, Q), C, P', Q' their common part and residuals, h binary entropy. Statements, proofs and what each bound may
look at: docs/theory.md, "The bound".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from remid.estimate.exact import (
    LN2,
    binary_entropy,
    entropy,
    information,
    jensen_shannon,
    marginal,
    mean_over,
    normalised,
    output_law,
    residuals,
    total_variation,
)  # fmt: skip
from remid.types import FloatArray

#: Bounds that are proven for a reference channel that does not change with the law, and those proven for any.
SHARED = ("T1", "T1'", "T3", "T4", "T5", "T6", "T8")
ANY = ("T0", "T2", "T7", "T9")
PROVEN = (*ANY, *SHARED)
#: The same, without those that read the policy's density at reference responses (T7, T8, T9).
PROVEN_WITHOUT_CROSS = ("T0", "T2", "T9'", "T1", "T1'", "T3", "T4", "T5", "T6")
#: Weights of the output law mixed into a channel before it serves as a variational density; any fixed set is valid.
_MIXING = (0.0, 0.01, 0.03, 0.1, 0.2, 0.4, 0.6, 0.8)


@dataclass(frozen=True, slots=True, eq=False)
class _World:
    """The five arrays, t, and the common and residual laws."""

    p_X: FloatArray
    q_X: FloatArray
    policy_XY: FloatArray
    reference_XY: FloatArray
    reference_q_XY: FloatArray
    t: FloatArray
    common_X: FloatArray
    p_only_X: FloatArray
    q_only_X: FloatArray


def exact_bounds(
    p_X: FloatArray, q_X: FloatArray, policy_XY: FloatArray, reference_p_XY: FloatArray, reference_q_XY: FloatArray
) -> dict[str, FloatArray]:
    """Every proven bound, name -> value(s) in nats. Those that need a shared reference channel are NaN where it is not.

    "least": the smallest that applies. "least without cross": the same over bounds that need no density of one channel
    at the other's responses. T6 to T9 may be negative when EMID is.
    """
    world = _World(p_X, q_X, policy_XY, reference_p_XY, reference_q_XY, *residuals(p_X, q_X))
    found = {"T0": _t0(world), "T2": _t2(world), "T7": _t7(world), "T9": _t9(world), "T9'": _t9(world, cross=False)}
    shared = np.all(np.abs(reference_p_XY - reference_q_XY) <= 1e-15, axis=(-2, -1))
    for name, bound in (
        ("T1", _t1), ("T1'", _t1_prime), ("T3", _t3), ("T4", _t4), ("T5", _t5), ("T6", _t6), ("T8", _t8),
    ):  # fmt: skip
        found[name] = np.where(shared, bound(world), np.nan)
    found["least"] = np.nanmin([found[name] for name in PROVEN], axis=0)
    found["least without cross"] = np.nanmin([found[name] for name in PROVEN_WITHOUT_CROSS], axis=0)
    return found


def _t0(w: _World) -> FloatArray:
    """I(P,V) + I(Q,W_Q): what EMID is if the two subtracted informations are 0."""
    return information(w.p_X, w.policy_XY) + information(w.q_X, w.reference_q_XY)


def _t1(w: _World) -> FloatArray:
    """t [I(P',V) + I(Q',W)] + 2 h(t)."""
    return _residual_informations(w) + 2 * binary_entropy(w.t)


def _t1_prime(w: _World) -> FloatArray:
    """t [I(P',V) + I(Q',W)] + h(t) [TV(CV, P'V) + TV(CW, Q'W)]."""
    apart = _output_distance(w, w.p_only_X, w.policy_XY) + _output_distance(w, w.q_only_X, w.reference_XY)
    return _residual_informations(w) + binary_entropy(w.t) * apart


def _residual_informations(w: _World) -> FloatArray:
    return w.t * (information(w.p_only_X, w.policy_XY) + information(w.q_only_X, w.reference_XY))


def _output_distance(w: _World, law_X: FloatArray, channel_XY: FloatArray) -> FloatArray:
    return total_variation(output_law(w.common_X, channel_XY), output_law(law_X, channel_XY))


def _t2(w: _World) -> FloatArray:
    """Model-reference distances alone: under each law, what the part of V that W does not share can carry."""
    of_p, of_q = _by_distance(w.p_X, w.policy_XY, w.reference_XY), _by_distance(w.q_X, w.reference_q_XY, w.policy_XY)
    return of_p + of_q


def _by_distance(law_X: FloatArray, above_XY: FloatArray, below_XY: FloatArray) -> FloatArray:
    """eps I(R*, V') + h(eps) >= I(R,V) - I(R,W): eps the mean TV, R* tilted by it, V' what V has above min(V,W)."""
    apart_X = total_variation(above_XY, below_XY)
    eps = np.clip(mean_over(law_X, apart_X), 0.0, 1.0)
    rest_XY = normalised(above_XY - np.minimum(above_XY, below_XY))
    return eps * information(normalised(law_X * apart_X), rest_XY) + binary_entropy(eps)


def _t3(w: _World) -> FloatArray:
    """T2 on the residual laws, t times, plus what a common part of the inputs can still differ by."""
    inner = _by_distance(w.p_only_X, w.policy_XY, w.reference_XY) + _by_distance(
        w.q_only_X, w.reference_XY, w.policy_XY
    )
    apart_X = total_variation(w.policy_XY, w.reference_XY)
    half_t = _capped_entropy(w.t)
    slack = np.zeros_like(w.t)
    for law_X in (w.p_X, w.q_X):
        eps = mean_over(law_X, apart_X)
        slack = slack + np.minimum(half_t, eps * LN2 + _capped_entropy(eps))
    return w.t * inner + slack


def _capped_entropy(t: FloatArray) -> FloatArray:
    """h(t), held at ln 2 above 1/2, so that it never falls."""
    return np.asarray(np.where(t > 0.5, LN2, binary_entropy(np.minimum(t, 0.5))))


def _t4(w: _World) -> FloatArray:
    """T1 from JS_X alone: t bounded by inverting JS >= ln 2 - h((1-t)/2), residual informations by entropies."""
    t = largest_total_variation(jensen_shannon(w.p_X, w.q_X))
    most = np.log(w.policy_XY.shape[-1])
    of_p = np.minimum(information(w.p_X, w.policy_XY), t * most)
    of_q = np.minimum(information(w.q_X, w.reference_XY), t * most)
    return np.asarray(of_p + of_q + 2 * _capped_entropy(t))


def largest_total_variation(js: FloatArray) -> FloatArray:
    """The largest t with ln 2 - h((1-t)/2) <= js: an upper bound on TV from JS (T4). js: nats, clipped to [0, ln 2]."""
    flat = np.clip(np.atleast_1d(np.asarray(js, dtype=np.float64)).ravel(), 0.0, LN2)
    grid_T = np.linspace(0.0, 1.0, 20001)
    js_T = LN2 - binary_entropy((1.0 - grid_T) / 2.0)
    # Rounded up to the next grid point, so that it stays an upper bound.
    index = np.minimum(np.searchsorted(js_T, flat, side="right"), grid_T.size - 1)
    return np.asarray(grid_T[index].reshape(np.shape(js)))


def _t5(w: _World) -> FloatArray:
    """The paper's chain with its last step mended: |H(a) - H(b)| <= s ln(|Y|-1) + h(s), s = TV of the output laws."""
    n_y = w.policy_XY.shape[-1]
    of_p, of_q = (
        _fannes(total_variation(output_law(law_X, w.policy_XY), output_law(law_X, w.reference_XY)), n_y)
        for law_X in (w.p_X, w.q_X)
    )
    live_X = (w.p_X > 0) | (w.q_X > 0)
    most = _largest_row_entropy(w.policy_XY, live_X) + _largest_row_entropy(w.reference_XY, live_X)
    return of_p + of_q + w.t * most


def _largest_row_entropy(channel_XY: FloatArray, live_X: np.ndarray) -> FloatArray:
    return np.asarray(np.where(live_X, entropy(channel_XY), 0.0).max(-1))


def _fannes(s: FloatArray, n_y: int) -> FloatArray:
    """s ln(n-1) + h(s) up to s = 1 - 1/n, where it reaches its greatest value ln n."""
    if n_y < 2:
        return np.zeros_like(s)
    value = s * np.log(max(n_y - 1, 1)) + binary_entropy(s)
    return np.asarray(np.where(s >= 1 - 1 / n_y, np.log(n_y), value))


def _t6(w: _World) -> FloatArray:
    """T1' with its output divergences J kept, all four: exceeds EMID by exactly t [I(P',W) + I(Q',V)], or less.

    J_P(V) - J_Q(V) - J_P(W) + J_Q(W) + t [min(I(P',V), T2 part at P') + min(I(Q',W), T2 part at Q')].
    """
    of_p = np.minimum(information(w.p_only_X, w.policy_XY), _by_distance(w.p_only_X, w.policy_XY, w.reference_XY))
    of_q = np.minimum(information(w.q_only_X, w.reference_XY), _by_distance(w.q_only_X, w.reference_XY, w.policy_XY))
    return np.asarray(_divergence_change(w, w.policy_XY) - _divergence_change(w, w.reference_XY) + w.t * (of_p + of_q))


def _divergence_change(w: _World, channel_XY: FloatArray) -> FloatArray:
    """J_P - J_Q of one channel, J_R = H(RV) - (1-t) H(CV) - t H(R'V); the common part's entropy cancels."""
    of_p = entropy(output_law(w.p_X, channel_XY)) - w.t * entropy(output_law(w.p_only_X, channel_XY))
    of_q = entropy(output_law(w.q_X, channel_XY)) - w.t * entropy(output_law(w.q_only_X, channel_XY))
    return of_p - of_q


def _t7(w: _World) -> FloatArray:
    """I(P,V) - L_P(W; V) + I(Q,W_Q) - L_Q(V; W_Q), L a variational lower bound of the information subtracted."""
    of_p = information(w.p_X, w.policy_XY) - variational_information(w.p_X, w.reference_XY, w.policy_XY)
    of_q = information(w.q_X, w.reference_q_XY) - variational_information(w.q_X, w.policy_XY, w.reference_q_XY)
    return of_p + of_q


def variational_information(law_X: FloatArray, channel_XY: FloatArray, density_XY: FloatArray) -> FloatArray:
    """Lower bound on I(R, W) that reads W through draws only: sup over l of E_{x~R, y~W_x} ln U(y|x) / RU(y).

    U = (1-l) density + l times its output law under R. l = 1 gives 0, so the result is never negative. Where U is W it
    is the information itself. Source: Barber and Agakov 2003, with the marginal of U in the place of that of W, which
    is tighter; docs/theory.md, Lemma 3.
    """
    output_Y = output_law(law_X, density_XY)[..., None, :]
    mass_XY = law_X[..., None] * channel_XY
    best = np.zeros(law_X.shape[:-1])
    for mixing in _MIXING:
        used_XY = (1 - mixing) * density_XY + mixing * output_Y
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio_XY = np.log(used_XY) - np.log(output_Y)
        gain = np.where(mass_XY > 0, mass_XY * np.where(mass_XY > 0, ratio_XY, 0.0), 0.0).sum((-2, -1))
        best = np.maximum(best, np.where(np.isfinite(gain), gain, 0.0))
    return best


def _t8(w: _World) -> FloatArray:
    """T6 with variational lower bounds of the two residual informations that T6 drops."""
    of_p = information(w.p_only_X, w.policy_XY) - variational_information(w.p_only_X, w.reference_XY, w.policy_XY)
    of_q = information(w.q_only_X, w.reference_XY) - variational_information(w.q_only_X, w.policy_XY, w.reference_XY)
    return np.asarray(_divergence_change(w, w.policy_XY) - _divergence_change(w, w.reference_XY) + w.t * (of_p + of_q))


def _t9(w: _World, *, cross: bool = True) -> FloatArray:
    """Any W: J_P(V) - J_Q(V) + t [I(P',V) - L_{Q'}(V; W_Q)] + I(Q,W_Q) - L_P(W; V). cross=False: both L are 0."""
    value = _divergence_change(w, w.policy_XY) + w.t * information(w.p_only_X, w.policy_XY)
    value = value + information(w.q_X, w.reference_q_XY)
    if not cross:
        return value
    of_q = variational_information(w.q_only_X, w.policy_XY, w.reference_q_XY)
    return value - w.t * of_q - variational_information(w.p_X, w.reference_XY, w.policy_XY)


def paper_form(
    p_UAD: FloatArray,
    q_UAD: FloatArray,
    policy_UADY: FloatArray,
    reference_p_UADY: FloatArray,
    reference_q_UADY: FloatArray,
) -> FloatArray:
    """Theorem 3.4 with exact ingredients: sqrt(2/3) H sum_z JS_z^(1/2) + 8 Delta^(1/4). No bound in general.

    H = max over x with Q(x) > 0 of H(Q_{Y|x}), plus H(P_Y_theta); Delta: JS of policy's and reference's output laws,
    summed over both input laws. All nats. Source: paper, Theorem 3.4.
    """
    lead = p_UAD.shape[:-3]
    p_X, q_X = p_UAD.reshape(*lead, -1), q_UAD.reshape(*lead, -1)
    policy, reference_p, reference_q = (
        c.reshape(*lead, -1, c.shape[-1]) for c in (policy_UADY, reference_p_UADY, reference_q_UADY)
    )
    policy_p, policy_q = output_law(p_X, policy), output_law(q_X, policy)
    highest = np.where(q_X > 0, entropy(reference_q), 0.0).max(-1) + entropy(policy_p)
    roots = sum(np.sqrt(jensen_shannon(marginal(p_UAD, (z,)), marginal(q_UAD, (z,)))) for z in range(3))
    delta = jensen_shannon(policy_p, output_law(p_X, reference_p))
    delta = delta + jensen_shannon(policy_q, output_law(q_X, reference_q))
    return np.asarray(np.sqrt(2 / 3) * highest * roots + 8 * delta**0.25)
