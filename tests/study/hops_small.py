"""The hops world at a size at which a training takes seconds: few samples, and a base that has learnt nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from remid.pipeline.progress import Progress
from remid.study.ablation import Material
from remid.study.ablation_world import SIZES, hops_material
from remid.study.hops_base import BaseTraining, make_base

QUICK: dict[str, Any] = {
    "sft": {"epochs": 1, "batch": 6, "micro": 6},
    "grpo": {"samples": 4, "generations": 2, "prompts_per_step": 2},
    "lora": {"r": 2, "dropout": 0.1},
}


def small(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Material:
    """The world in `folder`, of twelve samples each; with dropout, so that every random number counts."""
    make_base(folder / "base", BaseTraining(steps=2, inputs=60, width=16, layers=1))
    monkeypatch.setattr("remid.study.ablation_world.SIZES", dict.fromkeys(SIZES, 12))
    return hops_material(folder, QUICK, Progress(False))
