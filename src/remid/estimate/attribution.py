"""Which component the shift is in: shares of JS between ID and OOD by the chain rule, its conditional terms kept.

B is a fair bit that says ID or OOD, v(S) = I(B; X_S) = JS of the laws of the components in S. For an ordering of the
components the chain rule charges each with I(B; X_z | those before it); the three charges sum to JS of the whole input.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from remid.estimate.exact import orderings
from remid.types import FloatArray

Values = Mapping[frozenset[int], FloatArray]


def charges(value: Values) -> FloatArray:
    """(..., 6, 3): what each ordering's chain rule charges user, character, dialogue, in nats, never below 0.

    value: v of every set of components, as `exact.subset_divergences` gives it. Estimates of v may fall where the truth
    cannot; such a charge counts as 0.
    """
    rows = []
    for order in orderings():
        charge: dict[int, FloatArray] = {}
        before: frozenset[int] = frozenset()
        for component in order:
            after = before | {component}
            charge[component] = np.maximum(value[after] - value[before], 0.0)
            before = after
        rows.append(np.stack([charge[z] for z in range(3)], axis=-1))
    return np.stack(rows, axis=-2)


def shapley_shares(value: Values) -> FloatArray:
    """(..., 3): Shapley value of each component (mean charge over the six orderings), over their sum. NaN if all 0."""
    return _shares(charges(value).mean(axis=-2))


def sparse_shares(value: Values, tolerance: float = 0.01) -> FloatArray:
    """(..., 3): as Shapley, but over those orderings alone that explain the shift by the fewest changed mechanisms.

    An ordering factorises the input into mechanisms p(z | those before). If only one mechanism changed, the ordering in
    which it stands as one factor charges it with everything, while others smear it over its neighbours: with a changed
    marginal p(u) the orderings that start with u, with a changed conditional p(u | a, d) those that end with it. So
    orderings are ranked by the concentration of their charges (sum of squared shares, 1 = a single mechanism), and
    those within `tolerance` of the best are averaged. If several components change, it leans towards the largest
    change, more than Shapley does. It divides the shift (JS of the input), not R-EMID. NaN where nothing shifts.
    Source: sparse mechanism shifts, Perry et al. 2022 (2206.02013), applied to the chain rule of JS.
    """
    charge = charges(value)
    share = _shares(charge)
    concentration = (share**2).sum(-1)
    best = concentration >= np.max(concentration, axis=-1, keepdims=True) - tolerance
    weight = best / np.maximum(best.sum(-1, keepdims=True), 1)
    return _shares((weight[..., None] * charge).sum(-2))


def marginal_shares(value: Values) -> FloatArray:
    """(..., 3): the paper's: sqrt(JS_z) of each component's marginal, over their sum. NaN if no marginal shifts."""
    return _shares(np.stack([np.sqrt(np.maximum(value[frozenset({z})], 0.0)) for z in range(3)], axis=-1))


def _shares(charge: FloatArray) -> FloatArray:
    total = charge.sum(-1, keepdims=True)
    return np.asarray(np.where(total > 1e-12, charge / np.where(total > 1e-12, total, 1.0), np.nan))
