"""An adapter that is merged for a while computes what it computes beside its base, and leaves no trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_adapters import Sizes, chat_folder, perturb

from remid.lm.adapters import activate, new_adapters
from remid.lm.cpu import has_onednn
from remid.lm.merged import merged
from remid.lm.models import find_model, load_model

pytestmark = pytest.mark.skipif(not has_onednn(), reason="this PyTorch has no oneDNN")
TOKENS = torch.tensor([[70, 71, 72, 73, 74, 75], [80, 81, 82, 83, 84, 85]])


@pytest.fixture
def model(tmp_path: Path) -> Any:
    """A tiny model with two adapters that differ, q1 active."""
    loaded = load_model(find_model(str(chat_folder(tmp_path / "base"))), device="cpu")
    made = new_adapters(loaded.model, Sizes(), ("q1", "q2"), 0)
    perturb(made, "q1", 1)
    perturb(made, "q2", 2)
    activate(made, "q1")
    return made.eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=TOKENS).logits
    return found


@pytest.mark.parametrize("adapter", ["q1", "q2"])
def test_it_computes_the_same(model: Any, adapter: str) -> None:
    activate(model, adapter)
    before, modules = logits(model), sum("forward" in vars(m) for m in model.modules())
    with merged(model):
        inside = sum("forward" in vars(m) for m in model.modules())
        torch.testing.assert_close(logits(model), before, atol=1e-4, rtol=1e-4)
    assert inside == modules + 2 * 7  # every linear layer of both blocks
    assert torch.equal(logits(model), before)
    assert sum("forward" in vars(m) for m in model.modules()) == modules


def test_it_is_the_adapter_and_not_the_base(model: Any) -> None:
    with merged(model):
        ours = logits(model)
    with model.disable_adapter():
        with merged(model):  # nothing is active, so nothing is merged
            base = logits(model)
        assert torch.equal(base, logits(model))
    assert float((ours - base).abs().max()) > 0.1


def test_an_error_inside_leaves_the_model_as_it_was(model: Any) -> None:
    before = logits(model)
    with pytest.raises(KeyError), merged(model):
        raise KeyError
    assert torch.equal(logits(model), before)


def test_gradients_come_back_afterwards(model: Any) -> None:
    with merged(model):
        pass
    model(input_ids=TOKENS).logits.sum().backward()
    learning = [p for p in model.parameters() if p.requires_grad]
    assert learning
    assert all(p.grad is not None for p in learning)


def test_other_types_and_models_without_adapters_are_left_alone(tmp_path: Path) -> None:
    loaded = load_model(find_model(str(chat_folder(tmp_path / "base"))), device="cpu", dtype="bfloat16")
    with merged(loaded.model):
        plain = logits(loaded.model)
    assert torch.equal(plain, logits(loaded.model))
    made = new_adapters(loaded.model, Sizes(), ("q1",), 0).eval()
    with merged(made):
        assert not any("forward" in vars(m) for m in made.modules())
