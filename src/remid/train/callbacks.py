"""What listens to TRL's trainers: the journal of steps, evaluations on held-out data, and the collapse watch.

They need transformers, so they stand apart from journal.py and watch.py, which `remid train status` needs at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from transformers import TrainerCallback

from remid.pipeline.progress import Progress
from remid.train.journal import Journal, adapter_of
from remid.train.watch import CollapseWarning, Watcher

#: What the trainers call it -> what the journal calls it.
_SIGNALS = {
    "reward": "reward",
    "reward_std": "reward_sd",
    "entropy": "entropy",
    "kl": "kl",
    "completions/mean_length": "length",
    "completions/clipped_ratio": "unfinished",
    "frac_reward_zero_std": "no_spread",
    "mean_token_accuracy": "accuracy",
}
_LEARNING = ("loss", "grad_norm", "learning_rate", "step_time", "epoch")
#: Seconds between two lines for the user, and between two samples.
_SAY_EVERY = 15.0
_SHOW_EVERY = 120.0
_SHOWN = 160  # characters of a sample


class JournalCallback(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """Writes a record per logged step, what was sampled now and then, and a line with the time left.

    stage: of the run, "grpo-q1-1". The trainer must log every step (logging_steps=1).
    """

    def __init__(self, journal: Journal, stage: str, progress: Progress) -> None:
        self._journal, self._stage, self._progress = journal, stage, progress
        self._begin, self._first = time.monotonic(), 0
        self._said = self._showed = -float("inf")

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self._begin, self._first = time.monotonic(), state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **more: Any) -> None:
        if not state.is_world_process_zero or not logs or "train_runtime" in logs:
            return
        step = int(state.global_step)
        record = step_record(self._stage, step, int(state.max_steps), logs)
        self._journal.add(record)
        now = time.monotonic()
        if now - self._said >= _SAY_EVERY or step == state.max_steps:
            self._said = now
            self._progress.say(self._line(record, now))
        if (examples := self._journal.take()) and (now - self._showed >= _SHOW_EVERY or step == state.max_steps):
            self._showed = now
            self._journal.add({"kind": "samples", "stage": self._stage, "step": step, "examples": examples})
            text = str(examples[0].get("text", ""))
            self._progress.say(f"{self._stage}: {text[:_SHOWN]!r}{' ...' if len(text) > _SHOWN else ''}")

    def _line(self, record: Mapping[str, Any], now: float) -> str:
        step, steps = record["step"], record["steps"]
        done = step - self._first
        left = duration((now - self._begin) / done * (steps - step)) if done > 0 else "n/a"
        values = {"loss": record["learning"].get("loss"), **record["signals"]}
        names = ("reward", "failures", "length", "entropy") if record["rewards"] else ("loss", "accuracy")
        shown = "  ".join(f"{name} {values[name]:.3g}" for name in names if values.get(name) is not None)
        return f"{self._stage}: step {step} of {steps}  {shown}  left {left}"


class ProbeCallback(TrainerCallback):  # type: ignore[misc]
    """Evaluates held-out references before the first step and after every so many, into the journal.

    probe: returns the fields of a held_out record (evaluate.HeldOut.summary) and must leave the model as it was, the
    trainable weights and random states included.
    """

    def __init__(self, journal: Journal, stage: str, probe: Callable[[], Mapping[str, Any]], every: int) -> None:
        self._journal, self._stage, self._probe, self._every = journal, stage, probe, every

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self._write(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if state.global_step % self._every == 0 and state.global_step < state.max_steps:
            self._write(state)  # after the last step the stage itself evaluates on all that is held out

    def _write(self, state: Any) -> None:
        if not state.is_world_process_zero:
            return
        begin = time.perf_counter()
        found = dict(self._probe())
        found["seconds"] = time.perf_counter() - begin
        where = {"stage": self._stage, "adapter": adapter_of(self._stage), "step": int(state.global_step)}
        self._journal.add({"kind": "held_out", **where, **found})


class WatchCallback(TrainerCallback):  # type: ignore[misc]
    """Says a signature of collapse when it is met, once a stage; stop: also ends the stage.

    warnings: those of this stage, and of the end of the one before, which nothing listens to. A run that goes on has
    them too, as far as its checkpoint reaches. Place it behind JournalCallback, whose records it reads.
    """

    def __init__(self, journal: Journal, stage: str, progress: Progress, *, stop: bool = False) -> None:
        self._journal, self._stage, self._progress, self._stop = journal, stage, progress, stop
        self._watcher = Watcher()
        self._next = len(journal.added)
        self.warnings: list[CollapseWarning] = []
        # Read now: once steps are taken again, the journal no longer tells what was said behind the checkpoint.
        self._said = {(row["signature"], row["stage"]) for row in journal.read() if row["kind"] == "warning"}

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if not state.is_world_process_zero:
            return
        rows, step = self._journal.read(), int(state.global_step)
        self._next = len(self._journal.added)
        earlier = [row for row in rows if row.get("stage") != self._stage]
        ended = [row["stage"] for row in earlier if row["kind"] == "held_out" and row.get("step") is None]
        mine = [row for row in rows if row.get("stage") == self._stage and 0 <= _step(row) <= step]
        found = [warning for row in (*earlier, *mine) for warning in self._watcher.add(row)]
        for warning in found:
            if warning.stage == self._stage:
                self._warn(warning, known=True, now=step)
            elif warning.step is None and warning.stage == ended[-1]:
                self._warn(warning, known=True)
        self._end(control)

    def on_log(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        new, self._next = self._journal.added[self._next :], len(self._journal.added)
        for warning in [found for record in new for found in self._watcher.add(record)]:
            self._warn(warning)
        self._end(control)

    def _end(self, control: Any) -> None:
        if self._stop and self.warnings:
            control.should_training_stop = True

    def _warn(self, warning: CollapseWarning, *, known: bool = False, now: int | None = None) -> None:
        """known: met in records of before, so the journal has it if it was said. now: the step to write it down at,
        since a record of an earlier one would make the journal drop the steps between."""
        self.warnings.append(warning)
        said = (warning.signature, warning.stage) in self._said
        if not (said and known):
            self._journal.add(warning.record() if now is None else replace(warning, step=now).record())
        if said:
            return
        when = "at its end" if warning.step is None else f"step {warning.step}"
        self._progress.say(
            f"WARNING, {warning.signature} ({warning.stage}, {when}): {warning.seen}.\n"
            f"  {warning.meaning}\n  {warning.advice}"
        )


def step_record(stage: str, step: int, steps: int, logs: Mapping[str, Any]) -> dict[str, Any]:
    """A journal's record of what TRL logged for a step.

    signals: by our names (signals.step_signals, which reward functions log as "signals/NAME"). rewards: per part,
    before weighting, mean and standard deviation over completions, and spread, the standard deviation within groups.
    learning: the optimizer's figures and seconds.
    """
    signals: dict[str, Any] = {ours: logs[theirs] for theirs, ours in _SIGNALS.items() if theirs in logs}
    rewards: dict[str, dict[str, Any]] = {}
    learning = {name: logs[name] for name in _LEARNING if name in logs}
    for key, value in logs.items():
        head, _, tail = key.partition("/")
        if head == "signals" and not tail.startswith("spread/"):
            signals[tail] = value
        elif head == "signals":
            rewards.setdefault(tail.removeprefix("spread/"), {})["spread"] = value
        elif head == "rewards" and tail.endswith(("/mean", "/std")):
            name, _, what = tail.rpartition("/")
            rewards.setdefault(name, {})["sd" if what == "std" else what] = value
        elif head == "seconds":
            learning[f"{tail}_seconds"] = value
    record = {"kind": "step", "stage": stage, "step": step, "steps": steps}
    return {**record, "signals": signals, "rewards": rewards, "learning": learning}


def _step(row: Mapping[str, Any]) -> int:
    """The step of a record, -1 where it has none."""
    step = row.get("step")
    return -1 if step is None else int(step)


def duration(seconds: float) -> str:
    """Seconds as "1:02:03" or "2:03"."""
    hours, rest = divmod(round(seconds), 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{left:02d}" if hours else f"{minutes}:{left:02d}"
