"""What GRPO on q2 costs as a density, with and without a KL term that holds it, where the truth is known.

The hops world (docs/ablation.md), its settings throughout. Of each seed one whole training; its last stage is made once
more for every other weight of the KL term (`grpo.response_beta`), from the same q2 and the same traces. Cost: the
divergence from the exact law after the stage less that before it, nats per response, on fresh items that no training
and no other measurement has seen; it is log q before less log q after, averaged over references, with its standard
error over items. The same command goes on behind what the folder holds.

  OMP_NUM_THREADS=1 python -m benchmarks.response_beta --seeds 4 5 --betas 0 3 --out runs/response-beta
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.collapse import begin_from

from remid.data.worlds import hops
from remid.lm.adapters import load_weights, new_adapters
from remid.lm.chat import ChatRenderer
from remid.lm.models import find_model, load_model
from remid.pipeline.progress import Progress
from remid.pipeline.traces import parse_trace
from remid.study.ablation_world import hops_material
from remid.train.config import TrainConfig
from remid.train.corl import train_corl
from remid.train.evaluate import reference_pair, write_traces
from remid.train.scoring import AdapterScorer
from remid.types import FloatArray

ITEMS = 1500
#: Seed of the fresh items.
FRESH = 90_210

Row = dict[str, Any]


def trained(folder: Path, seed: int, beta: float, progress: Progress) -> tuple[TrainConfig, Path]:
    """Settings and folder of a training whose last stage has this weight; all but that stage is the first one's."""
    config = hops_material(folder / "world", {"grpo": {"response_beta": beta}}, progress).settings(seed)
    run, first = folder / f"seed-{seed}-beta-{beta:g}", folder / f"seed-{seed}-beta-0"
    if run != first and not run.exists():
        begin_from(first, run, config, "grpo-q2-1")
    train_corl(config, run, progress)
    return config, run


def log_q(config: TrainConfig, run: Path, stages: tuple[str, ...]) -> list[FloatArray]:
    """log q2 of the fresh references after each of these stages of q2, with q1's traces; nats per response."""
    samples = hops.make_samples(hops.HopsWorld(), ITEMS, FRESH)
    source = find_model(config.model)
    loaded = load_model(source, device="cpu")
    model = new_adapters(loaded.model, config.lora, ("q1", "q2"), 0)
    renderer = ChatRenderer(loaded.tokenizer)
    load_weights(model, "q1", run / "stages" / "03-grpo-q1-1" / "adapter", source.fingerprint)
    traces = write_traces(model, loaded, renderer, samples, config.trace_format, config.grpo.trace_tokens)
    pairs = [reference_pair(s, parse_trace(traces.get(s.sample_id, "")).features, renderer) for s in samples]
    scorer = AdapterScorer(model, loaded, config.max_tokens)
    found = []
    for stage in stages:
        load_weights(model, "q2", run / "stages" / stage / "adapter", source.fingerprint)
        found.append(np.array([np.nan if one is None else one.nats for one in scorer.score("q2", pairs)]))
    return found


def measured(folder: Path, seed: int, beta: float, progress: Progress) -> Row:
    """The cost of the last stage under one seed and weight."""
    config, run = trained(folder, seed, beta, progress)
    before_I, after_I = log_q(config, run, ("04-sft-q2-1", "05-grpo-q2-1"))
    cost_I = before_I - after_I
    known_I = cost_I[np.isfinite(cost_I)]
    return {
        "seed": seed,
        "beta": beta,
        "cost": float(known_I.mean()),
        "stderr": float(known_I.std(ddof=1) / np.sqrt(len(known_I))),
        "n": len(known_I),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the trainings; the same one goes on")
    parser.add_argument("--seeds", type=int, nargs="+", default=[4, 5])
    parser.add_argument("--betas", type=float, nargs="+", default=[0.0, 3.0], help="0 is trained in any case")
    options = parser.parse_args()
    folder, progress, rows = options.out.absolute(), Progress(), []
    for seed in options.seeds:
        for beta in (0.0, *(beta for beta in options.betas if beta)):
            rows.append(measured(folder, seed, beta, progress))
            print(json.dumps(rows[-1]), flush=True)
    (folder / "response_beta.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
