"""Information, divergences and entropies of finite laws, computed exactly: no samples, no estimate. All in nats.

A law p_X sums to 1 over its last axis; a channel w_XY is one law over Y for each x. Every function takes leading batch
axes, so that 100,000 worlds are one call. X is the input, flattened from (user, character, dialogue) where needed.
"""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np

from remid.types import FloatArray

LN2 = float(np.log(2.0))


def plogp(p: FloatArray) -> FloatArray:
    """p ln p, elementwise, 0 at 0."""
    return np.asarray(np.where(p > 0, p * np.log(np.where(p > 0, p, 1.0)), 0.0))


def entropy(p_X: FloatArray) -> FloatArray:
    """Shannon entropy of each law (last axis)."""
    return np.asarray(-plogp(p_X).sum(-1))


def binary_entropy(t: FloatArray) -> FloatArray:
    """h(t) of a coin that shows 1 with probability t in [0, 1]; rounding outside is clipped."""
    t = np.clip(t, 0.0, 1.0)
    return -(plogp(t) + plogp(1.0 - t))


def output_law(p_X: FloatArray, w_XY: FloatArray) -> FloatArray:
    """Law of Y when X ~ p and Y ~ w(.|x)."""
    return np.asarray(np.einsum("...x,...xy->...y", p_X, w_XY))


def mean_over(p_X: FloatArray, f_X: FloatArray) -> FloatArray:
    """E_p f."""
    return np.asarray((p_X * f_X).sum(-1))


def information(p_X: FloatArray, w_XY: FloatArray) -> FloatArray:
    """I(X;Y) for X ~ p, Y ~ w(.|x): output entropy minus the mean entropy of the channel's rows; never below 0."""
    return np.maximum(entropy(output_law(p_X, w_XY)) - mean_over(p_X, entropy(w_XY)), 0.0)


def emi(p_X: FloatArray, policy_XY: FloatArray, reference_XY: FloatArray) -> FloatArray:
    """EMI = I(X;Y_theta) - I(X;Y) under one law (paper, section 3)."""
    return information(p_X, policy_XY) - information(p_X, reference_XY)


def emid(
    p_X: FloatArray, q_X: FloatArray, policy_XY: FloatArray, reference_p_XY: FloatArray, reference_q_XY: FloatArray
) -> FloatArray:
    """EMID = EMI(P) - EMI(Q). The policy is one channel; the reference channel may change with the law."""
    return emi(p_X, policy_XY, reference_p_XY) - emi(q_X, policy_XY, reference_q_XY)


def total_variation(p_X: FloatArray, q_X: FloatArray) -> FloatArray:
    """Half the sum of absolute differences, in [0, 1]."""
    return np.asarray(0.5 * np.abs(p_X - q_X).sum(-1))


def kl(p_X: FloatArray, q_X: FloatArray) -> FloatArray:
    """KL(p || q); infinite where q is 0 and p is not."""
    with np.errstate(divide="ignore"):
        log_q = np.log(q_X)
    return np.asarray(plogp(p_X).sum(-1) - np.where(p_X > 0, p_X * log_q, 0.0).sum(-1))


def jensen_shannon(p_X: FloatArray, q_X: FloatArray) -> FloatArray:
    """JS(p, q), between 0 and ln 2."""
    return np.maximum(entropy((p_X + q_X) / 2) - (entropy(p_X) + entropy(q_X)) / 2, 0.0)


def expected_club(p_X: FloatArray, w_XY: FloatArray) -> FloatArray:
    """What CLUB estimates with the exact conditional as q: I + KL(p(x)p(y) || p(x,y)); infinite if w has a zero."""
    y_law = output_law(p_X, w_XY)[..., None, :]
    return information(p_X, w_XY) + mean_over(p_X, kl(np.broadcast_to(y_law, w_XY.shape), w_XY))


def normalised(mass_X: FloatArray) -> FloatArray:
    """mass divided by its sum; uniform where it sums to 0 (it then carries weight 0 wherever we use it)."""
    total = mass_X.sum(-1, keepdims=True)
    return np.where(total > 1e-300, mass_X / np.where(total > 1e-300, total, 1.0), 1.0 / mass_X.shape[-1])


def residuals(p_X: FloatArray, q_X: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """t = TV(p, q) and three laws: common C = min(p, q)/(1-t), residuals P' = (p - min)/t, Q' = (q - min)/t."""
    common_X = np.minimum(p_X, q_X)
    t = np.clip(total_variation(p_X, q_X), 0.0, 1.0)
    return t, normalised(common_X), normalised(p_X - common_X), normalised(q_X - common_X)


def marginal(p_UAD: FloatArray, kept: tuple[int, ...]) -> FloatArray:
    """Marginal law of some of the three components (0 user, 1 character, 2 dialogue), flattened."""
    lead = p_UAD.ndim - 3
    dropped = tuple(lead + axis for axis in range(3) if axis not in kept)
    return np.asarray(p_UAD.sum(axis=dropped).reshape(*p_UAD.shape[:lead], -1))


def subset_divergences(p_UAD: FloatArray, q_UAD: FloatArray) -> dict[frozenset[int], FloatArray]:
    """JS between ID and OOD of every set of components: I(B; X_S) with B a fair ID/OOD bit. Empty set: 0."""
    sets = [frozenset(s) for size in (1, 2, 3) for s in combinations(range(3), size)]
    found = {s: jensen_shannon(marginal(p_UAD, tuple(sorted(s))), marginal(q_UAD, tuple(sorted(s)))) for s in sets}
    return {frozenset(): np.zeros(p_UAD.shape[:-3]), **found}


def orderings() -> list[tuple[int, int, int]]:
    """The six orders in which the chain rule can take the three components."""
    return [(a, b, c) for a, b, c in permutations(range(3))]
