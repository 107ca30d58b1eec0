"""A tiny chat model in a folder, and adapters on it with seeded weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from chat_cases import BYTE_LEVEL, TEMPLATES
from transformers import AutoModelForCausalLM, LlamaConfig

from remid.lm.adapters import Chain, activate, new_adapters, write_adapter
from remid.lm.models import ModelSource, load_model


@dataclass(frozen=True)
class Sizes:
    """As remid.train.config.LoraSettings has them."""

    r: int = 4
    alpha: int = 8
    dropout: float = 0.0
    layers: int | None = None


def chat_folder(folder: Path, seed: int = 7, words: Sequence[str] = ()) -> Path:
    """A randomly initialised Llama whose tokenizer knows every byte, ChatML, and `words` as a token each, saved."""
    tokenizer = BYTE_LEVEL["bytes-chatml"]()
    tokenizer.add_tokens(list(words))
    tokenizer.chat_template = TEMPLATES["chatml"].jinja
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        initializer_range=0.2,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def perturb(peft_model: Any, name: str, seed: int, scale: float = 0.1) -> None:
    """Give an adapter weights that change what the model computes."""
    generator = torch.Generator().manual_seed(seed)
    for parameter_name, parameter in peft_model.named_parameters():
        if f".{name}." in parameter_name:
            with torch.no_grad():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)


def save(
    peft_model: Any,
    name: str,
    folder: Path,
    base: ModelSource,
    stage: str = "sft",
    parents: Sequence[str] = (),
    **config: Any,
) -> Chain:
    """Write one adapter."""
    return write_adapter(
        peft_model, name, folder, base=base, stage=stage, parents=parents, data="d" * 32, config=config
    )


def make_adapter(base: ModelSource, folder: Path, name: str, seed: int) -> Chain:
    """An adapter with random weights, trained (as it were) on what `base` is, its adapters included."""
    peft_model = new_adapters(load_model(base, device="cpu").model, Sizes(), (name,), seed)
    perturb(peft_model, name, seed)
    return save(peft_model, name, folder, base)


def teach(
    peft_model: Any, name: str, sequences: Sequence[tuple[list[int], list[int]]], steps: int, rate: float
) -> None:
    """Let an adapter learn completions of prompts by heart. Its most likely tokens, that is: how
    likely they can become is limited by the last layer, which is random and stays as it is."""
    activate(peft_model, name)
    optimizer = torch.optim.Adam([p for p in peft_model.parameters() if p.requires_grad], lr=rate)
    longest = max(len(prompt) + len(completion) for prompt, completion in sequences)
    ids = torch.zeros(len(sequences), longest, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    for row, (prompt, completion) in enumerate(sequences):
        ids[row, : len(prompt) + len(completion)] = torch.tensor([*prompt, *completion])
        labels[row, len(prompt) : len(prompt) + len(completion)] = torch.tensor(completion)
    for _ in range(steps):
        loss = peft_model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
