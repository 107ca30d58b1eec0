"""Scoring through a real server: the numbers are the model's own, and a server that cannot score is refused at once."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from openai_server import Behaviour, OpenAIServer

from remid.engine.server_client import ServerClient
from remid.engine.server_score import ServerScorer
from remid.engine.server_settings import ServerSettings
from remid.engine.work import Scored, Work
from remid.errors import EngineError, ModelError
from remid.lm.chat import ChatRenderer, Message
from remid.lm.models import LoadedModel

#: Requests of a probe that finds prompt_logprobs: all, again with less, another prompt, a text, and its ids.
_PROBE = 5


def scorer(server: OpenAIServer, tokenizer: Any, **settings: Any) -> ServerScorer:
    chosen = ServerSettings(
        **{"base_url": server.url, "model": server.name, "concurrency": 3, "max_retries": 1} | settings
    )
    return ServerScorer(chosen, str(tokenizer), client=ServerClient(chosen, sleep=lambda _: None))


def some_work(seed: int = 0) -> list[Work]:
    """Prompts of 20 to 60 ids with continuations of 1 to 9, end-of-turn and other special ids among them."""
    draw = random.Random(seed)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(draw.randrange(259) for _ in range(length))

    return [Work(ids(draw.randint(20, 60)), tuple(ids(k) for k in (1, 4, 9))) for _ in range(3)]


@torch.inference_mode()
def alone(model: Any, prompt: Sequence[int], continuation: Sequence[int]) -> np.ndarray[Any, Any]:
    """The definition: one forward pass over prompt and continuation, log-softmax, gather."""
    ids = torch.tensor([[*prompt, *continuation]])
    logps_TV = torch.log_softmax(model(input_ids=ids).logits[0].float(), dim=-1)
    rows = logps_TV[len(prompt) - 1 : -1]
    return rows.gather(1, torch.tensor(continuation)[:, None])[:, 0].numpy()


def all_scored(engine: ServerScorer, work: list[Work]) -> dict[tuple[int, int], Scored]:
    found = [one for batch in engine.score(work) for one in batch]
    table = {(one.work, one.continuation): one for one in found}
    assert len(table) == len(found)  # each exactly once
    return table


@pytest.mark.parametrize("dialects", [("prompt_logprobs",), ("echo",), ("prompt_logprobs", "echo")])
@pytest.mark.parametrize("zero_tokens", [True, False])
def test_scores_are_the_models_own(
    server: OpenAIServer, tiny_chat: Any, dialects: tuple[str, ...], zero_tokens: bool
) -> None:
    server.behaviour = Behaviour(dialects=dialects, zero_tokens=zero_tokens)
    work = some_work()
    engine = scorer(server, tiny_chat.folder)
    found = all_scored(engine, work)
    assert sorted(found) == [(i, j) for i in range(3) for j in range(3)]
    for (i, j), one in found.items():
        assert one.missing is None
        assert one.logp_T is not None
        assert one.logp_T.dtype == np.float32
        expected = alone(tiny_chat.model, work[i].prompt, work[i].continuations[j])
        np.testing.assert_allclose(one.logp_T, expected, atol=1e-4)
    assert dialects[0] in engine.name
    assert server.most_under_way <= 3


def test_one_prompts_pairs_are_asked_together(server: OpenAIServer, tiny_chat: Any) -> None:
    work = some_work()
    all_scored(scorer(server, tiny_chat.folder, concurrency=1), work)
    sent = [tuple(body["prompt"]) for body in server.requests[_PROBE:]]
    assert sent == [(*one.prompt, *continuation) for one in work for continuation in one.continuations]


def test_tokens_are_counted_before_and_after(server: OpenAIServer, tiny_chat: Any) -> None:
    work = some_work()
    engine = scorer(server, tiny_chat.folder, price_prompt=3.0, price_completion=0.0)
    expected = engine.estimate(work)
    assert expected.exact
    assert expected.requests == 9
    assert expected.prompt_tokens == sum(len(w.prompt) + len(c) for w in work for c in w.continuations)
    engine.probe()
    before = engine.spent
    all_scored(engine, work)
    assert engine.spent.prompt_tokens - before.prompt_tokens == expected.prompt_tokens
    assert engine.spent.money == pytest.approx(3e-6 * engine.spent.prompt_tokens)


def test_a_budget_keeps_what_was_scored(server: OpenAIServer, tiny_chat: Any) -> None:
    kept: list[Scored] = []

    def keep(engine: ServerScorer) -> None:
        for batch in engine.score(some_work()):
            kept.extend(batch)

    engine = scorer(server, tiny_chat.folder, max_total_tokens=1000, concurrency=1)
    with pytest.raises(EngineError, match=r"budget: .* of 1,000 tokens are spent"):
        keep(engine)
    assert 0 < engine.spent.prompt_tokens <= 1000
    assert 0 < len(kept) == len(server.requests) - _PROBE < 9  # what was paid for was handed over


def test_the_probe_runs_once_and_says_what_fits(server: OpenAIServer, tiny_chat: Any) -> None:
    server.behaviour.context = 300
    engine = scorer(server, tiny_chat.folder)
    engine.probe()
    assert engine.max_length == 300
    asked = len(server.requests)
    assert asked == _PROBE
    engine.probe()
    assert len(server.requests) == asked


def test_a_pair_that_does_not_fit_is_missing_with_its_reason(server: OpenAIServer, tiny_chat: Any) -> None:
    server.behaviour.context = 200
    work = [Work(tuple(range(198)), ((1,), (1, 2, 3)))]
    found = all_scored(scorer(server, tiny_chat.folder), work)
    assert found[0, 0].logp_T is not None
    assert "too long for the server" in str(found[0, 1].missing)
    assert not found[0, 1].again


def test_a_pair_that_nobody_answers_may_be_asked_again(server: OpenAIServer, tiny_chat: Any) -> None:
    engine = scorer(server, tiny_chat.folder, concurrency=1)
    engine.probe()
    server.behaviour.once = [{"status": 500, "message": "worker died"}] * 2
    found = all_scored(engine, some_work())
    assert found[0, 0].again
    assert "worker died" in str(found[0, 0].missing)
    assert all(one.logp_T is not None for key, one in found.items() if key != (0, 0))


def late(start: int, value: float) -> Any:
    """Spoils the numbers of long prompts only, which no probe sees."""
    return lambda own: own if len(own) < start else [*own[:-1], value]


def test_a_number_that_is_none_is_missing(server: OpenAIServer, tiny_chat: Any) -> None:
    work = [Work(tuple(range(220)), ((5, 6), (7,))), Work((1, 2, 3), ((4,),))]
    for value in (math.nan, -9999.0, float("-inf")):
        server.behaviour = Behaviour(change_logps=late(200, value))
        found = all_scored(scorer(server, tiny_chat.folder), work)
        assert "not finite" in str(found[0, 0].missing)
        assert "not finite" in str(found[0, 1].missing)
        assert found[1, 0].logp_T is not None


def test_a_prompt_that_was_cut_is_missing(server: OpenAIServer, tiny_chat: Any) -> None:
    server.behaviour.change_logps = lambda own: own if len(own) < 200 else own[:150]
    found = all_scored(scorer(server, tiny_chat.folder), [Work(tuple(range(220)), ((5, 6),))])
    assert "150 log-probabilities for 222 tokens" in str(found[0, 0].missing)


_REFUSED: dict[str, tuple[Behaviour, str]] = {
    "no log-probabilities": (Behaviour(dialects=()), r"no prompt_logprobs.*no token_logprobs"),
    "chat only": (Behaviour(chat_only=True), r"no such endpoint"),
    "not finite": (
        Behaviour(change_logps=lambda own: [None, *[math.nan for _ in own[1:]]]),
        r"\d+ of \d+ .*not finite",
    ),
    "none at all": (Behaviour(change_logps=lambda own: [None for _ in own]), r"\d+ of \d+ .*missing"),
    "cut off": (Behaviour(change_logps=lambda own: own[:20]), r"20 log-probabilities for \d+ tokens"),
    "generated tokens only": (
        Behaviour(dialects=("echo",), change_logps=lambda own: own[-1:]),
        r"1 log-probabilities for \d+ tokens",
    ),
    "base 10": (Behaviour(scale=1 / math.log(10)), r"not natural logarithms"),
    "base 10, echo": (Behaviour(dialects=("echo",), scale=1 / math.log(10)), r"not natural logarithms"),
    "probabilities": (
        Behaviour(change_logps=lambda own: [None if x is None else math.exp(x) for x in own]),
        r"above 0|not natural",
    ),
    "blind to the prompt": (Behaviour(blind=True), r"do not depend on the prompt"),
    "another tokenizer": (Behaviour(other_ids=True), r"reads the probe's text as other tokens.*own tokenizer"),
    "another tokenizer, echo": (
        Behaviour(other_ids=True, dialects=("echo",)),
        r"reads the probe's text as other tokens",
    ),
}


@pytest.mark.parametrize("case", _REFUSED)
def test_a_server_that_cannot_score_is_refused_before_anything_is_scored(
    server: OpenAIServer, tiny_chat: Any, case: str
) -> None:
    server.behaviour, reason = _REFUSED[case]
    engine = scorer(server, tiny_chat.folder)
    with pytest.raises(EngineError) as caught:
        next(engine.score(some_work()))
    said = str(caught.value).replace("\n", " ")
    assert "cannot score with tiny" in said
    assert "to be had from vLLM" in said
    assert re.search(reason, said), said


def test_a_server_whose_numbers_change_is_refused(server: OpenAIServer, tiny_chat: Any) -> None:
    noise = random.Random(1)
    server.behaviour.change_logps = lambda own: [None if x is None else x - noise.random() for x in own]
    with pytest.raises(EngineError, match="the same request twice differs by"):
        scorer(server, tiny_chat.folder).probe()


def test_small_noise_is_measured_and_told(server: OpenAIServer, tiny_chat: Any) -> None:
    noise = random.Random(1)
    server.behaviour.change_logps = lambda own: [None if x is None else x - noise.random() / 50 for x in own]
    engine = scorer(server, tiny_chat.folder)
    engine.probe()
    assert "two tries differ by 0.00" in engine.name


def test_a_wrong_folder_is_told_before_any_request(server: OpenAIServer, tmp_path: Any) -> None:
    with pytest.raises(ModelError, match="holds no tokenizer"):
        scorer(server, tmp_path)
    assert server.requests == []


def test_a_dialect_can_be_chosen(server: OpenAIServer, tiny_chat: Any) -> None:
    all_scored(scorer(server, tiny_chat.folder, dialect="echo"), some_work()[:1])
    assert all(body.get("echo") and "prompt_logprobs" not in body for body in server.requests)


def test_identity_names_all_that_a_score_depends_on(server: OpenAIServer, tiny_chat: Any) -> None:
    one, other = scorer(server, tiny_chat.folder), scorer(server, tiny_chat.folder, dialect="echo", concurrency=1)
    kind, job, url, model, fingerprint, dialect = one.identity
    assert (kind, job, url, model, dialect) == ("openai-compatible", "score", server.url, "tiny", "auto")
    assert fingerprint.startswith("tokenizer:")
    assert one.identity[:-1] == other.identity[:-1]
    assert server.keys == []  # known without asking


def test_the_embedded_model_scores_as_it_does_here(embedded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    from remid.lm.scoring import Scorer

    with OpenAIServer(embedded.model, embedded.tokenizer, "smollm2") as running:
        engine = scorer(running, "builtin")
        renderer = engine.renderer
        assert isinstance(renderer, ChatRenderer)
        prompt = renderer.prompt_ids([Message("system", "You are Marie Curie."), Message("user", "Cold tonight?")])
        texts = ["Colder in the shed.", "Ja, sehr kalt!"]
        work = [Work(tuple(prompt), tuple(tuple(renderer.response_ids(text)) for text in texts))]
        found = all_scored(engine, work)
    here = {
        (one.work, one.continuation): one for batch in Scorer(embedded, layout="plain").score(work) for one in batch
    }
    for key, one in found.items():
        assert one.logp_T is not None
        assert here[key].logp_T is not None
        np.testing.assert_allclose(one.logp_T, here[key].logp_T, atol=1e-4)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_list_of_models_is_asked_again_and_never_read_as_no_limit(
    server: OpenAIServer, tiny_chat: Any, status: int
) -> None:
    server.behaviour = Behaviour(context=1000, list_once=[status])
    assert scorer(server, tiny_chat.folder).max_length == 1000
    server.behaviour = Behaviour(context=1000, list_once=[status] * 9)
    with pytest.raises(EngineError, match=rf"does not say what it serves: HTTP {status}.*2 tries"):
        scorer(server, tiny_chat.folder).probe()


@pytest.mark.parametrize("status", [400, 404, 405, 501])
def test_a_server_without_a_list_of_models_says_no_limit(server: OpenAIServer, tiny_chat: Any, status: int) -> None:
    server.behaviour = Behaviour(list_once=[status])
    assert scorer(server, tiny_chat.folder).max_length is None
