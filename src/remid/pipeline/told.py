"""What each response tells about its input, token by token from the store: earned, repeated, and how surprising it is.

The baseline of a response is its log-likelihood under the other inputs that it was scored with, the very negatives of
CLUB; so earned + repeated is the density that `details.json` shows (docs/theory.md, "The gap").
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from remid.errors import RenderError
from remid.estimate import Copyable, Told, split_information
from remid.lm.chat import ChatRenderer
from remid.pipeline.engines import Engines
from remid.pipeline.plan import Group, Plan
from remid.pipeline.policies import Texts
from remid.pipeline.progress import Progress
from remid.pipeline.score import text_key
from remid.pipeline.store import Store
from remid.types import FloatArray, Sample

#: Told by subset and policy.
AllTold = Mapping[str, Mapping[str, Told]]


def tell(plan: Plan, store: Store, engines: Engines, progress: Progress) -> AllTold:
    """What every policy's responses tell, by subset and policy, once the store holds the scores."""
    renderer = engines.renderer()
    told: dict[str, dict[str, Told]] = {}
    with progress.stage("earned and repeated", sum(len(g.samples) for g in plan.groups)) as step:
        for g in plan.groups:
            rows: dict[str, list[tuple[float, float, float, float]]] = {policy: [] for policy in g.answers}
            look = _Look(g, plan.scorer_id, store, renderer)
            for i, sample in enumerate(g.samples):
                source = Copyable.of([renderer.text_ids(text) for text in input_texts(sample)])
                for policy, texts in g.answers.items():
                    rows[policy].append(look.told(i, texts, source))
                step(1)
            told[g.subset] = {policy: Told(*np.array(made, dtype=np.float64).T) for policy, made in rows.items()}
    return told


def input_texts(sample: Sample) -> list[str]:
    """The texts of an input, from which a response may copy."""
    return [sample.character, sample.user, *(turn.text for turn in sample.dialogue)]


class _Look:
    """Token log-probabilities of one subset's responses, read from the store pair by pair."""

    def __init__(self, group: Group, scorer_id: str, store: Store, renderer: ChatRenderer) -> None:
        self._keys, self._scorer_id, self._store, self._renderer = group.keys, scorer_id, store, renderer
        negatives_Bm = group.design.negatives_Bm
        self._under = [[int(a) for a in np.nonzero(negatives_Bm == j)[0]] for j in range(len(group.samples))]

    def told(self, i: int, texts: Texts, source: Copyable) -> tuple[float, float, float, float]:
        """(earned, repeated, blind, tokens) of the i-th response, NaN where a score is missing."""
        text = texts[i]
        if text is None:
            return _MISSING
        try:
            ids = self._renderer.response_ids(text)
        except RenderError:
            return _MISSING
        own_T = self._scores(i, text)
        others = [found for j in self._under[i] if (found := self._scores(j, text)) is not None]
        if own_T is None or not others or any(found.size != len(ids) for found in (own_T, *others)):
            return _MISSING
        free_T = np.mean(others, axis=0)
        split = split_information(ids, own_T, free_T, source)
        return float(split.earned_T.sum()), float(split.repeated_T.sum()), -float(free_T.sum()), float(len(ids))

    def _scores(self, i: int, text: str) -> FloatArray | None:
        key = self._keys[i]
        found = None if key is None else self._store.token_logps(self._scorer_id, key, text_key(text))
        return None if found is None or not np.isfinite(found).all() else found.astype(np.float64)


_MISSING = (np.nan, np.nan, np.nan, np.nan)
