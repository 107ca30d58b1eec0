"""How work is cut into tasks for a cluster: a pure function of the work, so that any number of workers gets the same.

A task is what one worker computes in one go, what comes back in one batch, and what is lost with a worker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from remid.engine.work import Work
from remid.lm.tree import arrange, shared

#: A Work is split when its continuations take more than this many times its prompt (and more than a task): each part
#: computes the prompt again, so that splitting costs at most about a sixteenth.
_SPLIT_AT = 16


@dataclass(frozen=True, slots=True)
class Piece:
    """The continuations start..stop-1 of one Work, by their places in what was asked."""

    work: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Task:
    """items: pieces of works, or places of chats. cost: tokens (or chats). losses: workers that died while at it."""

    items: tuple[Piece, ...] | tuple[int, ...]
    cost: int
    losses: int = 0


def cut_works(work: Sequence[Work], limit: int) -> list[Task]:
    """Tasks of about `limit` tokens, the most expensive first.

    Prompts with a common beginning stay together, in the order in which an engine runs them, since it runs what they
    share once; after half the limit a cut is made where a prompt has little in common with the one before.
    """
    tasks: list[Task] = []
    current: list[Piece] = []
    used = 0
    before: tuple[int, ...] = ()
    for piece in [piece for place, _ in arrange(work) for piece in _pieces(place, work[place], limit)]:
        prompt = work[piece.work].prompt
        own = sum(len(c) for c in work[piece.work].continuations[piece.start : piece.stop])
        common = shared(before, prompt)
        full = used + len(prompt) - common + own > limit
        apart = 2 * common < len(prompt) and 2 * used >= limit
        if current and (full or apart):
            tasks.append(Task(tuple(current), used))
            current, used, common = [], 0, 0
        current.append(piece)
        used += len(prompt) - common + own
        before = prompt
    if current:
        tasks.append(Task(tuple(current), used))
    return sorted(tasks, key=lambda task: -task.cost)


def cut_chats(count: int, size: int) -> list[Task]:
    """Tasks of `size` neighbouring chats, in the order given: the batches that one engine alone would make."""
    return [Task(tuple(range(k, min(k + size, count))), min(size, count - k)) for k in range(0, count, size)]


def alone(task: Task) -> list[Task]:
    """A task that workers die of, item by item: the next death hits the culprit and no bystander."""
    share = task.cost // len(task.items)
    return [Task((item,), share, task.losses) for item in task.items]  # type: ignore[arg-type]  # one item, one kind


def _pieces(place: int, work: Work, limit: int) -> list[Piece]:
    """One Work, whole or in parts of neighbouring continuations."""
    room = max(limit - len(work.prompt), _SPLIT_AT * len(work.prompt))
    pieces: list[Piece] = []
    start = used = 0
    for index, continuation in enumerate(work.continuations):
        if index > start and used + len(continuation) > room:
            pieces.append(Piece(place, start, index))
            start, used = index, 0
        used += len(continuation)
    return [*pieces, Piece(place, start, len(work.continuations))] if work.continuations else pieces
