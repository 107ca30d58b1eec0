"""Settings, spending and the pool: what needs no server."""

from __future__ import annotations

import io
import threading
from typing import Any

import pytest
import typer

from remid.cli.engine_options import agree_to, server_settings
from remid.engine.server_client import Pace, ServerClient
from remid.engine.server_pool import side_by_side
from remid.engine.server_settings import ServerSettings
from remid.engine.spending import Spending, Tokens, estimate_cost, estimate_scoring, prompt_bound, rough_tokens
from remid.engine.work import Chat, Work
from remid.errors import ConfigError, EngineError
from remid.lm.chat import Message

_URL = "https://api.example.org/v1"


def settings(**given: Any) -> ServerSettings:
    return ServerSettings(**{"base_url": _URL, "model": "m"} | given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"base_url": "https://mara:secret@api.example.org/v1"}, "user or password"),
        ({"base_url": "https://secret@api.example.org/v1"}, "user or password"),
        ({"base_url": "https://api.example.org/v1?api_key=secret"}, "has a query"),
        ({"base_url": "https://api.example.org/v1#secret"}, "has a query"),
        ({"base_url": "api.example.org/v1"}, "not an address"),
        ({"base_url": "file:///etc/secret"}, "not an address"),
        ({"base_url": "http://[::1/secret"}, "not an address"),
        ({"base_url": "http://host:99999/secret"}, "not an address"),
        ({"model": " "}, "name the model"),
        ({"concurrency": 0}, "above 0"),
        ({"timeout": 0.0}, "above 0"),
        ({"timeout": float("nan")}, "above 0"),
        ({"max_retries": -1}, "at least 0"),
        ({"requests_per_minute": 0}, "requests_per_minute"),
        ({"max_total_tokens": -5}, "max_total_tokens"),
        ({"price_prompt": 1.0}, "both prices"),
        ({"price_prompt": -1.0, "price_completion": 1.0}, "0 or more"),
        ({"max_cost": 5.0}, "needs price_prompt"),
        ({"omit": ("messages",)}, "cannot be left out"),
    ],
)
def test_settings_that_make_no_sense_are_refused_without_repeating_secrets(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        settings(**given)
    assert "secret" not in str(caught.value)


def test_one_server_has_one_spelling() -> None:
    assert settings(base_url="HTTPS://API.Example.org/v1/").url == _URL
    assert settings(base_url=f" {_URL} ").identity("chat") == ["openai-compatible", "chat", _URL, "m"]


@pytest.mark.parametrize(
    ("url", "name", "expected"),
    [
        ("https://api.example.org/v1", "OPENAI_API_KEY", "sk-1"),
        ("http://localhost:8000/v1", "OPENAI_API_KEY", "sk-1"),
        ("http://127.0.0.1:8000/v1", "OPENAI_API_KEY", "sk-1"),
        ("http://[::1]:8000/v1", "OPENAI_API_KEY", "sk-1"),
        ("http://gpu-box:8000/v1", "OPENAI_API_KEY", None),  # never in the clear to another machine
        ("http://10.0.0.5:8000/v1", "OPENAI_API_KEY", None),
        ("http://gpu-box:8000/v1", "BOX_KEY", "box-1"),  # unless it was named
        ("https://api.example.org/v1", "", None),
        ("http://localhost:8000/v1", "UNSET_KEY", None),
        ("http://gpu-box:8000/v1", "UNSET_KEY", None),
    ],
)
def test_where_a_key_goes(monkeypatch: pytest.MonkeyPatch, url: str, name: str, expected: str | None) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1\n")
    monkeypatch.setenv("BOX_KEY", "box-1")
    monkeypatch.delenv("UNSET_KEY", raising=False)
    chosen = settings(base_url=url, api_key_env=name)
    assert chosen.key() == expected
    assert "sk-1" not in repr(chosen)


def test_a_paid_service_without_a_key_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(EngineError, match="OPENAI_API_KEY is not set"):
        settings().key()


def test_an_estimate_adds_up() -> None:
    priced = settings(price_prompt=2.0, price_completion=10.0)
    chats = [Chat((Message("user", "abcd" * 10),)), Chat((Message("user", "雨が降る"),), "begin")]
    cost = estimate_cost(chats, 100, priced)
    assert (cost.requests, cost.completion_tokens, cost.exact) == (2, 200, False)
    assert cost.prompt_tokens == (3 + 5 + 10) + (3 + 5 + 8 + 5 + 2)
    assert cost.money == pytest.approx((2 * cost.prompt_tokens + 10 * 200) / 1e6)
    counted = estimate_cost(chats, 100, settings(), count=lambda messages: 7)
    assert (counted.prompt_tokens, counted.money, counted.exact) == (7 + 7 + 2, None, True)
    work = [Work((1, 2, 3), ((4,), (5, 6)))]
    assert estimate_scoring(work, priced).prompt_tokens == 3 + 1 + 3 + 2
    assert "2 requests, 9 prompt tokens, at most 2 written, at most 0.0000" in str(estimate_scoring(work, priced))


def test_the_bound_is_never_below_the_bytes() -> None:
    text = "Wind 雨 🌧️ é"
    assert prompt_bound([Message("user", text)]) >= len(text.encode())
    assert rough_tokens("") == 0


def test_a_reservation_waits_for_those_under_way_and_then_goes_on() -> None:
    spending = Spending(settings(max_total_tokens=100))
    first = spending.reserve(Tokens(60, 20))
    got: list[int] = []
    waiting = threading.Thread(target=lambda: got.append(spending.reserve(Tokens(60, 20))))
    waiting.start()
    spending.settle(first, Tokens(10, 5))
    waiting.join(10)
    assert len(got) == 1
    spending.lose(got[0])
    assert spending.spent.uncertain == 1
    assert spending.spent.prompt_tokens + spending.spent.completion_tokens == 95
    with pytest.raises(EngineError, match=r"95 of 100 tokens are spent.*could take 6 tokens"):
        spending.reserve(Tokens(5, 1))
    spending.release(spending.reserve(Tokens(4, 1)))
    assert spending.spent.requests == 2


@pytest.mark.parametrize("held", [True, False])
def test_pace_keeps_both_limits_and_a_pause(held: bool) -> None:
    pace = Pace(settings(requests_per_minute=60, tokens_per_minute=600), clock=lambda: 100.0)
    assert [pace.delay(5), pace.delay(50), pace.delay(5)] == [0.0, 1.0, 6.0]
    if held:
        pace.hold(30.0)
    assert pace.delay(5) == (30.0 if held else 7.0)


def test_no_limits_mean_no_waiting() -> None:
    pace = Pace(settings(), clock=lambda: 100.0)
    assert [pace.delay(10**6) for _ in range(3)] == [0.0, 0.0, 0.0]


def test_jobs_run_in_order_at_most_so_many_at_once_and_errors_come_back() -> None:
    begun: list[int] = []
    count, most, lock, stop = [0], [0], threading.Lock(), threading.Event()

    def ask(job: int) -> int:
        with lock:
            begun.append(job)
            count[0] += 1
            most[0] = max(most[0], count[0])
        try:
            if job == 5:
                raise ValueError("five")
            return job * job
        finally:
            with lock:
                count[0] -= 1

    done = [one for batch in side_by_side(range(20), ask, 3, stop) for one in batch]
    assert sorted(one.job for one in done) == list(range(20))
    assert sorted(begun) == list(range(20))
    assert most[0] <= 3
    assert {one.job: one.answer for one in done if one.error is None} == {k: k * k for k in range(20) if k != 5}
    assert [str(one.error) for one in done if one.error] == ["five"]
    assert stop.is_set()


def test_a_stop_begins_nothing_more_and_hands_over_what_is_under_way() -> None:
    stop = threading.Event()

    def ask(job: int) -> int:
        if job == 3:
            stop.set()
        return job

    done = [one.job for batch in side_by_side(range(1000), ask, 2, stop) for one in batch]
    assert 3 in done
    assert done[:3] == sorted(done[:3])
    assert len(done) < 10


def test_options_that_were_not_given_keep_their_defaults() -> None:
    chosen = server_settings(_URL, "m", "--server", concurrency=2, max_cost=None, omit=["seed"])
    assert chosen == settings(concurrency=2, omit=("seed",))


def test_a_budget_without_a_server_is_refused() -> None:
    """Nothing would be spent, so whoever sets one has left something out; defaults of other options say nothing."""
    assert server_settings(None, "m", "--server", concurrency=8, api_key_env="KEY", max_cost=None) is None
    with pytest.raises(ConfigError, match=r"^--rpm, --max-cost: .*--score-server"):
        server_settings(None, "m", "--score-server", requests_per_minute=3.0, max_cost=1.0)


def test_money_is_asked_for_and_a_no_ends_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = estimate_cost([Chat((Message("user", "a"),))], 10, settings(price_prompt=1.0, price_completion=1.0))
    agree_to(cost, ask=False)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\nn\n"))
    agree_to(cost, ask=True)
    with pytest.raises(typer.Abort):
        agree_to(cost, ask=True)


def test_a_key_in_the_place_of_its_variables_name_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match="name of the environment variable that holds the key") as caught:
        settings(api_key_env="sk-SECRET-123")
    assert "SECRET" not in str(caught.value)


def test_a_key_with_signs_that_no_header_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-кey")
    with pytest.raises(EngineError, match="MY_KEY has signs that no key has"):
        settings(base_url="https://gpu.example/v1", api_key_env="MY_KEY").key()


def test_headers_for_one_service_are_not_sent_to_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Team: secret")
    for url, sent in (
        ("http://gpu:8000/v1", False),
        ("https://api.openai.com.example/v1", False),
        ("https://api.openai.com/v1", True),
    ):
        monkeypatch.setenv("OPENAI_API_KEY", "k")
        client = ServerClient(settings(base_url=url, api_key_env="OPENAI_API_KEY"))
        assert ("X-Team" in client._http.default_headers) is sent
