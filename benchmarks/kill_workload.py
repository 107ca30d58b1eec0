"""What the kill benchmark and the tests of durability run on: a tiny model and a small benchmark, made from a seed.

The model has random weights and a byte-level tokenizer, so it reads any text; prompts of a few hundred bytes take many
passes. After "Content:" it writes a trace that follows its format, so that `--traces model` can be run with it.
"""

from __future__ import annotations

import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

TRACE = (" It answers the user, in character.", "\nStyle: It is short and plain.")
_TURNS = ("<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_WIDTH, _LONGEST = 64, 8192
_SPLITS = {"IDTest": "IDTest", "OOD1Test": "german", "OOD2Test": "Gaming"}


def make_model(folder: Path, *, layers: int = 2, inner: int = 128) -> Path:
    """A model folder for --model. inner: width of the feed-forward part, which decides how much memory a pass takes."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=_WIDTH,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=_LONGEST,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = LlamaForCausalLM(config).float().eval()
    _teach_traces(model, tokenizer)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_data(path: Path, *, per_subset: int = 6, length: int = 300, seed: int = 5) -> Path:
    """A benchmark of three subsets with one policy. length: bytes of each character's text."""
    rng = random.Random(seed)
    rows = {split: [_record(split, k, length, rng) for k in range(per_subset)] for split in _SPLITS}
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=1), "utf-8")
    return path


def _record(split: str, number: int, length: int, rng: random.Random) -> dict[str, Any]:
    def words(count: int) -> str:
        return " ".join("".join(rng.choices("aeioubdfgklmnprst", k=rng.randrange(2, 8))) for _ in range(count))

    return {
        "sample_ID": f"{split}-{number}",
        "user_persona": f"User {number} of {split}: {words(6)}",
        "agent_character": f"Character {words(length)}"[:length],
        "dialogue_context": [{"user_query": f"{words(rng.randrange(4, 20))}?"}],
        "agent_golden_response": words(rng.randrange(5, 25)),
        "subset_tag": _SPLITS[split],
        "model_response": {"one": words(rng.randrange(5, 25))},
    }


def _tokenizer() -> Any:
    """Bytes, the marks of turns, and the two halves of a trace."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: k for k, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(mark, normalized=False) for mark in _TURNS])
    tokenizer.add_tokens([AddedToken(half, normalized=False) for half in TRACE])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=_TURNS[0],
        pad_token=_TURNS[0],
        additional_special_tokens=list(_TURNS[1:]),
        chat_template=_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=_LONGEST,
    )


def _teach_traces(model: Any, tokenizer: Any) -> None:
    """After a colon the first half, after it the second, then the end: a chain through dimensions of its own.

    Elsewhere the model is as random as before, and what it says depends on all it has read.
    """
    import torch

    first, second = (tokenizer.convert_tokens_to_ids(half) for half in TRACE)
    (colon,) = tokenizer.encode(":", add_special_tokens=False)
    chain = [colon, first, second, tokenizer.eos_token_id]
    with torch.no_grad():
        embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        own = slice(_WIDTH - 3, _WIDTH)
        embedding[:, own] = 0
        head[:, own] = 0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[own] = 0
            layer.mlp.down_proj.weight[own] = 0
        for place, (now, then) in enumerate(pairwise(chain)):
            embedding[now, _WIDTH - 3 + place] = 100.0
            head[then, _WIDTH - 3 + place] = 20.0
