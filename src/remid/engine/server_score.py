"""Scores from servers that give log-probabilities of a prompt's tokens, asked in token ids made here.

A pair is one request: the prompt's ids and the continuation's, in one prompt. Servers that compute log-probabilities of
a prompt run all of it (vLLM passes its prefix cache over for such requests, SGLang starts at the first token), so the
prompt is paid for with every continuation. Pairs are still asked prompt by prompt: a server that can share, will.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from remid.engine.server_client import ServerClient
from remid.engine.server_dialects import LackingError, PromptLogProbs, Way
from remid.engine.server_faults import MalformedError, RequestError, UnansweredError
from remid.engine.server_probe import Probed, probe
from remid.engine.server_settings import ServerSettings
from remid.engine.server_tokenizer import load_tokenizer, tokenizer_fingerprint
from remid.engine.spending import Cost, Spent, Tokens, estimate_scoring
from remid.engine.work import Scored, Work

if TYPE_CHECKING:
    from remid.lm.chat import ChatRenderer

_PATH = "/completions"
_PROBE_RETRIES = 2


class ServerScorer:
    """Scores through one server and model. tokenizer: a local folder or "builtin", the served model's own.

    client: for several engines on one budget. Raises EngineError where the server needs a key that is not set,
    ModelError where there is no tokenizer.
    """

    def __init__(self, settings: ServerSettings, tokenizer: str, *, client: ServerClient | None = None) -> None:
        self._settings = settings
        self._tokenizer_name = tokenizer
        self._fingerprint = tokenizer_fingerprint(tokenizer)
        self._client = client or ServerClient(settings)
        self._tokenizer: Any = None
        self._renderer: ChatRenderer | None = None
        self._probed: Probed | None = None
        self._said: dict[str, Any] | None = None  # the server's entry for its model

    @property
    def name(self) -> str:
        """What does the work, in words for the user."""
        found = self._probed
        how = "" if found is None else f", {found.way.dialect}, two tries differ by {found.spread:.1g} nats per token"
        return f"{self._settings.model} at {self._settings.url}{how}"

    @property
    def identity(self) -> list[Any]:
        """What a score depends on besides the ids: known without asking the server."""
        return [*self._settings.identity("score"), self._fingerprint, self._settings.dialect]

    @property
    def spent(self) -> Spent:
        """What was spent so far."""
        return self._client.spent

    @property
    def renderer(self) -> ChatRenderer:
        """Makes the ids: the local tokenizer with its chat template."""
        from remid.lm.chat import ChatRenderer

        if self._renderer is None:
            self._renderer = ChatRenderer(self._load())
        return self._renderer

    @property
    def max_length(self) -> int | None:
        """Tokens that fit into the served model, None where the server does not say. It is asked once.

        Raises EngineError where it is not there, or too busy to say.
        """
        length = self._entry().get("max_model_len")
        return length if isinstance(length, int) and length > 0 else None

    def estimate(self, work: Sequence[Work]) -> Cost:
        """What `work` will cost, before anything is sent."""
        return estimate_scoring(work, self._settings)

    def probe(self) -> None:
        """Ask the server whether it can score, once. Raises EngineError that says what it cannot do."""
        if self._probed is not None:
            return
        self._entry()  # first: is anybody there?

        def ask(way: Way, prompt: Sequence[int] | str, top: int) -> PromptLogProbs:
            # A server may fail in any way on fields that it does not know: it is not asked for minutes.
            return self._ask(way, prompt, top, max_retries=min(_PROBE_RETRIES, self._settings.max_retries))

        self._probed = probe(ask, self._load(), self._settings)

    def score(self, work: Sequence[Work]) -> Iterator[list[Scored]]:
        """Results in batches as they come; probes first, if nobody did.

        A pair that the server refuses for good comes with its reason, one that was not answered with again=True.
        Raises EngineError where the server cannot be used, or the budget is spent.
        """
        if not work:
            return
        self.probe()
        assert self._probed is not None
        pairs = [(i, j) for i, one in enumerate(work) for j in range(len(one.continuations))]
        for batch in self._client.run(pairs, lambda pair: self._score(*pair, work[pair[0]])):
            yield [
                Scored(*pair, None, f"no answer: {found}", again=True) if isinstance(found, UnansweredError) else found
                for pair, found in batch
            ]

    def _score(self, index: int, j: int, work: Work) -> Scored:
        assert self._probed is not None
        ids = [*work.prompt, *work.continuations[j]]
        try:
            numbers = self._ask(self._probed.way, ids, self._probed.top).of(ids, len(work.prompt))
        except RequestError as fault:
            return Scored(index, j, None, str(fault))
        except (MalformedError, LackingError) as fault:
            return Scored(index, j, None, f"the server's answer cannot be used: {fault}")
        if any(map(math.isnan, numbers)):
            return Scored(index, j, None, "a log-probability is missing or not finite")
        return Scored(index, j, np.asarray(numbers, dtype=np.float32))

    def _ask(self, way: Way, prompt: Sequence[int] | str, top: int, max_retries: int | None = None) -> PromptLogProbs:
        """One request. Raises RequestError, LackingError, UnansweredError or EngineError."""
        # A text's tokens are at most its bytes, and one for the start.
        length = len(prompt.encode()) + 1 if isinstance(prompt, str) else len(prompt)
        body = {"model": self._settings.model} | way.fields(prompt, top)
        most = Tokens(length, max(1, way.max_tokens))
        return self._client.post(_PATH, body, most, way.read, max_retries=max_retries)

    def _entry(self) -> dict[str, Any]:
        if self._said is None:
            self._said = self._client.model_entry()
        return self._said

    def _load(self) -> Any:
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self._tokenizer_name)
        return self._tokenizer
