"""log q of completions under one adapter of the shared base, each prompt run once (lm/scoring.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from remid.lm.merged import merged
from remid.lm.models import LoadedModel
from remid.lm.scoring import Scorer
from remid.lm.work import Work
from remid.train.rewards import Likelihood

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt and a completion of it, as token ids."""

    prompt: Ids
    completion: Ids


@contextmanager
def using(model: Any, adapter: str | None) -> Iterator[None]:
    """The model with this adapter (None: with none of them), in evaluation mode; afterwards as it was.

    Which weights are trainable belongs to the adapter that is active, so that is restored too.
    """
    before, training = model.active_adapter, model.training
    model.eval()
    try:
        if adapter is None:
            with model.disable_adapter():
                yield
        else:
            model.set_adapter(adapter)
            yield
    finally:
        model.set_adapter(before)
        model.train(training)


class AdapterScorer:
    """Scores under the adapters of a PeftModel. loaded: the base it was made from; max_tokens: of a pair at most."""

    def __init__(self, model: Any, loaded: LoadedModel, max_tokens: int) -> None:
        self._model, self._max_tokens = model, max_tokens
        with using(model, model.active_adapter):
            self._scorer = Scorer(replace(loaded, model=model.get_base_model()))

    def score(
        self, adapter: str | None, pairs: Sequence[Pair | None], step: Callable[[int], None] | None = None
    ) -> list[Likelihood | None]:
        """The likelihood of each pair, None where it cannot be computed (no pair, too long, not finite).

        step: told how many different pairs more have been scored, pass by pass.
        """
        found: list[Likelihood | None] = [None] * len(pairs)
        places: dict[Ids, dict[Ids, list[int]]] = {}
        for place, pair in enumerate(pairs):
            if pair is not None and len(pair.prompt) + len(pair.completion) <= self._max_tokens and pair.completion:
                places.setdefault(pair.prompt, {}).setdefault(pair.completion, []).append(place)
        work = [Work(prompt, tuple(completions)) for prompt, completions in places.items()]
        if not work:
            return found
        with using(self._model, adapter), merged(self._model):
            for batch in self._scorer.score(work):
                if step is not None:
                    step(len(batch))
                for scored in batch:
                    completion = work[scored.work].continuations[scored.continuation]
                    likelihood = _likelihood(scored.logp_T)
                    for place in places[work[scored.work].prompt][completion]:
                        found[place] = likelihood
        return found


def _likelihood(logp_T: Any) -> Likelihood | None:
    if logp_T is None:
        return None
    nats = float(np.sum(logp_T, dtype=np.float64))
    return Likelihood(nats, len(logp_T)) if np.isfinite(nats) else None
