"""GRPO with a KL term: it runs, says how far it went, is held back by it, and touches no other adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_grpo import ROWS, SETTINGS, adapted, train
from transformers import TrainerCallback

from remid.pipeline.progress import Progress
from remid.train.config import make_train_config
from remid.train.journal import read_journal
from remid.train.watched import train_watched


class Kl(TrainerCallback):  # type: ignore[misc]
    """Divergence from the reference by step, nats per token."""

    def __init__(self) -> None:
        self.steps: list[float] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if "kl" in logs:
            self.steps.append(logs["kl"])


def run(folder: Path, out: Path, beta: float, times: int) -> tuple[list[float], Any, dict[str, torch.Tensor]]:
    """KL by step, the model afterwards, and its weights before."""
    model, loaded = adapted(folder)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    curve: Any = Kl()
    settings = SETTINGS.model_copy(update={"beta": beta, "rate": 3e-3})
    train(model, loaded, out, curve=curve, rows=ROWS * times, settings=settings)
    return curve.steps, model, before


def test_kl_is_logged_and_grows_and_other_adapters_stay(tiny_folder: Path, tmp_path: Path) -> None:
    kl, model, before = run(tiny_folder, tmp_path, 0.05, 1)
    assert len(kl) == 4
    assert kl[0] == pytest.approx(0, abs=1e-6)  # the reference is q1 as the stage found it
    assert min(kl[1:]) > 1e-3
    assert any(".q1." in name and not torch.equal(weight, before[name]) for name, weight in model.named_parameters())
    for name, weight in model.named_parameters():
        if ".q1." not in name and ".ref." not in name:
            assert torch.equal(weight, before[name]), name


@pytest.mark.slow
def test_a_larger_beta_holds_back(tiny_folder: Path, tmp_path: Path) -> None:
    free, held = (run(tiny_folder, tmp_path / str(beta), beta, 3)[0] for beta in (0.05, 5.0))
    assert free[:2] == held[:2]  # at the first update there is nothing to hold on to yet
    assert sum(held[-6:]) < 0.5 * sum(free[-6:])


@pytest.mark.slow
def test_a_whole_run_with_beta_logs_kl(settings: dict[str, Any], tmp_path: Path) -> None:
    # Untrained, all responses are likelier than the reference, and nothing is learned from that.
    sft, grpo = settings["sft"] | {"epochs": 2, "rate": 3e-3}, settings["grpo"] | {"beta": 0.05}
    train_watched(make_train_config(**settings | {"sft": sft, "grpo": grpo}), tmp_path, Progress(enabled=False))
    rows = [row for row in read_journal(tmp_path) if row["kind"] == "step" and row["stage"].startswith("grpo")]
    kl = {q: [row["signals"]["kl"] for row in rows if q in row["stage"]] for q in ("q1", "q2")}
    assert {q: len(values) for q, values in kl.items()} == {"q1": 4, "q2": 4}
    assert kl["q2"][0] == pytest.approx(0, abs=1e-6)
    assert max(kl["q2"]) > 1e-5
