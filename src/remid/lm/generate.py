"""Responses and traces from a causal model: batches of equal-minded prompts, greedy or seeded sampling."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from remid.lm.models import LoadedModel
from remid.lm.room import roomy_cache


@dataclass(frozen=True, slots=True)
class Decoding:
    """How to generate. temperature 0 is greedy. Sampling is seeded per batch, so a resumed run draws the same."""

    max_new_tokens: int = 96
    temperature: float = 0.0
    top_p: float = 0.95
    seed: int = 0
    repetition_penalty: float = 1.0

    @property
    def plain(self) -> bool:
        """Whether texts are drawn from the model's own law, at some temperature, and nothing of it is cut off."""
        return self.temperature > 0 and self.top_p == 1 and self.repetition_penalty == 1


@contextmanager
def _no_habits(model: Any) -> Iterator[None]:
    """Without what a model's own generation_config.json asks for, which would fill whatever Decoding does not say."""
    from transformers import GenerationConfig

    before = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = before


@torch.inference_mode()
def generate(
    loaded: LoadedModel, prompts: Sequence[Sequence[int]], end_of_turn: int, decoding: Decoding, *, stream: int = 0
) -> list[tuple[str, bool]]:
    """Continue each prompt. Returns (text, finished) per prompt; finished is False where max_new_tokens cut it off.

    stream: number of the batch within its job, mixed into the seed.
    """
    longest = max(map(len, prompts))
    pad = loaded.tokenizer.pad_token_id
    pad = end_of_turn if pad is None else pad
    ids = torch.tensor([[pad] * (longest - len(p)) + list(p) for p in prompts], device=loaded.device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=loaded.device)
    options: dict[str, object] = {"do_sample": False}
    # Seeded for this batch alone: who calls us keeps their own random numbers.
    with torch.random.fork_rng(devices=[loaded.device] if loaded.device.type == "cuda" else []):
        if decoding.temperature > 0:
            torch.manual_seed(decoding.seed * 1_000_003 + stream)
            # Unset, top_k is 50; servers and vLLM, asked for the same, have none.
            options = {"do_sample": True, "temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0}
        with _no_habits(loaded.model):
            out = loaded.model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=decoding.max_new_tokens,
                repetition_penalty=decoding.repetition_penalty,
                eos_token_id=end_of_turn,
                pad_token_id=pad,
                past_key_values=roomy_cache(loaded.model, decoding.max_new_tokens),
                **options,
            )
    return [as_text(loaded.tokenizer, row, end_of_turn) for row in out[:, longest:].tolist()]


def as_text(tokenizer: Any, row: Sequence[int], end_of_turn: int) -> tuple[str, bool]:
    """What a written row of ids says, and whether it came to its end."""
    ids = list(row)
    finished = end_of_turn in ids
    body = ids[: ids.index(end_of_turn)] if finished else ids
    text = tokenizer.decode(body, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    # Cut off in the middle of a character, the bytes of its first tokens decode to a replacement mark.
    return (text if finished else text.rstrip("\ufffd")).strip(), finished
