"""Sampled completions, several per prompt: the prompt runs once, its keys and values are shared or copied for each."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from remid.lm.branches import Branches, branches, branching
from remid.lm.generate import as_text
from remid.lm.merged import merged
from remid.lm.models import LoadedModel
from remid.lm.room import roomy_cache
from remid.types import FloatArray

#: Completions, and tokens of prompts and completions, in a batch at most.
_ROWS, _TOKENS = 64, 1 << 16

Ids = list[int]
Prompt = tuple[int, ...]
Sampled = tuple[Ids, list[float]]
"""A completion's ids, with its end of turn where it came to it, and the log-probability of each at the temperature."""


@torch.inference_mode()
def sample_completions(
    model: Any,
    prompts: Sequence[Sequence[int]],
    count: int | Sequence[Sequence[int]],
    *,
    end_of_turn: int,
    max_new_tokens: int,
    temperature: float = 1.0,
    seed: int = 0,
    branched: bool = False,
) -> list[list[Sampled]]:
    """Several completions of each prompt. What is drawn depends on the prompt, the seed and the completion's number
    alone, whatever is drawn beside it, but for rounding.

    count: how many of each, or the numbers of each prompt's, by which they differ, as many of every prompt; counted,
    they begin at 0, and go on where a prompt comes again. branched: whether the model may be run so that they share
    their prompt's keys (lm/branches.py). Dropout is off meanwhile. Rows that have ended leave the batch once half of
    them have.
    """
    numbers = _counted(prompts, count) if isinstance(count, int) else count
    count = len(numbers[0])
    chance_NT = torch.from_numpy(_chances(prompts, numbers, max_new_tokens, seed))
    chance_NT = chance_NT.to(model.device)
    training = model.training
    model.eval()
    try:
        with merged(model):
            kind = _Branched if branched else _Copied
            running = kind(model, prompts, count, end_of_turn, max_new_tokens)
            with running.writing():
                return _sample(running, count, end_of_turn, chance_NT, temperature)
    finally:
        model.train(training)


def drawn_texts(
    loaded: LoadedModel,
    asked: Mapping[Prompt, Sequence[int]],
    *,
    end_of_turn: int,
    max_new_tokens: int,
    temperature: float,
    seed: int = 0,
) -> Iterator[list[tuple[Prompt, int, str, bool]]]:
    """The texts with these numbers behind each prompt, in batches: prompt, number, text, whether it came to its end."""
    branched = branches(loaded.model)
    for batch in draw_batches(asked, max_new_tokens):
        drawn = sample_completions(
            loaded.model,
            [prompt for prompt, _ in batch],
            [numbers for _, numbers in batch],
            end_of_turn=end_of_turn,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            branched=branched,
        )
        yield [
            (prompt, number, *as_text(loaded.tokenizer, said, end_of_turn))
            for (prompt, numbers), many in zip(batch, drawn, strict=True)
            for number, (said, _) in zip(numbers, many, strict=True)
        ]


def draw_batches(
    asked: Mapping[Prompt, Sequence[int]], max_new_tokens: int
) -> Iterator[list[tuple[Prompt, list[int]]]]:
    """Prompts with the numbers that are wanted of each, in batches with as many of every prompt, the longest first."""
    parts: list[tuple[Prompt, list[int]]] = []
    for prompt, numbers in asked.items():
        most = _rows(prompt, max_new_tokens)
        parts += [(prompt, list(numbers[k : k + most])) for k in range(0, len(numbers), most)]
    parts.sort(key=lambda part: (len(part[1]), -len(part[0]), *part))
    for count, same in groupby(parts, key=lambda part: len(part[1])):
        todo = list(same)
        while todo:
            size = max(1, _rows(todo[0][0], max_new_tokens) // count)
            yield todo[:size]
            todo = todo[size:]


def _rows(prompt: Prompt, max_new_tokens: int) -> int:
    """Completions that are drawn together: memory holds keys for each token of theirs, and, on a GPU, of its prompt."""
    return max(1, min(_ROWS, _TOKENS // (len(prompt) + max_new_tokens)))


class _Running:
    """Prompts that have run, padded on the left, and completions that are being written behind them.

    logits: (rows, V) behind what each row has so far, `count` rows per prompt.
    """

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], count: int, pad: int, limit: int) -> None:
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

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], count: int, pad: int, limit: int) -> None:
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

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], count: int, pad: int, limit: int) -> None:
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


def _sample(running: _Running, count: int, end: int, chance_NT: Tensor, temperature: float) -> list[list[Sampled]]:
    limit = chance_NT.shape[1]
    rows = torch.arange(len(running.logits), device=running.logits.device)  # which completion each row is
    found: list[Sampled] = [([], []) for _ in rows]
    alive = torch.ones_like(rows, dtype=torch.bool)
    for step in range(limit):
        tokens, logp = _draw(running.logits, temperature, chance_NT[rows, step])
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


def _draw(logits: Tensor, temperature: float, chance_N: Tensor) -> tuple[Tensor, Tensor]:
    """The token at which the probabilities of a row (N, V) have come to its chance, and its log-probability."""
    logp_NV = torch.log_softmax(logits.float() / temperature, dim=-1)
    below_NV = logp_NV.double().exp().cumsum(-1)  # in single precision the last tokens of a large vocabulary are lost
    tokens = torch.searchsorted(below_NV, chance_N[:, None] * below_NV[:, -1:], right=True)
    tokens = tokens.clamp(max=logp_NV.shape[1] - 1)
    return tokens[:, 0], logp_NV.gather(1, tokens)[:, 0]


def _counted(prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """Numbers from 0, going on where a prompt comes again."""
    had: Counter[tuple[int, ...]] = Counter()
    numbers = []
    for prompt in map(tuple, prompts):
        numbers.append(list(range(had[prompt], had[prompt] + count)))
        had[prompt] += count
    return numbers


def _chances(prompts: Sequence[Sequence[int]], numbers: Sequence[Sequence[int]], limit: int, seed: int) -> FloatArray:
    """(rows, limit) numbers in [0, 1), each row's from its own stream."""
    streams = [
        _stream([seed, number, list(prompt)]) for prompt, many in zip(prompts, numbers, strict=True) for number in many
    ]
    return np.stack([stream.random(limit) for stream in streams])


def _stream(name: Sequence[object]) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(json.dumps(name).encode()).digest()))
