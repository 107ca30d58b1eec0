"""Collapse provoked in real training: the watch names it, at the step where it is seen, and the run can end there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from remid.data import write_benchmark
from remid.data.worlds import hops
from remid.pipeline.progress import Progress
from remid.study.ablation_world import SETTINGS
from remid.study.hops_base import BaseTraining, make_base
from remid.train.config import make_train_config
from remid.train.journal import read_journal
from remid.train.watched import train_watched

QUIET = Progress(enabled=False)


def named(run: Path) -> dict[tuple[str, str], int | None]:
    """(signature, stage) -> step, as it was said while the run went on."""
    rows = [row for row in read_journal(run) if row["kind"] == "warning"]
    return {(row["signature"], row["stage"]): row["step"] for row in rows}


def test_a_model_that_knows_no_format(settings: dict[str, Any], tmp_path: Path) -> None:
    """Random weights and a cold start of a few steps: nothing parses, so nothing is learned."""
    grpo = settings["grpo"] | {"samples": 40}
    train_watched(make_train_config(**settings | {"grpo": grpo, "stop_on_collapse": True}), tmp_path / "run", QUIET)
    assert named(tmp_path / "run") == {("no signal", "grpo-q1-1"): 8, ("format lost", "grpo-q1-1"): 8}
    steps = [row["step"] for row in read_journal(tmp_path / "run") if row["kind"] == "step" and row["rewards"]]
    assert steps == list(range(1, 9))


@pytest.fixture(scope="module")
def small_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Knows the words and the forms of the hops world, and hardly its steps."""
    return make_base(tmp_path_factory.mktemp("hops") / "base", BaseTraining(steps=300, batch=32, width=64, layers=2))


def hops_run(folder: Path, base: Path, *, shuffled: bool = False, **changed: Any) -> Path:
    """A watched training on 300 samples, 20 steps of 8 x 8 in each stage of GRPO, and the journal's folder."""
    made = hops.make_benchmark(hops.HopsWorld(), 0, train=300, test=8, shifted=8)
    folder.mkdir(exist_ok=True)
    data = folder / "data.json"
    write_benchmark(made, data)
    if shuffled:
        splits = json.loads(data.read_text())
        traces = [row["SThought"] for row in splits["IDTrain"]]
        for row, trace in zip(splits["IDTrain"], [*traces[1:], traces[0]], strict=True):
            row["SThought"] = trace
        data.write_text(json.dumps(splits))
    grpo = SETTINGS["grpo"] | {"samples": 160, "prompts_per_step": 8} | changed
    ours = SETTINGS | {"data": (data,), "model": str(base), "grpo": grpo, "stop_on_collapse": True}
    train_watched(make_train_config(**ours), folder / "run", QUIET)
    return folder / "run"


@pytest.mark.slow
def test_traces_of_other_samples_are_ignored(small_base: Path, tmp_path: Path) -> None:
    """q2's cold start teaches it to read past them: said when the next stage begins, which ends at its first step."""
    run = hops_run(tmp_path, small_base, shuffled=True)
    assert named(run) == {("trace ignored", "sft-q2"): None}
    assert max(row["step"] for row in read_journal(run) if row["kind"] == "step" and "grpo" in row["stage"]) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "signature"), [({"temperature": 0.1}, "trivial traces"), ({"rate": 5e-2}, "format lost")]
)
def test_a_bad_setting_is_named(small_base: Path, tmp_path: Path, changed: dict[str, float], signature: str) -> None:
    """Always the same trace of a prompt; and weights that run away, after which nothing parses."""
    found = named(hops_run(tmp_path, small_base, **changed))
    assert 1 <= (found[signature, "grpo-q1-1"] or 0) <= 20
    assert {stage for _, stage in found} == {"grpo-q1-1"}
