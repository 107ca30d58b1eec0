"""The shift itself: embeddings of inputs and responses, divergences per component, and the bound with its shares."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from remid.estimate import classifier_js, rjsd, upper_bound
from remid.estimate.divergence import Divergence
from remid.lm.embed import EmbedderSource
from remid.pipeline.measure import SubsetScores, number
from remid.pipeline.policies import REFERENCE, Texts
from remid.pipeline.progress import Progress
from remid.pipeline.store import Store, content_key
from remid.types import COMPONENTS, ID, FloatArray, PairDesign, PairScores, Sample

Row = dict[str, Any]
Vectors = dict[str, npt.NDArray[np.float32]]
_BATCH = 32


def component_text(sample: Sample, component: str) -> str:
    """The text that stands for one component of the input when its law is compared between ID and a shift."""
    if component == "user":
        return sample.user
    if component == "character":
        return sample.character
    return "\n".join(turn.text for turn in sample.dialogue)


def embed_texts(texts: Iterable[str], store: Store, source: EmbedderSource, progress: Progress) -> Vectors:
    """Vectors by text, from the store or computed now. Batches are fixed by content, as a resumed run needs them."""
    keys = {text: content_key(text) for text in texts}
    have = store.embeddings(source.fingerprint)
    todo = sorted({text for text, key in keys.items() if key not in have}, key=lambda text: (len(text), text))
    if todo:
        from remid.lm.embed import Embedder

        embedder = Embedder(source)
        with progress.stage("embedding", sum(len(text) for text in todo) + len(todo)) as step:
            for start in range(0, len(todo), _BATCH):
                batch = todo[start : start + _BATCH]
                rows = [(keys[text], vector) for text, vector in zip(batch, embedder.encode(batch), strict=True)]
                store.add_embeddings(source.fingerprint, rows)
                step(sum(len(text) + 1 for text in batch))
        have = store.embeddings(source.fingerprint)
    return {text: have[key] for text, key in keys.items()}


def needed_texts(subsets: Sequence[SubsetScores], answers: dict[str, dict[str, Texts]]) -> set[str]:
    """All texts whose vectors the divergences need."""
    texts = {component_text(s, c) for subset in subsets for s in subset.samples for c in COMPONENTS}
    return texts | {text for by_policy in answers.values() for row in by_policy.values() for text in row if text}


@dataclass(frozen=True, slots=True)
class Target:
    """What ID is compared with: one shifted subset, or all subsets of a shift together (subset None)."""

    subset: str | None
    shift: str
    parts: tuple[SubsetScores, ...]


class Shifts:
    """Divergences between ID and each shifted subset, and each shift as a whole, each computed once."""

    def __init__(
        self, subsets: Sequence[SubsetScores], answers: dict[str, dict[str, Texts]], vectors: Vectors, *,
        permutations: int, seed: int,
    ) -> None:  # fmt: skip
        self._subsets, self._answers, self._vectors = subsets, answers, vectors
        self._permutations, self._seed = permutations, seed
        self._id = [s for s in subsets if s.shift == ID]
        shifted = [s for s in subsets if s.shift != ID and self._id]
        whole = dict.fromkeys(s.shift for s in shifted)
        self._targets = [
            *(Target(s.subset, s.shift, (s,)) for s in shifted),
            *(Target(None, shift, tuple(s for s in shifted if s.shift == shift)) for shift in whole),
        ]
        self._responses: dict[tuple[tuple[str, ...], str], float] = {}

    def divergence_rows(self, progress: Progress) -> list[Row]:
        """RJSD and classifier estimate per component, for each shifted subset and each shift as a whole."""
        rows = []
        with progress.stage("divergences", len(self._targets) * len(COMPONENTS)) as step:
            for target in self._targets:
                for component in COMPONENTS:
                    rows.append(self._divergence_row(target, component))
                    step(1)
        return rows

    def _divergence_row(self, target: Target, component: str) -> Row:
        id_ND = self._inputs(self._id, component)
        ood_MD = self._inputs(target.parts, component)
        found = self._rjsd(id_ND, ood_MD)
        return {
            "subset": target.subset,
            "shift": target.shift,
            "component": component,
            "rjsd": number(found.value),
            "rjsd_raw": number(found.raw),
            "null_mean": number(found.null_mean),
            "p_value": number(found.p_value),
            "ci_low": number(found.ci_low),
            "ci_high": number(found.ci_high),
            "classifier": number(classifier_js(id_ND, ood_MD, seed=self._seed)),
            "n_id": len(id_ND),
            "n_ood": len(ood_MD),
            "n_distinct_id": found.n_distinct_id,
            "n_distinct_ood": found.n_distinct_ood,
            "unit": "nats",
        }

    def bound_rows(self, divergences: Sequence[Row], remid_rows: Sequence[Row], progress: Progress) -> list[Row]:
        """Theorem 3.4 for every policy, shifted subset and whole shift, with the R-EMID beside it."""
        js: dict[tuple[str | None, str], dict[str, float]] = {}
        for row in divergences:
            value = np.nan if row["rjsd"] is None else row["rjsd"]
            js.setdefault((row["subset"], row["shift"]), {})[row["component"]] = value
        lost = {(r["policy"], r["subset"], r["shift"]): r["value"] for r in remid_rows if r["unit"] == "nats/response"}
        policies = list(self._subsets[0].scores) if self._subsets else []
        rows = []
        with progress.stage("bounds", len(policies) * len(self._targets)) as step:
            for policy in policies:
                delta_id = self._response_divergence(self._id, policy)
                for target in self._targets:
                    delta_ood = self._response_divergence(target.parts, policy)
                    rows.append(self._bound_row(policy, target, js[target.subset, target.shift], delta_id, delta_ood))
                    rows[-1]["remid"] = lost.get((policy, target.subset, target.shift))
                    step(1)
        return rows

    def _bound_row(self, policy: str, target: Target, js: dict[str, float], delta_id: float, delta_ood: float) -> Row:
        made = upper_bound(
            _joined([s.scores[policy] for s in self._id]),
            _joined([s.scores[REFERENCE] for s in target.parts]),
            js,
            delta_id=delta_id,
            delta_ood=delta_ood,
        )
        numbers = {
            key: number(getattr(made, key)) for key in ("value", "h_hat", "delta", "input_term", "reference_term")
        }
        return {
            "policy": policy,
            "subset": target.subset,
            "shift": target.shift,
            **numbers,
            "js": {name: number(value) for name, value in made.js.items()},
            "share": None if made.share is None else {name: number(value) for name, value in made.share.items()},
            "n_id": made.n_id,
            "n_ood": made.n_ood,
            "n_missing": made.n_missing,
            "unit": "nats/response",
        }

    def _response_divergence(self, subsets: Sequence[SubsetScores], policy: str) -> float:
        if policy == REFERENCE:
            return 0.0
        key = (tuple(s.subset for s in subsets), policy)
        if key not in self._responses:
            ours, theirs = (
                [self._vectors[text] for s in subsets for text in self._answers[s.subset][who] if text]
                for who in (policy, REFERENCE)
            )
            self._responses[key] = self._rjsd(_stack(ours), _stack(theirs)).value
        return self._responses[key]

    def _inputs(self, subsets: Sequence[SubsetScores], component: str) -> FloatArray:
        return _stack([self._vectors[component_text(sample, component)] for s in subsets for sample in s.samples])

    def _rjsd(self, a_ND: FloatArray, b_MD: FloatArray) -> Divergence:
        return rjsd(a_ND, b_MD, n_permutations=self._permutations, seed=self._seed)


def _stack(vectors: Sequence[npt.NDArray[np.float32]]) -> FloatArray:
    return np.stack(vectors).astype(np.float64) if vectors else np.zeros((0, 1))


def _joined(parts: Sequence[PairScores]) -> PairScores:
    """Several ID subsets as one, for averages over them; a subset with fewer negatives is filled up with NaN."""
    m = max(part.negative_Bm.shape[1] for part in parts)

    def wide(array: npt.NDArray[Any], fill: float) -> npt.NDArray[Any]:
        return np.pad(array, ((0, 0), (0, m - array.shape[1])), constant_values=fill)

    return PairScores(
        np.concatenate([part.positive_B for part in parts]),
        np.concatenate([wide(part.negative_Bm, np.nan) for part in parts]),
        np.concatenate([part.tokens_B for part in parts]),
        np.concatenate([part.bytes_B for part in parts]),
        PairDesign(np.concatenate([wide(part.design.negatives_Bm, -1) for part in parts]), parts[0].design.seed),
    )
