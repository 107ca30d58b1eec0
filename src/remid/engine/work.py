"""What every engine is asked and what it answers. Scoring speaks token ids, generation speaks chats."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from remid.lm.chat import Message
from remid.lm.work import Scored, TokenLogProbs, Work

__all__ = ["Chat", "Scored", "ScoringEngine", "TokenLogProbs", "Work", "WritingEngine", "Written", "seed_of"]


class ScoringEngine(Protocol):
    """Scores continuations of prompts."""

    @property
    def name(self) -> str:
        """What does the work, in words for the user: "tree attention, float32, cpu, 2 threads"."""
        ...

    def score(self, work: Sequence[Work]) -> Iterator[list[Scored]]:
        """Results in batches, in any order, each continuation exactly once; a batch is stored before the next is asked.

        A continuation that cannot be scored comes with its reason. Raises ModelError or EngineError where nothing can.
        """
        ...


@dataclass(frozen=True, slots=True)
class Chat:
    """One text to write: a conversation that ends with the other side's turn. opening: begun for the model, kept out
    of its answer. draw: number, from 1, among several texts that are sampled for these messages and
    differ by it; 0: there is one."""

    messages: tuple[Message, ...]
    opening: str = ""
    draw: int = 0


def seed_of(chat: Chat, seed: int) -> int:
    """For samplers that seed every text by itself: a text that is one of several has a seed of its own, since with one
    for all, draws of different chats would share their chance."""
    if not chat.draw:
        return seed
    said = json.dumps([seed, chat.draw, [[m.role, m.content] for m in chat.messages]])
    return zlib.crc32(said.encode()) >> 1  # some servers take 31 bits


@dataclass(frozen=True, slots=True)
class Written:
    """What came of one chat. finished: False where the limit of tokens cut it off. missing: why text is None.

    again: whether another try may succeed, so that the failure is told but not stored.
    """

    chat: int
    text: str | None
    finished: bool
    missing: str | None = None
    again: bool = False


class WritingEngine(Protocol):
    """Writes texts: responses, traces, judgements."""

    @property
    def name(self) -> str:
        """What does the work, in words for the user."""
        ...

    def write(self, chats: Sequence[Chat]) -> Iterator[list[Written]]:
        """Results in batches, each chat exactly once; a batch is stored before the next is asked.

        Raises ModelError or EngineError where nothing can be written.
        """
        ...
