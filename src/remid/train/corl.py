"""CoRL from beginning to end (arXiv 2512.17270, algorithm 1): cold start, then rounds until nothing is gained.

A run is a folder. Every stage leaves its adapter, what it stands on, and how well the held-out references are told
under stages/; the same call again goes on behind the last stage that was finished, and within a stage behind its last
checkpoint. The estimator that is kept is the one of the round with the best held-out likelihood, not the last.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from remid.lm.adapters import frozen_copy, load_weights, read_chain, write_adapter, write_estimator
from remid.pipeline.engines import EngineConfig
from remid.pipeline.progress import Progress
from remid.pipeline.prompts import PROMPT_VERSION
from remid.pipeline.run import write_json
from remid.pipeline.traces import parse_trace
from remid.train.collect import collect_training_traces
from remid.train.config import TrainConfig
from remid.train.evaluate import evaluate
from remid.train.processes import is_first, wait_for
from remid.train.run import TrainRun, open_run
from remid.train.stages import cold_start, improve_responses, improve_traces

Traces = Mapping[str, str]


def train_sft(config: TrainConfig, out: Path, progress: Progress) -> Path:
    """The cold start alone; returns the estimator's folder."""
    return train_corl(config.model_copy(update={"rounds": 0}), out, progress)


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
        history.stage("sft-q1", "q1", lambda folder, seed: cold_start(run, "q1", traces, folder, seed))
    history.stage("sft-q2", "q2", lambda folder, seed: cold_start(run, "q2", traces, folder, seed))
    best = history.keep("cold start")
    without_gain = 0
    for number in range(1, config.rounds + 1):
        traces = _round(run, history, number, traces)
        if run.collapsed:
            run.note("a sign of collapse was named: stopping; the estimator is that of the round before")
            break
        score = history.keep(f"round {number}")
        without_gain = 0 if score > best else without_gain + 1
        best = max(best, score)
        if without_gain >= config.patience:
            run.note(f"held-out likelihood has not improved for {without_gain} round(s): stopping")
            break
    run.journal.add({"kind": "end", "stage": run.stage, "time": time.time()})
    return out / "estimator"


def _round(run: TrainRun, history: _History, number: int, before: Traces) -> Traces:
    """One round; returns the traces that q2 was trained on. before: those of the round before."""
    history.stage(f"grpo-q1-{number}", "q1", lambda folder, seed: improve_traces(run, folder, seed))
    if run.collapsed:
        return before
    traces = _roll_out(run, number, before)
    history.stage(f"sft-q2-{number}", "q2", lambda folder, seed: cold_start(run, "q2", traces, folder, seed))

    def responses(folder: Path, seed: int) -> None:
        frozen_copy(run.model, "q2", "ref")
        improve_responses(run, traces, folder, seed)

    history.stage(f"grpo-q2-{number}", "q2", responses)
    return traces


class _History:
    """The stages so far: which are finished, what each stands on, which estimator is the best yet."""

    def __init__(self, run: TrainRun) -> None:
        self._run = run
        self._count = 0
        self._parents: dict[str, list[str]] = {"q1": [], "q2": []}
        self._last: dict[str, Path] = {}
        self._score = -float("inf")

    def stage(self, name: str, adapter: str, body: Callable[[Path, int], None]) -> None:
        """Train, save and evaluate one stage, or load what it left."""
        run, self._count = self._run, self._count + 1
        run.stage = name
        folder = run.folder / "stages" / f"{self._count:02d}-{name}"
        saved, report = folder / "adapter", folder / "held_out.json"
        if report.exists():
            load_weights(run.model, adapter, saved, run.loaded.source.fingerprint)
        else:
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
        self._score = json.loads(report.read_text())["log_q"]
        self._parents[adapter].append(read_chain(saved).digest)
        self._last[adapter] = saved

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
        row = self._evaluate() | {"seconds": time.perf_counter() - begin}
        run.journal.add({"kind": "held_out", "stage": name, "adapter": adapter, "time": time.time(), **row})
        write_json(folder / "held_out.json", row)
        run.progress.say(f"{name}: held-out references {row['log_q']:.3f} nats/token ({row['seconds']:.0f} s)")

    def keep(self, name: str) -> float:
        """Make the estimator of what there is now, if it is the best yet; returns its held-out nats per token."""
        run, path = self._run, self._run.folder / "best.json"
        if not is_first():
            return self._score
        known = json.loads(path.read_text()) if path.exists() else {"log_q": -float("inf")}
        if self._score > known["log_q"] or not (run.folder / "estimator").exists():
            write_estimator(
                run.folder / "estimator",
                base=run.loaded.source,
                q1=self._last.get("q1"),
                q2=self._last["q2"],
                trace_format=run.config.trace_format if run.config.reasoning else None,
                trace_tokens=run.config.grpo.trace_tokens,
                prompt_version=PROMPT_VERSION,
                dtype=run.config.adapter_dtype,
            )
            write_json(path, {"name": name, "log_q": self._score})
        return self._score

    def _evaluate(self) -> dict[str, Any]:
        """Of the held-out references, with the traces that q1 writes now."""
        run = self._run
        found = evaluate(run.scorer, run.renderer, run.split.held_out, run.traces_of_held_out())
        return found.summary() | {"examples": _examples(found)}


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
