"""A training run as the command line makes it: journalled, probed, watched for collapse, with its page at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from remid.pipeline.engines import EngineConfig
from remid.pipeline.progress import Progress
from remid.train.callbacks import JournalCallback, ProbeCallback, WatchCallback
from remid.train.config import TrainConfig
from remid.train.corl import train_corl
from remid.train.run import TrainRun

#: Steps between two evaluations within a GRPO stage, and held-out samples that they look at: they cost time.
_EVERY, _PROBED = 4, 16


def train_watched(config: TrainConfig, out: Path, progress: Progress, engine: EngineConfig | None = None) -> Path:
    """Train with everything that watches; returns the estimator's folder. See train_corl."""
    return train_corl(config, out, progress, callbacks=watchers, engine=engine)


def train_journalled(config: TrainConfig, out: Path, progress: Progress) -> Path:
    """Train with a journal of the steps and without probes, which cost evaluations; for studies of many trainings."""
    return train_corl(
        config, out, progress, callbacks=lambda run: [JournalCallback(run.journal, run.stage, run.progress)]
    )


def watchers(run: TrainRun) -> list[Any]:
    """The callbacks of the stage in hand, in the order in which they must hear of a step."""
    heard: list[Any] = [JournalCallback(run.journal, run.stage, run.progress)]
    if run.stage.startswith("grpo"):
        heard.append(ProbeCallback(run.journal, run.stage, lambda: probe(run), _EVERY))
        heard.append(WatchCallback(run.journal, run.stage, run.progress, stop=run.config.stop_on_collapse))
        run.watch = heard[-1]
    return heard


def probe(run: TrainRun) -> dict[str, Any]:
    """How well some held-out references are told now, under traces that q1 writes now; the model stays as it is."""
    samples = run.split.held_out[:_PROBED]
    traces = run.write_traces(samples) if "q1" in run.stage else run.traces_of_held_out()
    return run.evaluate(samples, traces).summary()
