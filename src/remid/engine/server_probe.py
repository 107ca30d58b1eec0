"""Whether a server's prompt log-probabilities can be trusted, asked before anything is scored.

A server that ignores a field, reads text with another tokenizer or reports other numbers answers all the same, and
nothing later would tell. What cannot be checked from outside: that the numbers are to base e and not 2 (base 10, raw
scores and plain probabilities are caught, since the likeliest tokens' probabilities would not sum to at most 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from remid.engine.server_dialects import LackingError, PromptLogProbs, Way
from remid.engine.server_faults import MalformedError, NotThereError, RequestError, UnansweredError
from remid.engine.server_settings import ServerSettings
from remid.errors import EngineError

#: Different in every way that tokenizers differ: case, digits, marks, scripts, spaces.
_TEXTS = (
    'The night nurse in Leeds said:  "3 + 47 = 50, isn\'t it?"\nDer Zug fährt um 8:05 Uhr ab.',
    "Wind over the hills, and then RAIN. Что вы видите? 雨が降る。",
)
_CONTINUATION = " She weighed the same grain every morning, twice."
#: Mean difference between two tries of one request, nats per token. Batches of other sizes round otherwise, in bfloat16
#: by a few hundredths; a wrong token or position is worse than this.
_TOLERANCE = 0.1
_LIKELIEST = 5
_ADVICE = (
    "Prompt log-probabilities are to be had from vLLM (vllm serve MODEL), SGLang (its echo), and from a model on this "
    "machine (--model FOLDER); not from llama.cpp, Ollama or OpenAI's chat models"
)

#: (way, prompt, likeliest tokens wanted) -> what came. Raises what a request raises.
Ask = Callable[[Way, Sequence[int] | str, int], PromptLogProbs]


@dataclass(frozen=True, slots=True)
class Probed:
    """What works: the way, the number of likeliest tokens to ask for, and how far two tries differed (nats/token)."""

    way: Way
    top: int
    spread: float


def probe(ask: Ask, tokenizer: Any, settings: ServerSettings) -> Probed:
    """Find the way in which this server can score. Raises EngineError that says what it lacks."""
    said = []
    for way in _ways(settings):
        try:
            return _probe_way(ask, tokenizer, way)
        except (RequestError, LackingError, MalformedError, UnansweredError, NotThereError, _UnfitError) as error:
            said.append(f"  {way}: {error}")
            if isinstance(error, _UnfitError | NotThereError):  # another spelling would not mend that
                break
    raise EngineError(
        f"{settings.url}: cannot score with {settings.model}:\n" + "\n".join(said) + f"\n{_ADVICE} (docs/servers.md)."
    )


def _ways(settings: ServerSettings) -> list[Way]:
    ways = [Way("prompt_logprobs", 1), Way("echo", 0), Way("echo", 1)]
    return [way for way in ways if settings.dialect in ("auto", way.dialect)]


class _UnfitError(Exception):
    """Log-probabilities came, and they are not what they should be."""


def _probe_way(ask: Ask, tokenizer: Any, way: Way) -> Probed:
    plain = [_ids(tokenizer, text) for text in (*_TEXTS, _CONTINUATION)]
    first, second, continuation = plain
    whole = [*first, *continuation]
    rich = ask(way, whole, _LIKELIEST)
    expected = _numbers(rich, whole, 1)
    _check_scale(rich, expected)
    top, again = _lean(ask, way, whole)
    spread = _difference(expected, again)
    if spread > _TOLERANCE:
        raise _UnfitError(f"the same request twice differs by {spread:.2g} nats per token")
    other = _numbers(ask(way, [*second, *continuation], top), [*second, *continuation], len(second))
    change = _difference(other, again[-len(continuation) :])
    if change <= max(1e-4, 2 * spread):
        raise _UnfitError("log-probabilities of a continuation do not depend on the prompt before it")
    _check_tokenizer(ask, tokenizer, way, top)
    return Probed(way, top, spread)


def _lean(ask: Ask, way: Way, ids: list[int]) -> tuple[int, list[float]]:
    """The fewest likeliest tokens that can be asked for (each costs bandwidth), and the numbers that then come."""
    try:
        return 0, _numbers(ask(way, ids, 0), ids, 1)
    except (RequestError, LackingError, UnansweredError):
        return 1, _numbers(ask(way, ids, 1), ids, 1)


def _numbers(found: PromptLogProbs, ids: list[int], start: int) -> list[float]:
    try:
        numbers = found.of(ids, start)
    except MalformedError as error:
        raise _UnfitError(f"{error}; is the tokenizer the served model's, and is nothing cut off?") from None
    if holes := sum(math.isnan(number) for number in numbers):
        raise _UnfitError(f"{holes} of {len(numbers)} log-probabilities are missing or not finite")
    return numbers


def _check_scale(found: PromptLogProbs, numbers: list[float]) -> None:
    """Natural logarithms of probabilities: none above 0, and those of different tokens sum to at most 1."""
    if max(numbers) > 1e-6:
        raise _UnfitError(f"a log-probability is {max(numbers):.3g}, above 0")
    sums = [math.fsum(math.exp(x) for x in top if not math.isnan(x)) for top in found.top]
    if max(sums) > 1.01:
        raise _UnfitError(
            f"probabilities of different tokens in one place sum to {max(sums):.3g}: these are not natural logarithms"
        )


def _check_tokenizer(ask: Ask, tokenizer: Any, way: Way, top: int) -> None:
    """The server must read a text as the ids that we make of it, with or without its special tokens in front."""
    text = _TEXTS[0] + _CONTINUATION
    found = ask(way, text, top)
    for special in (False, True):
        ids = list(tokenizer(text, add_special_tokens=special)["input_ids"])
        try:
            theirs, ours = found.of(ids, 1), _numbers(ask(way, ids, top), ids, 1)
        except (MalformedError, RequestError):
            continue
        if not any(map(math.isnan, theirs)) and _difference(theirs, ours) <= _TOLERANCE:
            return
    raise _UnfitError(
        f"it reads the probe's text as other tokens than the local tokenizer ({len(_ids(tokenizer, text))} of them); "
        "give the folder of the served model's own tokenizer"
    )


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _difference(a: Sequence[float], b: Sequence[float]) -> float:
    """Mean absolute difference, nats per token."""
    return math.fsum(abs(x - y) for x, y in zip(a, b, strict=True)) / max(1, len(a))
