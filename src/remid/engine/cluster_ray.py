"""The connection to Ray: start one here or join one, say what it has room for, and end what we started."""

from __future__ import annotations

import logging
import os
import socket
from types import ModuleType, TracebackType
from typing import Any, Self

from remid.errors import EngineError

#: Bytes for Ray's object store when we start Ray here: tasks and answers are small and pass through quickly.
_OBJECT_STORE = 256 * 2**20
_KNOCK = 10.0  # seconds to wait for an address to answer
_ADVICE = 'is it running there ("ray start --head"), reachable, and of the same Ray and Python version as here?'
_JOIN = "a Ray that is running already can be joined by its address"
_TOKEN = (
    "it asks for a token: set RAY_AUTH_MODE=token here and on every node, and give all of them the head node's token "
    "(docs/cluster.md)"
)


class RayCluster:
    """A connection to Ray; a context manager. One per process, as Ray has it: where one exists already, it is used as
    it is and left running."""

    def __init__(self, address: str | None = None, *, cpus: int | None = None) -> None:
        """address: None starts Ray on this machine; "auto", "host:port" or "ray://host:port" joins one.

        cpus: for a Ray started here, how many processors it may give away; None: all. Raises EngineError when Ray is
        not installed, cannot be started, or cannot be reached.
        """
        self.ray: Any = _import_ray()
        self._ours = not self.ray.is_initialized()
        self.place = address or "this machine"
        if self._ours:
            self._connect(address, cpus)

    def _connect(self, address: str | None, cpus: int | None) -> None:
        settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address is None:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # we start it, so we answer for what it sends out
            settings |= {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": _OBJECT_STORE}
        _knock(address)
        try:
            # "local" and not None, which would join whatever RAY_ADDRESS names.
            self.ray.init(address=address or "local", **settings)
        except Exception as error:
            first = str(error).strip().partition("\n")[0]
            advice = _TOKEN if _asks_for_token(error) else _ADVICE if address else _JOIN
            raise EngineError(f"Ray on {self.place}: {type(error).__name__}: {first}; {advice}") from error

    def resolve_device(self, device: str) -> str:
        """The device of every worker: "auto" is CUDA where a node of the cluster has a GPU, else the CPU.

        A number is dropped ("cuda:1"): Ray shows each worker one GPU.
        """
        if device == "auto":
            return "cuda" if any(node.get("GPU", 0) >= 1 for node in self._nodes()) else "cpu"
        return device.partition(":")[0]

    def room(self, needs: dict[str, float]) -> int:
        """How many workers that need this much of Ray's resources ("CPU", "GPU", "memory" in bytes) the nodes hold."""
        return sum(min(int(node.get(kind, 0) // need) for kind, need in needs.items()) for node in self._nodes())

    def describe(self) -> str:
        """The nodes' resources, for messages."""
        kinds = ("CPU", "GPU", "memory")
        nodes = [" ".join(f"{kind}={node[kind]:g}" for kind in kinds if kind in node) for node in self._nodes()]
        return f"{len(nodes)} nodes: " + "; ".join(nodes)

    def _nodes(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

    def close(self) -> None:
        """End the connection, and the Ray that was started here."""
        if self._ours and self.ray.is_initialized():
            self.ray.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _knock(address: str | None) -> None:
    """Ray itself takes minutes to find that nobody listens at an address."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # "auto", or something for Ray to judge
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK).close()
    except (OSError, OverflowError) as error:
        raise EngineError(f"Ray on {address}: nobody answers there ({error}); {_ADVICE}") from error


def _asks_for_token(error: BaseException | None) -> bool:
    """Ray says so somewhere down the chain of causes."""
    while error is not None:
        if "authentication" in f"{type(error).__name__} {error}".lower():
            return True
        error = error.__cause__ or error.__context__
    return False


def _import_ray() -> ModuleType:
    try:
        import ray
    except ImportError as error:
        raise EngineError("a cluster needs Ray: pip install remid[ray]") from error
    module: ModuleType = ray
    return module
