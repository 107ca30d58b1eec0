"""Small tokenizers trained on the spot, and chat templates in the styles that models come with."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

_LINES = [
    "You are Captain Mira, a retired smuggler. Stay in character and answer the user.",
    "Hello there! How are you today? I am fine, thank you. system user assistant model",
    "Guten Morgen, wie geht es dir? Ich heiße Jürgen und wohne in Köln.",
    "¿Dónde está la biblioteca? Está a la vuelta de la esquina, señor.",
    "我是一个退休的船长,请问你是谁?今天天气很好。",
    "こんにちは、お元気ですか。私は船長です。",
    "Здравствуйте, как ваши дела? Я капитан корабля.",
    "مرحبا، كيف حالك؟ أنا قبطان السفينة.",
    "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHello [/INST] Hello [INST] Go on [/INST] Go on.",
] * 3
#: Every marker that the templates below write; a tokenizer holds some of them as special tokens, like real ones do.
MARKERS = [
    *("<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    *("[INST]", "[/INST]", "<bos>", "<start_of_turn>", "<end_of_turn>", "<|user|>", "<|assistant|>", "<|system|>"),
]


def _wrap(raw: Tokenizer, bos: str, eos: str, extra: list[str]) -> PreTrainedTokenizerFast:
    # Only BOS and EOS have a role. The others are added and special without one, as in Llama 3's tokenizer.
    raw.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in dict.fromkeys([bos, eos, *extra])])
    bos_id = raw.token_to_id(bos)
    # A tokenizer that adds its own BOS unless told not to: with a template that writes one too, that makes two.
    raw.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, bos_id)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token=bos, eos_token=eos)


def _byte_level(bos: str, eos: str, extra: list[str], *, prefix_space: bool = False) -> PreTrainedTokenizerFast:
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(_LINES, trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False))
    return _wrap(raw, bos, eos, extra)


def _sentence_piece(scheme: str, extra: list[str], *, byte_fallback: bool = True) -> PreTrainedTokenizerFast:
    """In the manner of Llama 2 and Gemma: spaces are "▁", unknown characters are bytes (or, without them, unknown)."""
    raw = Tokenizer(models.BPE(unk_token="<unk>"))
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=["<unk>"], show_progress=False)
    if scheme == "normalizer":  # Llama 2's own: the space is put there by the normalizer, even before a space
        raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        strip: Any = [decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    elif scheme == "never":  # Gemma's own
        raw.normalizer = normalizers.Replace(" ", "▁")
        strip = [decoders.Fuse()]
    else:
        raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
        strip = [decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    raw.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), *strip])
    # Words with the space before them, apart for training: else whole lines, or newlines and words, become tokens.
    raw.train_from_iterator([word for line in _LINES for word in re.findall(r" ?\w+| ?[^\w\s]|\s", line)], trainer)
    if byte_fallback:
        state = json.loads(raw.to_str())
        vocabulary = state["model"]["vocab"]
        for byte in range(256):
            vocabulary.setdefault(f"<0x{byte:02X}>", len(vocabulary))
        state["model"]["byte_fallback"] = True
        raw = Tokenizer.from_str(json.dumps(state))
    return _wrap(raw, "<s>", "</s>", extra)


#: Byte-level tokenizers can say every text; SentencePiece-like ones all but a literal "▁".
BYTE_LEVEL: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "bytes-chatml": lambda: _byte_level("<|endoftext|>", "<|im_end|>", MARKERS),
    "bytes-llama3": lambda: _byte_level("<|begin_of_text|>", "<|eot_id|>", MARKERS),
    "bytes-no-markers": lambda: _byte_level("<s>", "</s>", []),
}
OTHERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "bytes-prefix-space": lambda: _byte_level("<s>", "</s>", MARKERS, prefix_space=True),
    "pieces-always": lambda: _sentence_piece("always", MARKERS),
    "pieces-first": lambda: _sentence_piece("first", MARKERS),
    "pieces-llama2": lambda: _sentence_piece("normalizer", []),
    "pieces-gemma": lambda: _sentence_piece("never", MARKERS),
    "pieces-no-bytes": lambda: _sentence_piece("first", MARKERS, byte_fallback=False),
}


@dataclass(frozen=True)
class Template:
    """jinja: the template. opens: what opens one message. folds: system and first user message become one message.

    openers: which roles `opens` stands before. bos: whether the template writes bos_token itself. space: whether it
    writes a space before a response.
    """

    jinja: str
    opens: str
    folds: bool = False
    openers: tuple[str, ...] = ("system", "user", "assistant")
    bos: bool = False
    space: bool = False


_CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
_LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
)
_MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}"
    "{% elif m.role == 'user' %}{{ '[INST] ' + m.content | trim + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
_LLAMA2 = (
    "{% if messages[0].role == 'system' %}{% set sys = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set sys = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{% if m.role == 'user' %}"
    "{{ bos_token if loop.first else '' }}{{ '[INST] ' + (sys if loop.first else '') + m.content | trim + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
_MISTRAL_03 = (  # shows the system message before the last message only, and only if that is the user's
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set sys = messages[0].content %}"
    "{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}{% for m in rest %}"
    "{% if m.role == 'user' %}{% if loop.last and sys is defined %}[INST]{{ ' ' + sys + '\n\n' + m.content }}[/INST]"
    "{% else %}[INST]{{ ' ' + m.content }}[/INST]{% endif %}{% else %}{{ ' ' + m.content + eos_token }}{% endif %}"
    "{% endfor %}"
)
_GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
)
_QWEN3 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
)
_ZEPHYR = "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token }}\n{% endfor %}"
_DROPS = (
    "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
)
_NEVER_ENDS = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"

_USERS = ("user",)
TEMPLATES: dict[str, Template] = {
    "chatml": Template(_CHATML, "<|im_start|>"),
    "llama3": Template(_LLAMA3, "<|start_header_id|>", bos=True),
    "llama2": Template(_LLAMA2, "[INST]", openers=_USERS, bos=True, space=True),
    "mistral-refuses-system": Template(_MISTRAL, "[INST]", folds=True, openers=_USERS, bos=True, space=True),
    "mistral-0.3": Template(_MISTRAL_03, "[INST]", folds=True, openers=_USERS, bos=True, space=True),
    "gemma": Template(_GEMMA, "<start_of_turn>", folds=True, bos=True),
    "qwen3": Template(_QWEN3, "<|im_start|>"),
    "zephyr": Template(_ZEPHYR, "<|assistant|>", openers=("assistant",)),
    "drops-system": Template(_DROPS, "<|im_start|>", folds=True),
    "never-ends": Template(_NEVER_ENDS, "<|im_start|>", openers=(), space=True),
}
