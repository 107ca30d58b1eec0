"""Requests side by side: a few threads that ask, and an iterator that hands over answers as they come."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

Job = TypeVar("Job")
Answer = TypeVar("Answer")


class Done(Generic[Job, Answer]):
    """A job with its answer, or with what it raised."""

    __slots__ = ("answer", "error", "job")

    def __init__(self, job: Job, answer: Answer | None, error: BaseException | None) -> None:
        self.job = job
        self.answer = answer
        self.error = error


def side_by_side(
    jobs: Iterable[Job], ask: Callable[[Job], Answer], workers: int, stop: threading.Event
) -> Iterator[list[Done[Job, Answer]]]:
    """Run `ask` over jobs in their order, at most `workers` at once; batches of whatever is finished, errors included.

    Once `stop` is set no further job is begun; those under way are waited for. Closing the iterator sets it and waits
    for nobody: the threads are daemons, so that an interrupted command ends at once.
    """
    todo: queue.SimpleQueue[tuple[Job] | None] = queue.SimpleQueue()
    finished: queue.SimpleQueue[Done[Job, Answer]] = queue.SimpleQueue()

    def work() -> None:
        while (entry := todo.get()) is not None:
            (job,) = entry
            try:
                finished.put(Done(job, ask(job), None))
            except BaseException as error:  # handed over, not swallowed: who iterates decides
                finished.put(Done(job, None, error))

    source, under_way, started = iter(jobs), 0, 0
    try:
        while True:
            while under_way < workers and not stop.is_set():
                entry = next(((job,) for job in source), None)
                if entry is None:
                    break
                todo.put(entry)
                under_way += 1
                if started < under_way:
                    threading.Thread(target=work, name="remid-server", daemon=True).start()
                    started += 1
            if not under_way:
                return
            batch = [finished.get()]
            while not finished.empty():
                batch.append(finished.get())
            under_way -= len(batch)
            yield batch
    finally:
        stop.set()
        for _ in range(started):
            todo.put(None)
