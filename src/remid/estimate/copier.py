"""How much of a response's information copying explains: a speaker who does not know the input but may repeat it.

A copy of the input is the most informative response there is, so information splits into what such a copier has too
("repeated") and what it has not ("earned"):

    log q(y|x) - log q(y)  =  [log q(y|x) - log c(y|x) - a T]  +  [log c(y|x) - log q(y) + a T]      a = -log(1 - begin)

c is a hidden Markov model. Each token is either *free*, drawn as without the input, or the next token of a stretch of
the input that is being copied. Every stretch costs the log of how many places it may begin at, so two words that happen
to stand in the input explain nothing, and ten in a row explain nearly all of themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from remid.types import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class Copier:
    """begin: probability that a token begins a copy, at any place of the input alike. stop: that a copy ends behind a
    token; it ends with its text in any case. Neither matters much (docs/log.md, 2026-11-27)."""

    begin: float = 0.02
    stop: float = 0.2

    def __post_init__(self) -> None:
        if not (0 <= self.begin < 1 and 0 <= self.stop <= 1):
            raise ValueError(f"begin must lie in [0, 1) and stop in [0, 1], not {self.begin} and {self.stop}")


@dataclass(frozen=True, slots=True)
class Split:
    """A response's information token by token, nats, both (T,): earned + repeated = log q(y|x) - log q(y)."""

    earned_T: FloatArray
    repeated_T: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Copyable:
    """An input's texts, ready to be copied from: where each token stands. Made once for all responses to an input."""

    place_token: Mapping[int, IntArray]
    ends: IntArray
    places: int

    @classmethod
    def of(cls, texts: Sequence[Sequence[int]]) -> Copyable:
        """texts: token ids; a copy does not run from one text into the next, since a gap stands behind each."""
        where: dict[int, list[int]] = {}
        ends, at = [], 0
        for text in texts:
            for token in text:
                where.setdefault(token, []).append(at)
                at += 1
            ends.append(at)
            at += 1
        made = {token: np.array(places, dtype=np.int64) for token, places in where.items()}
        return cls(made, np.array(ends, dtype=np.int64), at - len(ends))


def split_information(
    response: Sequence[int],
    own_T: FloatArray,
    free_T: FloatArray,
    sources: Copyable | Sequence[Sequence[int]],
    copier: Copier | None = None,
) -> Split:
    """What of a response's information is earned and what repeated.

    Repeated is counted from the way on which no token is a copy, so that a response which copies nothing has 0 of it,
    and a token earns nothing by not being one.

    response: T token ids. own_T: log q of each under its own input; free_T: the same without it, as under other inputs
    (nats per token). sources: the input's texts as token ids.
    Raises ValueError for lengths that differ.
    """
    source = sources if isinstance(sources, Copyable) else Copyable.of(sources)
    how = copier or Copier()
    copied_T = copier_logp(response, free_T, source, how)
    if own_T.shape != free_T.shape:
        raise ValueError(f"own_T and free_T must be alike, not {own_T.shape} and {free_T.shape}")
    repeated_T = copied_T - free_T - (np.log1p(-how.begin) if source.places else 0.0)
    return Split(own_T - free_T - repeated_T, repeated_T)


def copier_logp(
    response: Sequence[int],
    free_T: FloatArray,
    sources: Copyable | Sequence[Sequence[int]],
    copier: Copier | None = None,
) -> FloatArray:
    """(T,) log c(y_t | x, y_<t) in nats, by the forward algorithm (Rabiner 1989), O(T times how often a token stands).

    Arguments as split_information's. An input without tokens leaves nothing to copy: free_T. Raises ValueError where
    response and free_T differ in length.
    """
    if len(response) != len(free_T):
        raise ValueError(f"{len(response)} tokens, but {len(free_T)} log-probabilities")
    how, source = copier or Copier(), sources if isinstance(sources, Copyable) else Copyable.of(sources)
    if not source.places:
        return np.array(free_T, dtype=np.float64)
    enter = how.begin / source.places
    # The last token was free; or it was copied, and its weight stands at the place that comes next.
    free, ahead_L = 1.0, np.zeros(source.places + len(source.ends) + 1)
    filled, logp_T = _NOWHERE, np.empty(len(response))
    for t, token in enumerate(response):
        copying = float(ahead_L[filled].sum())
        goes_on = (1 - how.stop) * (copying - float(ahead_L[source.ends].sum()))
        left = copying - goes_on  # a copy stopped, or its text is over
        places = source.place_token.get(token, _NOWHERE)
        copies = (1 - how.stop) * ahead_L[places] + free * enter
        ahead_L[filled] = 0.0
        said_freely = (free * (1 - how.begin) + left) * float(np.exp(free_T[t]))
        both = said_freely + float(copies.sum())
        if not both > 0:  # exp has run out of range: freely, since nothing copies it
            logp_T[t] = free_T[t] + np.log(free * (1 - how.begin) + left)
            free, filled = 1.0, _NOWHERE
            continue
        logp_T[t] = np.log(both)
        free, filled = said_freely / both, places + 1
        ahead_L[filled] = copies / both
    return logp_T


_NOWHERE: IntArray = np.zeros(0, dtype=np.int64)
