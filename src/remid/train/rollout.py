"""Sampled completions, several per prompt: the prompt runs once, its keys and values are copied for each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from remid.lm.room import roomy_cache

Ids = list[int]
Sampled = tuple[Ids, list[float]]
"""A completion's ids, with its end of turn where it came to it, and the log-probability of each at the temperature."""


@torch.inference_mode()
def sample_completions(
    model: Any,
    prompts: Sequence[Ids],
    count: int,
    *,
    end_of_turn: int,
    max_new_tokens: int,
    temperature: float = 1.0,
    seed: int = 0,
) -> list[list[Sampled]]:
    """`count` completions of each prompt. The same arguments and weights draw the same, whatever was drawn before.

    Dropout is off meanwhile. Rows that have ended leave the batch once half of them have.
    """
    generator = torch.Generator(device=model.device).manual_seed(_seed(prompts, seed))
    training = model.training
    model.eval()
    try:
        return _sample(model, prompts, count, end_of_turn, max_new_tokens, lambda x: _draw(x, temperature, generator))
    finally:
        model.train(training)


def _sample(
    model: Any,
    prompts: Sequence[Ids],
    count: int,
    end: int,
    limit: int,
    draw: Callable[[Tensor], tuple[Tensor, Tensor]],
) -> list[list[Sampled]]:
    device = model.device
    longest = max(map(len, prompts))
    ids = torch.tensor([[end] * (longest - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    out = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=roomy_cache(model, limit),
        use_cache=True,
        logits_to_keep=1,
    )
    cache = out.past_key_values
    cache.batch_repeat_interleave(count)
    logits = out.logits[:, -1].repeat_interleave(count, dim=0)
    mask, at = mask.repeat_interleave(count, dim=0), positions[:, -1:].repeat_interleave(count, dim=0)
    found: list[Sampled] = [([], []) for _ in range(len(prompts) * count)]
    rows = torch.arange(len(found), device=device)  # which completion each row of the batch is
    alive = torch.ones(len(found), dtype=torch.bool, device=device)
    for step in range(limit):
        tokens, logp = draw(logits)
        for k, (token, value) in enumerate(zip(tokens.tolist(), logp.tolist(), strict=True)):
            if alive[k]:
                found[rows[k]][0].append(token)
                found[rows[k]][1].append(value)
        alive &= tokens != end
        if step + 1 == limit or not alive.any():
            break
        if 2 * int(alive.sum()) <= len(alive):
            keep = alive.nonzero()[:, 0]
            cache.batch_select_indices(keep)
            tokens, mask, at, rows, alive = tokens[keep], mask[keep], at[keep], rows[keep], alive[keep]
        mask, at = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1), at + 1
        out = model(
            input_ids=tokens[:, None], attention_mask=mask, position_ids=at, past_key_values=cache, use_cache=True
        )
        logits = out.logits[:, -1]
    return [found[k : k + count] for k in range(0, len(found), count)]


def _draw(logits: Tensor, temperature: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    logp_NV = torch.log_softmax(logits.float() / temperature, dim=-1)
    tokens = torch.multinomial(logp_NV.exp(), 1, generator=generator)
    return tokens[:, 0], logp_NV.gather(1, tokens)[:, 0]


def _seed(prompts: Sequence[Ids], seed: int) -> int:
    """From the seed and what is asked, so that a run that goes on draws what it would have drawn."""
    digest = hashlib.sha256(json.dumps([seed, [list(p) for p in prompts]]).encode())
    return int.from_bytes(digest.digest()[:7], "big")
