"""Randomly initialised models of a few thousand weights, one per kind of attention that the scorer must tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

from remid.lm.models import LoadedModel, ModelSource

VOCABULARY = 97
# Wide initial weights: with the usual 0.02 every token is about as likely as any other, and a wrong mask goes unseen.
_WIDE = {"vocab_size": VOCABULARY, "initializer_range": 0.3, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_LLAMA = _WIDE | {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 2048,
}
_OLD = _WIDE | {"hidden_size": 32, "num_attention_heads": 4}


def _neo(window: int) -> GPTNeoConfig:
    kinds = [[["global", "local"], 1]]
    sizes = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "max_position_embeddings": 2048}
    return GPTNeoConfig(**_WIDE | sizes, attention_types=kinds, window_size=window)


@dataclass(frozen=True)
class Kind:
    """config: of the model. layouts: what the probe may choose."""

    config: Any
    layouts: tuple[str, ...]


_TREE, _REPEATED, _EITHER = ("tree",), ("repeated",), ("repeated", "plain")
KINDS: dict[str, Kind] = {
    "llama": Kind(LlamaConfig(**_LLAMA), _TREE),
    "qwen2": Kind(Qwen2Config(**_LLAMA), _TREE),
    "qwen3": Kind(Qwen3Config(**_LLAMA), _TREE),
    "gpt2": Kind(GPT2Config(**_WIDE, n_embd=32, n_layer=2, n_head=4, n_positions=2048), _TREE),
    "qwen2-window": Kind(Qwen2Config(**_LLAMA, use_sliding_window=True, sliding_window=96, max_window_layers=1), _TREE),
    # A window of 96 is wider than the probe's texts: the probe alone could not see it.
    "mistral-window": Kind(MistralConfig(**_LLAMA, sliding_window=96), _TREE),
    "phi3-window": Kind(Phi3Config(**_LLAMA, sliding_window=96), _TREE),
    "gemma2-window": Kind(Gemma2Config(**_LLAMA, sliding_window=96, query_pre_attn_scalar=8), _TREE),
    "gemma3-window": Kind(Gemma3TextConfig(**_LLAMA, sliding_window=96, query_pre_attn_scalar=8), _TREE),
    "gemma3-narrow-window": Kind(Gemma3TextConfig(**_LLAMA, sliding_window=8, query_pre_attn_scalar=8), _TREE),
    "gpt-neo-local": Kind(_neo(96), _REPEATED),
    "falcon-alibi": Kind(FalconConfig(**_OLD, num_hidden_layers=2, alibi=True), _EITHER),
    "bloom-alibi": Kind(BloomConfig(**_WIDE, hidden_size=32, n_layer=2, n_head=4), _EITHER),
    "mamba": Kind(MambaConfig(**_WIDE, hidden_size=32, num_hidden_layers=2, state_size=8), ("plain",)),
}


def tiny(name: str) -> LoadedModel:
    """A model of one kind, the same weights each time."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = AutoModelForCausalLM.from_config(KINDS[name].config).float().eval()
    return loaded(model, name)


def loaded(model: Any, name: str = "tiny") -> LoadedModel:
    """A model without a tokenizer, as far as scoring needs it."""
    return LoadedModel(ModelSource(name, None, name), model, None, torch.device("cpu"), "float32", 2048)


def ids(length: int, seed: int) -> list[int]:
    """Random ids of the tiny vocabulary."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCABULARY, (length,), generator=generator).tolist()


def conversations(lengths: Sequence[int], seed: int = 0) -> list[list[int]]:
    """Continuations of these lengths in tokens."""
    return [ids(length, 1000 * seed + index) for index, length in enumerate(lengths)]
