"""What runs in a worker's process: one engine, made there by a recipe. Nothing here needs Ray itself."""

from __future__ import annotations

import gc
import os
import pickle
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from remid.engine.work import Chat, Scored, ScoringEngine, Work, WritingEngine, Written
from remid.errors import DeviceError, EngineError, ModelError, RemidError

if TYPE_CHECKING:
    from remid.lm.models import DTypeName, LoadedModel, ModelSource


class OwnedEngine(ScoringEngine, WritingEngine, Protocol):
    """What a recipe makes: an engine that scores and writes."""


Recipe = Callable[[], OwnedEngine]


@dataclass(frozen=True, slots=True)
class ModelRecipe:
    """Loads a model by name and puts an engine around it. Picklable, and holds no secret.

    model: "builtin", a folder that exists on every node under this path, or a hub id with its commit. fingerprint: of
    the model that the run is about, adapters included. engine: makes the engine from the loaded model (LocalEngine, or
    a partial of it). adapters: folders that exist on every node, lowest first.
    """

    model: str
    fingerprint: str
    device: str
    dtype: DTypeName
    engine: Callable[[LoadedModel], OwnedEngine]
    trust_remote_code: bool = False
    adapters: tuple[str, ...] = ()

    def __call__(self) -> OwnedEngine:
        """Raises ModelError when the model is not there, EngineError when it is another one."""
        from remid.lm.adapters import stack
        from remid.lm.models import find_model, load_model

        source = stack(find_model(self.model), [Path(folder) for folder in self.adapters])
        if source.fingerprint != self.fingerprint:
            raise EngineError(
                f"{self.model} is another model here (fingerprint {source.fingerprint}, the run's is "
                f"{self.fingerprint}); copy the same folders to every node"
            )
        return self.engine(
            load_model(source, device=self.device, dtype=self.dtype, trust_remote_code=self.trust_remote_code)
        )


def name_everywhere(source: ModelSource) -> str:
    """The name by which another node finds a model, without its adapters: an absolute path, a hub id pinned to its
    commit, or "builtin"."""
    source = source.root
    if source.folder is None:
        return "builtin"
    if source.fingerprint.startswith("hub:"):
        return source.fingerprint.removeprefix("hub:")
    return str(source.folder.resolve())


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker that can begin. engine: its name. versions: of what the numbers depend on."""

    node: str
    engine: str
    versions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """A worker that cannot begin on this node, and why."""

    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a task. done: Scored or Written, with places counted within the task.

    state: "whole"; "refused": what is not in done cannot be had, for the reason; "failed": the engine can do nothing;
    "broken": this process can do nothing any more, another might.
    """

    done: tuple[Any, ...]
    state: Literal["whole", "refused", "failed", "broken"] = "whole"
    reason: str = ""


class Worker:
    """Owns one engine. Made by Ray as an actor, one call at a time."""

    _engine: OwnedEngine

    def start(self, recipe: bytes, threads: int) -> Ready | Refused:
        """Make the engine. What the user can mend is refused with its reason; other exceptions are ours and escape."""
        # Before torch is imported, which happens when the recipe is unpickled at the earliest: idle threads sleep, and
        # every worker uses its own processors only.
        os.environ |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
        node = node_name()
        try:
            self._engine = cast(Recipe, pickle.loads(recipe))()
        except RemidError as error:
            return Refused(node, str(error))
        except (ImportError, AttributeError) as error:
            return Refused(node, f"{type(error).__name__}: {error}; every node needs the same remid and its packages")
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(threads)  # whoever set them while loading
        return Ready(node, self._engine.name, tuple(f"{name} {version(name)}" for name in ("remid", "torch")))

    def score(self, work: Sequence[Work]) -> Outcome:
        """Score one task."""
        return _gather(self._engine.score(work))

    def write(self, chats: Sequence[Chat]) -> Outcome:
        """Write one task."""
        return _gather(self._engine.write(chats))


def node_name() -> str:
    """Host and the beginning of Ray's id of the node: several nodes may share a host."""
    import ray

    return f"{socket.gethostname()} ({ray.get_runtime_context().get_node_id()[:8]})"


def _gather(batches: Iterator[list[Scored]] | Iterator[list[Written]]) -> Outcome:
    done: list[Any] = []
    try:
        for batch in batches:
            done += batch
    except ModelError as error:
        return Outcome(tuple(done), "refused", str(error))
    except DeviceError as error:
        return Outcome((), "broken", str(error))
    except EngineError as error:
        return Outcome(tuple(done), "failed", str(error))
    except Exception as error:
        from remid.lm.scoring import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        gc.collect()
        first = str(error).strip().partition("\n")[0]
        return Outcome(tuple(done), "refused", f"not enough memory on the worker: {first}")
    return Outcome(tuple(done))
