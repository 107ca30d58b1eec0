"""CoRL from beginning to end (arXiv 2512.17270, algorithm 1): cold start, then rounds until nothing is gained.

A run is a folder. Every stage leaves its adapter, what it stands on, and how well the held-out references are told
under stages/; the same call again goes on behind the last stage that was finished, and within a stage behind its last
checkpoint. Kept is the pair of q1 and q2 as they were after the stage with the best held-out likelihood, not the last.
A stage itself stands on the last ones, as in the paper's algorithm (docs/training.md says why).
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remid.lm.adapters import frozen_copy, load_weights, read_chain, write_adapter, write_estimator
from remid.pipeline.engines import EngineConfig
from remid.pipeline.progress import Progress
from remid.pipeline.run import write_json
from remid.pipeline.traces import parse_trace
from remid.train.collect import collect_training_traces
from remid.train.config import TrainConfig
from remid.train.evaluate import paired_difference
from remid.train.processes import is_first, wait_for
from remid.train.run import TrainRun, open_run
from remid.train.stages import improve_responses, improve_traces, supervised

Traces = Mapping[str, str]

#: Where so many of a supervised q1's traces cannot be read, a run goes on mostly without reasoning, and says so.
_UNREADABLE = 0.5

#: Nats per token by which q1's traces must surely cost held-out references before a run says so.
_COSTS = 0.02


def train_corl(
    config: TrainConfig,
    out: Path,
    progress: Progress,
    *,
    callbacks: Callable[[TrainRun], list[Any]] | None = None,
    engine: EngineConfig | None = None,
) -> Path:
    """Train q1 and q2 and return the estimator's folder, OUT/estimator. The same call resumes.

    engine: how a server that writes traces is reached, which changes no result. Raises DataError, ConfigError,
    ModelError, StoreError, EngineError.
    """
    run = open_run(config, out, progress, engine)
    if callbacks is not None:
        run.stage_callbacks = callbacks
    history = _History(run)
    traces = _first_traces(run) if config.reasoning else {}
    if config.reasoning:
        history.stage("sft-q1", "q1", lambda folder, seed: supervised(run, "q1", traces, config.sft, folder, seed))
    history.stage("sft-q2", "q2", lambda folder, seed: supervised(run, "q2", traces, config.sft, folder, seed))
    without_gain = 0
    for number in range(1, config.rounds + 1):
        before = history.best
        traces = _round(run, history, number, traces)
        if history.collapsed:
            run.note("a sign of collapse was named: stopping; what this stage made is not kept")
            break
        without_gain = 0 if history.best != before else without_gain + 1
        if without_gain >= config.patience:
            run.note(f"held-out likelihood has not improved for {without_gain} round(s): stopping")
            break
    history.settle()
    run.journal.add({"kind": "end", "stage": run.stage, "time": time.time()})
    return out / "estimator"


def _round(run: TrainRun, history: _History, number: int, before: Traces) -> Traces:
    """One round; returns the traces that q2 was trained on. before: those of the round before."""
    history.stage(f"grpo-q1-{number}", "q1", lambda folder, seed: improve_traces(run, folder, seed))
    if history.collapsed:
        return before
    traces = _roll_out(run, number, before)
    again = run.config.sft_again or run.config.sft
    history.stage(f"sft-q2-{number}", "q2", lambda folder, seed: supervised(run, "q2", traces, again, folder, seed))

    def responses(folder: Path, seed: int) -> None:
        frozen_copy(run.model, "q2", "ref")
        improve_responses(run, traces, folder, seed)

    history.stage(f"grpo-q2-{number}", "q2", responses)
    return traces


@dataclass(frozen=True, slots=True)
class _Kept:
    """An estimator: the adapters as they were after a stage. log_q: held out, nats per token; by_sample: of each."""

    stage: str
    log_q: float | None
    by_sample: Mapping[str, float | None]
    q1: Path | None
    q2: Path


class _History:
    """The stages so far: which are finished, what each stands on, which left the best estimator.

    best: name of that stage, None before q2's first. collapsed: whether the last one was ended for a sign of collapse.
    """

    def __init__(self, run: TrainRun) -> None:
        self._run = run
        self._count = 0
        self._parents: dict[str, list[str]] = {"q1": [], "q2": []}
        self._last: dict[str, Path] = {}
        self._kept: _Kept | None = None
        self.collapsed = False

    @property
    def best(self) -> str | None:
        return None if self._kept is None else self._kept.stage

    def stage(self, name: str, adapter: str, body: Callable[[Path, int], None]) -> None:
        """Train, save and evaluate one stage, or load what it left."""
        run, self._count = self._run, self._count + 1
        run.stage = name
        folder = run.folder / "stages" / f"{self._count:02d}-{name}"
        saved, report = folder / "adapter", folder / "held_out.json"
        begun = not report.exists()
        if begun:
            run.journal.add({"kind": "stage", "stage": name, "adapter": adapter, "time": time.time()})
            begin = time.perf_counter()
            scratch = folder / "checkpoints"
            if adapter == "q1":
                run.held_traces = None
            body(scratch, 1000 * run.config.seed + self._count)
            if is_first():
                self._finish(name, adapter, folder, begin)
                shutil.rmtree(scratch, ignore_errors=True)
            wait_for(report)
        else:
            load_weights(run.model, adapter, saved, run.loaded.source.fingerprint)
        self._parents[adapter].append(read_chain(saved).digest)
        self._last[adapter] = saved
        self._consider(name, json.loads(report.read_text(encoding="utf-8")))
        if begun:
            self.settle()

    def _consider(self, name: str, found: Mapping[str, Any]) -> None:
        """The pair that there is now is the best if it tells the held-out references better, as found in `found`.

        Compared are the samples that both could score. Ties stay with the earlier one, which took less training.
        """
        self.collapsed = found["collapsed"]
        if self.collapsed or "q2" not in self._last:
            return
        gain = None if self._kept is None else paired_difference(found["by_sample"], self._kept.by_sample)
        if gain is None or (gain["over_best"] or 0.0) > 0:
            self._kept = _Kept(name, found["log_q"], found["by_sample"], self._last.get("q1"), self._last["q2"])

    def _finish(self, name: str, adapter: str, folder: Path, begin: float) -> None:
        """Save what a stage has trained, and evaluate it. begin: of the stage, by perf_counter."""
        run = self._run
        write_adapter(
            run.model,
            adapter,
            folder / "adapter",
            base=run.loaded.source,
            stage=name,
            parents=tuple(self._parents[adapter]),
            data=run.split.digest,
            config=run.config.model_dump(mode="json"),
        )
        if adapter == "q1":
            run.held_traces = None
        row = self._evaluate() | {"seconds": time.perf_counter() - begin, "collapsed": run.collapsed}
        by_sample = row.pop("by_sample")
        run.journal.add({"kind": "held_out", "stage": name, "adapter": adapter, "time": time.time(), **row})
        write_json(folder / "held_out.json", row | {"by_sample": by_sample})
        run.progress.say(f"{name}: held-out references {row['log_q']:.3f} nats/token ({row['seconds']:.0f} s)")
        for text, figure in cold_start_advice(name, row):
            run.note(text, **{figure: row[figure]})

    def settle(self) -> None:
        """Leave the best estimator in the run's folder, unless it is there."""
        run, kept, path = self._run, self._kept, self._run.folder / "best.json"
        if kept is None or not is_first():
            return
        known = json.loads(path.read_text(encoding="utf-8"))["name"] if path.exists() else None
        if known != kept.stage or not (run.folder / "estimator").exists():
            write_estimator(
                run.folder / "estimator",
                base=run.loaded.source,
                q1=kept.q1,
                q2=kept.q2,
                trace_format=run.config.trace_format if run.config.reasoning else None,
                trace_tokens=run.config.grpo.trace_tokens,
                prompt_version=run.config.prompts,
                dtype=run.config.adapter_dtype,
                trained_on=run.split.marks,
            )
            write_json(path, {"name": kept.stage, "log_q": kept.log_q})

    def _evaluate(self) -> dict[str, Any]:
        """Of the held-out references, with the traces that q1 writes now; and against the best estimator so far."""
        run = self._run
        found = run.evaluate(run.split.held_out, run.traces_of_held_out())
        row = found.summary() | {"examples": _examples(found), "by_sample": found.by_sample}
        if self._kept is not None:
            row |= paired_difference(found.by_sample, self._kept.by_sample) | {"best_before": self._kept.stage}
        return row


def _examples(found: Any) -> list[dict[str, Any]]:
    """A few traces to look at."""
    rows = zip(found.samples, found.traces, found.parsed, found.own, found.none, strict=True)
    return [
        {
            "sample_ID": sample,
            "trace": trace,
            "parsed": parsed,
            "log_q": own.mean if own else None,
            "log_q_without": none.mean if none else None,
        }
        for sample, trace, parsed, own, none in list(rows)[:6]
    ]


def _first_traces(run: TrainRun) -> Traces:
    """The traces of the cold start, written once, by one process."""
    path = run.folder / "traces.json"
    if is_first() and not path.exists():
        run.stage = "traces"
        write_json(path, dict(collect_training_traces(run)))
    return _shared(path)


def _roll_out(run: TrainRun, number: int, before: Traces) -> Traces:
    """What the new q1 writes for all training samples; where that does not parse, the trace from before."""
    path = run.folder / f"traces-{number}.json"
    if is_first() and not path.exists():
        run.stage = f"rollout-{number}"
        begin = time.perf_counter()
        written = run.write_traces(run.split.train)
        new = {name: text for name, text in written.items() if parse_trace(text).features is not None}
        told = f"{len(new)} of {len(run.split.train)} new traces follow the format"
        run.note(told, parsed=len(new), n=len(run.split.train), seconds=time.perf_counter() - begin)
        write_json(path, {**before, **new})
    return _shared(path)


def _shared(path: Path) -> Traces:
    """What the first process writes, or has written."""
    wait_for(path)
    known: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return known


def cold_start_advice(stage: str, found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What the cold start's held-out figures say is wrong with it, and what to do: text, and the figure behind it."""
    failures = found["parse_failures"] or 0.0
    if stage == "sft-q1" and failures >= _UNREADABLE:
        yield (
            f"{failures:.0%} of q1's held-out traces do not follow the format, and q2 reads none of these: give q1 "
            "more steps (a smaller sft.batch, more sft.epochs), a higher sft.rate, or room (grpo.trace_tokens)",
            "parse_failures",
        )
    worth, error = found["advantage"], found["advantage_se"]
    if stage == "sft-q2" and worth is not None and error is not None and worth + 2 * error < -_COSTS:
        yield (
            f"q1's traces make held-out references less likely than no trace does: {worth:+.3f} nats/token (standard "
            f"error {error:.3f}, n = {found['advantage_n']}). In short chats it may be where they are shown "
            "(prompts = 1 puts them into the system message); else q1 needs more steps or better traces to learn from",
            "advantage",
        )
