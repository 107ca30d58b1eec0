"""Several threads that each walk a part of the works, one processor each, instead of one walk that splits its products.

Between the products of a forward pass lies much that does not split well (norms, rotations, masks, Python); a thread
that has a pass of its own keeps its processor busy meanwhile. Which thread runs a pair changes no digit of its score
(lm/attention.py), so this is a matter of time only.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from remid.lm.tree import arrange, shared
from remid.lm.work import Work

#: More walks than this have not been tried; further processors split the products of each walk.
_MOST = 8
#: A prompt's continuations are handed out in parts of so many tokens; the next part costs its thread one row.
_PART = 2048
#: Batches that wait for whoever takes them, for each thread: a slow disk holds scoring up instead of filling memory.
_WAITING = 2

T = TypeVar("T")

Part = tuple[int, tuple[int, ...]]
"""A work, and the continuations of it that run together."""


def lanes_for(parts: Sequence[Part], threads: int) -> int:
    """How many threads walk: not more than processors, nor than parts."""
    return max(1, min(threads, _MOST, len(parts)))


def parts_of(work: Sequence[Work]) -> list[Part]:
    """Works in the order to run, those with many continuations cut into several parts."""
    parts: list[Part] = []
    for index, _ in arrange(work):
        part: list[int] = []
        used = 0
        for k, continuation in enumerate(work[index].continuations):
            if part and used + len(continuation) > _PART:
                parts.append((index, tuple(part)))
                part, used = [], 0
            part.append(k)
            used += len(continuation)
        parts.append((index, tuple(part)))
    return parts


@dataclass(slots=True)
class _Told(Generic[T]):
    """What a lane tells: a result, or that it has ended, and by which error."""

    result: T | None = None
    error: BaseException | None = None
    ended: bool = False


class Pool:
    """Parts that are not taken yet. Neighbours share beginnings, so each taker gets a run of them: a share of what is
    left, which becomes smaller towards the end, so that all end together."""

    def __init__(self, work: Sequence[Work], parts: Sequence[Part], takers: int) -> None:
        self._work, self._parts, self._takers = work, parts, takers
        self._cost = [_rows(work[w], ks) for w, ks in parts]
        self._left = sum(self._cost)
        self._next = 0
        self._lock = threading.Lock()

    def walk(self) -> Iterator[tuple[int, int]]:
        """(part, tokens kept of the prompt before) of one taker, until nothing is left."""
        before: tuple[int, ...] = ()
        while taken := self._take():
            for number in taken:
                prompt = self._work[self._parts[number][0]].prompt
                # The last token always runs: what follows it is read off its row.
                yield number, min(shared(before, prompt), len(prompt) - 1)
                before = prompt

    def _take(self) -> range:
        with self._lock:
            first, wanted = self._next, self._left / (2 * self._takers)
            taken = 0
            while self._next < len(self._parts) and (self._next == first or taken + self._cost[self._next] <= wanted):
                taken += self._cost[self._next]
                self._next += 1
            self._left -= taken
            return range(first, self._next)


def run_lanes(lanes: int, body: Callable[[], Iterator[T]]) -> Iterator[T]:
    """What `body` yields in each of so many threads, in any order. Torch's threads are divided among them.

    Raises what a body raises, after the others have stopped at their next result and all results have been given.
    Closing the iterator stops them too.
    """
    results: queue.Queue[_Told[T]] = queue.Queue(_WAITING * lanes)
    stop = threading.Event()
    threads = torch.get_num_threads()

    def lane() -> None:
        told: _Told[T] = _Told(ended=True)
        try:
            torch.set_num_threads(max(1, threads // lanes))  # of this thread
            for result in body():
                results.put(_Told(result))
                if stop.is_set():
                    break
        except BaseException as error:
            told.error = error
        results.put(told)

    running: list[threading.Thread] = []
    errors: list[BaseException] = []
    ended = 0
    try:
        for number in range(lanes):
            running.append(threading.Thread(target=lane, name=f"lane-{number}"))
            running[-1].start()
        while ended < lanes:
            told = results.get()
            ended += told.ended
            if told.error is not None:
                errors.append(told.error)
                stop.set()
            elif not told.ended:
                yield told.result  # type: ignore[misc]
    finally:
        stop.set()
        while ended < len(running):  # a lane may wait for room to put its result
            ended += results.get().ended
        for thread in running:
            thread.join()
        torch.set_num_threads(threads)  # what threads that are started later begin with
    if errors:
        raise errors[0]


def _rows(item: Work, ks: Sequence[int]) -> int:
    return len(item.prompt) + sum(len(item.continuations[k]) for k in ks)
