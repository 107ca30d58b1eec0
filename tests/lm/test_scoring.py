"""Every layout gives the numbers of one-at-a-time scoring, whatever is computed together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import KINDS, VOCABULARY, conversations, ids, tiny

from remid.lm import attention
from remid.lm.chat import ChatRenderer, Message
from remid.lm.cpu import has_onednn
from remid.lm.layouts import Tree
from remid.lm.models import LoadedModel, find_model, load_model
from remid.lm.scoring import LayoutName, Scorer
from remid.lm.work import Scored, TokenLogProbs, Work

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


def _results(scorer: Scorer, work: Sequence[Work]) -> dict[tuple[int, int], Scored]:
    """Everything that a scorer says, each continuation once."""
    found: dict[tuple[int, int], Scored] = {}
    for batch in scorer.score(work):
        for scored in batch:
            assert (scored.work, scored.continuation) not in found
            found[scored.work, scored.continuation] = scored
    assert len(found) == sum(len(w.continuations) for w in work)
    return found


def _work(prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> Work:
    return Work(tuple(prompt), tuple(map(tuple, continuations)))


def _score_all(scorer: Scorer, work: Sequence[Work]) -> list[TokenLogProbs]:
    """Log-probabilities in the order of the work."""
    found = _results(scorer, work)
    assert all(scored.logp_T is not None for scored in found.values())
    return [found[key].logp_T for key in sorted(found)]  # type: ignore[misc]


def _score(scorer: Scorer, prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[TokenLogProbs]:
    return _score_all(scorer, [_work(prompt, continuations)])


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
    """A model whose rows in a tree are misplaced by one position, the mildest mistake a layout can make."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.base_model = self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, **arguments: Any) -> Any:
        if "remid" in arguments:
            positions = arguments["position_ids"]
            arguments["position_ids"] = positions + (positions >= 24)
            model = self._model if "logits_to_keep" in arguments else self._model.base_model
            return model(**arguments)
        return self._model(**arguments)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_probe_takes_rounding_for_rounding_and_a_mistake_for_a_mistake(dtype: Any, embedded: LoadedModel) -> None:
    model = embedded if dtype == "float32" else load_model(find_model("builtin"), device="cpu", dtype=dtype)
    assert Scorer(model).layout == "tree"
    assert Scorer(replace(model, model=_OffByOne(model.model))).layout == "repeated"


@pytest.mark.parametrize("layout", ["tree", "repeated"])
def test_every_layout_gives_the_oracles_numbers_on_the_embedded_model(
    layout: LayoutName, embedded: LoadedModel, rendered: tuple[list[int], list[list[int]]], oracle: list[TokenLogProbs]
) -> None:
    token, response = _assert_close(_score(Scorer(embedded, layout=layout), *rendered), oracle)
    print(f"\n{layout} against plain: {token:.1e} nats per token, {response:.1e} per response at most")


def _family(seed: int, prompts: int, tokens: int, answers: Sequence[int], vocabulary: int) -> list[Work]:
    """Prompts of which some share a beginning, one is the beginning of another, and answers of several lengths."""
    rng = np.random.default_rng(seed)
    stem = rng.integers(17, vocabulary, tokens).tolist()
    work = []
    for k in range(prompts):
        own = rng.integers(17, vocabulary, int(rng.integers(1, tokens))).tolist()
        prompt = (stem[: tokens * (k % 3) // 2] + own) if k else stem[: tokens // 2]
        work.append(_work(prompt, [rng.integers(17, vocabulary, n).tolist() for n in answers]))
    return work


@pytest.mark.skipif(not has_onednn(), reason="only oneDNN's products are known to add in one order")
def test_a_score_does_not_depend_on_what_is_computed_beside_it_to_the_last_bit(shallow: LoadedModel) -> None:
    work = _family(3, 5, 180, [1, 2, 17, 40, 150, 9], 49152)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)  # three lanes, each with a path of its own
        whole = _results(Scorer(shallow, layout="tree"), work)
        torch.set_num_threads(1)
        for rows, block in ((1024, 128), (300, 64), (64, 16), (131, 33)):
            cut = _results(Scorer(shallow, layout="tree", rows=rows, block=block), work)
            assert all(np.array_equal(cut[key].logp_T, whole[key].logp_T) for key in whole)
    finally:
        torch.set_num_threads(threads)
    scorer = Scorer(shallow, layout="tree")
    for w, k in ((0, 0), (2, 3), (4, 4)):  # a pair by itself, with nothing around it
        [alone] = _score(scorer, work[w].prompt, [work[w].continuations[k]])
        assert np.array_equal(alone, whole[w, k].logp_T)
    backwards = [Work(item.prompt, item.continuations[::-1]) for item in work[::-1]]
    last, many = len(work) - 1, len(work[0].continuations) - 1
    again = _results(scorer, backwards)
    assert all(np.array_equal(again[last - w, many - k].logp_T, whole[w, k].logp_T) for w, k in whole)


def test_two_runs_give_the_same_bytes(shallow: LoadedModel, rendered: tuple[list[int], list[list[int]]]) -> None:
    scorer = Scorer(shallow)
    first, again, afresh = (_score(s, *rendered) for s in (scorer, scorer, Scorer(shallow)))
    assert [f.tobytes() for f in first] == [a.tobytes() for a in again] == [a.tobytes() for a in afresh]


def test_the_model_attends_as_before_when_its_scoring_is_over_or_broken_off(shallow: LoadedModel) -> None:
    before = shallow.model.config._attn_implementation
    scorer = Scorer(shallow)
    batches = scorer.score(_family(1, 3, 60, [3, 90], 49152))
    next(batches)
    batches.close()
    assert shallow.model.config._attn_implementation == before


def test_a_response_has_one_finite_negative_number_per_token(
    rendered: tuple[list[int], list[list[int]]], oracle: list[TokenLogProbs]
) -> None:
    for continuation, logp_T in zip(rendered[1], oracle, strict=True):
        assert logp_T.shape == (len(continuation),)
        assert logp_T.dtype == np.float32
        assert np.isfinite(logp_T).all()
        assert (logp_T < 0).all()


@given(
    seed=st.integers(0, 1000),
    prompts=st.integers(1, 7),
    tokens=st.integers(2, 90),
    answers=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    rows=st.integers(1, 300),
    block=st.integers(1, 80),
    layout=st.sampled_from(["tree", "repeated"]),
    kind=st.sampled_from(["llama", "gemma3-narrow-window", "gpt2"]),
)
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_any_work_in_any_passes_and_blocks_gives_the_oracles_numbers(
    seed: int,
    prompts: int,
    tokens: int,
    answers: list[int],
    rows: int,
    block: int,
    layout: LayoutName,
    kind: str,
) -> None:
    model, work = tiny(kind), _family(seed, prompts, tokens, answers, VOCABULARY)
    expected = _score_all(Scorer(model, layout="plain"), work)
    _assert_close(_score_all(Scorer(model, layout=layout, rows=rows, block=block), work), expected)


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


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "window" in kind])
def test_a_continuation_longer_than_the_window_sees_no_further_than_the_window(kind: str) -> None:
    model, prompt, continuations = tiny(kind), ids(40, 3), conversations([200, 3, 130])
    expected = _score(Scorer(model, layout="plain"), prompt, continuations)
    _assert_close(_score(Scorer(model, layout="tree", rows=64, block=24), prompt, continuations), expected)


def test_a_tree_that_ignored_windows_would_have_been_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompt, continuations = tiny("mistral-window"), ids(120, 3), conversations([30] * 6)
    expected = _score(Scorer(model, layout="plain"), prompt, continuations)
    attend = attention.attend
    monkeypatch.setattr(attention, "attend", lambda *a, **k: attend(*a, **k | {"sliding_window": None}))
    assert _largest(_score(Scorer(model, layout="tree"), prompt, continuations), expected)[0] > 0.05
    assert Scorer(model).layout == "repeated"  # no layer names a window, though the configuration has one


def test_a_head_that_does_more_than_multiply_is_left_to_the_model() -> None:
    model = tiny("gemma2-window")  # a softcap on its logits
    scorer = Scorer(model)
    assert isinstance(scorer._run, Tree)
    assert scorer._run._whole_head
    assert Scorer(tiny("llama"))._run._whole_head is False  # type: ignore[attr-defined]


@pytest.mark.parametrize("work", [Work((1, 2), ((3,), ())), Work((), ((3,),))])
def test_an_empty_continuation_or_prompt_is_refused(work: Work) -> None:
    with pytest.raises(ValueError, match="end-of-turn"):
        list(Scorer(tiny("llama"), layout="tree").score([work]))


class _Forgetful:
    """Makes a model run out of memory half way through its layers, `failures` times or for the passes it is told."""

    def __init__(self, model: Any, error: Exception, failures: int = 10**9, above: int = 0) -> None:
        self.calls = 0
        self._error, self._above, self.failures = error, above, failures
        layers = model.model.layers
        self._hook = layers[len(layers) // 2].register_forward_pre_hook(self._fail)

    def _fail(self, _: Any, inputs: Any) -> None:
        self.calls += 1
        if self.failures > 0 and inputs[0].shape[0] * inputs[0].shape[1] > self._above:
            self.failures -= 1
            raise self._error

    def __enter__(self) -> _Forgetful:
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()


_OUT = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
]


@pytest.mark.parametrize("error", _OUT, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("layout", ["tree", "repeated"])
def test_running_out_of_memory_makes_passes_smaller_and_changes_no_number(layout: LayoutName, error: Exception) -> None:
    model, work = tiny("llama"), _family(1, 4, 100, [5, 1, 9, *[30] * 12], VOCABULARY)
    expected = _score_all(Scorer(model, layout="plain"), work)
    scorer = Scorer(model, layout=layout, rows=512)
    with _Forgetful(model.model, error, above=200) as forgetful:
        _assert_close(_score_all(scorer, work), expected)
        assert forgetful.failures < 10**9
    _assert_close(_score_all(scorer, work), expected)


def test_what_does_not_fit_by_itself_has_a_reason_and_the_rest_is_scored() -> None:
    model = tiny("llama")
    small, large = _work(ids(20, 1), conversations([9, 2])), _work(ids(300, 2), conversations([5, 4]))
    expected = _score(Scorer(model, layout="plain"), small.prompt, small.continuations)
    for layout in ("repeated", "plain"):  # a prompt runs whole there
        with _Forgetful(model.model, _OUT[0], above=200):
            found = _results(Scorer(model, layout=layout), [large, small])  # type: ignore[arg-type]
        _assert_close([found[1, 0].logp_T, found[1, 1].logp_T], expected)  # type: ignore[list-item]
        for k in (0, 1):
            assert found[0, k].logp_T is None
            assert found[0, k].again
            assert "not enough memory for a prompt of 300 tokens" in (found[0, k].missing or "")


def test_without_any_memory_everything_has_a_reason() -> None:
    model = tiny("llama")
    work = _family(1, 3, 50, [4, 7], VOCABULARY)
    scorer = Scorer(model)
    with _Forgetful(model.model, _OUT[2]):
        found = _results(scorer, work)
    assert all(scored.missing and scored.again for scored in found.values())


def test_other_failures_of_the_model_are_not_taken_for_memory() -> None:
    model = tiny("llama")
    scorer = Scorer(model, layout="tree")
    with _Forgetful(model.model, RuntimeError("shapes do not match")), pytest.raises(RuntimeError, match="shapes"):
        _score(scorer, ids(20, 1), conversations([9, 2]))


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
def test_the_tree_agrees_with_plain_on_cuda(dtype: Any, per_token: float) -> None:
    model = load_model(find_model("builtin"), device="cuda", dtype=dtype)
    renderer = ChatRenderer(model.tokenizer)
    prompt, continuations = renderer.prompt_ids(_MESSAGES), [renderer.response_ids(text) for text in _RESPONSES]
    scorer = Scorer(model)
    assert scorer.layout == "tree"
    plain = _score(Scorer(model, layout="plain"), prompt, continuations)
    token, response = _largest(_score(scorer, prompt, continuations), plain)
    print(f"\ncuda {dtype}: {token:.1e} nats per token, {response:.1e} per response at most")
    assert token < per_token
