"""oneDNN linear layers compute what the plain ones compute, and step aside when gradients are needed."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny_models import ids, tiny
from torch import nn

from remid.lm.cpu import use_onednn


@pytest.fixture
def pair() -> tuple[nn.Module, nn.Module]:
    """The same small network twice: as it is, and through oneDNN."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 32, bias=False))
    fast = copy.deepcopy(plain)
    if not use_onednn(fast):
        pytest.skip("this PyTorch has no oneDNN")
    return plain, fast


@pytest.mark.parametrize("shape", [(1, 64), (3, 64), (2, 5, 64), (1, 1, 64)])
def test_it_equals_the_plain_layers_to_float32_rounding(pair: tuple[nn.Module, nn.Module], shape: tuple[int]) -> None:
    plain, fast = pair
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(fast(x), plain(x), rtol=1e-5, atol=1e-5)
        strided = x.expand(2, *shape).transpose(0, 1)
        torch.testing.assert_close(fast(strided), plain(strided), rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_the_plain_layers(pair: tuple[nn.Module, nn.Module]) -> None:
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(1))
    for network in pair:
        network(x).square().sum().backward()
    for (name, plain), fast in zip(pair[0].named_parameters(), pair[1].parameters(), strict=True):
        assert plain.grad is not None, name
        torch.testing.assert_close(fast.grad, plain.grad)


@pytest.mark.parametrize("shape", [(1, 64), (2, 7, 64)])
def test_gradients_reach_an_input_behind_frozen_layers(pair: tuple[nn.Module, nn.Module], shape: tuple[int]) -> None:
    found = []
    for network in pair:
        network.requires_grad_(False)
        x = torch.randn(*shape, generator=torch.Generator().manual_seed(3)).requires_grad_()
        network(x).transpose(0, -1).square().sum().backward()
        found.append(x.grad)
        assert all(p.grad is None for p in network.parameters())
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5)


def test_a_frozen_layer_that_was_changed_has_the_gradient_of_what_it_is_now(pair: tuple[nn.Module, nn.Module]) -> None:
    found = []
    for network in pair:
        network.requires_grad_(False)
        network[0].weight.mul_(3)
        x = torch.ones(2, 64, requires_grad=True)
        network(x).sum().backward()
        found.append(x.grad)
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5)


def test_a_changed_weight_is_seen_at_once(pair: tuple[nn.Module, nn.Module]) -> None:
    plain, fast = pair
    with torch.no_grad():
        for network in (plain, fast):
            network[0].weight.mul_(2)
        x = torch.ones(1, 64)
        torch.testing.assert_close(fast(x), plain(x), rtol=1e-5, atol=1e-5)


def test_layers_of_other_types_and_kinds_are_left_alone() -> None:
    class Special(nn.Linear):
        pass

    network = nn.Sequential(Special(4, 4), nn.Linear(4, 4).to(torch.bfloat16))
    use_onednn(network)
    assert all("forward" not in vars(module) for module in network)


def test_a_whole_language_model_gives_the_same_logits() -> None:
    model = tiny("llama").model
    tokens = torch.tensor([ids(50, 1)])
    with torch.inference_mode():
        plain = model(input_ids=tokens).logits
        if not use_onednn(model):
            pytest.skip("this PyTorch has no oneDNN")
        torch.testing.assert_close(model(input_ids=tokens).logits, plain, rtol=1e-4, atol=1e-4)
