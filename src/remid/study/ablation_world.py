"""The ablation where the truth is known: the hops world, its base model, and settings for a model of that size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from remid.data import write_benchmark
from remid.data.worlds import hops
from remid.pipeline.progress import Progress
from remid.study.ablation import Material
from remid.study.hops_base import make_base
from remid.train.config import TrainConfig, make_train_config
from remid.types import Sample

#: A model of this size wants much higher learning rates than the paper's (docs/ablation.md has what was tried).
SETTINGS: dict[str, Any] = {
    "traces": "data",
    "holdout": 0.1,
    "max_tokens": 256,
    "rounds": 1,
    "lora": {"r": 16, "alpha": 32, "dropout": 0.0},
    "sft": {"epochs": 6, "rate": 2e-3, "batch": 32, "micro": 32},
    "grpo": {
        "samples": 768,
        "generations": 8,
        "prompts_per_step": 16,
        "rate": 2e-3,
        "trace_tokens": 32,
        "response_tokens": 12,
        "reward": "mean",
    },
}
#: Samples in training, in the ID test, and under each shift.
SIZES: MappingProxyType[str, int] = MappingProxyType({"train": 1100, "test": 300, "shifted": 150})


def hops_material(folder: Path, changed: Mapping[str, Any], progress: Progress) -> Material:
    """Data of each seed and the base model, left in `folder` and found there again. changed: settings other than ours.

    Raises ConfigError for settings that are wrong.
    """
    world = hops.HopsWorld()

    def settings(seed: int) -> TrainConfig:
        data = folder / f"hops-{seed}.json"
        if not data.exists():
            folder.mkdir(parents=True, exist_ok=True)
            made = hops.make_benchmark(world, seed, train=SIZES["train"], test=SIZES["test"], shifted=SIZES["shifted"])
            write_benchmark(made, data)
        base = folder / "base"
        if not base.exists():
            progress.say("making the base model of the hops world (about a minute)")
            make_base(base)
        return make_train_config(**_with(SETTINGS, changed) | {"data": (data,), "model": str(base), "seed": seed})

    def truth(sample: Sample) -> float:
        return hops.log_p(world, sample, sample.reference)

    return Material(settings, truth)


def _with(ours: Mapping[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with some of them changed, within sections too."""
    merged = dict(ours)
    for name, value in changed.items():
        both = isinstance(value, dict) and isinstance(ours.get(name), dict)
        merged[name] = {**ours[name], **value} if both else value
    return merged
