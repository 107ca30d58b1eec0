"""The shift itself: embeddings of inputs and responses, their divergences, and how well sides are told apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from remid.estimate import classifier_js, cross_fitted_logits, divergence_shares, rjsd
from remid.estimate.divergence import Divergence
from remid.estimate.shares import Shares
from remid.lm.embed import EmbedderSource
from remid.pipeline.measure import SubsetScores, number
from remid.pipeline.policies import REFERENCE, Texts
from remid.pipeline.progress import Progress
from remid.pipeline.store import Store, content_key
from remid.types import COMPONENTS, ID, FloatArray, PairDesign, PairScores, Sample

Row = dict[str, Any]
Vectors = dict[str, npt.NDArray[np.float32]]
_BATCH = 32
_T = TypeVar("_T")


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


@dataclass(frozen=True, slots=True, eq=False)
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
        self._found: dict[tuple[str, ...], Any] = {}

    def _once(self, parts: Sequence[SubsetScores], what: tuple[str, ...], make: Callable[[], _T]) -> _T:
        """A shift of one subset is that subset: what was computed for the one serves the other."""
        key = (*what, *(s.subset for s in parts))
        if key not in self._found:
            self._found[key] = make()
        found: _T = self._found[key]
        return found

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
        found, classifier = self._component(target, component)
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
            "classifier": number(classifier),
            "n_id": sum(len(s.samples) for s in self._id),
            "n_ood": sum(len(s.samples) for s in target.parts),
            "n_distinct_id": found.n_distinct_id,
            "n_distinct_ood": found.n_distinct_ood,
            "unit": "nats",
        }

    def _component(self, target: Target, component: str) -> tuple[Divergence, float]:
        """RJSD and the classifier's estimate for one component."""

        def make() -> tuple[Divergence, float]:
            id_ND, ood_MD = self._inputs(self._id, component), self._inputs(target.parts, component)
            return self._rjsd(id_ND, ood_MD), classifier_js(id_ND, ood_MD, seed=self._seed)

        return self._once(target.parts, ("component", component), make)

    @property
    def targets(self) -> tuple[Target, ...]:
        """Every shifted subset, then every shift as a whole; none where there is no ID data."""
        return tuple(self._targets)

    @property
    def on_id(self) -> Target:
        """All ID subsets together."""
        return Target(None, ID, tuple(self._id))

    def shares(self, target: Target) -> Shares:
        """Which component the shift is in."""

        def make() -> Shares:
            id_CND, ood_CMD = ([self._inputs(parts, c) for c in COMPONENTS] for parts in (self._id, target.parts))
            singles = [self._component(target, c)[0] for c in COMPONENTS]
            # A mean needs fewer permutations than a p-value, and the product kernels' nulls hardly vary.
            return divergence_shares(id_CND, ood_CMD, singles, n_permutations=40, seed=self._seed)

        return self._once(target.parts, ("shares",), make)

    def input_logits(self, target: Target) -> tuple[FloatArray, FloatArray]:
        """log Q/P of the whole input at each ID sample and at each sample of the target, cross-fitted."""

        def make() -> tuple[FloatArray, FloatArray]:
            id_ND, ood_MD = (
                np.concatenate([_unit(self._inputs(parts, c)) for c in COMPONENTS], axis=1)
                for parts in (self._id, target.parts)
            )
            return cross_fitted_logits(id_ND, ood_MD, seed=self._seed)

        return self._once(target.parts, ("input logits",), make)

    def response_logits(self, parts: Sequence[SubsetScores], policy: str) -> tuple[FloatArray, FloatArray]:
        """log V/W at the policy's and at the reference's response to each sample, NaN where a response is missing.

        The classifier sees the response's embedding and its elementwise products with those of the input's parts, in
        which a linear model can find how close the response is to its input.
        """
        if policy == REFERENCE:
            zeros_B = np.zeros(sum(len(s.samples) for s in parts))
            return zeros_B, zeros_B
        return self._once(parts, ("response logits", policy), lambda: self._response_logits(parts, policy))

    def _response_logits(self, parts: Sequence[SubsetScores], policy: str) -> tuple[FloatArray, FloatArray]:
        inputs = [_unit(self._inputs(parts, c)) for c in COMPONENTS]
        rows = []
        for who in (REFERENCE, policy):
            texts = [text for s in parts for text in self._answers[s.subset][who]]
            said_BD = np.stack([self._vectors[t] if t else np.full_like(inputs[0][0], np.nan) for t in texts])
            said_BD = _unit(said_BD.astype(np.float64))
            rows.append(np.concatenate([said_BD, *(said_BD * x_BD for x_BD in inputs)], axis=1))
        at_reference_B, at_policy_B = cross_fitted_logits(rows[0], rows[1], seed=self._seed, paired=True)
        return at_policy_B, at_reference_B

    def response_divergence(self, subsets: Sequence[SubsetScores], policy: str) -> float:
        """Corrected RJSD of the policy's and the reference's responses, nats; 0 for the reference itself."""
        if policy == REFERENCE:
            return 0.0

        def make() -> float:
            ours, theirs = (
                [self._vectors[text] for s in subsets for text in self._answers[s.subset][who] if text]
                for who in (policy, REFERENCE)
            )
            return self._rjsd(_stack(ours), _stack(theirs)).value

        return self._once(subsets, ("responses", policy), make)

    def _inputs(self, subsets: Sequence[SubsetScores], component: str) -> FloatArray:
        return _stack([self._vectors[component_text(sample, component)] for s in subsets for sample in s.samples])

    def _rjsd(self, a_ND: FloatArray, b_MD: FloatArray) -> Divergence:
        return rjsd(a_ND, b_MD, n_permutations=self._permutations, seed=self._seed)


def _stack(vectors: Sequence[npt.NDArray[np.float32]]) -> FloatArray:
    return np.stack(vectors).astype(np.float64) if vectors else np.zeros((0, 1))


def _unit(x_ND: FloatArray) -> FloatArray:
    """Rows of length 1; a row without length stays 0."""
    length_N = np.linalg.norm(x_ND, axis=1, keepdims=True)
    return np.asarray(x_ND / np.where(length_N > 0, length_N, 1.0))


def joined(parts: Sequence[PairScores]) -> PairScores:
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
