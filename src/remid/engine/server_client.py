"""Requests to an OpenAI-compatible server: paced, retried, budgeted. The `openai` client speaks HTTP.

The client's own retries are off. They know nothing of our rate limits and budget, back off for eight seconds at most,
and one thread's 429 would not slow the others down.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

from remid.engine.server_bounds import bounded
from remid.engine.server_faults import MalformedError, NotThereError, RequestError, UnansweredError, judge, tell
from remid.engine.server_pool import side_by_side
from remid.engine.server_settings import ServerSettings
from remid.engine.spending import Spending, Spent, Tokens
from remid.errors import EngineError

_FIRST_WAIT, _LONGEST_WAIT = 0.5, 60.0
#: Seconds for the list of models, which any server that is up answers at once.
_LIST_TIMEOUT = 20.0
_LIST_RETRIES = 3
#: The status of servers that have no list of models and say so in their own way.
_NO_SUCH_THING = 501
#: The longest wait that we accept from a server before we say that it is not available.
_PATIENCE = 600.0
#: Requests that go unanswered one after the other before we stop asking.
_GIVE_UP_AFTER = 3

Job = TypeVar("Job")
Answer = TypeVar("Answer")


class Pace:
    """Spreads requests over time so that neither limit is exceeded, and holds all of them when the server says so."""

    def __init__(self, settings: ServerSettings, clock: Callable[[], float]) -> None:
        self._per_request = 60.0 / settings.requests_per_minute if settings.requests_per_minute else 0.0
        self._per_token = 60.0 / settings.tokens_per_minute if settings.tokens_per_minute else 0.0
        self._clock = clock
        self._lock = threading.Lock()
        self._next_request = self._next_tokens = self._held_until = float("-inf")

    def delay(self, tokens: int) -> float:
        """Seconds to wait before a request of so many tokens; its place in the queue is taken."""
        with self._lock:
            now = self._clock()
            start = max(now, self._next_request, self._next_tokens, self._held_until)
            self._next_request = start + self._per_request
            self._next_tokens = start + tokens * self._per_token
            return start - now

    def held(self) -> float:
        """Seconds that nothing is sent for. Takes no place in the queue."""
        with self._lock:
            return max(0.0, self._held_until - self._clock())

    def hold(self, seconds: float) -> None:
        """Nothing is sent for so long."""
        with self._lock:
            self._held_until = max(self._held_until, self._clock() + seconds)


class ServerClient:
    """One server, shared by threads. Raises EngineError at once where the server needs a key and there is none.

    sleep, clock: for tests. Sleeping ends when the work is stopped.
    """

    def __init__(
        self,
        settings: ServerSettings,
        *,
        sleep: Callable[[float], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        from openai import DefaultHttpxClient, OpenAI

        self.settings = settings
        self.spending = Spending(settings)
        self.stop = threading.Event()
        self._sleep = sleep or self.stop.wait
        self._pace = Pace(settings, clock)
        self._jitter = random.Random(0)  # spreads threads, decides nothing
        # The client insists on some key; "none" is what servers without one are used to.
        key = settings.key() or "none"
        # A proxy in the environment is for the world outside: it does not know this machine's localhost.
        http = DefaultHttpxClient(trust_env=not settings.is_local, event_hooks={"response": [bounded]})
        self._http = OpenAI(
            api_key=key, base_url=settings.url, timeout=settings.timeout, max_retries=0, http_client=http
        )
        if urlsplit(settings.url).hostname != "api.openai.com":
            # Read from the environment, and nobody else's business.
            self._http.organization = self._http.project = None
            self._http._custom_headers = {}

    @property
    def spent(self) -> Spent:
        """What was spent so far."""
        return self.spending.spent

    def models(self, max_retries: int = 0) -> list[dict[str, Any]]:
        """What the server says it serves ([] where it does not say): checks in one go that it is there and lets us in.

        Raises EngineError where it is not, or does not; UnansweredError where it is too busy to say.
        """
        return self._until_answered(self._list_models, max_retries)

    def model_entry(self) -> dict[str, Any]:
        """The server's entry for our model, or {}. Raises EngineError as `models` does, and where it is too busy."""
        try:
            found = self.models(min(_LIST_RETRIES, self.settings.max_retries))
        except UnansweredError as error:  # no answer is not the answer that there is nothing to say
            raise EngineError(f"{self.settings.url}: does not say what it serves: {error}") from None
        return next((entry for entry in found if entry.get("id") == self.settings.model), {})

    def _list_models(self) -> list[dict[str, Any]]:
        """One try. Raises _AgainError where another may succeed."""
        import openai

        if (delay := self._pace.held()) > 0:
            self._sleep(delay)
        try:
            brief = min(self.settings.timeout, _LIST_TIMEOUT)
            found = _parse(self._http.get("/models", cast_to=str, options={"timeout": brief})).get("data")
        except openai.APIError as error:
            fault = judge(error, self.settings)
            status = error.status_code if isinstance(error, openai.APIStatusError) else None
            if status is None or status in (401, 403):
                hint = "" if fault.kind == "stop" else "; is the address right, and the server up?"
                raise EngineError(f"{self.settings.url}: {fault.reason}{hint}") from None
            if fault.kind == "again" and status != _NO_SUCH_THING:
                raise _AgainError(fault.reason, fault.wait) from None
            return []  # some servers have no such list; the first request will tell
        except MalformedError:
            return []
        return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []

    def post(
        self,
        path: str,
        body: dict[str, Any],
        most: Tokens,
        read: Callable[[dict[str, Any]], Answer],
        *,
        max_retries: int | None = None,
    ) -> Answer:
        """Send a request until it is answered, and read the answer.

        most: tokens that it can cost. read: raises MalformedError for an answer that is not one (which is tried again).
        max_retries: instead of the settings'. Raises RequestError, UnansweredError, or EngineError (the server refuses
        us, or the budget is spent).
        """
        retries = self.settings.max_retries if max_retries is None else max_retries
        return self._until_answered(lambda: self._once(path, body, most, read), retries)

    def _until_answered(self, ask: Callable[[], Answer], retries: int) -> Answer:
        """`ask`, again while it raises _AgainError. Raises UnansweredError where that is the last word."""
        waited = _FIRST_WAIT
        for tries_left in range(retries, -1, -1):
            try:
                return ask()
            except _AgainError as again:
                if again.wait is not None and again.wait > _PATIENCE:
                    raise EngineError(
                        f"{self.settings.url}: asks for a pause of {again.wait:.0f} s ({again}); come back later, what "
                        "is done is kept"
                    ) from None
                if tries_left == 0 or self.stop.is_set():
                    raise UnansweredError(f"{again} ({retries - tries_left + 1} tries)") from None
                pause = again.wait if again.wait is not None else waited * (1 + self._jitter.random()) / 2
                waited = min(2 * waited, _LONGEST_WAIT)
                if again.wait is not None:
                    self._pace.hold(pause)  # the server speaks to all of us
                else:
                    self._sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _once(self, path: str, body: dict[str, Any], most: Tokens, read: Callable[[dict[str, Any]], Answer]) -> Answer:
        """One try. Raises _AgainError where another may succeed."""
        import openai

        ticket = self.spending.reserve(most)
        try:
            if (delay := self._pace.delay(most.prompt + most.completion)) > 0:
                self._sleep(delay)
            if self.stop.is_set():
                raise UnansweredError("stopped before it was sent")
            text = self._http.post(path, cast_to=str, body=body)
        except openai.APIError as error:
            fault = judge(error, self.settings)
            if fault.charged:
                self.spending.lose(ticket)
            else:
                self.spending.release(ticket)
            if fault.kind == "stop":
                kind = NotThereError if fault.missing else EngineError
                raise kind(f"{self.settings.url}: {fault.reason}{self._offers(error)}") from None
            if fault.kind == "request":
                raise RequestError(fault.reason, known=fault.known) from None
            raise _AgainError(fault.reason, fault.wait) from None
        except BaseException:
            self.spending.release(ticket)
            raise
        try:
            answer = _parse(text)
        except MalformedError as error:
            self.spending.lose(ticket)
            raise _AgainError(str(error), None) from None
        self.spending.settle(ticket, _usage(answer))
        try:
            return read(answer)
        except MalformedError as error:
            raise _AgainError(str(error), None) from None

    def _offers(self, error: Exception) -> str:
        """The models that a server offers, behind the message that it does not know ours."""
        if getattr(error, "status_code", None) != 404:
            return ""
        try:
            names = [tell(str(entry.get("id")), self.settings, 60) for entry in self.models()]
        except UnansweredError:
            return ""
        if not names:
            return '; does the address end in "/v1"?'
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        return f"; it offers {', '.join(names[:10])}{more}"

    def run(
        self, jobs: Sequence[Job], ask: Callable[[Job], Answer]
    ) -> Iterator[list[tuple[Job, Answer | UnansweredError]]]:
        """`ask` over jobs side by side; batches of answers as they come, UnansweredError where none came.

        What stops the work (EngineError) is raised after everything under way has been handed over.
        """
        self.stop.clear()
        fatal: BaseException | None = None
        in_a_row = 0
        for batch in side_by_side(jobs, ask, self.settings.concurrency, self.stop):
            answers: list[tuple[Job, Answer | UnansweredError]] = []
            for done in batch:
                if isinstance(done.error, UnansweredError):
                    answers.append((done.job, done.error))
                    in_a_row += 1
                elif done.error is not None:
                    fatal = fatal or done.error
                else:
                    answers.append((done.job, done.answer))  # type: ignore[arg-type]
                    in_a_row = 0
            if in_a_row >= _GIVE_UP_AFTER and fatal is None:
                last = next(a for _, a in reversed(answers) if isinstance(a, UnansweredError))
                fatal = EngineError(
                    f"{self.settings.url}: does not answer: {last}. What is done is kept; the same command goes on"
                )
            if fatal is not None:
                self.stop.set()
            if answers:
                yield answers
        if fatal is not None:
            raise fatal


class _AgainError(Exception):
    """A try that failed; wait: seconds the server asked for."""

    def __init__(self, reason: str, wait: float | None) -> None:
        super().__init__(reason)
        self.wait = wait


def _parse(text: str) -> dict[str, Any]:
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        raise MalformedError("the answer is not JSON") from None
    if not isinstance(answer, dict):
        raise MalformedError("the answer is not a JSON object")
    return answer


def _usage(answer: dict[str, Any]) -> Tokens | None:
    """Tokens as the server counted them, or None."""
    usage = answer.get("usage")
    if not isinstance(usage, dict):
        return None
    counts = [usage.get("prompt_tokens"), usage.get("completion_tokens", 0)]
    if any(not isinstance(n, int) or isinstance(n, bool) or n < 0 for n in counts):
        return None
    return Tokens(int(counts[0]), int(counts[1]))
