"""Workers on a Ray cluster, and tasks handed to them: two at a time, again when a worker is lost, never for ever."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from remid.engine.cluster_ray import RayCluster
from remid.engine.cluster_tasks import Task, alone
from remid.engine.cluster_worker import Outcome, Ready, Recipe, Refused, Worker
from remid.errors import EngineError

#: Tasks that a worker holds: one that it computes and one that lies ready, so that it never waits for us.
_IN_FLIGHT = 2
#: Deaths in a row before it could begin, after which a worker is not started again.
_MOST_STARTS = 3
_TICK = 1.0  # seconds between looks at what waits for a worker


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """workers, threads: how many, and of each. needs: Ray's resources of one ("CPU", "GPU", "memory" in bytes).

    retries: how often a task is tried again after its worker died. patience: seconds to wait while there is no worker.
    """

    workers: int
    threads: int
    needs: dict[str, float]
    retries: int
    patience: float


@dataclass(slots=True)
class _Sent:
    """A call under way: its reference, and the task, or None for the call that starts the engine."""

    ref: Any
    task: Task | None


@dataclass(slots=True)
class _Slot:
    """The place of one worker, whichever process fills it. sent: calls in the order in which they are computed."""

    actor: Any
    sent: deque[_Sent] = field(default_factory=deque)
    ready: Ready | None = None
    failed_starts: int = 0
    replaced: bool = False


class Pool:
    """Starts workers, keeps them busy, replaces them. `say` is told what the user may want to know."""

    def __init__(self, cluster: RayCluster, recipe: Recipe, settings: PoolSettings, say: Callable[[str], None]) -> None:
        """Returns when the first worker is ready; the others join when they are. Raises EngineError if none comes."""
        self._ray = cluster.ray
        self._cluster = cluster
        self._settings = settings
        self._say = say
        from ray import cloudpickle

        pickler: Any = cloudpickle
        self._recipe: bytes = pickler.dumps(recipe)
        needs = settings.needs
        self._actor_class = self._ray.remote(Worker).options(
            num_cpus=needs["CPU"],
            num_gpus=needs.get("GPU", 0),
            memory=int(needs["memory"]) if "memory" in needs else None,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
        )
        self._todo: deque[Task] = deque()
        self._barren = 0  # deaths since a task was last finished
        self._alone_since = time.monotonic()  # since when no worker is ready
        self._last_reason = ""
        self._running = False
        self.reference: Ready | None = None
        self._slots = [self._open() for _ in range(settings.workers)]
        try:
            while self.reference is None:
                for _ in self._wait():
                    pass
        except BaseException:
            self.close()
            raise

    def run(
        self, tasks: Sequence[Task], method: Literal["score", "write"], payload: Callable[[Task], Any]
    ) -> Iterator[tuple[Task, Outcome]]:
        """Every task once, or in parts that make it up, as they are finished. payload: what a worker is sent.

        At most two tasks per worker are under way or finished and unread. Raises EngineError when no worker is left.
        """
        if self._running:
            raise RuntimeError("a cluster engine answers one call at a time")
        self._running = True
        self._todo = deque(tasks)
        self._barren = 0
        try:
            while self._todo or any(sent.task for slot in self._slots for sent in slot.sent):
                self._hand_out(method, payload)
                for finished in self._wait():
                    self._hand_out(method, payload)  # before the consumer takes its time
                    yield finished
        finally:
            self._running = False
            self._withdraw()

    def wait_for_all(self) -> int:
        """Wait until every worker is ready, or patience ends; how many are."""
        begin = time.monotonic()
        while any(slot.ready is None for slot in self._slots) and time.monotonic() - begin < self._settings.patience:
            for _ in self._wait():
                pass
        return sum(slot.ready is not None for slot in self._slots)

    def close(self) -> None:
        """End the workers."""
        for slot in self._slots:
            self._kill(slot)
        self._slots = []

    def _open(self) -> _Slot:
        slot = _Slot(self._actor_class.remote())
        self._begin(slot)
        return slot

    def _begin(self, slot: _Slot) -> None:
        slot.ready = None
        slot.sent = deque([_Sent(slot.actor.start.remote(self._recipe, self._settings.threads), None)])

    def _hand_out(self, method: str, payload: Callable[[Task], Any]) -> None:
        """Give every ready worker something to do, and one thing more while there is plenty."""
        ready = [slot for slot in self._slots if slot.ready]
        for depth in range(_IN_FLIGHT):
            if depth and len(self._todo) <= len(ready):
                return  # near the end a task that lies ready would keep another worker idle
            for slot in ready:
                if self._todo and len(slot.sent) == depth:
                    # What a worker has died of is computed alone: a worker that dies takes along answers which it has
                    # not sent yet, and the next death has to hit the culprit.
                    if depth and (self._todo[0].losses or (slot.sent[0].task and slot.sent[0].task.losses)):
                        continue
                    task = self._todo.popleft()
                    slot.sent.append(_Sent(getattr(slot.actor, method).remote(payload(task)), task))

    def _wait(self) -> Iterator[tuple[Task, Outcome]]:
        """Wait for something to happen, for a second at most; what came of tasks meanwhile, taken one by one."""
        # A worker computes in the order of its calls, so the first is done first, or is the one it died of.
        fronts = {slot.sent[0].ref: slot for slot in self._slots if slot.sent}
        if not fronts:
            raise EngineError(f"no worker is left on Ray ({self._cluster.place}): {self._last_reason}")
        self._ray.wait(list(fronts), num_returns=1, timeout=_TICK)
        done, _ = self._ray.wait(list(fronts), num_returns=len(fronts), timeout=0)
        for ref in done:
            yield from self._collect(fronts[ref])
        self._check_patience()

    def _check_patience(self) -> None:
        if any(slot.ready for slot in self._slots):
            self._alone_since = time.monotonic()
        elif time.monotonic() - self._alone_since > self._settings.patience:
            needs = " ".join(f"{kind}={need:g}" for kind, need in self._settings.needs.items())
            raise EngineError(
                f"no worker could be had from Ray ({self._cluster.place}) for {self._settings.patience:g} s: each "
                f"needs {needs}, there are {self._cluster.describe()}. {self._last_reason}".rstrip()
            )

    def _collect(self, slot: _Slot) -> list[tuple[Task, Outcome]]:
        from ray.exceptions import RayError, RayTaskError

        sent = slot.sent.popleft()
        try:
            value = self._ray.get(sent.ref)
        except RayTaskError:
            raise  # an exception that nobody expected keeps its type, and its traceback on the worker
        except RayError as error:
            return self._lost(slot, sent, _cause(error))
        if sent.task is None:
            self._welcome(slot, value)
            return []
        if value.state == "broken":
            return self._lost(slot, sent, value.reason)
        if value.state == "failed":
            raise EngineError(f"{value.reason} (worker on {slot.ready.node if slot.ready else '?'})")
        self._barren = 0
        return [(sent.task, value)]

    def _welcome(self, slot: _Slot, answer: Ready | Refused) -> None:
        """A worker has begun, or cannot. What is wrong from the start ends the run; later, the others go on."""
        if isinstance(answer, Ready) and self.reference is None:
            self.reference = answer
        problem = self._problem(answer)
        if problem is None:
            assert isinstance(answer, Ready)
            slot.ready, slot.failed_starts = answer, 0
            return
        if not slot.replaced:
            raise EngineError(problem)
        self._say(f"ray: a worker is not replaced: {problem}")
        self._give_up(slot, problem)

    def _problem(self, answer: Ready | Refused) -> str | None:
        if isinstance(answer, Refused):
            return f"node {answer.node}: {answer.reason}"
        assert self.reference is not None
        ours, theirs = (self.reference.engine, *self.reference.versions), (answer.engine, *answer.versions)
        if ours == theirs:
            return None
        return (
            f"nodes would not compute the same numbers: {answer.node} has {', '.join(theirs)}; "
            f"{self.reference.node} has {', '.join(ours)}"
        )

    def _lost(self, slot: _Slot, sent: _Sent, cause: str) -> list[tuple[Task, Outcome]]:
        """A worker is gone: what it had not finished goes to others, and another takes its place."""
        node = slot.ready.node if slot.ready else "a node"
        waiting = [other.task for other in slot.sent if other.task]
        self._todo.extendleft(reversed(waiting))
        self._last_reason = f"the last one died on {node}: {cause}"
        self._kill(slot)
        if sent.task is None:
            slot.failed_starts += 1
            if slot.failed_starts >= _MOST_STARTS:
                self._give_up(slot, f"{slot.failed_starts} workers died while loading the model: {cause}")
                return []
        slot.actor, slot.replaced = self._actor_class.remote(), True
        self._begin(slot)
        if sent.task is None:
            return []
        self._say(f"ray: lost a worker on {node} ({cause}); {1 + len(waiting)} unfinished tasks go to others")
        self._barren += 1
        self._alone_since = time.monotonic()  # the wait begins now, however long the caller took before
        limit = 2 * (self._settings.retries + 1) + self._settings.workers
        if self._barren > limit:
            raise EngineError(f"{self._barren} workers died and finished nothing in between; {self._last_reason}")
        return self._again(sent.task, cause)

    def _again(self, task: Task, cause: str) -> list[tuple[Task, Outcome]]:
        """Behind everything else, so that a task which kills workers hinders the others least; at last, not at all."""
        task = replace(task, losses=task.losses + 1)
        if task.losses > self._settings.retries:
            reason = f"{task.losses} workers died one after the other while they computed it ({cause})"
            return [(task, Outcome((), "refused", reason))]
        self._todo.extend(alone(task) if task.losses == self._settings.retries else [task])
        return []

    def _give_up(self, slot: _Slot, reason: str) -> None:
        self._last_reason = reason
        self._kill(slot)
        self._slots.remove(slot)

    def _kill(self, slot: _Slot) -> None:
        slot.sent.clear()
        slot.ready = None
        with contextlib.suppress(Exception):  # it may be dead, or Ray may be
            self._ray.kill(slot.actor, no_restart=True)

    def _withdraw(self) -> None:
        """Forget tasks that nobody waits for any more; one that is being computed runs to its end unheard."""
        self._todo.clear()
        for slot in self._slots:
            abandoned = [sent for sent in slot.sent if sent.task]
            slot.sent = deque(sent for sent in slot.sent if not sent.task)
            for sent in abandoned:
                with contextlib.suppress(Exception):
                    self._ray.cancel(sent.ref)


def _cause(error: Exception) -> str:
    """Why a worker was lost, in words without process ids and addresses: it is stored with results."""
    text = str(error).lower()
    if "low on memory" in text:
        return "its node ran out of memory"
    return "its node is gone" if "node has died" in text else "its process died"
