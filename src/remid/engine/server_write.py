"""Texts from any server with OpenAI's chat completions: responses, traces, judgements."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from remid.engine.server_client import ServerClient
from remid.engine.server_faults import MalformedError, RequestError, UnansweredError, tell
from remid.engine.server_opening import continues, with_opening, without_opening
from remid.engine.server_settings import ServerSettings
from remid.engine.spending import Cost, Spent, Tokens, estimate_cost, prompt_bound
from remid.engine.work import Chat, Written, seed_of
from remid.errors import EngineError
from remid.lm.chat import Message

if TYPE_CHECKING:
    from remid.lm.generate import Decoding

_PATH = "/chat/completions"
#: What no server refuses for its content.
_HARMLESS = Chat((Message("user", "Say hello."),))


class ServerWriter:
    """Writes through one server and model. client: for several writers on one budget.

    Raises EngineError where the server needs a key that the environment does not hold.
    """

    def __init__(self, settings: ServerSettings, decoding: Decoding, *, client: ServerClient | None = None) -> None:
        self._settings = settings
        self._decoding = decoding
        self._client = client or ServerClient(settings)
        self._limit_field = "max_tokens"
        self._opening = settings.opening
        self._answered = threading.Event()
        self._doubt = threading.Lock()

    @property
    def name(self) -> str:
        """What does the work, in words for the user."""
        return f"{self._settings.model} at {self._settings.url}, {self._settings.concurrency} requests at once"

    @property
    def identity(self) -> list[Any]:
        """What a text depends on besides the chat and the decoding settings."""
        return [*self._settings.identity("chat"), self._settings.opening, sorted(self._settings.omit)]

    @property
    def spent(self) -> Spent:
        """What was spent so far."""
        return self._client.spent

    def estimate(self, chats: Sequence[Chat]) -> Cost:
        """What `chats` will cost, before anything is sent."""
        return estimate_cost(chats, self._decoding.max_new_tokens, self._settings)

    def write(self, chats: Sequence[Chat]) -> Iterator[list[Written]]:
        """Answers in batches as they come, in no order.

        A chat that the server refuses for good (bad request, content filter, too long) comes with its reason, one that
        was not answered with again=True. Raises EngineError where the server cannot be used, or the budget is spent.
        """
        if not chats:
            return
        with suppress(UnansweredError):  # busy: the requests will see
            self._client.models()  # unreachable or locked: said at once, not after the retries of a request
        if self._opening == "auto" and any(chat.opening for chat in chats):
            try:
                self._opening = continues(self._probe_tokens)
            except UnansweredError as error:
                raise EngineError(f"{self._settings.url}: does not answer: {error}") from None
        for batch in self._client.run(range(len(chats)), lambda index: self._write(index, chats[index])):
            yield [
                Written(index, None, False, f"no answer: {found}", again=True)
                if isinstance(found, UnansweredError)
                else found
                for index, found in batch
            ]

    def _write(self, index: int, chat: Chat) -> Written:
        try:
            text, finished = self._ask(chat)
        except RequestError as fault:
            if not fault.known and not self._answered.is_set():
                self._doubt_ourselves(fault)
            return Written(index, None, False, str(fault))
        self._answered.set()
        return Written(index, text, finished)

    def _doubt_ourselves(self, fault: RequestError) -> None:
        """A refusal before any answer: is it this chat, or would every request of ours be refused?"""
        with self._doubt:
            if self._answered.is_set():
                return
            try:
                self._ask(_HARMLESS)
            except RequestError:
                hint = "leave the field out (omit), or choose settings that this model takes"
                raise EngineError(f"{self._settings.url}: refuses every request. {fault}; {hint}") from None
            self._answered.set()

    def _ask(self, chat: Chat) -> tuple[str, bool]:
        """Text and whether it came to its end."""
        messages, extra = with_opening(chat, self._opening)
        most = Tokens(prompt_bound(messages), self._decoding.max_new_tokens)
        field, seed = self._limit_field, seed_of(chat, self._decoding.seed)

        try:
            text, finished = self._client.post(_PATH, self._body(messages, field, seed) | extra, most, self._read)
        except RequestError as fault:
            # OpenAI's newer models know the limit under another name only, older servers under the first only.
            if field != "max_tokens" or "max_completion_tokens" not in str(fault):
                raise
            self._limit_field = "max_completion_tokens"
            body = self._body(messages, self._limit_field, seed) | extra
            text, finished = self._client.post(_PATH, body, most, self._read)
        text = without_opening(text, chat.opening)
        # Cut off in the middle of a character, the bytes of its first tokens decode to a replacement mark.
        return (text if finished else text.rstrip("\ufffd")).strip(), finished

    def _body(self, messages: Sequence[Message], limit_field: str, seed: int = 0) -> dict[str, Any]:
        decoding = self._decoding
        fields: dict[str, Any] = {"temperature": decoding.temperature}
        if decoding.temperature > 0:
            fields |= {"top_p": decoding.top_p, "seed": seed}
        if decoding.repetition_penalty != 1.0:  # not OpenAI's: vLLM, SGLang and others have it
            fields["repetition_penalty"] = decoding.repetition_penalty
        kept = {name: value for name, value in fields.items() if name not in self._settings.omit}
        rows = [{"role": m.role, "content": m.content} for m in messages]
        return {"model": self._settings.model, "messages": rows, limit_field: decoding.max_new_tokens} | kept

    def _read(self, answer: dict[str, Any]) -> tuple[str, bool]:
        try:
            choice = answer["choices"][0]
            message, reason = choice["message"], choice.get("finish_reason")
            text, refusal = message.get("content"), message.get("refusal")
        except (KeyError, IndexError, TypeError, AttributeError):
            raise MalformedError(f"the answer holds no message{self._words(answer)}") from None
        if reason == "content_filter":
            raise RequestError("cut by the server's content filter", known=True)
        if not isinstance(text, str) or not text:
            if isinstance(refusal, str) and refusal:
                raise RequestError(f"refused by the model: {tell(refusal, self._settings)}", known=True)
            if reason == "length":
                limit = self._decoding.max_new_tokens
                raise RequestError(f"no text within {limit} tokens (all of them spent on reasoning?)", known=True)
            if text is None:  # a call of a tool, say; an empty text is an answer that says nothing
                ended = tell(str(reason), self._settings, 40)
                raise RequestError(f"the answer holds no text (finish_reason {ended})", known=True)
            if not isinstance(text, str):
                raise MalformedError("the answer's text is not text")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise RequestError("the answer holds half of a surrogate pair, which is no text", known=True)
        return text, reason != "length"

    def _words(self, answer: dict[str, Any]) -> str:
        """What a server says instead of an answer, with status 200."""
        error = answer.get("error")
        said = error.get("message") if isinstance(error, dict) else error
        return f": {tell(said, self._settings)}" if isinstance(said, str) and said else ""

    def _probe_tokens(self, messages: Sequence[Message], extra: dict[str, Any]) -> int | None:
        """Prompt tokens that the server counts for a chat, None where it refuses it or does not count."""

        def read(answer: dict[str, Any]) -> int | None:
            usage = answer.get("usage")
            count = usage.get("prompt_tokens") if isinstance(usage, dict) else None
            return count if isinstance(count, int) else None

        body = self._body(messages, self._limit_field) | {self._limit_field: 1} | extra
        try:
            return self._client.post(_PATH, body, Tokens(prompt_bound(messages), 1), read)
        except RequestError:
            return None
