"""Packed and repeated layouts give the numbers of one-at-a-time scoring, in any order and any chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import KINDS, conversations, ids, tiny

from remid.errors import ModelError
from remid.lm.chat import ChatRenderer, Message
from remid.lm.models import LoadedModel, find_model, load_model
from remid.lm.scoring import Layout, Scorer, TokenLogProbs

PER_RESPONSE, PER_TOKEN = 1e-3, 1e-4  # nats
_RESPONSES = [
    "",  # the end of the turn alone: one token
    "Aye.",
    "I retired years ago, friend. The sea keeps what it takes, and I keep my silence about it.",
    "Ich habe das Schmuggeln aufgegeben.",
    "我已经退休了。",
    "*looks away* \n\nAsk someone else… 🏴‍☠️",
]
_MESSAGES = [
    Message("system", "You are Captain Mira, a retired smuggler. Stay in character."),
    Message("user", "Who are you, and what did you do before?"),
]


def _score(scorer: Scorer, prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[TokenLogProbs]:
    """The way the pipeline does it: chunk by chunk over one prefix."""
    prefix, found = scorer.prefill(prompt), []
    for chunk in scorer.chunks([len(c) for c in continuations]):
        found += scorer.score(prefix, [continuations[i] for i in chunk])
    return found


def _largest(found: Sequence[TokenLogProbs], expected: Sequence[TokenLogProbs]) -> tuple[float, float]:
    """Largest difference in nats: of one token, of one response."""
    assert [f.shape for f in found] == [e.shape for e in expected]
    tokens = max(float(np.abs(f - e).max()) for f, e in zip(found, expected, strict=True))
    sums = [abs(float(f.sum(dtype=np.float64) - e.sum(dtype=np.float64))) for f, e in zip(found, expected, strict=True)]
    return tokens, max(sums)


def _assert_close(found: Sequence[TokenLogProbs], expected: Sequence[TokenLogProbs]) -> tuple[float, float]:
    token, response = _largest(found, expected)
    assert token < PER_TOKEN
    assert response < PER_RESPONSE
    return token, response


@pytest.fixture(scope="module")
def rendered(embedded: LoadedModel) -> tuple[list[int], list[list[int]]]:
    renderer = ChatRenderer(embedded.tokenizer)
    return renderer.prompt_ids(_MESSAGES), [renderer.response_ids(text) for text in _RESPONSES]


@pytest.fixture(scope="module")
def oracle(embedded: LoadedModel, rendered: tuple[list[int], list[list[int]]]) -> list[TokenLogProbs]:
    return _score(Scorer(embedded, layout="plain"), *rendered)


def test_the_oracle_is_transformers_own_cross_entropy(
    embedded: LoadedModel, rendered: tuple[list[int], list[list[int]]], oracle: list[TokenLogProbs]
) -> None:
    prompt, continuations = rendered
    for index in (0, 3):
        whole = torch.tensor([prompt + continuations[index]])
        labels = whole.clone()
        labels[0, : len(prompt)] = -100  # what transformers leaves out of the loss
        with torch.inference_mode():
            mean = float(embedded.model(input_ids=whole, labels=labels).loss)
        assert float(oracle[index].mean(dtype=np.float64)) == pytest.approx(-mean, abs=PER_TOKEN)


class _OffByOne:
    """A model that misplaces packed continuations by one position, the mildest mistake a layout can make."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, **arguments: Any) -> Any:
        if "attention_mask" in arguments:
            arguments["position_ids"] = arguments["position_ids"] + 1
        return self._model(**arguments)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_probe_takes_rounding_for_rounding_and_a_mistake_for_a_mistake(dtype: Any, embedded: LoadedModel) -> None:
    model = embedded if dtype == "float32" else load_model(find_model("builtin"), device="cpu", dtype=dtype)
    assert Scorer(model).layout == "packed"
    assert Scorer(replace(model, model=_OffByOne(model.model))).layout == "repeated"


@pytest.mark.parametrize("layout", ["packed", "repeated"])
def test_every_layout_gives_the_oracles_numbers_on_the_embedded_model(
    layout: Layout, embedded: LoadedModel, rendered: tuple[list[int], list[list[int]]], oracle: list[TokenLogProbs]
) -> None:
    token, response = _assert_close(_score(Scorer(embedded, layout=layout), *rendered), oracle)
    print(f"\n{layout} against plain: {token:.1e} nats per token, {response:.1e} per response at most")


@pytest.mark.parametrize("packed_tokens", [1, 20, 4096])
def test_the_chunk_size_does_not_change_the_embedded_models_numbers(
    packed_tokens: int, embedded: LoadedModel, rendered: tuple[list[int], list[list[int]]], oracle: list[TokenLogProbs]
) -> None:
    scorer = Scorer(embedded, layout="packed", packed_tokens=packed_tokens)
    token, response = _assert_close(_score(scorer, *rendered), oracle)
    print(f"\nchunks of {packed_tokens}: {token:.1e} nats per token, {response:.1e} per response at most")


def test_two_runs_give_the_same_bytes_and_the_order_changes_nothing_that_matters(
    embedded: LoadedModel, rendered: tuple[list[int], list[list[int]]]
) -> None:
    prompt, continuations = rendered
    scorer = Scorer(embedded, layout="packed")
    prefix = scorer.prefill(prompt)
    first = scorer.score(prefix, continuations)
    again = scorer.score(prefix, continuations)  # the same prefix: nothing of the first pass may be left in it
    afresh = scorer.score(scorer.prefill(prompt), continuations)
    assert [f.tobytes() for f in first] == [a.tobytes() for a in again] == [a.tobytes() for a in afresh]
    backwards = scorer.score(prefix, continuations[::-1])[::-1]
    token, response = _assert_close(backwards, first)
    print(f"\nreversed order: {token:.1e} nats per token, {response:.1e} per response at most")


def test_a_response_has_one_finite_negative_number_per_token(
    rendered: tuple[list[int], list[list[int]]], oracle: list[TokenLogProbs]
) -> None:
    for continuation, logp_T in zip(rendered[1], oracle, strict=True):
        assert logp_T.shape == (len(continuation),)
        assert logp_T.dtype == np.float32
        assert np.isfinite(logp_T).all()
        assert (logp_T < 0).all()


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    prompt=st.integers(1, 60),
    packed_tokens=st.integers(1, 4096),
    layout=st.sampled_from(["packed", "repeated"]),
    seed=st.integers(0, 5),
)
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_any_lengths_in_any_chunks_give_the_oracles_numbers(
    lengths: list[int], prompt: int, packed_tokens: int, layout: Layout, seed: int
) -> None:
    model, continuations = tiny("llama"), conversations(lengths, seed)
    expected = _score(Scorer(model, layout="plain"), ids(prompt, seed + 50), continuations)
    scorer = Scorer(model, layout=layout, packed_tokens=packed_tokens)
    _assert_close(_score(scorer, ids(prompt, seed + 50), continuations), expected)


@given(lengths=st.lists(st.integers(1, 300), max_size=30), packed_tokens=st.integers(1, 400))
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_chunks_cover_everything_once_in_order_and_hold_no_more_than_they_may(
    lengths: list[int], packed_tokens: int
) -> None:
    chunks = Scorer(tiny("llama"), layout="packed", packed_tokens=packed_tokens).chunks(lengths)
    assert [i for chunk in chunks for i in chunk] == list(range(len(lengths)))
    assert all(len(chunk) == 1 or sum(lengths[i] for i in chunk) <= packed_tokens for chunk in chunks)
    assert all(len(chunk) > 0 for chunk in chunks)


@pytest.mark.parametrize("kind", KINDS)
def test_the_probed_layout_is_one_that_may_be_used_and_gives_the_oracles_numbers(kind: str) -> None:
    model = tiny(kind)
    scorer, plain = Scorer(model), Scorer(model, layout="plain")
    assert scorer.layout in KINDS[kind].layouts
    continuations = conversations([1, 2, 40, 7, 1, 12])
    for length in (1, 30, 150):  # 150 is beyond every window
        prompt = ids(length, length)
        expected = _score(plain, prompt, continuations)
        token, _ = _assert_close(_score(scorer, prompt, continuations), expected)
        if length == 150:
            print(f"\n{kind}: {scorer.layout}, {token:.1e} nats per token at most")
            # The oracle must depend on the prompt, else agreement would say nothing.
            assert _largest(_score(plain, prompt[::-1], continuations), expected)[0] > 0.05


@pytest.mark.parametrize("kind", ["mistral-window", "gpt-neo-local"])
def test_packing_a_model_with_a_window_would_have_been_wrong(kind: str) -> None:
    model, prompt, continuations = tiny(kind), ids(80, 3), conversations([30] * 6)
    packed, plain = Scorer(model, layout="packed"), Scorer(model, layout="plain")
    assert _largest(_score(packed, prompt, continuations), _score(plain, prompt, continuations))[0] > 0.05


def test_an_empty_continuation_is_refused() -> None:
    scorer = Scorer(tiny("llama"), layout="packed")
    with pytest.raises(ValueError, match="end-of-turn"):
        scorer.score(scorer.prefill([1, 2]), [[3], []])


class _Forgetful:
    """A real model whose first calls run out of memory, half way through its layers."""

    def __init__(self, model: Any, failures: int, error: Exception) -> None:
        self._model = model
        self._error = error
        self.failures = failures
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, **arguments: Any) -> Any:
        self.calls += 1
        if self.failures == 0:
            return self._model(**arguments)
        self.failures -= 1

        def fail(*_: Any) -> None:
            raise self._error

        layers = self._model.model.layers
        hook = layers[len(layers) // 2].register_forward_pre_hook(fail)
        try:
            return self._model(**arguments)
        finally:
            hook.remove()


_OUT = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
]


@pytest.mark.parametrize("error", _OUT, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("layout", ["packed", "repeated"])
def test_running_out_of_memory_once_splits_the_pass_and_changes_no_number(layout: Layout, error: Exception) -> None:
    model, prompt, continuations = tiny("llama"), ids(20, 1), conversations([5, 1, 9, 3, 30])
    expected = _score(Scorer(model, layout="plain"), prompt, continuations)
    scorer = Scorer(model, layout=layout)
    prefix = scorer.prefill(prompt)
    scorer._model = _Forgetful(model.model, failures=2, error=error)
    _assert_close(scorer.score(prefix, continuations), expected)
    assert scorer._model.calls > 3
    _assert_close(scorer.score(prefix, continuations), expected)  # the prompt's keys and values are as they were


def test_the_embedded_model_recovers_from_running_out_of_memory(
    embedded: LoadedModel, rendered: tuple[list[int], list[list[int]]], oracle: list[TokenLogProbs]
) -> None:
    prompt, continuations = rendered
    scorer = Scorer(embedded, layout="packed")
    prefix = scorer.prefill(prompt)
    scorer._model = _Forgetful(embedded.model, failures=1, error=_OUT[0])
    _assert_close(scorer.score(prefix, continuations), oracle)
    assert prefix.cache.get_seq_length() == len(prompt)


@pytest.mark.parametrize("layout", ["packed", "repeated", "plain"])
def test_a_single_continuation_that_does_not_fit_is_a_model_error(layout: Layout) -> None:
    model = tiny("llama")
    scorer = Scorer(model, layout=layout)
    prefix = scorer.prefill(ids(20, 1))
    scorer._model = _Forgetful(model.model, failures=100, error=_OUT[0])
    with pytest.raises(ModelError, match=r"not enough memory for a prompt of 20 tokens .* of 9"):
        scorer.score(prefix, conversations([9]))


def test_a_prompt_that_does_not_fit_is_a_model_error() -> None:
    model = tiny("llama")
    scorer = Scorer(model, layout="packed")
    scorer._model = _Forgetful(model.model, failures=1, error=_OUT[2])
    with pytest.raises(ModelError, match="not enough memory for a prompt of 20 tokens"):
        scorer.prefill(ids(20, 1))


def test_other_failures_of_the_model_are_not_taken_for_memory() -> None:
    model = tiny("llama")
    scorer = Scorer(model, layout="packed")
    prefix = scorer.prefill(ids(20, 1))
    scorer._model = _Forgetful(model.model, failures=1, error=RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes"):
        scorer.score(prefix, conversations([9, 2]))


@pytest.mark.slow
def test_the_spread_stays_small_behind_a_long_prompt_with_many_responses(embedded: LoadedModel) -> None:
    generator = torch.Generator().manual_seed(3)
    lengths = [1, 2, *torch.randint(3, 160, (38,), generator=generator).tolist()]
    prompt, *continuations = [torch.randint(17, 49152, (n,), generator=generator).tolist() for n in [800, *lengths]]
    expected = _score(Scorer(embedded, layout="plain"), prompt, continuations)
    token, response = _assert_close(_score(Scorer(embedded), prompt, continuations), expected)
    print(f"\n800 + {sum(lengths)} random tokens: {token:.1e} nats per token, {response:.1e} per response at most")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("dtype", "per_token"), [("float32", 1e-3), ("bfloat16", 1.0)])
def test_packed_agrees_with_plain_on_cuda(dtype: Any, per_token: float) -> None:
    model = load_model(find_model("builtin"), device="cuda", dtype=dtype)
    renderer = ChatRenderer(model.tokenizer)
    prompt, continuations = renderer.prompt_ids(_MESSAGES), [renderer.response_ids(text) for text in _RESPONSES]
    scorer = Scorer(model)
    assert scorer.layout == "packed"
    plain = _score(Scorer(model, layout="plain"), prompt, continuations)
    token, response = _largest(_score(scorer, prompt, continuations), plain)
    print(f"\ncuda {dtype}: {token:.1e} nats per token, {response:.1e} per response at most")
    assert token < per_token
