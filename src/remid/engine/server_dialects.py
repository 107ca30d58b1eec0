"""Prompt log-probabilities as servers give them: the two ways to ask, and how each answer is read.

"prompt_logprobs" is vLLM's: a list with, per prompt token, a mapping from token id to its log-probability, which holds
the token itself and the likeliest ones. "echo" is the old OpenAI way: the prompt is given back with the log-probability
of each of its tokens. The first token of a prompt has none in either.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from remid.engine.server_faults import MalformedError

#: vLLM writes minus infinity, which JSON has not, as this number.
_MINUS_INFINITY = -9999.0


@dataclass(frozen=True, slots=True)
class Way:
    """One way to ask. max_tokens: tokens that the server is made to write (some refuse 0)."""

    dialect: Literal["prompt_logprobs", "echo"]
    max_tokens: int

    def __str__(self) -> str:
        fields = "prompt_logprobs" if self.dialect == "prompt_logprobs" else "echo=true with logprobs"
        return f"{fields}, max_tokens={self.max_tokens}"

    def fields(self, prompt: Sequence[int] | str, top: int) -> dict[str, Any]:
        """Fields of a completion request that asks for `top` of the likeliest tokens beside each one's own."""
        # Temperature and top_p shape the reported numbers on some servers: both are sent in their neutral place.
        common = {"prompt": prompt, "max_tokens": self.max_tokens, "temperature": 1.0, "top_p": 1.0}
        if self.dialect == "prompt_logprobs":
            return common | {"prompt_logprobs": top}
        # SGLang takes echo with logprobs=0 for echo without log-probabilities.
        return common | {"echo": True, "logprobs": max(1, top)}

    def read(self, answer: dict[str, Any]) -> PromptLogProbs:
        """The log-probabilities in an answer. Raises MalformedError, or LackingError where there are none."""
        try:
            choice = answer["choices"][0]
            get = choice.get
        except (KeyError, IndexError, TypeError, AttributeError):
            raise MalformedError("the answer holds no choice") from None
        if self.dialect == "prompt_logprobs":
            return _read_prompt_logprobs(get("prompt_logprobs", answer.get("prompt_logprobs")))
        return _read_echo(get("logprobs"))


class LackingError(Exception):
    """The server answers, but without prompt log-probabilities."""


@dataclass(frozen=True, slots=True)
class PromptLogProbs:
    """Per token of the prompt (and, for "echo", of what was written after it): its log-probability, NaN where none.

    entries: per token, the mapping it was found in ("prompt_logprobs": by id). top: per token, the log-probabilities of
    the likeliest tokens and its own, each token once.
    """

    logps: list[float]
    entries: list[dict[str, Any]] | None
    top: list[list[float]]

    def of(self, ids: Sequence[int], start: int) -> list[float]:
        """Log-probabilities of ids[start:] (nats), in a prompt `ids`.

        Raises MalformedError where the answer is not about these ids. NaN: no number came, or minus infinity.
        """
        n = len(self.entries) if self.entries is not None else len(self.logps)
        extra = n - len(ids)
        if extra < 0 or extra > (0 if self.entries is not None else 1):
            raise MalformedError(f"{n} log-probabilities for {len(ids)} tokens")
        if self.entries is None:
            return self.logps[start : len(ids)]
        return [self._own(position, ids[position]) for position in range(start, len(ids))]

    def _own(self, position: int, token: int) -> float:
        entry = (self.entries or [])[position]
        if not entry:
            return math.nan
        if str(token) not in entry:
            raise MalformedError(f"token {position} of the prompt is another one at the server (not {token})")
        return _number(entry[str(token)])


def _read_prompt_logprobs(found: Any) -> PromptLogProbs:
    if not isinstance(found, list) or not found:
        raise LackingError("the answer has no prompt_logprobs")
    entries: list[dict[str, Any]] = []
    for entry in found:
        if entry is not None and not isinstance(entry, dict):
            raise MalformedError("prompt_logprobs holds something that is not a mapping")
        entries.append(entry or {})
    top = [[_number(value) for value in entry.values()] for entry in entries]
    return PromptLogProbs([], entries, top)


def _read_echo(found: Any) -> PromptLogProbs:
    logps = found.get("token_logprobs") if isinstance(found, dict) else None
    if not isinstance(logps, list) or not logps:
        raise LackingError("the answer has no token_logprobs")
    tokens, likeliest = found.get("tokens"), found.get("top_logprobs")
    numbers = [_number(value) for value in logps]
    top: list[list[float]] = [[number] for number in numbers]
    if isinstance(likeliest, list) and isinstance(tokens, list) and len(likeliest) == len(tokens) == len(numbers):
        for position, entry in enumerate(likeliest):
            if isinstance(entry, dict):
                own = [] if tokens[position] in entry else [numbers[position]]
                top[position] = own + [_number(value) for value in entry.values()]
    return PromptLogProbs(numbers, None, top)


def _number(value: Any) -> float:
    """A log-probability out of an answer; NaN for what is none."""
    if isinstance(value, dict):
        value = value.get("logprob")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    number = float(value)
    return number if math.isfinite(number) and number > _MINUS_INFINITY else math.nan
