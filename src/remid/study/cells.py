"""R-EMID, the bound and its ingredients for every policy and shifted subset, from scores and vectors in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from remid.estimate import Influence, pool, remi, remid, rjsd, upper_bound
from remid.estimate.bound import Bound
from remid.estimate.divergence import Divergence
from remid.pipeline.measure import number
from remid.pipeline.policies import CONTROLS, REFERENCE
from remid.pipeline.shift import Vectors, component_text, joined
from remid.study.arcs import Part
from remid.types import COMPONENTS, ID, FloatArray, PairScores

Row = dict[str, Any]
#: Which value of RJSD goes into the bound: less the mean of its permutation null, or as it is.
KINDS = ("corrected", "raw")


@dataclass(frozen=True, slots=True)
class Distances:
    """Divergences of one set of items. js: (subset, component); responses: (subset, policy), "" for all of ID."""

    js: dict[tuple[str, str], Divergence]
    responses: dict[tuple[str, str], Divergence]


def bound_cells(parts: Sequence[Part], vectors: Vectors, *, permutations: int, seed: int) -> list[Row]:
    """One row per policy (the reference left out: its R-EMID is 0) and shifted subset, nats per response.

    Keys: policy, kind, subset, shift, n_id, n_ood (items), remid, remid_stderr, bound and its parts, with _raw behind
    for raw RJSD (docs/studies.md). What cannot be estimated is None.
    """
    distances = _distances(parts, vectors, permutations, seed)
    on_id, shifted = _sides(parts)
    rows = []
    for policy in _policies(parts):
        base = pool([_remi(part, policy) for part in on_id])
        scores_id = joined([part.scores.scores[policy] for part in on_id])
        for part in shifted:
            lost = remid(base, _remi(part, policy), clusters_id=_clusters(on_id), clusters_ood=_clusters([part]))
            row: Row = {
                "policy": policy,
                "kind": "control" if policy in CONTROLS else "model",
                "subset": part.scores.subset,
                "shift": part.scores.shift,
                "n_id": sum(len(one.scores.samples) for one in on_id),
                "n_ood": len(part.scores.samples),
                "remid": number(lost.value),
                "remid_stderr": number(lost.stderr),
            }
            rows.append(row | _bounds(scores_id, part, policy, distances))
    return rows


def _sides(parts: Sequence[Part]) -> tuple[list[Part], list[Part]]:
    on_id = [part for part in parts if part.scores.shift == ID]
    return on_id, [part for part in parts if part.scores.shift != ID]


def _policies(parts: Sequence[Part]) -> list[str]:
    return [name for name in parts[0].scores.scores if name != REFERENCE]


def _remi(part: Part, policy: str) -> Influence:
    return remi(part.scores.scores[policy], part.scores.scores[REFERENCE])


def _clusters(parts: Sequence[Part]) -> tuple[str, ...] | None:
    labels = [part.scores.clusters for part in parts]
    return None if labels[0] is None else tuple(label for row in labels for label in row or ())


def _bounds(scores_id: PairScores, part: Part, policy: str, distances: Distances) -> Row:
    row: Row = {}
    reference, subset = part.scores.scores[REFERENCE], part.scores.subset
    for kind in KINDS:
        made = upper_bound(
            scores_id,
            reference,
            {component: _value(distances.js[subset, component], kind) for component in COMPONENTS},
            delta_id=_value(distances.responses["", policy], kind),
            delta_ood=_value(distances.responses[subset, policy], kind),
        )
        end = "" if kind == "corrected" else "_raw"
        row |= {f"bound{end}": number(made.value), f"delta{end}": number(made.delta), **_parts(made, end)}
    # h_hat does not depend on the divergences; its two halves move for different reasons.
    surprise = max((-float(x) for x in reference.positive_B if np.isfinite(x)), default=float("nan"))
    halves = {"surprise_max": number(surprise), "cross_entropy": number(made.h_hat - surprise)}
    return row | {"h_hat": number(made.h_hat), **halves}


def _parts(made: Bound, end: str) -> Row:
    row: Row = {f"input_term{end}": number(made.input_term), f"reference_term{end}": number(made.reference_term)}
    for component in COMPONENTS:
        row[f"js_{component}{end}"] = number(made.js[component])
        row[f"share_{component}{end}"] = None if made.share is None else number(made.share[component])
    return row


def _value(found: Divergence, kind: str) -> float:
    return found.value if kind == "corrected" else found.raw


def _distances(parts: Sequence[Part], vectors: Vectors, permutations: int, seed: int) -> Distances:
    on_id, shifted = _sides(parts)

    def apart(a_ND: FloatArray, b_MD: FloatArray) -> Divergence:
        return rjsd(a_ND, b_MD, n_permutations=permutations, seed=seed)

    js = {
        (part.scores.subset, component): apart(_inputs(on_id, component, vectors), _inputs([part], component, vectors))
        for component in COMPONENTS
        for part in shifted
    }
    responses = {}
    for policy in _policies(parts):
        for name, side in [("", on_id), *((part.scores.subset, [part]) for part in shifted)]:
            ours, theirs = (_responses(side, who, vectors) for who in (policy, REFERENCE))
            responses[name, policy] = apart(ours, theirs)
    return Distances(js, responses)


def _inputs(parts: Sequence[Part], component: str, vectors: Vectors) -> FloatArray:
    return _stack(vectors, [component_text(sample, component) for part in parts for sample in part.scores.samples])


def _responses(parts: Sequence[Part], policy: str, vectors: Vectors) -> FloatArray:
    return _stack(vectors, [text for part in parts for text in part.texts[policy] if text])


def _stack(vectors: Vectors, texts: Sequence[str]) -> FloatArray:
    return np.stack([vectors[text] for text in texts]).astype(np.float64) if texts else np.zeros((0, 1))
