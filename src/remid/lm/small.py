"""Chat models of a few hundred thousand weights over a closed vocabulary, for worlds of text: tokenizer and weights.

A token is a word with the space or line break before it, or a fixed piece of a prompt. What a world never says is the
unknown token, which does not decode to itself: the renderer refuses such a text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

_TEMPLATE = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
_SPECIALS = ("<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
_UNKNOWN = "<unk>"
#: Stands in a probe of a prompt where the sample's own texts stand.
MARK = "\x00"


def word_tokenizer(fixed: Sequence[str], texts: Iterable[str], word: str, max_length: int) -> Any:
    """A fast tokenizer that knows every word of the texts, and each fixed piece as one token.

    fixed: pieces of prompts, longer ones before those that they begin with. word: regular expression of a word,
    with what stands before it. max_length: tokens.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    escaped = "|".join("".join(f"\\{c}" if not c.isalnum() and c not in " \n" else c for c in f) for f in fixed)
    split = pre_tokenizers.Split(Regex(f"{escaped}|{word}|\\s"), "isolated")
    words = dict.fromkeys([*_SPECIALS, _UNKNOWN, *fixed, "\n", " ", ".", "a", "x"])
    for text in texts:
        words |= dict.fromkeys(found for found, _ in split.pre_tokenize_str(text))
    tokenizer = Tokenizer(models.WordLevel({found: i for i, found in enumerate(words)}, unk_token=_UNKNOWN))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=_SPECIALS[0],
        pad_token=_SPECIALS[0],
        unk_token=_UNKNOWN,
        additional_special_tokens=list(_SPECIALS[1:]),
        chat_template=_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=max_length,
    )


def frames(probes: Iterable[str]) -> list[str]:
    """The fixed pieces of prompts, longest first. probes: prompts in which MARK stands for what is a sample's own."""
    pieces = {piece for text in probes for piece in text.split(MARK) if piece}
    return sorted(pieces, key=lambda piece: (-len(piece), piece))


def small_llama(tokenizer: Any, width: int, layers: int) -> Any:
    """Fresh weights for a tokenizer, drawn from torch's random numbers as they stand."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            initializer_range=0.05,
        )
    )
