"""The watch: every signature is named within 20 steps of a run that collapses so, and none in healthy runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from journal_series import Healthy, Row, Spoil, run_records

from remid.pipeline.progress import Progress
from remid.train.journal import Journal, read_journal
from remid.train.watch import SIGNATURES, CollapseWarning, Watcher, change, watch


def falling(name: str, to: float) -> Spoil:
    """The signal falls to a share of itself until the middle of the stage."""

    def spoil(row: Row, t: float) -> None:
        if row["kind"] == "step":
            row["signals"][name] *= 1 - (1 - to) * min(1.0, 2 * t)

    return spoil


def at(name: str, value: float) -> Spoil:
    """The signal is so from the start."""

    def spoil(row: Row, t: float) -> None:
        if row["kind"] == "step":
            row["signals"][name] = value

    return spoil


def rising(name: str, to: float) -> Spoil:
    def spoil(row: Row, t: float) -> None:
        if row["kind"] == "step":
            row["signals"][name] += (to - row["signals"][name]) * min(1.0, 2 * t)

    return spoil


def gap(first: float, last: float) -> Spoil:
    def spoil(row: Row, t: float) -> None:
        if row["kind"] == "held_out":
            row["gap"] += first + (last - first) * t - 0.12 * (1 + 0.3 * t)

    return spoil


def gap_near_zero_and_flat_reward(row: Row, t: float) -> None:
    """An error too wide to say that the gap is small, but it is not above 0, and the reward stays where it is."""
    gap(0.0, 0.0)(row, t)
    if row["kind"] == "step":
        row["signals"]["reward"] = 0.3 + 0.01 * (row["step"] % 3)


def no_gap_for_certain(row: Row, t: float) -> None:
    """The reward rises as ever, by its other parts."""
    if row["kind"] == "held_out":
        row.update({"gap": 0.002, "gap_se": 0.004})


def held_out_falls(row: Row, t: float) -> None:
    if row["kind"] == "held_out":
        row["log_q"] -= 0.3 * t


COLLAPSES: dict[str, tuple[str, str, Spoil]] = {
    "gap vanishes under q1": ("trace ignored", "q1", gap(0.12, -0.08)),
    "gap vanishes under q2": ("trace ignored", "q2", gap(0.12, -0.08)),
    "no gap from the start": ("trace ignored", "q1", no_gap_for_certain),
    "no gap, no reward": ("trace ignored", "q1", gap_near_zero_and_flat_reward),
    "short traces": ("trivial traces", "q1", falling("length", 0.2)),
    "one trace per prompt": ("trivial traces", "q1", falling("unique", 0.1)),
    "repetition": ("trivial traces", "q1", falling("own_distinct_2", 0.2)),
    "no entropy": ("trivial traces", "q1", falling("entropy", 0.05)),
    "greedy from the start": ("trivial traces", "q1", at("entropy", 0.001)),
    "one trace for all": ("trivial traces", "q1", rising("cross_overlap", 0.98)),
    "one response for all": ("uninformative responses", "q2", rising("cross_identical", 0.7)),
    "alike from the start": ("uninformative responses", "q2", at("cross_identical", 0.6)),
    "generic responses": ("uninformative responses", "q2", rising("cross_overlap", 0.8)),
    "few bigrams": ("uninformative responses", "q2", falling("cross_distinct_2", 0.25)),
    "empty responses": ("uninformative responses", "q2", falling("length", 0.02)),
    "q1 ahead": ("one module running ahead", "q1", held_out_falls),
    "q2 ahead": ("one module running ahead", "q2", held_out_falls),
    "no spread": ("no signal", "q1", at("no_spread", 1.0)),
    "no reward": ("no signal", "q2", at("missing", 1.0)),
    "format forgotten": ("format lost", "q1", rising("failures", 0.9)),
    "never any format": ("format lost", "q1", at("failures", 1.0)),
}


@pytest.mark.parametrize("kind", COLLAPSES)
def test_a_collapse_is_named_within_20_steps(kind: str) -> None:
    signature, adapter, spoil = COLLAPSES[kind]
    late, others = 0, 0
    for seed in range(20):
        found = watch(run_records(seed, spoil={adapter: spoil}))
        mine = [w for w in found if w.signature == signature and w.stage == f"grpo-{adapter}-1"]
        late += not (mine and mine[0].step is not None and mine[0].step <= 20)
        others += any(w.stage != f"grpo-{adapter}-1" for w in found)
        for warning in mine:
            assert warning.seen
            assert warning.meaning
            assert warning.advice
    assert late == 0
    assert others == 0


def test_every_signature_is_provoked() -> None:
    assert {signature for signature, _, _ in COLLAPSES.values()} == set(SIGNATURES)


def test_healthy_runs_are_left_in_peace() -> None:
    named = [found for seed in range(200) if (found := watch(run_records(seed, Healthy(rounds=2))))]
    assert len(named) <= 4, named  # 2%


healthy = st.builds(
    Healthy,
    steps=st.integers(8, 60),
    rounds=st.integers(1, 2),
    groups=st.sampled_from([4, 8, 16]),
    generations=st.sampled_from([2, 4, 8]),
    noise=st.floats(0.3, 1.5),
    length=st.floats(14, 500),
    drift=st.floats(-0.3, 1.0),
    entropy=st.floats(0.2, 3.0),
    kept=st.floats(0.45, 1.2),
    failures=st.floats(0, 0.6),
    gap=st.floats(0.08, 0.6),
    unique=st.floats(0.6, 1.0),
    probe_every=st.integers(2, 5),
)


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(healthy, st.integers(0, 10**6))
def test_healthy_runs_of_many_kinds_are_left_in_peace(how: Healthy, seed: int) -> None:
    named = [found for k in range(50) if (found := watch(run_records(seed + k, how)))]
    assert len(named) <= 1, named  # 2%


def test_little_evidence_names_nothing() -> None:
    for _, adapter, spoil in COLLAPSES.values():
        records = [r for r in run_records(3, spoil={adapter: spoil}) if r.get("step") is None or r["step"] <= 3]
        assert [w for w in watch(records) if w.step is not None] == []


def test_missing_signals_name_nothing() -> None:
    records = run_records(0)
    for row in records:
        for part in ("signals", "rewards"):
            if part in row:
                row[part] = dict.fromkeys(row[part])
        if row["kind"] == "held_out":
            row.update(dict.fromkeys(["gap", "gap_se", "log_q", "log_q_se", "advantage"]) | {"gap_n": 0})
    assert watch(records) == []


def test_a_run_without_traces_names_nothing() -> None:
    rows = [r for r in run_records(0) if r["stage"] == "sft-q2"]
    rows[-1] |= {"gap": None, "gap_se": None, "gap_n": 0}
    assert watch(rows) == []


def test_a_supervised_stage_that_ends_without_a_gap_is_named() -> None:
    rows = [r for r in run_records(0) if r["stage"] == "sft-q2"]
    assert watch(rows) == []
    rows[-1] |= {"gap": 0.001, "gap_se": 0.004}
    (found,) = watch(rows)
    assert (found.signature, found.step) == ("trace ignored", None)
    rows[-1] |= {"gap_n": 7}
    assert watch(rows) == []


def test_a_second_round_is_held_against_the_first() -> None:
    """What collapsed in round 1 stays collapsed in round 2, though nothing changes any more."""
    records = run_records(0, Healthy(rounds=2))
    for row in records:
        if row["kind"] == "step" and row["stage"] == "grpo-q1-2":
            row["signals"]["length"] = 9.0 + row["step"] % 2
    assert {(w.signature, w.stage) for w in watch(records)} == {("trivial traces", "grpo-q1-2")}


def test_steps_that_are_taken_again_count_once() -> None:
    steps = [r for r in run_records(1) if r["kind"] == "step" and r["stage"] == "grpo-q1-1"][:4]
    for row in steps:
        row["signals"]["length"] = 1.0
    watcher = Watcher()
    for row in [*steps[:3], *steps[1:3], *steps[1:3]]:
        assert watcher.add(row) == []
    assert [warning.signature for warning in watcher.add(steps[3])] == ["trivial traces"]


def test_change_knows_noise() -> None:
    assert change([1.0, None, 2.0]) is None
    assert change([1.0] * 5) == change([1.0] * 4)
    still = change([1.0] * 8)
    assert still is not None
    assert (still.first, still.last, still.z) == (1.0, 1.0, 0.0)
    fallen = change([10.0] * 4 + [1.0] * 4)
    assert fallen is not None
    assert fallen.z is not None
    assert fallen.fell_to(0.5)
    assert not fallen.fell_to(0.05)
    noisy = change([10, 0, 9, 1, 0, 7, 0, 1.0])
    assert noisy is not None
    assert not noisy.fell_to(0.5)


def test_a_watcher_and_the_whole_agree() -> None:
    for kind in ("short traces", "q2 ahead"):
        _, adapter, spoil = COLLAPSES[kind]
        records = run_records(5, spoil={adapter: spoil})
        found = watch(records)
        assert found
        for cut in range(0, len(records), 7):
            met: list[CollapseWarning] = watch(records[:cut])
            assert met == found[: len(met)]


class Trainer:
    """The state that TRL's trainers hand to callbacks, and its logs for a step."""

    def __init__(self, max_steps: int) -> None:
        self.state = SimpleNamespace(is_world_process_zero=True, global_step=0, max_steps=max_steps)
        self.control = SimpleNamespace(should_training_stop=False)

    def run(self, callbacks: list[Any], logs: Callable[[int], dict[str, Any]], first: int = 0) -> None:
        self.state.global_step = first
        for callback in callbacks:
            callback.on_train_begin(None, self.state, self.control)
        for step in range(first + 1, self.state.max_steps + 1):
            self.state.global_step = step
            for event, more in (("on_step_end", {}), ("on_log", {"logs": logs(step)})):
                for callback in callbacks:
                    getattr(callback, event)(None, self.state, self.control, **more)
            if self.control.should_training_stop:
                break
        for callback in callbacks:
            callback.on_log(None, self.state, self.control, logs={"train_runtime": 1.0, "train_loss": 0.0})


def grpo_logs(step: int) -> dict[str, Any]:
    """As TRL 1.16 logs a step, with traces that shrink."""
    return {
        "loss": 0.01,
        "grad_norm": 0.3,
        "learning_rate": 1e-5,
        "reward": 0.4 + 0.001 * step,
        "reward_std": 0.1,
        "frac_reward_zero_std": 0.0,
        "rewards/likelihood/mean": 0.2,
        "rewards/likelihood/std": 0.05,
        "rewards/missing": 0.0,
        "completions/mean_length": max(10.0, 80.0 - 10 * step),
        "completions/clipped_ratio": 0.0,
        "entropy": 1.0,
        "step_time": 2.0,
        "seconds/reward": 0.3,
        "signals/unique": 1.0,
        "signals/spread/likelihood": 0.02,
    }


def test_callbacks_write_watch_and_stop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from remid.train.callbacks import JournalCallback, ProbeCallback, WatchCallback

    journal = Journal(tmp_path)
    journal.show([{"text": "[red]a trace[/red]\n\x1b[31m", "sample_ID": "1"}])
    watching = WatchCallback(journal, "grpo-q1-1", Progress(), stop=True)
    probed: list[int] = []

    def probe() -> dict[str, Any]:
        probed.append(trainer.state.global_step)
        return {"log_q": -2.0, "log_q_se": 0.1, "log_q_n": 16, "gap": 0.2, "gap_se": 0.02, "gap_n": 16}

    trainer = Trainer(30)
    callbacks = [
        JournalCallback(journal, "grpo-q1-1", Progress()),
        ProbeCallback(journal, "grpo-q1-1", probe, 3),
        watching,
    ]
    trainer.run(callbacks, grpo_logs)
    stopped = trainer.state.global_step
    assert 8 <= stopped <= 20
    assert probed == list(range(0, stopped + 1, 3))
    (warning,) = watching.warnings
    assert (warning.signature, warning.step) == ("trivial traces", stopped)
    rows = read_journal(tmp_path)
    (first,) = [row for row in rows if row["kind"] == "step" and row["step"] == 1]
    assert first["signals"] == {
        "reward": 0.401,
        "reward_sd": 0.1,
        "entropy": 1.0,
        "length": 70.0,
        "unfinished": 0.0,
        "no_spread": 0.0,
        "unique": 1.0,
    }
    assert first["rewards"] == {"likelihood": {"mean": 0.2, "sd": 0.05, "spread": 0.02}}
    assert first["learning"]["reward_seconds"] == 0.3
    assert first["steps"] == 30
    assert [row["signature"] for row in rows if row["kind"] == "warning"] == ["trivial traces"]
    assert sum(row["kind"] == "samples" for row in rows) == 1
    said = capsys.readouterr().err
    assert "grpo-q1-1: step 1 of 30" in said
    assert "[red]a trace[/red]" in said
    assert "\x1b[31m" not in said
    assert said.count("WARNING, trivial traces (grpo-q1-1, step") == 1


def test_a_run_that_goes_on_says_nothing_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And forgets nothing: neither what its checkpoint knows, nor what a repeated step brings to light again."""
    from remid.train.callbacks import JournalCallback, WatchCallback

    named = 8  # the step at which the traces have shrunk
    for first in (0, 12, 4):
        journal = Journal(tmp_path)
        trainer, watching = Trainer(16), WatchCallback(journal, "grpo-q1-1", Progress())
        trainer.run([JournalCallback(journal, "grpo-q1-1", Progress()), watching], grpo_logs, first)
        assert [(w.signature, w.step) for w in watching.warnings] == [("trivial traces", named)]
        assert not trainer.control.should_training_stop
        rows = read_journal(tmp_path)
        assert [row["step"] for row in rows if row["kind"] == "step"] == list(range(1, 17))
        assert [row["step"] for row in rows if row["kind"] == "warning"] == [named]
    assert capsys.readouterr().err.count("WARNING") == 1


@pytest.mark.parametrize("behind", [0, 4, 8])
def test_a_collapse_ends_the_stage_though_the_run_was_broken_off(tmp_path: Path, behind: int) -> None:
    """Broken off between the warning and the stage's end; the checkpoint may lie before the warning."""
    from remid.train.callbacks import JournalCallback, ProbeCallback, WatchCallback

    quiet = Progress(enabled=False)
    for first in (0, behind):
        journal, trainer = Journal(tmp_path), Trainer(30)
        watching = WatchCallback(journal, "grpo-q1-1", quiet, stop=True)
        probing = ProbeCallback(journal, "grpo-q1-1", lambda: {"log_q": -2.0}, 4)
        trainer.run([JournalCallback(journal, "grpo-q1-1", quiet), probing, watching], grpo_logs, first)
        assert [w.signature for w in watching.warnings] == ["trivial traces"]
        assert trainer.state.global_step == (8 if first < 8 else 9)
    assert sum(row["kind"] == "warning" for row in read_journal(tmp_path)) == 1


def test_what_a_supervised_stage_ended_with_is_said_by_the_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from remid.train.callbacks import JournalCallback, WatchCallback

    journal = Journal(tmp_path)
    journal.add({"kind": "held_out", "stage": "sft-q2", "gap": 0.001, "gap_se": 0.004, "gap_n": 20})
    for stopping in (True, True, False):
        again, trainer = Journal(tmp_path), Trainer(3)
        watching = WatchCallback(again, "grpo-q1-1", Progress(), stop=stopping)
        trainer.run([JournalCallback(again, "grpo-q1-1", Progress()), watching], grpo_logs)
        # Said once, and it stops the run also where another process takes over.
        assert [(w.signature, w.stage) for w in watching.warnings] == [("trace ignored", "sft-q2")]
        assert trainer.state.global_step == (1 if stopping else 3)
    assert sum(row["kind"] == "warning" for row in read_journal(tmp_path)) == 1
    assert capsys.readouterr().err.count("WARNING") == 1
    journal.add({"kind": "held_out", "stage": "grpo-q1-1", "gap": 0.2, "gap_se": 0.004, "gap_n": 20})
    watching, trainer = WatchCallback(journal, "grpo-q2-1", Progress(), stop=True), Trainer(3)
    trainer.run([watching], grpo_logs)
    assert watching.warnings == []  # of the stage before alone


def test_traces_of_a_prompt_may_become_alike() -> None:
    """As q1 settles on the best one; what is said of different prompts still differs."""
    for seed in range(20):
        records = run_records(seed, spoil={"q1": falling("unique", 0.3)})
        assert watch(records) == []


def test_what_differed_is_measured_beside_the_common_form() -> None:
    """Traces that share half of their bigrams by their form, and at last three quarters: half of the rest is gone."""
    rows = [r for r in run_records(0) if r["kind"] == "step" and r["stage"] == "grpo-q1-1"]
    for last, named in ((0.6, []), (0.8, ["trivial traces"])):
        for row in rows:
            row["signals"]["cross_overlap"] = 0.5 + (last - 0.5) * row["step"] / 20
        assert [w.signature for w in watch(rows)] == named


def test_only_the_first_process_writes(tmp_path: Path) -> None:
    from remid.train.callbacks import JournalCallback, ProbeCallback

    journal, trainer = Journal(tmp_path), Trainer(3)
    trainer.state.is_world_process_zero = False
    quiet = Progress(enabled=False)
    trainer.run([JournalCallback(journal, "grpo-q1-1", quiet), ProbeCallback(journal, "grpo-q1-1", dict, 1)], grpo_logs)
    assert journal.read() == []


def test_one_trace_for_everybody_is_a_trace_that_is_ignored() -> None:
    """Another sample's trace is then one's own: every difference is 0, and so is their error."""
    from remid.train.evaluate import _next_known

    assert _next_known(["same", "same", None]) == ["same", "same", "same"]
    assert _next_known(["a", None, "b"]) == ["b", "b", "a"]
    assert _next_known(["alone", None]) == [None, "alone"]
    rows = [r for r in run_records(0) if r["stage"] == "sft-q2"]
    rows[-1] |= {"gap": 0.0, "gap_se": 0.0}
    assert [w.signature for w in watch(rows)] == ["trace ignored"]
    rows = run_records(0)
    for row in rows:
        if row["kind"] == "held_out" and row["stage"] == "grpo-q1-1":
            row |= {"gap": 0.0, "gap_se": 0.0}
    assert ("trace ignored", "grpo-q1-1") in {(w.signature, w.stage) for w in watch(rows)}
