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
    """Parts that are not taken yet. Neighbours share beginnings, so every taker has a run of them, all runs of about
    the same cost; whoever has finished his own takes over half of what the one with the most left still has."""

    def __init__(self, work: Sequence[Work], parts: Sequence[Part], takers: int) -> None:
        self._work, self._parts = work, parts
        self._cost = [sum(len(work[w].continuations[k]) for k in ks) for w, ks in parts]
        self._runs = self._begin(takers)
        self._begun = [False] * takers
        self._walking = 0
        self._lock = threading.Lock()

    def walk(self) -> Iterator[tuple[int, int]]:
        """(part, tokens kept of the prompt before) of the next taker, until nothing is left."""
        with self._lock:
            taker = self._walking
            self._walking += 1
        before: tuple[int, ...] = ()
        while (number := self._take(taker)) is not None:
            prompt = self._work[self._parts[number][0]].prompt
            # The last token always runs: what follows it is read off its row.
            yield number, min(shared(before, prompt), len(prompt) - 1)
            before = prompt

    def _take(self, taker: int) -> int | None:
        with self._lock:
            start, stop = self._runs[taker]
            self._begun[taker] = True
            if start == stop:
                start, stop = self._take_over()
            if start == stop:
                return None
            self._runs[taker] = start + 1, stop
            return start

    def _take_over(self) -> tuple[int, int]:
        """The end of the longest run, cut where both halves take the same time; its owner keeps the beginning.

        Who has not begun yet, since threads start one by one, keeps at least a part.
        """
        free = [
            (start + (start < stop and not begun), stop)
            for (start, stop), begun in zip(self._runs, self._begun, strict=True)
        ]
        owner = max(range(len(free)), key=lambda k: self._total(*free[k]))
        (start, stop), cuts = self._runs[owner], range(*free[owner])
        if not cuts:
            return stop, stop
        cut = min(cuts, key=lambda c: max(self._total(start, c), self._total(c, stop)))
        self._runs[owner] = start, cut
        return cut, stop

    def _begin(self, takers: int) -> list[tuple[int, int]]:
        runs = [(0, len(self._parts))]
        while len(runs) < takers:
            longest = max(range(len(runs)), key=lambda k: self._total(*runs[k]))
            start, stop = runs[longest]
            cuts = range(start + 1, stop)
            if not cuts:
                runs.append((stop, stop))
                continue
            cut = min(cuts, key=lambda c: max(self._total(start, c), self._total(c, stop)))
            runs[longest : longest + 1] = [(start, cut), (cut, stop)]
        return runs

    def _total(self, start: int, stop: int) -> int:
        """Tokens that a run takes whoever begins it: its continuations, and each of its prompts once."""
        prompts = {self._parts[number][0] for number in range(start, stop)}
        return sum(self._cost[start:stop]) + sum(len(self._work[w].prompt) for w in prompts)


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
