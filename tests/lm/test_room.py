"""The cache with room holds the same bits as transformers' own, in place, through repeated and selected rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import VOCABULARY, tiny
from transformers.cache_utils import DynamicCache

from remid.lm.room import roomy_cache


def states(model: Any, cache: Any) -> list[torch.Tensor]:
    """Logits of a prompt of two rows, repeated, ten tokens behind it, four of six rows selected, five tokens more."""
    ids = torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(0))
    found = [model(input_ids=ids, past_key_values=cache, use_cache=True).logits[:, -1:]]
    cache.batch_repeat_interleave(3)
    token = found[-1].argmax(-1).repeat_interleave(3, dim=0) + torch.arange(6)[:, None] % 3
    for step in range(15):
        if step == 10:
            keep = torch.tensor([0, 2, 3, 5])
            cache.batch_select_indices(keep)
            token = token[keep]
        found.append(model(input_ids=token, past_key_values=cache, use_cache=True).logits)
        token = found[-1].argmax(-1)
    return found


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2", "bloom-alibi"])
@pytest.mark.parametrize("room", [4, 64])
@torch.inference_mode()
def test_logits_are_those_of_the_usual_cache(name: str, room: int) -> None:
    model = tiny(name).model
    cache = roomy_cache(model, room)
    assert cache is not None
    for ours, usual in zip(states(model, cache), states(model, DynamicCache(config=model.config)), strict=True):
        assert torch.equal(ours, usual)
    assert cache.get_seq_length() == 24


@torch.inference_mode()
def test_new_tokens_are_written_in_place() -> None:
    model = tiny("llama").model
    cache = roomy_cache(model, 8)
    assert cache is not None
    model(input_ids=torch.tensor([[5, 6, 7]]), past_key_values=cache, use_cache=True)
    places = []
    for token in range(12):
        model(input_ids=torch.tensor([[token + 8]]), past_key_values=cache, use_cache=True)
        places.append(cache.layers[0].keys.data_ptr())
    assert len(set(places[:9])) == 1
    assert len(set(places)) == 2  # once there was no room left


@pytest.mark.parametrize("name", ["mistral-window", "gemma3-window", "mamba"])
def test_models_that_keep_something_else_have_their_own(name: str) -> None:
    assert roomy_cache(tiny(name).model, 8) is None
