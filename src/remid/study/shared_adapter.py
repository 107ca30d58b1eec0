"""The cold start with one adapter in both roles: it learns traces and responses in one supervised stage."""

from __future__ import annotations

import shutil
from pathlib import Path

from remid.lm.adapters import load_weights, write_adapter, write_estimator
from remid.pipeline.progress import Progress
from remid.pipeline.run import write_json
from remid.train.collect import collect_training_traces
from remid.train.config import TrainConfig
from remid.train.run import open_run
from remid.train.sft import run_sft
from remid.train.stages import supervised_examples


def train_shared(config: TrainConfig, out: Path, progress: Progress) -> Path:
    """Train on the examples of q1 and q2 mixed, as many epochs as the two have apart; returns OUT/estimator.

    The same call resumes. Raises as train_corl does.
    """
    run = open_run(config, out, progress)
    estimator, saved = out / "estimator", out / "stages" / "01-sft-shared" / "adapter"
    if estimator.exists():
        return estimator
    run.stage = "sft-shared"
    examples = supervised_examples(run, collect_training_traces(run), ("q1", "q2"))
    scratch = saved.with_name("checkpoints")
    settings, tokenizer = config.sft, run.loaded.tokenizer
    run_sft(run.model, "q2", examples, tokenizer, settings, scratch, seed=1000 * config.seed + 1)
    base, about = run.loaded.source, config.model_dump(mode="json")
    write_adapter(run.model, "q2", saved, base=base, stage=run.stage, parents=(), data=run.split.digest, config=about)
    load_weights(run.model, "q1", saved, base.fingerprint)
    found = run.evaluate(run.split.held_out, run.traces_of_held_out())
    write_json(out / "best.json", {"name": run.stage, "log_q": found.summary()["log_q"]})
    write_estimator(
        estimator,
        base=base,
        q1=saved,
        q2=saved,
        trace_format=config.trace_format,
        trace_tokens=config.grpo.trace_tokens,
        prompt_version=config.prompts,
        dtype=config.adapter_dtype,
        trained_on=run.split.marks,
    )
    shutil.rmtree(scratch, ignore_errors=True)
    return estimator
