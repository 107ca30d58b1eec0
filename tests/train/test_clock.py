"""Where a run's time went: parts of a step, of a stage that was stopped, of a whole round; and how it is shown."""

from __future__ import annotations

from typing import Any

import pytest

from remid.report.training_times import times_section
from remid.train.clock import PARTS, step_seconds, times

Row = dict[str, Any]


def step(stage: str, number: int, at: float, whole: float | None, **seconds: float) -> Row:
    learning = {"loss": 1.0} if whole is None else {"step_time": whole, **seconds}
    return {"kind": "step", "stage": stage, "step": number, "steps": 2, "time": at, "learning": learning}


def end(stage: str, at: float) -> Row:
    return {"kind": "held_out", "stage": stage, "time": at, "seconds": 1.0}


def grpo(stage: str, at: float) -> list[Row]:
    """32 s: two steps of 10 s (4 sampling, 1 rewards), 3 s of references, a probe of 2 s, 5 s of evaluation at the end,
    2 s of the rest. Between the steps it was stopped for 1,000 s."""
    more = {"generation_seconds": 4.0, "reward_seconds": 1.0}
    return [
        {"kind": "stage", "stage": stage, "time": at},
        {"kind": "note", "stage": stage, "time": at + 3, "text": "", "part": "rewards", "seconds": 3.0},
        {"kind": "held_out", "stage": stage, "step": 0, "time": at + 5, "seconds": 2.0},
        step(stage, 1, at + 15, 10.0, **more),
        {"kind": "stage", "stage": stage, "time": at + 1015},
        step(stage, 2, at + 1027, 10.0, **more),
        end(stage, at + 1032),
    ]


def records() -> list[Row]:
    return [
        {"kind": "note", "stage": "traces", "time": 0.0, "text": "", "seconds": 500.0},
        {"kind": "stage", "stage": "sft-q2", "time": 10.0},
        step("sft-q2", 1, 20.0, None),
        end("sft-q2", 24.0),
        *grpo("grpo-q1-1", 100.0),
        {"kind": "note", "stage": "rollout-1", "time": 1140.0, "text": "", "seconds": 9.0},
        {"kind": "stage", "stage": "sft-q2-1", "time": 1140.0},
        {"kind": "note", "stage": "sft-q2-1", "time": 1140.5, "text": "64 examples", "n": 64},
        step("sft-q2-1", 1, 1160.0, None),
        end("sft-q2-1", 1167.0),
        *grpo("grpo-q2-1", 1200.0),
        {"kind": "end", "stage": "grpo-q2-1", "time": 2300.0},
    ]


def test_a_step_is_divided_without_rest() -> None:
    found = step_seconds(step("grpo-q1-1", 1, 0.0, 10.0, generation_seconds=4.0, reward_seconds=1.0))
    assert found == {"sampling": 4.0, "rewards": 1.0, "learning": 5.0}
    assert step_seconds(step("sft-q1", 1, 0.0, None)) == {}


def test_stages_and_a_round() -> None:
    rows = {row["stage"]: row for row in times(records())}
    assert list(rows) == ["sft-q2", "grpo-q1-1", "rollout-1", "sft-q2-1", "grpo-q2-1", "round 1"]
    assert {part: rows["sft-q2"][part] for part in PARTS} == pytest.approx(
        {"sampling": 0, "rewards": 0, "learning": 10, "evaluation": 4, "rest": 0}
    )
    grpo_parts = {"sampling": 8, "rewards": 5, "learning": 10, "evaluation": 7, "rest": 2}
    assert {part: rows["grpo-q1-1"][part] for part in PARTS} == pytest.approx(grpo_parts)
    whole = rows["round 1"]
    assert {part: whole[part] for part in PARTS} == pytest.approx(
        {"sampling": 25, "rewards": 10, "learning": 40, "evaluation": 21, "rest": 4}
    )
    assert whole["seconds"] == pytest.approx(100)
    assert whole["reward_share"] == pytest.approx(10 / 79)


def test_a_round_is_told_once_it_is_whole() -> None:
    assert times([]) == []
    begun = [row for row in records() if not (row["stage"] == "grpo-q2-1" and row["kind"] in {"end", "held_out"})]
    assert "round 1" not in {row["stage"] for row in times(begun)}


def test_the_section_shows_shares() -> None:
    (table,) = times_section(times(records())).tables
    assert table.rows[-1] == ("round 1", "25", "10", "40", "21", "4", "100", "13%")
    assert times_section([]).tables == ()


def test_without_steps_nothing_is_taken_for_evaluation() -> None:
    bare = [{"kind": "stage", "stage": "grpo-q1-1", "time": 0.0}, end("grpo-q1-1", 60.0)]
    (row,) = times(bare)
    assert {part: row[part] for part in PARTS if row[part]} == {"rest": 60.0}
