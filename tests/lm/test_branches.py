"""Completions that share their prompt's keys are those behind copies of it; models that cannot are told."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from tiny_models import KINDS, VOCABULARY, ids, tiny

from remid.lm.branches import Branches, branches, branching
from remid.lm.room import roomy_cache
from remid.lm.sampling import sample_completions

#: Models whose attention is plain, full and transformers' own.
PLAIN = ("llama", "qwen2", "qwen3", "gpt2")


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_what_is_sampled_is_what_is_sampled_behind_copies(kind: str, temperature: float) -> None:
    model = tiny(kind).model
    prompts = [ids(25, 1), ids(7, 2), ids(1, 3)]
    options: dict[str, Any] = {"max_new_tokens": 60, "temperature": temperature, "seed": 5}
    free = sample_completions(model, prompts, 5, end_of_turn=2, **options)
    options["end_of_turn"] = Counter(t for group in free for tokens, _ in group for t in tokens).most_common(1)[0][0]
    copied = sample_completions(model, prompts, 5, **options)
    shared = sample_completions(model, prompts, 5, **options, branched=True)
    lengths = [len(tokens) for group in copied for tokens, _ in group]
    assert sorted(lengths)[7] < max(lengths)  # half of the rows ended before others, so rows have left the batch
    for ours, usual in zip(shared, copied, strict=True):
        for (tokens, logp), (expected, expected_logp) in zip(ours, usual, strict=True):
            assert tokens == expected
            torch.testing.assert_close(torch.tensor(logp), torch.tensor(expected_logp), atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_rows_that_leave_take_nothing_with_them() -> None:
    model, prompts = tiny("llama").model, [ids(9, 1), ids(9, 2)]
    cache = model(input_ids=torch.tensor(prompts), past_key_values=roomy_cache(model, 6), use_cache=True)
    found = Branches(cache.past_key_values, [9, 9], 3, 6)
    tokens = torch.arange(6) + 10
    with branching(model):
        found.run(model, tokens, torch.full((6, 1), 9))
        keep = torch.tensor([1, 2, 5])
        found.select(keep)
        after = found.run(model, tokens[keep] + 20, torch.full((3, 1), 10))
    assert len(found) == 3
    for row, k in enumerate(keep.tolist()):
        whole = torch.tensor([[*prompts[k // 3], int(tokens[k]), int(tokens[k]) + 20]])
        torch.testing.assert_close(after[row], model(input_ids=whole).logits[0, -1], atol=1e-4, rtol=1e-4)


def test_each_kind_of_model_is_told_apart() -> None:
    able = {kind for kind in KINDS if branches(tiny(kind).model)}
    assert set(PLAIN) <= able
    assert not able & {"mistral-window", "gemma3-window", "mamba", "bloom-alibi", "gemma2"}


def test_the_model_attends_as_before_afterwards() -> None:
    model, tokens = tiny("llama").model, torch.tensor([ids(12, 4)])
    with torch.inference_mode():
        before = model(input_ids=tokens).logits
        assert branches(model)
        sample_completions(model, [ids(5, 1)], 2, end_of_turn=2, max_new_tokens=3, branched=True)
        assert torch.equal(model(input_ids=tokens).logits, before)
    assert before.shape[-1] == VOCABULARY
