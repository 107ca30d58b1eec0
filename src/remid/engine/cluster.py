"""Scoring and writing on a Ray cluster: work is cut into tasks, workers that own a model compute them.

What a task holds does not depend on how many workers there are, and every worker has the same model, engine, floating
type and number of threads; so the numbers do not depend on who computed them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar

import numpy as np

from remid.engine.cluster_pool import Pool, PoolSettings
from remid.engine.cluster_ray import RayCluster
from remid.engine.cluster_tasks import Piece, Task, cut_chats, cut_works
from remid.engine.cluster_worker import Outcome, Recipe
from remid.engine.work import Chat, Scored, Work, Written
from remid.errors import EngineError

Place = TypeVar("Place", int, tuple[int, int])


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """How work is spread.

    workers: None: as many as the cluster has room for. threads: processors of each worker. memory: bytes that a worker
    needs, 0: not counted. task_tokens, chats_per_task: size of a task, which is what a lost worker costs at most twice.
    retries: how often a task is tried again after its worker died; a worker takes along answers that it has not sent
    yet, so with 0 a neighbour may be blamed. patience: seconds to wait while there is no worker.
    """

    workers: int | None = None
    threads: int = 1
    memory: int = 0
    task_tokens: int = 8192
    chats_per_task: int = 16
    retries: int = 2
    patience: float = 600.0


class ClusterEngine:
    """ScoringEngine and WritingEngine over the workers of a cluster; a context manager that ends its workers."""

    def __init__(
        self,
        cluster: RayCluster,
        recipe: Recipe,
        settings: ClusterSettings | None = None,
        *,
        device: str = "cpu",
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        """recipe: makes a worker's engine, on the worker; for models, ModelRecipe. device: of every worker, as
        cluster.resolve_device gave it; on "cuda" each has one GPU. say: told when workers are lost.

        Returns when the first worker is ready. Raises EngineError when the cluster has no room, or a node has another
        model or no model.
        """
        self._settings = settings = settings or ClusterSettings()
        needs: dict[str, float] = {"CPU": settings.threads}
        needs |= {"GPU": 1.0} if device == "cuda" else {}
        needs |= {"memory": float(settings.memory)} if settings.memory else {}
        workers = cluster.room(needs) if settings.workers is None else settings.workers
        if workers < 1:
            wanted = " ".join(f"{kind}={need:g}" for kind, need in needs.items())
            raise EngineError(
                f"Ray on {cluster.place} has no room for a worker with {wanted}; there are {cluster.describe()}"
            )
        shape = PoolSettings(workers, settings.threads, needs, settings.retries, settings.patience)
        self._pool = Pool(cluster, recipe, shape, say)
        self._workers = workers

    @property
    def name(self) -> str:
        """ "ray, 2 workers: " and what each of them is."""
        assert self._pool.reference is not None
        return f"ray, {self._workers} workers: {self._pool.reference.engine}"

    def wait(self) -> int:
        """Wait until every worker has begun or patience is at an end; how many have. Scoring need not wait for it."""
        return self._pool.wait_for_all()

    def score(self, work: Sequence[Work]) -> Iterator[list[Scored]]:
        """Results task by task as they are finished; while the caller stores one, at most two per worker wait.

        What workers keep dying of, or have no memory for, comes back as missing, for another run to try again. Raises
        EngineError when no worker is left, and whatever an engine raised that it should not; what was yielded stands.
        """

        def payload(task: Task) -> list[Work]:
            return [_part(work[p.work], p) for p in task.items if isinstance(p, Piece)]

        tasks = cut_works(work, self._settings.task_tokens)
        for task, outcome in self._pool.run(tasks, "score", payload):
            yield _scored(task, outcome)

    def write(self, chats: Sequence[Chat]) -> Iterator[list[Written]]:
        """Texts in batches of neighbouring chats, as they are finished; for the rest see score."""

        def payload(task: Task) -> list[Chat]:
            return [chats[k] for k in task.items if isinstance(k, int)]

        for task, outcome in self._pool.run(cut_chats(len(chats), self._settings.chats_per_task), "write", payload):
            yield _written(task, outcome)

    def close(self) -> None:
        """End the workers; the cluster stays."""
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _part(work: Work, piece: Piece) -> Work:
    return Work(work.prompt, work.continuations[piece.start : piece.stop])


def _scored(task: Task, outcome: Outcome) -> list[Scored]:
    """A task's results at their places in what was asked; what is not there is missing for the outcome's reason."""
    pieces = [item for item in task.items if isinstance(item, Piece)]
    left = {(k, c) for k, piece in enumerate(pieces) for c in range(piece.stop - piece.start)}
    results = []
    for one in outcome.done:
        _cross_out(left, (one.work, one.continuation))
        piece = pieces[one.work]
        # A copy: what Ray hands out may lie in its object store, and would hold it there.
        logp_T = None if one.logp_T is None else np.array(one.logp_T)
        results.append(Scored(piece.work, piece.start + one.continuation, logp_T, one.missing, one.again))
    for k, c in sorted(_unanswered(left, outcome)):
        results.append(Scored(pieces[k].work, pieces[k].start + c, None, outcome.reason, again=True))
    return results


def _written(task: Task, outcome: Outcome) -> list[Written]:
    places = [item for item in task.items if isinstance(item, int)]
    left = set(range(len(places)))
    results = []
    for one in outcome.done:
        _cross_out(left, one.chat)
        results.append(Written(places[one.chat], one.text, one.finished, one.missing, one.again))
    lost = sorted(_unanswered(left, outcome))
    return results + [Written(places[k], None, False, outcome.reason, again=True) for k in lost]


def _cross_out(left: set[Place], place: Place) -> None:
    if place not in left:
        raise RuntimeError(f"a worker's engine answered {place} twice or unasked")
    left.remove(place)


def _unanswered(left: set[Place], outcome: Outcome) -> set[Place]:
    if left and outcome.state == "whole":
        raise RuntimeError(f"a worker's engine left {len(left)} of a task unanswered")
    return left
