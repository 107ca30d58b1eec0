"""Where a training run's time goes, read from its journal: seconds of a GRPO step, of a stage, of a whole round.

The parts: sampling (completions of GRPO, traces of a roll-out), rewards (scoring, references under the frozen model
included), learning (everything with gradients), evaluation (held-out references and the traces for them), and the rest
(loading, checkpoints, signals). All are seconds on the wall, without the times between a stop and going on.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]

PARTS = ("sampling", "rewards", "learning", "evaluation", "rest")


def step_seconds(record: Row) -> dict[str, float]:
    """Seconds of one GRPO step by part, from its record; nothing where it does not tell (a supervised step)."""
    told = record.get("learning") or {}
    if told.get("step_time") is None:
        return {}
    sampling, rewards = float(told.get("generation_seconds") or 0), float(told.get("reward_seconds") or 0)
    learning = max(0.0, float(told["step_time"]) - sampling - rewards)
    return {"sampling": sampling, "rewards": rewards, "learning": learning}


def seconds_without_pauses(records: Sequence[Row]) -> float:
    """Time from the first to the last record, without the times between a stop and the stage's next beginning."""
    pairs = itertools.pairwise(records)
    return float(sum(max(0.0, b["time"] - a["time"]) for a, b in pairs if b["kind"] != "stage"))


def times(records: Sequence[Row]) -> list[Row]:
    """A row per stage that was begun and one per round, in order: stage, seconds, those of each part, reward_share.

    reward_share: of the seconds but for evaluation, which belongs to the watch and not to the method. A round holds
    the stages with its number, and is there once it is whole.
    """
    rows = [_row(name, [row for row in records if row.get("stage") == name]) for name in _stages(records)]
    for number in list(dict.fromkeys(row["stage"].rpartition("-")[2] for row in rows)):
        if any(_is_end(row) and row["stage"] == f"grpo-q2-{number}" for row in records):
            mine = [row for row in rows if row["stage"].endswith(f"-{number}")]
            rows.append(_shared(f"round {number}", {part: sum(row[part] for row in mine) for part in PARTS}))
    return rows


def _stages(records: Sequence[Row]) -> list[str]:
    """Names of stages and roll-outs, in order. What comes before the first stage is no part of a round."""
    return list(
        dict.fromkeys(
            str(row["stage"])
            for row in records
            if row["kind"] == "stage" or str(row.get("stage", "")).startswith("rollout-")
        )
    )


def _row(stage: str, mine: Sequence[Row]) -> Row:
    found = dict.fromkeys(PARTS, 0.0)
    for row in mine:
        for part, seconds in step_seconds(row).items():
            found[part] += seconds
        if row["kind"] == "held_out" and row.get("step") is not None:
            found["evaluation"] += float(row.get("seconds") or 0)
        elif row["kind"] == "note" and row.get("seconds") is not None:
            found[row.get("part", "sampling")] += float(row["seconds"])  # a roll-out's says no part
    if end := next((k for k, row in enumerate(mine) if _is_end(row)), None):
        mine = mine[: end + 1]
        if steps := [k for k, row in enumerate(mine) if row["kind"] == "step"]:  # else nothing tells the two apart
            found["evaluation"] += seconds_without_pauses(mine[steps[-1] :])
    left = max(0.0, seconds_without_pauses(mine) - sum(found.values()))
    found["learning" if stage.startswith("sft-") else "rest"] += left
    return _shared(stage, found)


def _is_end(row: Row) -> bool:
    """Whether it is what a stage leaves when it is finished."""
    return bool(row["kind"] == "held_out" and row.get("step") is None)


def _shared(name: str, parts: dict[str, float]) -> Row:
    whole = sum(parts.values())
    counted = whole - parts["evaluation"]
    return {"stage": name, "seconds": whole, **parts, "reward_share": parts["rewards"] / counted if counted else None}
