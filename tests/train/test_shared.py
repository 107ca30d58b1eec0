"""Sharing a prompt changes neither a completion's log-probabilities nor their gradients."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "lm"))

from tiny_models import ids, tiny

from remid.lm.models import LoadedModel
from remid.lm.sampling import sample_completions
from remid.train.shared import completion_logps, packs

CLOSE = 1e-5


def gradients(model: Any, logps: list[torch.Tensor]) -> list[torch.Tensor]:
    loss = sum((k + 1) * logp_T.mean() for k, logp_T in enumerate(logps))
    weights = [p for p in model.parameters() if p.requires_grad]
    return list(torch.autograd.grad(loss, weights, allow_unused=True))  # type: ignore[arg-type]


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=3),
    completions=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 12)), min_size=1, max_size=7),
    kind=st.sampled_from(["llama", "qwen3", "gpt2"]),
    temperature=st.sampled_from([1.0, 0.7]),
)
@settings(max_examples=25, deadline=None, derandomize=True, database=None)
def test_packed_is_one_by_one(
    lengths: list[int], completions: list[tuple[int, int]], kind: str, temperature: float
) -> None:
    model = tiny(kind).model
    asked = [lengths[which % len(lengths)] for which, _ in completions]
    prompts = [ids(length, length) for length in asked]
    said = [ids(length, 50 + k) for k, (_, length) in enumerate(completions)]
    found, entropies = completion_logps(model, prompts, said, temperature)
    expected, others = completion_logps(model, prompts, said, temperature, packed=False)
    for a, b in zip([*found, *entropies], [*expected, *others], strict=True):
        torch.testing.assert_close(a, b, atol=CLOSE, rtol=CLOSE)
    assert [len(logp_T) for logp_T in found] == [len(c) for c in said]


def test_gradients_are_those_of_one_by_one() -> None:
    model = tiny("llama").model
    prompts, said = [ids(30, 1)] * 3 + [ids(8, 2)], [ids(n, n) for n in (5, 1, 9, 4)]
    packed = gradients(model, completion_logps(model, prompts, said)[0])
    apart = gradients(model, completion_logps(model, prompts, said, packed=False)[0])
    assert any(g is not None and float(g.abs().max()) > 1e-3 for g in packed)
    for a, b in zip(packed, apart, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


def test_the_temperature_divides_the_logits() -> None:
    model, prompt, said = tiny("llama").model, ids(10, 1), ids(4, 2)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + said])).logits[0, len(prompt) - 1 : -1]
        [found], _ = completion_logps(model, [prompt], [said], 0.5)
    expected = torch.log_softmax(logits / 0.5, dim=-1)[range(4), said]
    torch.testing.assert_close(found, expected, atol=CLOSE, rtol=CLOSE)


def test_models_with_windows_are_not_packed() -> None:
    assert packs(tiny("llama").model)
    assert not packs(tiny("mistral-window").model)
    assert not packs(tiny("mamba").model)


@pytest.mark.parametrize("kind", ["gemma3-narrow-window", "mamba"])
def test_what_is_not_packed_learns_from_the_models_own_probabilities(kind: str) -> None:
    """A mask of ours would stand for every layer, and take a model's windows of 8 tokens away."""
    model, prompt, said = tiny(kind).model, ids(30, 1), ids(10, 2)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + said])).logits[0, len(prompt) - 1 : -1]
        [found], _ = completion_logps(model, [prompt], [said], packed=False)
    torch.testing.assert_close(found, torch.log_softmax(logits, dim=-1)[range(10), said], atol=CLOSE, rtol=CLOSE)


def test_samples_are_drawn_from_the_model_and_come_again() -> None:
    model, prompts = tiny("llama").model, [ids(25, 1), ids(7, 2)]
    options: dict[str, Any] = {"end_of_turn": 2, "max_new_tokens": 30, "temperature": 0.8}
    first = sample_completions(model, prompts, 4, **options, seed=5)
    torch.rand(7)  # what others draw does not matter
    assert sample_completions(model, prompts, 4, **options, seed=5) == first
    assert sample_completions(model, prompts, 4, **options, seed=6) != first
    for prompt, group in zip(prompts, first, strict=True):
        assert len({tuple(said) for said, _ in group}) > 1
        for said, logps in group:
            assert 2 not in said[:-1]
            assert said[-1] == 2 or len(said) == 30
            with torch.no_grad():
                [expected], _ = completion_logps(model, [prompt], [said], 0.8)
            torch.testing.assert_close(torch.tensor(logps), expected, atol=1e-4, rtol=1e-4)


def test_samples_follow_the_models_probabilities() -> None:
    """The first token's frequencies over many draws, against the exact probabilities: a chi-squared distance."""
    model, prompt = tiny("llama").model, ids(9, 4)
    with torch.no_grad():
        exact = torch.softmax(model(input_ids=torch.tensor([prompt])).logits[0, -1], dim=-1)
    n = 4000
    [group] = sample_completions(model, [prompt], n, end_of_turn=2, max_new_tokens=1, seed=1)
    counts = torch.bincount(torch.tensor([said[0] for said, _ in group]), minlength=len(exact))
    often = exact * n >= 5
    distance = float(((counts - n * exact)[often] ** 2 / (n * exact)[often]).sum())
    degrees = int(often.sum())
    assert distance < degrees + 5 * (2 * degrees) ** 0.5


@pytest.mark.slow
def test_packed_is_one_by_one_on_the_embedded_model(embedded: LoadedModel) -> None:
    prompts, said = [ids(60, 1)] * 3, [ids(n, n) for n in (12, 1, 30)]
    with torch.no_grad():
        found, _ = completion_logps(embedded.model, prompts, said)
        expected, _ = completion_logps(embedded.model, prompts, said, packed=False)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    packed = gradients(embedded.model, completion_logps(embedded.model, prompts, said)[0])
    apart = gradients(embedded.model, completion_logps(embedded.model, prompts, said, packed=False)[0])
    for a, b in zip(packed, apart, strict=True):
        assert float((a - b).norm()) < 1e-3 * float(b.norm())  # rounding: 3e-7 in float64
