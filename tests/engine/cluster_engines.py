"""Small engines for workers of a cluster, whose prompts say what befalls them, and who write down what they compute.

The first token of a prompt is an order (FINE, KILL, ...). Workers import this module: its folder is on their path.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "lm"))

from remid.engine.work import Chat, Scored, Work, Written
from remid.errors import DeviceError, EngineError, ModelError

KILL, FINE, HOLD, NO_MODEL, NO_MEMORY, BUG, ENGINE_BROKEN, CUDA_ONCE, TWICE, SILENT, KILL_LATER = range(11)


@dataclass(frozen=True)
class Diary:
    """A file to which every worker appends, a line at a time."""

    path: Path

    def note(self, event: str, prompt: Sequence[int] = ()) -> None:
        import ray

        node = ray.get_runtime_context().get_node_id()
        line = json.dumps({"event": event, "pid": os.getpid(), "node": node, "prompt": list(prompt)}) + "\n"
        with self.path.open("a") as stream:
            stream.write(line)

    def read(self, event: str) -> list[dict]:
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return [entry for entry in map(json.loads, lines) if entry["event"] == event]

    def computed(self) -> list[tuple[int, ...]]:
        """The prompts that were computed to their end, as often as they were."""
        return [tuple(entry["prompt"]) for entry in self.read("done")]

    @property
    def gate(self) -> Path:
        """Work that is held goes on when this exists."""
        return self.path.with_suffix(".go")

    def burnt(self) -> Path:
        """Exists when the one accident has happened."""
        return self.path.with_suffix(".burnt")


@dataclass(frozen=True)
class Arithmetic:
    """Recipe of an engine without a model: numbers are a hash of prompt and continuation. refuse: on every start."""

    diary: Diary
    name: str = "arithmetic"
    refuse: str = ""
    die: bool = False

    def __call__(self) -> ArithmeticEngine:
        if self.refuse:
            raise ModelError(self.refuse)
        if self.die:
            self.diary.note("start")
            os.kill(os.getpid(), signal.SIGKILL)
        name = self.name
        if name == "by process":
            name = f"number {os.getpid()}"
        return ArithmeticEngine(self.diary, name)


@dataclass(frozen=True)
class ArithmeticEngine:
    diary: Diary
    name: str

    def score(self, work: Sequence[Work]) -> Iterator[list[Scored]]:
        for place, each in enumerate(work):
            self._obey(each.prompt)
            places = list(range(len(each.continuations)))
            if each.prompt[0] == SILENT:
                places = places[1:]
            if each.prompt[0] == TWICE:
                places = [0, *places]
            yield [Scored(place, c, arithmetic(each.prompt, each.continuations[c])) for c in places]
            self.diary.note("done", each.prompt)

    def write(self, chats: Sequence[Chat]) -> Iterator[list[Written]]:
        for place, chat in enumerate(chats):
            text = chat.messages[-1].content
            if text == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            yield [Written(place, text[::-1], finished=True)]

    def _obey(self, prompt: Sequence[int]) -> None:
        order = prompt[0]
        if order in (HOLD, KILL_LATER) and not self.diary.gate.exists():
            self.diary.note("held", prompt)
            while not self.diary.gate.exists():
                time.sleep(0.02)
        if order in (KILL, KILL_LATER):
            self.diary.note("killed", prompt)
            os.kill(os.getpid(), signal.SIGKILL)
        if order == NO_MODEL:
            raise ModelError("the prompt does not fit")
        if order == NO_MEMORY:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20 GiB")
        if order == BUG:
            raise ZeroDivisionError("a bug of ours")
        if order == ENGINE_BROKEN:
            raise EngineError("nothing can be scored any more")
        if order == CUDA_ONCE and not self.diary.burnt().exists():
            self.diary.burnt().touch()
            raise DeviceError("cuda:0 failed: CUDA error: an illegal memory access was encountered")


def arithmetic(prompt: Sequence[int], continuation: Sequence[int]) -> np.ndarray:
    """(T,) float32 that depends on prompt and continuation alone."""
    digest = hashlib.sha256(json.dumps([list(prompt), list(continuation)]).encode()).digest()
    return -np.frombuffer(digest, np.uint8)[: len(continuation)].astype(np.float32) / 7


@dataclass(frozen=True)
class Tiny:
    """Recipe of an engine around a tiny random model."""

    kind: str
    diary: Diary | None = None

    def __call__(self) -> TinyEngine:
        from tiny_models import tiny

        if self.diary:
            import torch

            names = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")
            self.diary.note("threads " + " ".join([str(torch.get_num_threads()), *(os.environ[n] for n in names)]))
        return TinyEngine(tiny(self.kind))


class TinyEngine:
    """The scorer of remid.lm; it writes nothing."""

    name = "tiny"

    def __init__(self, loaded: object) -> None:
        from remid.lm.scoring import Scorer

        self.score = Scorer(loaded).score

    def write(self, chats: Sequence[Chat]) -> Iterator[list[Written]]:
        raise NotImplementedError
