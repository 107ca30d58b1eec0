"""Writing through a real server: what comes back, what is retried, what stops the work."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from openai_server import OpenAIServer

from remid.engine.server_client import ServerClient
from remid.engine.server_settings import ServerSettings
from remid.engine.server_write import ServerWriter
from remid.engine.work import Chat, Written, seed_of
from remid.errors import EngineError
from remid.lm.chat import Message
from remid.lm.generate import Decoding

_SHORT = Decoding(max_new_tokens=5)


class Clock:
    """Time that passes only where someone sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []
        self._lock = threading.Lock()

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.slept.append(seconds)
            self.now += seconds

    def __call__(self) -> float:
        return self.now


def chats(*texts: str, opening: str = "") -> list[Chat]:
    return [Chat((Message("system", "Be Marie."), Message("user", text)), opening) for text in texts]


def writer(
    server: OpenAIServer, decoding: Decoding = _SHORT, clock: Clock | None = None, **settings: Any
) -> ServerWriter:
    chosen = ServerSettings(**{"base_url": server.url, "model": "tiny", "concurrency": 3, "max_retries": 2} | settings)
    time = clock or Clock()
    return ServerWriter(chosen, decoding, client=ServerClient(chosen, sleep=time.sleep, clock=time))


def keep(engine: ServerWriter, asked: list[Chat], kept: list[Written]) -> None:
    """What a run does: take batches until something stops it."""
    for batch in engine.write(asked):
        kept += batch


def all_written(engine: ServerWriter, asked: list[Chat]) -> list[Written]:
    found = [one for batch in engine.write(asked) for one in batch]
    return sorted(found, key=lambda one: one.chat)


def test_answers_are_the_models_own_and_come_once_each(server: OpenAIServer) -> None:
    asked = chats(*(f"Question {k}" for k in range(7)))
    found = all_written(writer(server), asked)
    assert [one.chat for one in found] == list(range(7))
    for one, chat in zip(found, asked, strict=True):
        rows = [{"role": m.role, "content": m.content} for m in chat.messages]
        alone = server.chat({"model": "tiny", "messages": rows, "max_tokens": 5})["choices"][0]
        text = alone["message"]["content"]
        expected = (text if one.finished else text.rstrip("\ufffd")).strip()
        assert (one.text, one.finished, one.missing) == (expected, alone["finish_reason"] == "stop", None)
    assert 1 < server.most_under_way <= 3
    assert len(server.requests) == 7


def test_decoding_settings_are_sent(server: OpenAIServer) -> None:
    all_written(writer(server, Decoding(4, 0.7, top_p=0.9, seed=5, repetition_penalty=1.2)), chats("Hello"))
    sent = server.requests[0]
    assert {k: sent[k] for k in ("max_tokens", "temperature", "top_p", "seed", "repetition_penalty")} == {
        "max_tokens": 4,
        "temperature": 0.7,
        "top_p": 0.9,
        "seed": 5,
        "repetition_penalty": 1.2,
    }
    all_written(writer(server), chats("Hello"))
    assert {"top_p", "seed", "repetition_penalty"}.isdisjoint(server.requests[1])


def test_draws_of_one_chat_have_seeds_of_their_own(server: OpenAIServer) -> None:
    asked = [Chat((Message("user", "Hello"),), draw=draw) for draw in range(4)]
    all_written(writer(server, Decoding(4, 1.0, top_p=1.0, seed=5)), asked)
    seeds = {sent["seed"] for sent in server.requests}
    assert seeds == {seed_of(chat, 5) for chat in asked}
    assert len(seeds) == 4
    assert 5 in seeds


def test_what_is_spent_is_what_the_server_counted(server: OpenAIServer) -> None:
    engine = writer(server, price_prompt=2.0, price_completion=8.0)
    asked = chats("One", "Two")
    found = all_written(engine, asked)
    counts = [server.chat(body | {"model": "tiny"})["usage"] for body in server.requests]
    prompt, written = (sum(c[name] for c in counts) for name in ("prompt_tokens", "completion_tokens"))
    spent = engine.spent
    assert (spent.requests, spent.prompt_tokens, spent.completion_tokens) == (len(found), prompt, written)
    assert spent.money == pytest.approx((2 * prompt + 8 * written) / 1e6)
    estimate = engine.estimate(asked)
    assert estimate.completion_tokens >= written
    assert estimate.money is not None


def test_a_server_that_does_not_count_is_charged_the_most_it_can_cost(server: OpenAIServer) -> None:
    server.behaviour.usage = False
    engine = writer(server)
    all_written(engine, chats("One"))
    assert engine.spent.unreported == 1
    assert engine.spent.prompt_tokens > len("Be Marie.One")


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500, "message": "out of memory"},
        {"status": 503, "message": "Loading model"},
        {"status": 429, "message": "slow down"},
        {"status": 408},
        {"do": "drop"},
        {"do": "garbage"},
        {"do": "no choices"},
    ],
)
def test_what_passes_is_tried_again(server: OpenAIServer, fault: dict[str, Any]) -> None:
    server.behaviour.once = [fault, fault]
    clock = Clock()
    engine = writer(server, concurrency=1, clock=clock)
    (found,) = all_written(engine, chats("Hello"))
    assert found.text is not None
    assert len(server.requests) == 3
    first, second = clock.slept
    assert 0.25 <= first <= 0.5 <= second <= 1.0  # doubled, and spread by up to a half
    assert engine.spent.uncertain == (2 if fault.get("do") in ("drop", "garbage") else 0)


@pytest.mark.parametrize(("headers", "seconds"), [({"Retry-After": "7"}, 7.0), ({"retry-after-ms": "1500"}, 1.5)])
def test_the_servers_own_waiting_time_is_kept(server: OpenAIServer, headers: dict[str, str], seconds: float) -> None:
    server.behaviour.once = [{"status": 429, "message": "Rate limit", "headers": headers}]
    clock = Clock()
    (found,) = all_written(writer(server, concurrency=1, clock=clock), chats("Hello"))
    assert found.text is not None
    assert clock.slept == [seconds]


def test_a_server_that_wants_hours_is_not_waited_for(server: OpenAIServer) -> None:
    server.behaviour.once = [{"status": 429, "message": "Daily limit", "headers": {"Retry-After": "86400"}}]
    with pytest.raises(EngineError, match=r"asks for a pause of 86400 s .*Daily limit.*what is done is kept"):
        all_written(writer(server), chats("Hello"))


def test_a_slow_answer_is_given_up_and_counted_as_perhaps_paid(server: OpenAIServer) -> None:
    server.behaviour.once = [{"do": "slow"}]
    engine = writer(server, timeout=0.3, concurrency=1)
    (found,) = all_written(engine, chats("Hello"))
    assert found.text is not None
    assert engine.spent.uncertain == 1


def test_limits_of_requests_and_tokens_spread_the_work(server: OpenAIServer) -> None:
    clock = Clock()
    all_written(writer(server, requests_per_minute=30, concurrency=1, clock=clock), chats("a", "b", "c"))
    assert clock.now == pytest.approx(4.0)
    other = Clock()
    all_written(writer(server, tokens_per_minute=600, concurrency=1, clock=other), chats("a", "b"))
    assert other.now == pytest.approx((128 + 2 * 16 + len("Be Marie.a") + 5) / 10)


def test_one_refused_chat_is_missing_and_the_rest_is_written(server: OpenAIServer) -> None:
    server.behaviour.context = 200
    asked = chats("NONSENSE", "fine", "FORBIDDEN", "x" * 300, "fine too")
    found = all_written(writer(server), asked)
    assert [one.text is None for one in found] == [True, False, True, True, False]
    assert "refused by the server (HTTP 400: The messages make no sense.)" in str(found[0].missing)
    assert "content filter" in str(found[2].missing)
    assert "too long for the server" in str(found[3].missing)
    assert len(server.requests) <= len(asked) + 1  # none of them was tried again; one harmless chat may have been asked


def test_a_refusal_of_every_request_stops_before_anything_is_stored_as_missing(server: OpenAIServer) -> None:
    server.behaviour.refused_fields = ("temperature",)
    with pytest.raises(EngineError, match=r"refuses every request.*'temperature' is not supported.*omit"):
        all_written(writer(server), chats(*"abcdef"))
    found = all_written(writer(server, omit=("temperature",)), chats("a"))
    assert found[0].text is not None


def test_the_newer_name_of_the_limit_is_found(server: OpenAIServer) -> None:
    server.behaviour.limit_field = "max_completion_tokens"
    found = all_written(writer(server, concurrency=1), chats("a", "b"))
    assert all(one.text is not None for one in found)
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("reply", "finish", "reason"),
    [("half a", "content_filter", "content filter"), ("", "length", "no text within 5 tokens")],
)
def test_an_answer_without_its_text_is_missing(server: OpenAIServer, reply: str, finish: str, reason: str) -> None:
    server.behaviour.reply, server.behaviour.finish = reply, finish
    (found,) = all_written(writer(server), chats("a"))
    assert found.text is None
    assert reason in str(found.missing)


def test_an_empty_answer_is_an_answer(server: OpenAIServer) -> None:
    server.behaviour.reply, server.behaviour.finish = "", "stop"
    assert all_written(writer(server), chats("a")) == [Written(0, "", True)]


def _said(content: str | None, reason: str = "stop") -> dict[str, Any]:
    return {"body": {"choices": [{"message": {"role": "assistant", "content": content}, "finish_reason": reason}]}}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (_said(None, "tool_calls"), "holds no text (finish_reason tool_calls)"),
        (_said("half a pair \ud800"), "half of a surrogate pair"),
    ],
)
def test_an_answer_that_is_no_text_costs_itself_alone(
    server: OpenAIServer, answer: dict[str, Any], reason: str
) -> None:
    server.behaviour.once = [answer]
    first, second = all_written(writer(server, concurrency=1), chats("a", "b"))
    assert first.text is None
    assert reason in str(first.missing)
    assert second.text is not None


def test_the_words_of_an_error_in_an_answer_are_told(server: OpenAIServer) -> None:
    server.behaviour.once = [{"body": {"error": {"message": "model overloaded"}}}] * 2
    (found,) = all_written(writer(server, max_retries=1), chats("a"))
    assert found.again
    assert "model overloaded" in str(found.missing)


def test_an_answer_without_end_ends_in_time(server: OpenAIServer) -> None:
    server.behaviour.once = [{"do": "endless"}]
    first, second = all_written(writer(server, timeout=0.5, max_retries=0, concurrency=1), chats("a", "b"))
    assert "no answer within 0.5 s" in str(first.missing)
    assert first.again
    assert second.text is not None


def test_a_date_to_come_back_at_is_kept(server: OpenAIServer) -> None:
    clock = Clock()
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=300), usegmt=True)
    server.behaviour.once = [{"status": 429, "message": "slow down", "headers": {"Retry-After": date}}]
    (found,) = all_written(writer(server, clock=clock), chats("a"))
    assert found.text is not None
    assert 200 < max(clock.slept) <= 301


@pytest.mark.parametrize(
    ("way", "refused", "asks"),
    [("continue", (), 3), ("assistant", ("continue_final_message",), 5), ("closed", (), 5)],
)
def test_an_opening_is_gone_on_from_where_the_server_can(
    server: OpenAIServer, way: str, refused: tuple[str, ...], asks: int
) -> None:
    server.behaviour.opening, server.behaviour.refused_fields = way, refused
    (found,) = all_written(writer(server), chats("Hello", opening="# Core features\nContent:"))
    assert found.text is not None
    assert len(server.requests) == asks + 1
    rows = server.requests[-1]["messages"]
    if way == "closed":
        assert rows[-1]["role"] == "user"
        assert rows[-1]["content"].endswith("\n# Core features\nContent:")
    else:
        assert rows[-1] == {"role": "assistant", "content": "# Core features\nContent:"}
        assert server.requests[-1].get("continue_final_message") is (True if way == "continue" else None)


def test_an_opening_that_comes_back_is_cut_off(server: OpenAIServer) -> None:
    server.behaviour.reply, server.behaviour.finish = "Content: a leaky shed", "stop"
    (found,) = all_written(writer(server, opening="instruction"), chats("Hello", opening="Content:"))
    assert found.text == "a leaky shed"


def test_a_budget_of_tokens_stops_in_time_and_a_second_command_goes_on(server: OpenAIServer) -> None:
    asked = chats(*(f"Question {k}" for k in range(12)))
    limit = 700
    engine = writer(server, max_total_tokens=limit)
    kept: list[Written] = []
    with pytest.raises(EngineError, match=r"budget: .* of 700 tokens are spent.*the same command goes on"):
        keep(engine, asked, kept)
    spent = engine.spent
    assert 0 < spent.prompt_tokens + spent.completion_tokens <= limit
    assert 3 < len(kept) < len(asked)
    assert len(kept) == len(server.requests)  # what was paid for was handed over
    left = [chat for index, chat in enumerate(asked) if index not in {one.chat for one in kept}]
    assert len(all_written(writer(server), left)) == len(left)


def test_a_budget_of_money_counts_both_prices(server: OpenAIServer) -> None:
    engine = writer(server, price_prompt=1000.0, price_completion=5000.0, max_cost=0.5)
    kept: list[Written] = []
    with pytest.raises(EngineError, match=r"budget: 0\.\d+ of 0\.5000 is spent"):
        keep(engine, chats(*(f"Question {k}" for k in range(20))), kept)
    assert kept
    assert engine.spent.money is not None
    assert engine.spent.money <= 0.5


def test_a_key_reaches_the_server_and_no_message(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.behaviour.key = "sk-right-key-123"
    monkeypatch.setenv("MY_KEY", "sk-right-key-123")
    assert all_written(writer(server, api_key_env="MY_KEY"), chats("a"))[0].text is not None
    monkeypatch.setenv("MY_KEY", "sk-wrong-key-456")
    with pytest.raises(EngineError, match=r"refuses the key .*HTTP 401.*MY_KEY") as caught:
        all_written(writer(server, api_key_env="MY_KEY"), chats("a"))
    assert "wrong-key" not in str(caught.value)
    # A server that repeats the key in another error: what reaches a file is scrubbed.
    server.behaviour.once = [
        {"status": 400, "message": "odd request with key sk-right-key-123\x1b[31m", "code": "content_filter"}
    ]
    monkeypatch.setenv("MY_KEY", "sk-right-key-123")
    (found,) = all_written(writer(server, api_key_env="MY_KEY"), chats("a"))
    assert "***" in str(found.missing)
    assert "right-key" not in str(found.missing)
    assert "\x1b" not in str(found.missing)


def test_a_proxy_is_not_asked_for_this_machine(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert all_written(writer(server), chats("a"))[0].text is not None


def test_an_unknown_model_is_told_with_what_there_is(server: OpenAIServer) -> None:
    with pytest.raises(EngineError, match=r"does not know this model.*it offers tiny"):
        all_written(writer(server, model="large"), chats("a"))


def test_no_server_is_told_at_once(server: OpenAIServer) -> None:
    clock = Clock()
    gone = ServerSettings(base_url="http://127.0.0.1:9/v1", model="tiny")
    engine = ServerWriter(gone, _SHORT, client=ServerClient(gone, sleep=clock.sleep, clock=clock))
    with pytest.raises(EngineError, match=r"127\.0\.0\.1:9/v1: the connection failed.*is the address right"):
        all_written(engine, chats("a"))
    assert clock.slept == []


def test_an_empty_account_is_not_asked_again(server: OpenAIServer) -> None:
    server.behaviour.once = [
        {"status": 429, "message": "You exceeded your current quota", "code": "insufficient_quota"}
    ]
    with pytest.raises(EngineError, match="nothing left to spend"):
        all_written(writer(server, concurrency=1), chats("a", "b"))
    assert len(server.requests) == 1


def test_chats_that_nobody_answers_are_left_for_the_next_command(server: OpenAIServer) -> None:
    server.behaviour.once = [{"status": 500, "message": "worker died"}] * 3
    found = all_written(writer(server, concurrency=1), chats(*"abcd"))
    assert [one.again for one in found] == [True, False, False, False]
    assert "no answer: HTTP 500: worker died (3 tries)" in str(found[0].missing)
    assert all(one.text is not None for one in found[1:])


def test_a_server_that_fails_throughout_is_not_asked_for_everything(server: OpenAIServer) -> None:
    server.behaviour.once = [{"status": 500, "message": "worker died"}] * 99
    with pytest.raises(EngineError, match="does not answer: HTTP 500: worker died"):
        all_written(writer(server, concurrency=1), chats(*"abcdefgh"))
    assert len(server.requests) == 9  # three chats, three tries each


def test_stopping_in_the_middle_sends_nothing_more(server: OpenAIServer) -> None:
    batches = writer(server, concurrency=2).write(chats(*(f"Question {k}" for k in range(20))))
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert len(server.requests) <= 5


def test_nothing_to_write_asks_nothing(server: OpenAIServer) -> None:
    assert list(writer(server).write([])) == []
    assert server.keys == []


def test_a_busy_list_of_models_does_not_keep_a_writer_from_asking(server: OpenAIServer) -> None:
    server.behaviour.list_once = [503]
    assert all_written(writer(server), chats("Hello"))[0].text is not None
