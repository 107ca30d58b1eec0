"""A training run's journal: train.jsonl in its folder, one JSON object a line, appended to and never rewritten.

Every record has `kind`, `stage` and `time` (seconds since 1970). Kinds:

| kind | when | further fields |
| --- | --- | --- |
| stage | a stage begins, or goes on after a stop | adapter |
| step | an optimizer step | step, steps, signals, rewards, learning (train/callbacks.py) |
| samples | a step, now and then | step, examples: what was written, with its rewards |
| held_out | a stage has ended; with `step`, within one | log_q, gap, advantage, each with _se and _n; examples |
| warning | the watch named a signature | step, signature, seen, meaning, advice |
| note | anything worth a line | text |
| end | the run is finished | |

At a stage's end held_out also has over_best (evaluate.paired_difference) against best_before, the stage that had left
the best estimator until then, and collapsed: whether the watch ended the stage.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from remid.errors import StoreError

Row = dict[str, Any]

JOURNAL = "train.jsonl"


class Journal:
    """Appends to a run's journal; each record is on the disk before `add` returns. One process writes.

    writes: False in the others, whose records are dropped. added: the records of this process, in order.
    """

    def __init__(self, folder: Path, *, writes: bool = True) -> None:
        self._path = folder / JOURNAL
        self._writes = writes
        self._whole = False
        self._shown: list[Row] = []
        self.added: list[Row] = []

    def add(self, record: Mapping[str, Any]) -> None:
        """Append a record. Numbers that are not finite become null; `time` is filled in."""
        if not self._writes:
            return
        row = _finite({"time": time.time(), **record})
        line = json.dumps(row, allow_nan=False) + "\n"  # ASCII: no line separator of Unicode can end a line early
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if not self._whole:
            _cut_torn_line(self._path)
            self._whole = True
        with self._path.open("ab") as file:
            file.write(line.encode("ascii"))
            file.flush()
            os.fsync(file.fileno())
        self.added.append(row)

    def show(self, examples: Sequence[Mapping[str, Any]]) -> None:
        """Keep completions of the step in hand, until `take` writes them down with its number."""
        self._shown = [dict(example) for example in examples]

    def take(self) -> list[Row]:
        """The completions that were shown since the last call."""
        shown, self._shown = self._shown, []
        return shown

    def read(self) -> list[Row]:
        """Everything written so far; see read_journal."""
        return read_journal(self._path.parent) if self._path.exists() else []


def read_journal(folder: Path) -> list[Row]:
    """The records in order, as if the run had never been stopped; a torn last line is passed over.

    What a stopped run wrote behind its last checkpoint is written again by the run that goes on: a record of a step
    replaces whatever its stage had written of that kind for that step, and of any kind for later steps and the stage's
    end. Raises StoreError where there is no journal, or a line
    other than the last is no JSON object.
    """
    path = folder / JOURNAL
    try:
        data = path.read_bytes()
    except OSError:
        raise StoreError(f"{folder}: holds no training run (no {JOURNAL}); give the --out of `remid train`") from None
    lines = data.split(b"\n")[:-1]  # what follows the last line end is empty or torn
    return _as_one_run([_parsed(line, number, path) for number, line in enumerate(lines, 1)])


def read_object(path: Path) -> Row | None:
    """What a file of a training folder holds, None where there is no such file or no JSON object in it.

    Raises StoreError where it cannot be read.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: cannot be read ({error}); restore it, or use another --out") from None
    return found if isinstance(found, dict) else None


def adapter_of(stage: str) -> str | None:
    """Which adapter a stage trains, by its name ("grpo-q1-2"); None where it trains none."""
    return next((name for name in ("q1", "q2") if name in stage.split("-")), None)


def _as_one_run(rows: Sequence[Row]) -> list[Row]:
    kept: dict[int, Row] = {}
    open_to_change: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        kept[place] = row
        if row.get("step") is None and row["kind"] != "held_out":
            continue  # beginnings and notes happened, however often
        mine = open_to_change.setdefault(str(row.get("stage")), [])
        behind: list[int] = []
        while mine and _not_before(row, kept[mine[-1]]):
            old = mine.pop()
            if _replaces(row, kept[old]):
                del kept[old]
            else:
                behind.append(old)
        mine += [*reversed(behind), place]
    return list(kept.values())


def _at(row: Row) -> float:
    """The step of a record; a stage's end lies behind all steps."""
    step = row.get("step")
    return math.inf if step is None else float(step)


def _not_before(new: Row, old: Row) -> bool:
    return _at(old) >= _at(new)


def _replaces(new: Row, old: Row) -> bool:
    """A step may bring several warnings, of different signatures."""
    same = new["kind"] == old["kind"] and new.get("signature") == old.get("signature")
    return _at(old) > _at(new) or same


def _parsed(line: bytes, number: int, path: Path) -> Row:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict) or "kind" not in row:
        raise StoreError(f"{path}: line {number} is damaged; remove that line, or train into a new folder")
    return row


def _cut_torn_line(path: Path) -> None:
    """Cut off what a kill left of a line, lest the next record be glued to it."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        data = file.read()
        end = data.rfind(b"\n") + 1
        if end < len(data):
            file.truncate(end)
            os.fsync(file.fileno())


def _finite(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value  # numpy's and torch's scalars
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return value
