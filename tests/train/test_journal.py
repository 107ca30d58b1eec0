"""The journal: what is written is read, a kill costs the line in hand, and a run that goes on reads as one run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from remid.errors import StoreError
from remid.train.journal import JOURNAL, Journal, adapter_of, read_journal


def step(number: int, value: float = 0.0, stage: str = "grpo-q1-1", **more: Any) -> dict[str, Any]:
    return {"kind": "step", "stage": stage, "step": number, "value": value, **more}


def values(folder: Path) -> list[tuple[int, float]]:
    return [(row["step"], row["value"]) for row in read_journal(folder) if row["kind"] == "step"]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "new")
    journal.add({**step(1), "bad": [float("nan"), np.float32("inf"), np.float64(2)], "text": "a\u2028\ud800\n</b>"})
    (row,) = journal.read()
    assert row["bad"] == [None, None, 2]
    assert row["text"] == "a\u2028\ud800\n</b>"
    assert row["time"] > 1e9
    assert journal.added == [row]
    assert len((tmp_path / "new" / JOURNAL).read_bytes().splitlines()) == 1


def test_a_torn_last_line_is_passed_over_and_cut_off(tmp_path: Path) -> None:
    Journal(tmp_path).add(step(1))
    whole = (tmp_path / JOURNAL).read_bytes()
    for cut in range(1, len(whole)):
        (tmp_path / JOURNAL).write_bytes(whole + whole[:-cut])
        assert values(tmp_path) == [(1, 0.0)]
    again = Journal(tmp_path)
    again.add(step(2))
    again.add(step(3))
    assert values(tmp_path) == [(1, 0.0), (2, 0.0), (3, 0.0)]


def test_damage_elsewhere_is_named(tmp_path: Path) -> None:
    Journal(tmp_path).add(step(1))
    whole = (tmp_path / JOURNAL).read_bytes()
    for broken in (b"{}\n", b"[1]\n", b"\0\0\n", b"\n"):
        (tmp_path / JOURNAL).write_bytes(whole + broken + whole)
        with pytest.raises(StoreError, match="line 2 is damaged; remove that line"):
            read_journal(tmp_path)
    with pytest.raises(StoreError, match=r"holds no training run \(no train.jsonl\)"):
        read_journal(tmp_path / "none")
    assert Journal(tmp_path / "none").read() == []


def test_a_run_that_goes_on_reads_as_one(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.add({"kind": "stage", "stage": "grpo-q1-1"})
    for number in range(1, 6):
        journal.add({"kind": "held_out", "stage": "grpo-q1-1", "step": number, "gap": 0.0})
        journal.add(step(number))
        journal.add({"kind": "samples", "stage": "grpo-q1-1", "step": number, "examples": []})
    journal.add(step(1, stage="grpo-q2-1", value=7.0))
    # Killed behind step 5, the last checkpoint being that of step 3.
    journal.add({"kind": "stage", "stage": "grpo-q1-1"})
    journal.add({"kind": "held_out", "stage": "grpo-q1-1", "step": 4, "gap": 1.0})
    journal.add(step(4, 1.0))
    rows = read_journal(tmp_path)
    mine = [row for row in rows if row["stage"] == "grpo-q1-1"]
    assert [(r["step"], r["value"]) for r in mine if r["kind"] == "step"] == [(1, 0), (2, 0), (3, 0), (4, 1)]
    assert [(r["step"], r["gap"]) for r in mine if r["kind"] == "held_out"] == [(1, 0), (2, 0), (3, 0), (4, 1)]
    assert [r["step"] for r in mine if r["kind"] == "samples"] == [1, 2, 3, 4]
    assert sum(r["kind"] == "stage" for r in mine) == 2
    assert [r["value"] for r in rows if r["stage"] == "grpo-q2-1"] == [7.0]


def test_a_stage_that_is_trained_again_has_one_end(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    end = {"kind": "held_out", "stage": "sft-q2", "log_q": -3.0}
    for value in (-3.0, -2.0):
        journal.add({**end, "log_q": value})
    assert [row["log_q"] for row in read_journal(tmp_path)] == [-2.0]
    journal.add(step(2, stage="sft-q2"))  # it goes on before its end
    assert [row["kind"] for row in read_journal(tmp_path)] == ["step"]


def test_a_step_may_bring_several_warnings(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for _ in range(2):  # the second time behind a checkpoint
        journal.add(step(8))
        for signature in ("no signal", "format lost"):
            journal.add({"kind": "warning", "stage": "grpo-q1-1", "step": 8, "signature": signature})
    rows = read_journal(tmp_path)
    assert [row.get("signature") for row in rows] == [None, "no signal", "format lost"]


def test_completions_wait_for_their_step(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.show([{"text": "old"}])
    journal.show([{"text": "new"}])
    assert journal.take() == [{"text": "new"}]
    assert journal.take() == []
    assert journal.read() == []


def test_which_adapter_a_stage_trains() -> None:
    names = ("grpo-q1-1", "sft-q2", "rollout-1", "traces", "", "sft-q12")
    assert [adapter_of(name) for name in names] == ["q1", "q2", None, None, None, None]


_WRITER = """
import sys
from pathlib import Path
from remid.train.journal import Journal
journal = Journal(Path(sys.argv[1]))
for k in range(10**6):
    journal.add({"kind": "step", "stage": "grpo-q1-1", "step": k, "value": 0.0, "filler": "x" * 5000})
    print(k, flush=True)
"""


def test_a_kill_loses_no_record_that_was_added(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for _ in range(20):
            last = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)
        last = int((writer.stdout.read().splitlines() or [str(last)])[-1])
    found = [number for number, _ in values(tmp_path)]
    assert found[: last + 1] == list(range(last + 1))
    assert len(found) <= last + 2
    Journal(tmp_path).add(step(len(found)))
    for line in (tmp_path / JOURNAL).read_bytes().splitlines():
        json.loads(line)
