"""A small model with a chat template that can be trained in seconds, and a benchmark with a training split."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

for room in ("lm", "engine"):
    sys.path.insert(0, str(Path(__file__).parents[1] / room))

_USERS = ("Ann, a cook.", "Bob, nine.", "Cy, a nurse.", "Di, a poet.", "Ed, a clerk.", "Flo, a vet.")
_CHARACTERS = ("a pirate", "a wizard", "a robot", "a dragon")
_SAID = ("Gone with the tide.", "Only on Tuesdays.", "My battery is full.", "Knights, toasted.")


def _sample(number: int, split: str) -> dict[str, Any]:
    user, character = _USERS[number % len(_USERS)], number % len(_CHARACTERS)
    trace = f"## Core Features\nContent: {_SAID[character]}\nStyle: short, {split} {number}."
    return {
        "sample_ID": f"{split}-{number}",
        "user_persona": user,
        "agent_character": {"name": f"{split} {number}", "profile": f"{_CHARACTERS[character]}, number {number}"},
        "dialogue_context": [{"user_query": f"What of matter {number} of {split}?"}],
        "agent_golden_response": f"{_SAID[character]} Ask me about {number} of {split}.",
        "subset_tag": "IDTest" if split == "IDTest" else split,
        "SThought": trace,
    }


@pytest.fixture(scope="session")
def training_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighteen training samples and four test samples."""
    path = tmp_path_factory.mktemp("data") / "bench.json"
    splits = {"IDTrain": 18, "IDTest": 4}
    path.write_text(json.dumps({split: [_sample(k, split) for k in range(n)] for split, n in splits.items()}))
    return path


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama of 60,000 weights with the embedded model's tokenizer cut to bytes, as a model folder."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    vocabulary = {token: i for i, token in enumerate([*specials, *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|end|>",
        pad_token="<|end|>",
        additional_special_tokens=specials[1:],
        chat_template="{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}",
        clean_up_tokenization_spaces=False,
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def settings(training_data: Path, tiny_folder: Path) -> dict[str, Any]:
    """Of a training run that takes seconds."""
    return {
        "data": (training_data,),
        "model": str(tiny_folder),
        "device": "cpu",
        "lora": {"r": 4, "alpha": 8, "dropout": 0.0},
        "sft": {"epochs": 1, "batch": 4, "rate": 1e-3},
        "grpo": {
            "samples": 8,
            "generations": 2,
            "prompts_per_step": 2,
            "trace_tokens": 24,
            "response_tokens": 16,
            "rate": 1e-3,
        },
    }
