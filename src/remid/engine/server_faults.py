"""What a server's error means: try again, give up on this request, or stop. And how to quote a server safely."""

from __future__ import annotations

import json
import os
import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Literal

from remid.errors import EngineError

if TYPE_CHECKING:
    import openai

    from remid.engine.server_settings import ServerSettings

#: How servers say that a text is too long: OpenAI, vLLM, SGLang, llama.cpp, Ollama.
_TOO_LONG = (
    "context_length_exceeded",
    "context length",
    "context size",
    "context window",
    "maximum model length",
    "max_model_len",
    "longer than the model",
    "too many tokens",
    "input is too long",
    "prompt is too long",
)
_FILTERED = ("content_filter", "content filter", "content management policy", "moderation", "flagged")
_NO_MONEY = ("insufficient_quota", "exceeded your current quota", "insufficient balance", "insufficient credits")


class RequestError(Exception):
    """This request cannot be answered, however often it is sent. known: for a reason that lies in its text."""

    def __init__(self, reason: str, *, known: bool = False) -> None:
        super().__init__(reason)
        self.known = known


class UnansweredError(Exception):
    """No answer after every retry: the server was busy, failed or broke off. Another time it may answer."""


class NotThereError(EngineError):
    """The server has no such endpoint, or no such model."""


class MalformedError(Exception):
    """An answer that is not what the protocol promises."""


@dataclass(frozen=True, slots=True)
class Fault:
    """kind: "again" (after `wait` seconds, if the server named them), "request" or "stop".

    charged: the request may have been paid for. known: the fault is in its text. missing: no such endpoint or model.
    """

    kind: Literal["again", "request", "stop"]
    reason: str
    wait: float | None = None
    charged: bool = False
    known: bool = False
    missing: bool = False


def judge(error: openai.APIError, settings: ServerSettings) -> Fault:
    """What to do about an error of the client."""
    import openai

    if isinstance(error, openai.APITimeoutError):
        return Fault("again", f"no answer within {settings.timeout:g} s", charged=True)
    if isinstance(error, openai.APIConnectionError):
        return Fault("again", f"the connection failed ({_cause(error)})", charged=not _never_connected(error))
    if isinstance(error, openai.APIStatusError):
        return _judge_status(error, settings)
    return Fault("again", f"the answer could not be read ({type(error).__name__})", charged=True)


def _hint(settings: ServerSettings) -> str:
    """What to do where a key is wanted. The default variable is not sent in the clear to another machine."""
    if settings.api_key_env and settings.key() is None and os.environ.get(settings.api_key_env, "").strip():
        return f"{settings.api_key_env} is not sent over plain http; put this server's key into a variable of its own"
    return f"check the environment variable {settings.api_key_env}" if settings.api_key_env else "it wants a key"


def _judge_status(error: openai.APIStatusError, settings: ServerSettings) -> Fault:
    code = error.status_code
    said = tell(_message(error), settings)
    low = f"{said} {error.code or ''} {error.type or ''}".lower()
    reason = f"HTTP {code}: {said}"
    fault = Fault("request", f"refused by the server ({reason})")
    if code in {400, 403, 422} and any(word in low for word in _FILTERED):
        fault = Fault("request", f"refused by the server's content filter ({reason})", known=True)
    elif code in {401, 403}:
        # What the server says here is not quoted: some repeat the key.
        hint = _hint(settings)
        fault = Fault("stop", f"refuses the key or the access (HTTP {code}); {hint}")
    elif code == 402 or (code == 429 and any(word in low for word in _NO_MONEY)):
        fault = Fault("stop", f"the account has nothing left to spend ({reason})")
    elif code in {404, 405}:
        fault = Fault("stop", f"does not know this model, or has no such endpoint ({reason})", missing=True)
    elif code == 413 or (code in {400, 422} and any(word in low for word in _TOO_LONG)):
        fault = Fault("request", f"too long for the server ({reason})", known=True)
    elif code in {408, 409, 425, 429} or code >= 500:
        fault = Fault("again", reason, wait=_retry_after(error))
    return fault


def tell(text: str, settings: ServerSettings, limit: int = 240) -> str:
    """Words of a server for our messages: on one line, short, nothing that steers a terminal, and never a key."""
    key = _key(settings)
    if key:
        text = text.replace(key, "***")
    # Controls and bidirectional marks (categories C*) could steer a terminal.
    safe = (" " if c.isspace() else "\ufffd" if unicodedata.category(c)[0] == "C" else c for c in text[: 4 * limit])
    line = " ".join("".join(safe).split())
    return line if len(line) <= limit else line[: limit - 3] + "..."


def _key(settings: ServerSettings) -> str | None:
    import os

    return os.environ.get(settings.api_key_env, "").strip() or None if settings.api_key_env else None


def _message(error: openai.APIStatusError) -> str:
    """The words in an error's body: {"error": {"message"}} of OpenAI, {"message"} or {"detail"} of others, or text."""
    body: Any = error.body
    for name in ("error", "message", "detail"):
        if isinstance(body, dict) and name in body:
            body = body[name]
    if isinstance(body, str):
        return body
    return json.dumps(body, ensure_ascii=False) if body else "no reason given"


def _retry_after(error: openai.APIStatusError) -> float | None:
    """Seconds that the server asks us to wait, as a number or as a date."""
    headers = error.response.headers
    for header, per_second in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers[header]) / per_second
        except (KeyError, ValueError):
            continue
        if 0 <= seconds < float("inf"):
            return seconds
    try:
        until = parsedate_to_datetime(headers.get("retry-after", ""))
        now = parsedate_to_datetime(headers["date"]) if "date" in headers else datetime.now(UTC)
        return max(0.0, (until - now).total_seconds())  # by the server's clock, where it tells it
    except (ValueError, TypeError):  # no date, or one of two without a zone
        return None


def _cause(error: openai.APIConnectionError) -> str:
    return type(error.__cause__ or error).__name__


def _never_connected(error: openai.APIConnectionError) -> bool:
    return "Connect" in _cause(error)
