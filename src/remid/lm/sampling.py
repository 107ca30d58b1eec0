"""Sampled completions, several per prompt: the prompt runs once, its keys and values are shared or copied for each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from remid.lm.branches import Branches, branching
from remid.lm.merged import merged
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
    branched: bool = False,
) -> list[list[Sampled]]:
    """`count` completions of each prompt. The same arguments and weights draw the same, whatever was drawn before.

    Dropout is off meanwhile. Rows that have ended leave the batch once half of them have. branched: whether the model
    may be run so that they share their prompt's keys (lm/branches.py).
    """
    generator = torch.Generator(device=model.device).manual_seed(_seed(prompts, seed))
    training = model.training
    model.eval()
    try:
        with merged(model):
            kind = _Branched if branched else _Copied
            running = kind(model, prompts, count, end_of_turn, max_new_tokens)
            with running.writing():
                return _sample(running, count, end_of_turn, max_new_tokens, lambda x: _draw(x, temperature, generator))
    finally:
        model.train(training)


class _Running:
    """Prompts that have run, padded on the left, and completions that are being written behind them.

    logits: (rows, V) behind what each row has so far, `count` rows per prompt.
    """

    def __init__(self, model: Any, prompts: Sequence[Ids], count: int, pad: int, limit: int) -> None:
        self._model = model
        longest, device = max(map(len, prompts)), model.device
        ids = torch.tensor([[pad] * (longest - len(p)) + list(p) for p in prompts], device=device)
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
        self.logits = out.logits[:, -1].repeat_interleave(count, dim=0)
        self._cache = out.past_key_values
        self._mask = mask.repeat_interleave(count, dim=0)
        self._at = positions[:, -1:].repeat_interleave(count, dim=0)

    def writing(self) -> AbstractContextManager[None]:
        """Around all calls of `write`."""
        return nullcontext()

    def select(self, keep: Tensor) -> None:
        """Go on with these rows alone."""
        self._mask, self._at = self._mask[keep], self._at[keep]

    def write(self, tokens: Tensor) -> None:
        """One more token (rows,) of every row."""
        self._at = self._at + 1


class _Copied(_Running):
    """Every completion behind a copy of its prompt's keys and values, as transformers does it."""

    def __init__(self, model: Any, prompts: Sequence[Ids], count: int, pad: int, limit: int) -> None:
        super().__init__(model, prompts, count, pad, limit)
        self._cache.batch_repeat_interleave(count)

    def select(self, keep: Tensor) -> None:
        super().select(keep)
        self._cache.batch_select_indices(keep)

    def write(self, tokens: Tensor) -> None:
        super().write(tokens)
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._mask), 1)], dim=1)
        out = self._model(
            input_ids=tokens[:, None],
            attention_mask=self._mask,
            position_ids=self._at,
            past_key_values=self._cache,
            use_cache=True,
        )
        self.logits = out.logits[:, -1]


class _Branched(_Running):
    """Completions that share their prompt's keys and values."""

    def __init__(self, model: Any, prompts: Sequence[Ids], count: int, pad: int, limit: int) -> None:
        super().__init__(model, prompts, count, pad, limit)
        self._branches = Branches(self._cache, list(map(len, prompts)), count, limit)

    def select(self, keep: Tensor) -> None:
        super().select(keep)
        self._branches.select(keep)

    def writing(self) -> AbstractContextManager[None]:
        return branching(self._model)

    def write(self, tokens: Tensor) -> None:
        super().write(tokens)
        self.logits = self._branches.run(self._model, tokens, self._at)


def _sample(
    running: _Running, count: int, end: int, limit: int, draw: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> list[list[Sampled]]:
    rows = torch.arange(len(running.logits), device=running.logits.device)  # which completion each row is
    found: list[Sampled] = [([], []) for _ in rows]
    alive = torch.ones_like(rows, dtype=torch.bool)
    for step in range(limit):
        tokens, logp = draw(running.logits)
        for k, (token, value) in enumerate(zip(tokens.tolist(), logp.tolist(), strict=True)):
            if alive[k]:
                found[rows[k]][0].append(token)
                found[rows[k]][1].append(value)
        alive &= tokens != end
        if step + 1 == limit or not alive.any():
            break
        if 2 * int(alive.sum()) <= len(alive):
            keep = alive.nonzero()[:, 0]
            running.select(keep)
            tokens, rows, alive = tokens[keep], rows[keep], alive[keep]
        running.write(tokens)
    return [found[k : k + count] for k in range(0, len(found), count)]


def _draw(logits: Tensor, temperature: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    logp_NV = torch.log_softmax(logits.float() / temperature, dim=-1)
    tokens = torch.multinomial(logp_NV.exp(), 1, generator=generator)
    return tokens[:, 0], logp_NV.gather(1, tokens)[:, 0]


def _seed(prompts: Sequence[Ids], seed: int) -> int:
    """From the seed and what is asked, so that a run that goes on draws what it would have drawn."""
    digest = hashlib.sha256(json.dumps([seed, [list(p) for p in prompts]]).encode())
    return int.from_bytes(digest.digest()[:7], "big")
