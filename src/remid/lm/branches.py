"""Attention of one new token for each of many completions that branch off few prompts.

A prompt's keys are read once for all completions behind it: with four of them reading keys was half the time of writing
on a CPU, where every completion had a copy of its prompt (docs/log.md). Like lm/attention.py it stands in for a model's
attention through transformers' AttentionInterface; what it does not know it refuses, and `branches` then says no.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from remid.errors import ModelError
from remid.lm.attention import attending
from remid.lm.layouts import PROBE_TOLERANCE, attends_fully, probe_ids
from remid.lm.room import roomy_cache

#: Name under which transformers finds `attend_branches`.
BRANCHES = "remid_branches"


class Branches:
    """Keys and values of prompts, and of what is written behind them, layer by layer.

    cache: after the prompts have run, padded on the left. lengths: of the prompts. count: completions of each. room:
    tokens of a completion at most.
    """

    def __init__(self, cache: Any, lengths: Sequence[int], count: int, room: int) -> None:
        self._prompts = [
            [(layer.keys[p, :, -n:], layer.values[p, :, -n:]) for p, n in enumerate(lengths)] for layer in cache.layers
        ]
        shape = (len(lengths) * count, cache.layers[0].keys.shape[1], room)
        self._own = [
            (layer.keys.new_empty(*shape, layer.keys.shape[-1]), layer.values.new_empty(*shape, layer.values.shape[-1]))
            for layer in cache.layers
        ]
        self._prompt_of = [p for p in range(len(lengths)) for _ in range(count)]
        self.written = 0

    def __len__(self) -> int:
        return len(self._prompt_of)

    def select(self, keep: Tensor) -> None:
        """Go on with these rows alone, in their order. keep: (rows,)."""
        self._own = [(keys[keep], values[keep]) for keys, values in self._own]
        self._prompt_of = [self._prompt_of[k] for k in keep.tolist()]

    def run(self, model: Any, tokens: Tensor, at: Tensor) -> Tensor:
        """Logits (N, V) behind one more token (N,) of every row, at positions at (N, 1). In `attending` alone."""
        out = model(input_ids=tokens[:, None], position_ids=at, use_cache=False, remid=self)
        self.written += 1
        logits: Tensor = out.logits[:, -1]
        return logits

    def mix(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(N, Hq, D) values as the queries (N, Hq, D), already scaled, weigh them; key, value (N, Hkv, D) are new."""
        keys, values = self._own[layer]
        keys[:, :, self.written], values[:, :, self.written] = key, value
        keys, values = keys[:, :, : self.written + 1], values[:, :, : self.written + 1]
        n, kv_heads = key.shape[:2]
        query = query.view(n, kv_heads, -1, query.shape[-1])
        own = query @ keys.transpose(-1, -2)
        mixed = torch.empty(*query.shape[:3], value.shape[-1], dtype=query.dtype, device=query.device)
        for start, stop, (past, said) in self._runs(layer):
            rows = query[start:stop].transpose(0, 1).reshape(kv_heads, -1, query.shape[-1])
            scores = torch.cat([rows @ past.transpose(-1, -2), _by_head(own[start:stop])], dim=-1)
            weights = functional.softmax(scores.float(), dim=-1).to(scores.dtype)
            edge = past.shape[-2]
            mixed[start:stop] = _by_row(weights[..., :edge] @ said, stop - start)
            own[start:stop] = _by_row(weights[..., edge:], stop - start)
        mixed += own @ values
        return mixed.view(n, -1, value.shape[-1])

    def _runs(self, layer: int) -> list[tuple[int, int, tuple[Tensor, Tensor]]]:
        """Rows start:stop behind one prompt, and that prompt's keys and values."""
        runs = []
        start = 0
        for stop in range(1, len(self._prompt_of) + 1):
            if stop == len(self._prompt_of) or self._prompt_of[stop] != self._prompt_of[start]:
                runs.append((start, stop, self._prompts[layer][self._prompt_of[start]]))
                start = stop
        return runs


def _by_head(of_rows: Tensor) -> Tensor:
    """(n, Hkv, G, K) -> (Hkv, n G, K)."""
    return of_rows.transpose(0, 1).flatten(1, 2)


def _by_row(of_heads: Tensor, n: int) -> Tensor:
    """(Hkv, n G, K) -> (n, Hkv, G, K)."""
    return of_heads.view(of_heads.shape[0], n, -1, of_heads.shape[-1]).transpose(0, 1)


def attend_branches(  # noqa: PLR0913, PLR0917 - transformers sets the signature
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    remid: Branches,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention function for a token per row. query: (N, Hq, 1, D); key, value: (N, Hkv, 1, D).

    Returns (N, 1, Hq, D). Raises ModelError for what it does not know.
    """
    if any(x is not None for x in (attention_mask, sliding_window, softcap, s_aux)) or query.shape[2] != 1:
        raise ModelError("branches know neither masks, windows, softcaps nor sinks of a model's own")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    mixed = remid.mix(module.layer_idx, query[:, :, 0] * scale, key[:, :, 0], value[:, :, 0])
    return mixed[:, None], None


def branching(model: Any) -> AbstractContextManager[None]:
    """Let the model's layers attend to branches, for a while."""
    return attending(model, BRANCHES, attend_branches)


@torch.inference_mode()
def branches(model: Any) -> bool:
    """Whether the model can be run in branches: on a CPU, and with the same outcome as with copied prompts."""
    if model.device.type != "cpu" or not attends_fully(model) or roomy_cache(model, 1) is None:
        return False
    ids = probe_ids(model, 22)
    prompt, tokens, at = torch.tensor([ids[:20]]), torch.tensor(ids[20:]), torch.full((2, 1), 20)
    training = model.training
    model.eval()
    try:
        cache = model(input_ids=prompt, past_key_values=roomy_cache(model, 2), use_cache=True).past_key_values
        found = Branches(cache, [20], 2, 2)
        with branching(model):
            ours = [found.run(model, tokens, at + k) for k in range(2)]
        cache.batch_repeat_interleave(2)
        usual = [
            model(input_ids=tokens[:, None], position_ids=at + k, past_key_values=cache, use_cache=True).logits[:, -1]
            for k in range(2)
        ]
    except (RuntimeError, ValueError, TypeError, ModelError):  # a model that goes another way may say so in any way
        return False
    finally:
        model.train(training)
    apart = torch.log_softmax(torch.stack(ours).float(), -1) - torch.log_softmax(torch.stack(usual).float(), -1)
    return float(apart.abs().mean()) < PROBE_TOLERANCE[str(model.dtype).removeprefix("torch.")]
