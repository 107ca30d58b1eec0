"""The cold start with one adapter in both roles: it learns traces and responses in one supervised stage."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

from remid.lm.adapters import load_weights, write_adapter, write_estimator
from remid.pipeline.progress import Progress
from remid.pipeline.prompts import PROMPT_VERSION
from remid.pipeline.run import write_json
from remid.pipeline.traces import parse_trace
from remid.train.collect import collect_training_traces
from remid.train.config import TrainConfig
from remid.train.evaluate import evaluate
from remid.train.examples import Example, q1_example, q2_example
from remid.train.run import TrainRun, open_run
from remid.train.sft import run_sft


def train_shared(config: TrainConfig, out: Path, progress: Progress) -> Path:
    """Train on the examples of q1 and q2 mixed, as many epochs as the two have apart; returns OUT/estimator.

    The same call resumes. Raises as train_corl does.
    """
    run = open_run(config, out, progress)
    estimator, saved = out / "estimator", out / "stages" / "01-sft-shared" / "adapter"
    if estimator.exists():
        return estimator
    run.stage = "sft-shared"
    examples, scratch = _examples(run), saved.with_name("checkpoints")
    settings, tokenizer = config.sft, run.loaded.tokenizer
    run_sft(run.model, "q2", examples, tokenizer, settings, scratch, seed=1000 * config.seed + 1)
    base, about = run.loaded.source, config.model_dump(mode="json")
    write_adapter(run.model, "q2", saved, base=base, stage=run.stage, parents=(), data=run.split.digest, config=about)
    load_weights(run.model, "q1", saved, base.fingerprint)
    found = evaluate(run.scorer, run.renderer, run.split.held_out, run.traces_of_held_out())
    write_json(out / "best.json", {"name": run.stage, "log_q": found.summary()["log_q"]})
    write_estimator(
        estimator,
        base=base,
        q1=saved,
        q2=saved,
        trace_format=config.trace_format,
        trace_tokens=config.grpo.trace_tokens,
        prompt_version=PROMPT_VERSION,
    )
    shutil.rmtree(scratch, ignore_errors=True)
    return estimator


def _examples(run: TrainRun) -> list[Example]:
    """Of every training sample with a trace its trace and its reference; what is left out is noted."""
    traces, form, limit = collect_training_traces(run), run.config.trace_format, run.max_tokens
    found: list[Example] = []
    left_out: Counter[str] = Counter()
    for sample in run.split.train:
        text = traces.get(sample.sample_id)
        if text is None:
            left_out["no trace"] += 1
            continue
        features = parse_trace(text).features
        for made in (
            q1_example(sample, text, form, run.renderer, limit),
            q2_example(sample, features, run.renderer, limit),
        ):
            if isinstance(made, str):
                left_out[made] += 1
            else:
                found.append(made)
    run.note(f"both: {len(found)} examples", left_out=dict(left_out), n=len(found))
    return found
