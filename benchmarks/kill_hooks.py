"""What a process that is going to be killed carries: a kill at an exact place, and a log of what it computed.

Nothing of the package is replaced; calls are passed on as they are. A kill inside a call comes from a POSIX timer whose
signal is SIGKILL, set as the call begins, so it strikes within SQLite's own writes to the microsecond. Linux only.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import random
import signal
import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Calls inside which a kill may strike.
PLACES = ("open", "begin", "insert", "commit", "close", "json", "page", "line", "add", "fsync")
_LABEL = 32


@dataclass(frozen=True)
class Weapon:
    """How a process dies. kind: "moment" (from outside, see kills.py), "inside" a call, "before" or "after" it, "row"
    (between two rows of one INSERT), "none".

    place: the call (PLACES) or, for a moment, the stage. number: which of these calls, from 1. share: of the call's or
    stage's usual duration that passes before the kill.
    """

    kind: str
    place: str = ""
    number: int = 0
    share: float = 0.0


class Label:
    """Where a process is, in memory that outlives it: (stage, call or "")."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 2 * _LABEL)
        self.set("start", "")

    def set(self, stage: str | None = None, place: str | None = None) -> None:
        for text, at in ((stage, 0), (place, _LABEL)):
            if text is not None:
                self._memory[at : at + _LABEL] = text.encode()[:_LABEL].ljust(_LABEL, b"\0")

    def get(self) -> tuple[str, str]:
        stage, place = self._memory[:_LABEL], self._memory[_LABEL:]
        return stage.rstrip(b"\0").decode(), place.rstrip(b"\0").decode()


class Hooks:
    """Installed once in a process that will run the command line. usual: seconds that each call takes, to aim by."""

    def __init__(self, weapon: Weapon, label: Label, log: Path, usual: dict[str, float]) -> None:
        self._weapon, self._label, self._usual = weapon, label, usual
        self._log = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_TRUNC)
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self._calls: Counter[str] = Counter()
        self._rows = random.Random(weapon.number)

    def install(self) -> None:
        """Put the hooks in place, in this process."""
        import remid.api
        from remid.pipeline import batch_file, run, store
        from remid.pipeline.progress import Progress

        hooks = self

        class Connection(sqlite3.Connection):
            def execute(self, sql: str, *rest: Any) -> Any:
                place = {"BEGIN": "begin", "COMMIT": "commit"}.get(sql.split(maxsplit=1)[0], "")
                with hooks.around(place):
                    return super().execute(sql, *rest)

            def executemany(self, sql: str, rows: Iterable[Any]) -> Any:
                with hooks.around("insert"):
                    return super().executemany(sql, hooks.between(rows))

            def close(self) -> None:
                with hooks.around("close"):
                    super().close()

        connect = sqlite3.connect
        sqlite3.connect = lambda *args, **more: connect(*args, factory=Connection, **more)  # type: ignore[assignment]
        self._wrap(store, "_open", "open")
        self._wrap(run, "write_json", "json")
        self._wrap(remid.api, "write_report", "page")
        self._wrap(batch_file.BatchFile, "add", "add")
        self._wrap(os, "fsync", "fsync")
        self._wrap(json, "dumps", "line", only="responding")
        for table in ("scores", "generations", "embeddings"):
            self._note(store.Store, f"add_{table}", table)
        self._stages(Progress)

    def around(self, place: str) -> Any:
        """A call from beginning to end, with the kill that is due."""
        return _nothing() if not place else self._around(place)

    def between(self, rows: Iterable[Any]) -> Iterator[Any]:
        """Rows on their way into one INSERT; the kill of kind "row" comes before one of them."""
        kept = list(rows)
        due = self._weapon.kind == "row" and self._calls["insert"] == self._weapon.number and kept
        last = self._rows.randrange(len(kept)) if due else -1
        for place, row in enumerate(kept):
            if place == last:
                self._label.set(place="insert, between rows")
                die()
            yield row

    @contextmanager
    def _around(self, place: str) -> Iterator[None]:
        self._calls[place] += 1
        weapon, within = self._weapon, self._label.get()[1]
        due = weapon.place == place and weapon.number == self._calls[place]
        if due and weapon.kind == "before":
            self._label.set(place=f"before {place}")
            die()
        self._label.set(place=place)
        if due and weapon.kind == "inside":
            die_in(weapon.share * self._usual.get(place, 1e-4))
        start = time.perf_counter()
        yield
        self.seconds[place].append(time.perf_counter() - start)
        if due and weapon.kind == "after":
            self._label.set(place=f"after {place}")
            die()
        self._label.set(place=within)

    def _wrap(self, owner: Any, name: str, place: str, only: str | None = None) -> None:
        call: Callable[..., Any] = getattr(owner, name)

        def wrapped(*args: Any, **more: Any) -> Any:
            if only is not None and self._label.get()[0] != only:
                return call(*args, **more)
            with self._around(place):
                return call(*args, **more)

        setattr(owner, name, wrapped)

    def _note(self, owner: Any, name: str, table: str) -> None:
        """Write down which rows were computed, before they go into the store."""
        call: Callable[..., Any] = getattr(owner, name)

        def noted(store: Any, key: str, *rest: Any) -> Any:
            *heads, rows = rest
            kept = list(rows)
            count = 2 if table == "scores" else 1
            lines = [json.dumps([table, key, *row[:count]]) + "\n" for row in kept]
            os.write(self._log, "".join(lines).encode())
            return call(store, key, *heads, kept)

        setattr(owner, name, noted)

    def _stages(self, progress: Any) -> None:
        stage = progress.stage
        label, seconds = self._label, self.seconds

        @contextmanager
        def labelled(this: Any, name: str, total: float) -> Iterator[Any]:
            before = label.get()[0]
            label.set(name)
            start = time.perf_counter()
            with stage(this, name, total) as step:
                yield step
            seconds[f"stage {name}"].append(time.perf_counter() - start)
            label.set(f"after {name}" if before == "start" or before.startswith("after") else before)

        progress.stage = labelled


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class _SigEvent(ctypes.Structure):
    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signo", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("pad", ctypes.c_char * 48),
    )


class _ITimerSpec(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_long) for name in ("every_s", "every_ns", "first_s", "first_ns"))


def die_in(seconds: float) -> None:
    """SIGKILL from the kernel after so long, whatever this process is doing then."""
    libc = ctypes.CDLL(None, use_errno=True)
    timer = ctypes.c_void_p()
    event = _SigEvent(None, signal.SIGKILL, 0, b"")
    if libc.timer_create(1, ctypes.byref(event), ctypes.byref(timer)):  # 1: CLOCK_MONOTONIC
        raise OSError(ctypes.get_errno(), "timer_create")
    nanoseconds = max(1, int(seconds * 1e9))
    when = _ITimerSpec(0, 0, nanoseconds // 10**9, nanoseconds % 10**9)
    if libc.timer_settime(timer, 0, ctypes.byref(when), None):
        raise OSError(ctypes.get_errno(), "timer_settime")
