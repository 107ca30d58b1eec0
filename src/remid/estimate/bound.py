"""The paper's upper bound on R-EMID (Theorem 3.4), with estimates put in. An estimate, not a certificate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from remid.types import FloatArray, PairScores


@dataclass(frozen=True, slots=True)
class Bound:
    """Theorem 3.4 with plug-ins: value = input_term + reference_term. All in nats/response, js and delta in nats.

    input_term = sqrt(2/3) h_hat sum_z sqrt(js_z); reference_term = 8 delta^(1/4). js: as given, may be negative.
    share: each component's sqrt(js_z) over their sum, the theorem's split of the input term; None if all are 0.
    NaN where an ingredient is. n_id, n_ood: responses behind h_hat on each side; n_missing: responses without a score.
    """

    value: float
    h_hat: float
    delta: float
    input_term: float
    reference_term: float
    js: Mapping[str, float]
    share: Mapping[str, float] | None
    n_id: int
    n_ood: int
    n_missing: int


def upper_bound(
    policy_id: PairScores, reference_ood: PairScores, js: Mapping[str, float], *, delta_id: float, delta_ood: float
) -> Bound:
    """Estimate the right-hand side of R-EMID <= sqrt(2/3) H sum_z JS_z^(1/2) + 8 Delta^(1/4), in nats/response.

    js: per shifted component (user, character, dialogue), its corrected RJSD between ID and the shifted subset, nats.
    delta_id, delta_ood: RJSD between the policy's and the reference's responses in ID and in the shifted subset, nats.
    A negative divergence is sampling noise around 0 and counts as 0.
    h_hat stands for max_x [H(Q_{Y|x}) + H(P_{Y_theta})]. The first entropy is known only through one draw per x:
    max over the shifted inputs of -log q(y|x, r) of the reference response. The second is a cross-entropy: minus the
    mean log-likelihood of the policy's ID responses under other inputs. Both tend to overstate, the RJSD understates;
    the proof's last step also lacks the size of the alphabet. So the value ranks risks and certifies none.
    Source: paper, Theorem 3.4; docs/theory.md, "The bound".
    """
    surprise_ood = _finite(-reference_ood.positive_B)
    surprise_id = _finite(-policy_id.negative_Bm)
    has_negative_B = np.isfinite(policy_id.negative_Bm).any(axis=1)
    n_id, n_ood = int(has_negative_B.sum()), surprise_ood.size
    h_hat = float(surprise_ood.max() + surprise_id.mean()) if n_id and n_ood else float("nan")
    root_js = {name: _clip(value) ** 0.5 for name, value in js.items()}
    delta = _clip(delta_id) + _clip(delta_ood)
    input_term = (2 / 3) ** 0.5 * h_hat * sum(root_js.values())
    reference_term = 8 * delta**0.25
    total = sum(root_js.values())
    return Bound(
        value=input_term + reference_term,
        h_hat=h_hat,
        delta=delta,
        input_term=input_term,
        reference_term=reference_term,
        js=dict(js),
        share={name: root / total for name, root in root_js.items()} if total > 0 else None,
        n_id=n_id,
        n_ood=n_ood,
        n_missing=has_negative_B.size - n_id + reference_ood.positive_B.size - n_ood,
    )


def _finite(values: FloatArray) -> FloatArray:
    return values[np.isfinite(values)]


def _clip(divergence: float) -> float:
    """At least 0; NaN stays NaN, since what could not be estimated is not 0."""
    return divergence if np.isnan(divergence) else max(divergence, 0.0)
