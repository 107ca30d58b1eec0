"""Supervised stages learn what TRL's own trainer learns, and a round's second one has settings of its own."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback
from trl import SFTTrainer

from remid.lm.adapters import new_adapters
from remid.lm.models import find_model, load_model
from remid.pipeline.progress import Progress
from remid.train.config import LoraSettings, SftSettings, make_train_config
from remid.train.examples import Example
from remid.train.journal import read_journal
from remid.train.sft import run_sft
from remid.train.watched import train_watched


class _Logs(TrainerCallback):  # type: ignore[misc]
    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **more: Any) -> None:
        if "loss" in logs:
            self.steps.append({name: float(value) for name, value in logs.items()})


def _trained(tiny_folder: Path, out: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    """Weights of q1 after four steps on examples of many lengths, and what was logged."""
    loaded = load_model(find_model(str(tiny_folder)), device="cpu", dtype="float32")
    model = new_adapters(loaded.model, LoraSettings(r=4, alpha=8, dropout=0.0), ("q1", "q2"), 0)
    rng = torch.Generator().manual_seed(3)
    lengths = [(40, 9), (7, 30), (25, 1), (60, 12), (3, 3), (33, 18), (12, 2), (50, 21)]
    examples = [
        Example(str(k), *(tuple(torch.randint(4, 200, (n,), generator=rng).tolist()) for n in pair))
        for k, pair in enumerate(lengths)
    ]
    logs = _Logs()
    settings = SftSettings(epochs=2, rate=3e-3, batch=4, micro=2)
    run_sft(model, "q1", examples, loaded.tokenizer, settings, out, seed=5, callbacks=[logs])
    return {name: p.detach().clone() for name, p in model.named_parameters() if ".q1." in name}, logs.steps


def test_a_single_step_teaches(tiny_folder: Path, tmp_path: Path) -> None:
    loaded = load_model(find_model(str(tiny_folder)), device="cpu", dtype="float32")
    model = new_adapters(loaded.model, LoraSettings(r=4, alpha=8, dropout=0.0), ("q1", "q2"), 0)
    examples = [Example(str(k), (k, 5, 6), (7, 8, 9)) for k in range(4)]
    run_sft(model, "q1", examples, loaded.tokenizer, SftSettings(epochs=1, rate=1e-3), tmp_path, seed=5)
    moved = max(float(p.detach().abs().max()) for name, p in model.named_parameters() if "lora_B.q1" in name)
    assert moved == pytest.approx(1e-3, rel=0.1)  # Adam's first step is as long as the rate


def test_logits_of_completions_alone_teach_the_same(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, said = _trained(tiny_folder, tmp_path / "ours")
    monkeypatch.setattr("remid.train.sft.CompletionTrainer", SFTTrainer)
    theirs, expected = _trained(tiny_folder, tmp_path / "theirs")
    assert len(said) == len(expected) == 4
    for mine, other in zip(said, expected, strict=True):
        for name in ("loss", "entropy", "mean_token_accuracy", "num_tokens", "grad_norm"):
            assert mine[name] == pytest.approx(other[name], rel=1e-3), name
    moved = max(float(p.abs().max()) for name, p in ours.items() if "lora_B" in name)
    assert moved > 1e-3  # B begins at 0
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name], atol=1e-4, rtol=1e-2)


def test_a_round_trains_q2_by_settings_of_its_own(settings: dict[str, Any], tmp_path: Path) -> None:
    """15 training samples, 4 at a time: one epoch of the cold start, two of the round."""
    again = {"epochs": 2, "batch": 4, "rate": 1e-4}
    config = make_train_config(**settings | {"sft_again": again})
    train_watched(config, tmp_path / "run", Progress(enabled=False))
    held = {p.parent.name: json.loads(p.read_text()) for p in (tmp_path / "run").glob("stages/*/held_out.json")}
    assert len(held) == 5
    steps = Counter(row["stage"] for row in read_journal(tmp_path / "run") if row["kind"] == "step")
    assert steps["sft-q2"] == 4
    assert steps["sft-q2-1"] == 8
