"""Where a training run stands, read from its folder: stages with their times and results, speeds, warnings.

Nothing here loads a model, so a run can be looked at while it trains.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from remid.train.clock import seconds_without_pauses, times
from remid.train.journal import adapter_of, read_journal, read_object
from remid.train.signals import slope
from remid.train.watch import WINDOW, watch

Row = dict[str, Any]

#: Steps whose median time the estimate of the time left is made from.
_RECENT = 10


def train_summary(folder: Path, now: float | None = None) -> tuple[list[Row], Row]:
    """(the journal's records, what the page and the terminal show of the run). now: seconds since 1970.

    The second holds folder, config, data, base, finished, seconds_since_last, best, warnings, speeds, and stages: each
    with stage, adapter, state ("done", "in hand", "to come"), step, steps, seconds, seconds_left, held_out (record or
    None) and digest of its adapter; window: steps of a stage that the watch needs; times: see clock.times. What is not
    known is None. Raises StoreError where there is no run.
    """
    records = read_journal(folder)
    about = read_object(folder / "train.json") or {}
    finished = any(row["kind"] == "end" for row in records)
    names = list(dict.fromkeys([*_begun(records), *_planned(about.get("config") or {}, finished)]))
    stages = [_stage(name, records, folder) for name in names]
    last = max((float(row["time"]) for row in records), default=None)
    return records, {
        "folder": folder.name,
        "config": about.get("config"),
        "data": about.get("data"),
        "base": about.get("base"),
        "finished": finished,
        "seconds_since_last": None if last is None else max(0.0, (time.time() if now is None else now) - last),
        "best": read_object(folder / "best.json"),
        "warnings": [warning.record() for warning in watch(records)],
        "window": WINDOW,
        "speeds": module_speeds(records),
        "stages": stages,
        "times": times(records),
    }


def module_speeds(records: Sequence[Row]) -> list[Row]:
    """How fast each GRPO stage moves held-out log q2, by its evaluations within the stage.

    per_step, se: nats per token and step; n: evaluations. relative: over the speed of the other module's stage of the
    same round (its name but for q1 and q2); None where that one stands still, or is not known.
    """
    rows: list[Row] = []
    for stage in [name for name in _begun(records) if name.startswith("grpo")]:
        mine = [r for r in records if r["stage"] == stage and r["kind"] == "held_out" and r.get("step") is not None]
        found = slope([float(r["step"]) for r in mine], [r.get("log_q") for r in mine])
        speed = {"per_step": found.value, "se": found.se, "n": found.n}
        rows.append({"stage": stage, "adapter": adapter_of(stage), **speed, "relative": None})
    by_name = {row["stage"]: row for row in rows}
    for row in rows:
        swap = {"q1": "q2", "q2": "q1"}
        other = by_name.get("-".join(swap.get(part, part) for part in row["stage"].split("-")))
        if other is not None and other["per_step"] and row["per_step"] is not None:
            row["relative"] = row["per_step"] / other["per_step"]
    return rows


def _begun(records: Sequence[Row]) -> list[str]:
    """Names of the stages that were begun, in order."""
    return list(dict.fromkeys(str(row["stage"]) for row in records if adapter_of(str(row.get("stage")))))


def _planned(config: Row, finished: bool) -> list[str]:
    """The stages that the settings ask for; a run that is finished has no others than it had."""
    if finished or not config:
        return []
    names = ["sft-q1", "sft-q2"] if config.get("reasoning", True) else ["sft-q2"]
    for number in range(1, int(config.get("rounds", 0)) + 1):
        names += [f"grpo-q1-{number}", f"sft-q2-{number}", f"grpo-q2-{number}"]
    return names


def _stage(name: str, records: Sequence[Row], folder: Path) -> Row:
    mine = [row for row in records if row.get("stage") == name]
    steps = [row for row in mine if row["kind"] == "step"]
    held_out = next((row for row in mine if row["kind"] == "held_out" and row.get("step") is None), None)
    state = "done" if held_out is not None else "in hand" if mine else "to come"
    return {
        "stage": name,
        "adapter": adapter_of(name),
        "state": state,
        "step": steps[-1]["step"] if steps else None,
        "steps": steps[-1]["steps"] if steps else None,
        "seconds": seconds_without_pauses(mine) if mine else None,
        "seconds_left": _left(steps) if state == "in hand" else None,
        "held_out": held_out,
        "digest": _digest(folder, name),
    }


def _left(steps: Sequence[Row]) -> float | None:
    recent = [row["time"] for row in steps[-_RECENT - 1 :]]
    if len(recent) < 2:
        return None
    each = statistics.median(b - a for a, b in itertools.pairwise(recent))
    return float(max(0.0, each) * (steps[-1]["steps"] - steps[-1]["step"]))


def _digest(folder: Path, stage: str) -> str | None:
    """Of the adapter that the stage left (lm/chain.py)."""
    for place in sorted(folder.glob(f"stages/*-{stage}/adapter/chain.json")):
        if place.parent.parent.name.partition("-")[2] == stage:
            found = (read_object(place) or {}).get("digest")
            return None if found is None else str(found)
    return None
