"""Ours and TRL's own trainer give one loss and one gradient; what cannot be scored teaches nothing; stages resume."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOTrainer

from remid.lm.adapters import new_adapters, trainable_names
from remid.lm.chat import ChatRenderer
from remid.lm.models import LoadedModel, find_model, load_model
from remid.train.config import GrpoSettings, LoraSettings
from remid.train.grpo import SharedPromptTrainer, _arguments, run_grpo

SETTINGS = GrpoSettings(samples=8, generations=2, prompts_per_step=2, rate=1e-2, temperature=0.8)
ROWS = [{"prompt": [{"role": "user", "content": f"What of {word}?"}]} for word in ("tea", "rain", "a cat", "it")] * 2
Reward = Callable[..., list[float | None]]


def adapted(folder: Path, dropout: float = 0.1) -> tuple[Any, LoadedModel]:
    """A PeftModel with q1 and q2, both of which change something."""
    loaded = load_model(find_model(str(folder)), device="cpu")
    model = new_adapters(loaded.model, LoraSettings(r=4, alpha=8, dropout=dropout), ("q1", "q2"), 0)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    return model, loaded


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters() if ".q1." in name}


def checksum(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float | None]:
    return [sum(ids) % 97 / 97 for ids in completion_ids]


class Curve(TrainerCallback):  # type: ignore[misc]
    """Rewards and losses by step; stop: break off behind this step, as a kill between two steps would."""

    def __init__(self, stop: int = 0) -> None:
        self.steps: dict[int, tuple[float, float]] = {}
        self._stop = stop

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if "reward" in logs:
            self.steps[state.global_step] = logs["reward"], logs["grad_norm"]
        if self._stop and state.global_step >= self._stop:
            raise KeyboardInterrupt


def train(model: Any, loaded: LoadedModel, out: Path, reward: Reward = checksum, **more: Any) -> Curve:
    curve = more.pop("curve", None) or Curve()
    options: dict[str, Any] = {"rows": ROWS, "settings": SETTINGS, "max_new_tokens": 12, "seed": 3} | more
    run_grpo(
        model,
        "q1",
        renderer=ChatRenderer(loaded.tokenizer),
        tokenizer=loaded.tokenizer,
        rewards=[reward],
        weights=[1.0],
        out=out,
        callbacks=[curve],
        **options,
    )
    return curve


def batch(loaded: LoadedModel) -> dict[str, torch.Tensor]:
    """Two prompts of unequal length with two fixed completions each, as TRL pads them."""
    pad = loaded.tokenizer.pad_token_id
    prompts, said = [[5, 6, 7, 8, 9], [5, 6, 7, 8, 9], [40, 41], [40, 41]], [[50, 51, 52, 0], [60], [70, 0], [80, 81]]
    left = [[pad] * (5 - len(p)) + p for p in prompts]
    right = [s + [pad] * (4 - len(s)) for s in said]
    return {
        "prompt_ids": torch.tensor(left),
        "prompt_mask": torch.tensor([[0] * (5 - len(p)) + [1] * len(p) for p in prompts]),
        "completion_ids": torch.tensor(right),
        "completion_mask": torch.tensor([[1] * len(s) + [0] * (4 - len(s)) for s in said]),
        "advantages": torch.tensor([1.0, -1.0, 0.5, -0.7]),
        "num_items_in_batch": torch.tensor(sum(map(len, said))),
    }


@pytest.mark.parametrize("packed", [True, False])
def test_loss_and_gradient_are_those_of_the_stock_trainer(packed: bool, tiny_folder: Path, tmp_path: Path) -> None:
    found = []
    for kind, more in ((GRPOTrainer, {}), (SharedPromptTrainer, {"packed": packed})):
        model, loaded = adapted(tiny_folder)
        trainer = kind(
            model=model,
            reward_funcs=[checksum],
            args=_arguments(model, SETTINGS, [1.0], 12, tmp_path, 0),
            train_dataset=Dataset.from_list(ROWS),
            processing_class=loaded.tokenizer,
            **more,
        )
        assert not trainer.model.is_activation_checkpointing
        trainer.model.train()
        trainer.current_gradient_accumulation_steps = 2
        loss = trainer._compute_loss(trainer.model, batch(loaded))
        loss.backward()
        entropy = trainer._metrics["train"]["entropy"][-1]
        found.append((loss.detach(), entropy, [p.grad for p in model.parameters() if p.requires_grad]))
    (loss_a, entropy_a, gradient_a), (loss_b, entropy_b, gradient_b) = found
    torch.testing.assert_close(loss_a, loss_b, atol=1e-6, rtol=1e-5)
    assert entropy_a == pytest.approx(entropy_b, rel=1e-5)
    assert max(float(g.abs().max()) for g in gradient_a) > 1e-4
    for a, b in zip(gradient_a, gradient_b, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_only_the_adapter_learns_and_dropout_comes_back(tiny_folder: Path, tmp_path: Path) -> None:
    model, loaded = adapted(tiny_folder)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    forward = model.get_base_model().__dict__.get("forward")
    curve = train(model, loaded, tmp_path)
    assert sorted(curve.steps) == [1, 2, 3, 4]
    changed = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert changed == set(trainable_names(model))
    assert all(".q1." in name for name in changed)
    assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.1}
    assert model.get_base_model().__dict__.get("forward") is forward


def test_rewards_that_are_missing_teach_nothing(tiny_folder: Path, tmp_path: Path) -> None:
    model, loaded = adapted(tiny_folder)
    before = weights(model)
    train(model, loaded, tmp_path / "all", lambda completion_ids, **_: [None] * len(completion_ids))
    for name, weight in weights(model).items():
        assert torch.equal(weight, before[name])
    # One of two is missing: the other is its group's mean, so neither has an advantage.
    train(model, loaded, tmp_path / "half", lambda completion_ids, **_: [1.0, None] * (len(completion_ids) // 2))
    for name, weight in weights(model).items():
        assert torch.equal(weight, before[name])


def test_an_adapter_left_on_by_a_reward_is_noticed(tiny_folder: Path, tmp_path: Path) -> None:
    model, loaded = adapted(tiny_folder)
    before = weights(model)

    def careless(completion_ids: Sequence[Any], **_: Any) -> list[float | None]:
        model.set_adapter("q2")
        return [float(k) for k in range(len(completion_ids))]

    with pytest.raises(RuntimeError, match="between trainable and frozen"):
        train(model, loaded, tmp_path, careless)
    assert all(torch.equal(weight, before[name]) for name, weight in weights(model).items())


def test_the_reference_of_the_kl_term_is_the_adapter_as_it_was(tiny_folder: Path, tmp_path: Path) -> None:
    model, loaded = adapted(tiny_folder)
    before = weights(model)
    train(model, loaded, tmp_path, settings=SETTINGS.model_copy(update={"beta": 0.1}))
    state = dict(model.named_parameters())
    for name, weight in before.items():
        assert torch.equal(state[name.replace(".q1.", ".ref.")], weight)
        assert not state[name.replace(".q1.", ".ref.")].requires_grad


def test_a_stage_that_was_broken_off_goes_on_with_the_same_curve(tiny_folder: Path, tmp_path: Path) -> None:
    rows = ROWS * 2  # eight steps, checkpoints behind the fourth and the eighth
    model, loaded = adapted(tiny_folder)
    whole = train(model, loaded, tmp_path / "whole", rows=rows).steps
    other, loaded = adapted(tiny_folder)
    with pytest.raises(KeyboardInterrupt):
        train(other, loaded, tmp_path / "cut", rows=rows, curve=Curve(stop=6))
    again, loaded = adapted(tiny_folder)  # a new process knows nothing of the weights
    torch.rand(5)
    rest = train(again, loaded, tmp_path / "cut", rows=rows).steps
    assert sorted(rest) == [5, 6, 7, 8]
    assert rest == {step: whole[step] for step in rest}
    assert len({reward for reward, _ in whole.values()}) > 4
    for name, weight in weights(again).items():
        assert torch.equal(weight, weights(model)[name])


_WORKER = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, {here!r})
from test_grpo import adapted, train, weights
model, loaded = adapted(Path({folder!r}))
curve = train(model, loaded, Path({out!r}) / "run")
import os
if os.environ["RANK"] == "0":
    torch.save((curve.steps, weights(model)), Path({out!r}) / "rank0.pt")
else:
    torch.save(weights(model), Path({out!r}) / "rank1.pt")
"""


@pytest.mark.slow
def test_two_processes_learn_the_same(tiny_folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(_WORKER.format(here=str(Path(__file__).parent), folder=str(tiny_folder), out=str(tmp_path)))
    # `accelerate launch` starts several processes on accelerators only; what it starts there is this.
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    steps, first = torch.load(tmp_path / "rank0.pt")
    second = torch.load(tmp_path / "rank1.pt")
    assert sorted(steps) == [1, 2]  # two processes with two prompts each: eight rows in two steps
    assert all(torch.equal(first[name], second[name]) for name in first)
    model, _ = adapted(tiny_folder)
    assert any(not torch.equal(weight, first[name]) for name, weight in weights(model).items())
