"""Generation is repeatable, says whether it finished, and does not depend on the company in the batch."""

from __future__ import annotations

import pytest
import torch

from remid.lm.chat import ChatRenderer, Message
from remid.lm.generate import Decoding, generate
from remid.lm.models import LoadedModel

_QUESTIONS = ["What is the capital of France?", "Say yes.", "Count from one to five, in digits, and nothing else."]


@pytest.fixture(scope="module")
def renderer(embedded: LoadedModel) -> ChatRenderer:
    return ChatRenderer(embedded.tokenizer)


@pytest.fixture(scope="module")
def prompts(renderer: ChatRenderer) -> list[list[int]]:
    return [renderer.prompt_ids([Message("system", "Be brief."), Message("user", text)]) for text in _QUESTIONS]


def _run(
    loaded: LoadedModel, renderer: ChatRenderer, prompts: list[list[int]], decoding: Decoding, stream: int = 0
) -> list[tuple[str, bool]]:
    return generate(loaded, prompts, renderer.end_of_turn_id, decoding, stream=stream)


def test_greedy_generation_is_the_same_twice_and_alone_or_in_a_batch(
    embedded: LoadedModel, renderer: ChatRenderer, prompts: list[list[int]]
) -> None:
    decoding = Decoding(max_new_tokens=10)
    together = _run(embedded, renderer, prompts, decoding)
    assert _run(embedded, renderer, prompts, decoding) == together
    # The questions have answers that are sure: padding moves logits by rounding only.
    assert [_run(embedded, renderer, [prompt], decoding)[0] for prompt in prompts] == together
    assert "Paris" in together[0][0]


def test_greedy_generation_takes_the_likeliest_token(
    embedded: LoadedModel, renderer: ChatRenderer, prompts: list[list[int]]
) -> None:
    ids = list(prompts[0])
    for _ in range(4):
        with torch.inference_mode():
            ids.append(int(embedded.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    expected = renderer.decode(ids[len(prompts[0]) :]).strip()
    assert _run(embedded, renderer, prompts[:1], Decoding(max_new_tokens=4))[0][0] == expected


def test_finished_says_whether_the_turn_ended(
    embedded: LoadedModel, renderer: ChatRenderer, prompts: list[list[int]]
) -> None:
    ((text, finished),) = _run(embedded, renderer, prompts[:1], Decoding(max_new_tokens=40))
    assert finished
    ((short, cut),) = _run(embedded, renderer, prompts[:1], Decoding(max_new_tokens=2))
    assert not cut
    assert text.startswith(short)
    assert len(short) < len(text)


def test_texts_hold_no_special_tokens_and_no_padding(
    embedded: LoadedModel, renderer: ChatRenderer, prompts: list[list[int]]
) -> None:
    for text, _ in _run(embedded, renderer, prompts, Decoding(max_new_tokens=24)):
        assert "<|" not in text
        assert text == text.strip()


def test_sampling_repeats_with_its_seed_and_changes_with_seed_and_stream(
    embedded: LoadedModel, renderer: ChatRenderer, prompts: list[list[int]]
) -> None:
    def sample(seed: int, stream: int) -> list[tuple[str, bool]]:
        decoding = Decoding(max_new_tokens=8, temperature=1.5, top_p=1.0, seed=seed)
        return _run(embedded, renderer, prompts[:2], decoding, stream)

    first = sample(0, 0)
    torch.rand(3)  # what others draw in between must not matter
    assert sample(0, 0) == first
    assert sample(1, 0) != first
    assert sample(0, 1) != first


def test_generating_does_not_disturb_the_callers_random_numbers(
    embedded: LoadedModel, renderer: ChatRenderer, prompts: list[list[int]]
) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    _run(embedded, renderer, prompts[1:2], Decoding(max_new_tokens=2, temperature=1.0))
    assert torch.equal(torch.rand(1), expected)


def test_sampling_has_no_law_but_the_one_that_was_asked_for(
    embedded: LoadedModel, renderer: ChatRenderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the 50 likeliest tokens that transformers keeps unasked, nor what a model's own file says."""
    from transformers import GenerationConfig

    prompt = renderer.prompt_ids([Message("user", "Say any word.")])
    decoding = Decoding(max_new_tokens=1, temperature=3.0, top_p=1.0)
    free = {text for k in range(6) for text, _ in _run(embedded, renderer, [prompt] * 40, decoding, stream=k)}
    assert len(free) > 100
    habits = GenerationConfig(top_k=1, min_p=0.9, suppress_tokens=list(range(1000)))
    monkeypatch.setattr(embedded.model, "generation_config", habits)
    again = {text for k in range(6) for text, _ in _run(embedded, renderer, [prompt] * 40, decoding, stream=k)}
    assert again == free
    assert embedded.model.generation_config is habits
