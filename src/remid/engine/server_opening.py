"""An answer that is begun for the model, on servers that may or may not go on from there.

Three ways. "continue": a trailing assistant message with continue_final_message (vLLM, SGLang, newer llama.cpp).
"assistant": a trailing assistant message alone, which some servers go on from by themselves (llama.cpp, others).
"instruction": the words are asked for at the end of the last message, and cut off the answer if they come.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from remid.engine.server_settings import Opening
from remid.engine.work import Chat
from remid.lm.chat import Message

_FLAGS: dict[str, Any] = {"continue_final_message": True, "add_generation_prompt": False}
_INSTRUCTION = "Begin your answer with exactly the following words, and go on from there:"
_QUESTION = Message("user", "Which words come next?")
_WORDS = "one two three four"
_WAYS: tuple[tuple[Opening, dict[str, Any]], ...] = (("continue", _FLAGS), ("assistant", {}))

#: (messages, further fields) -> prompt tokens that the server counts, or None.
Count = Callable[[Sequence[Message], dict[str, Any]], int | None]


def with_opening(chat: Chat, way: Opening) -> tuple[tuple[Message, ...], dict[str, Any]]:
    """Messages to send, and further fields of the request."""
    if not chat.opening:
        return chat.messages, {}
    if way in ("continue", "assistant"):
        return (*chat.messages, Message("assistant", chat.opening)), _FLAGS if way == "continue" else {}
    last = chat.messages[-1]
    asked = Message(last.role, f"{last.content}\n\n{_INSTRUCTION}\n{chat.opening}")
    return (*chat.messages[:-1], asked), {}


def without_opening(text: str, opening: str) -> str:
    """An answer without the words that it was to begin with: some servers give them back."""
    if not opening or not text.lstrip().startswith(opening.strip()):
        return text
    return text.lstrip()[len(opening.strip()) :]


def continues(count: Count) -> Opening:
    """Which way a server goes on from a trailing assistant message, told by the tokens that it counts.

    Where it goes on, words begun for the model add themselves to the prompt and nothing else; where it closes the turn
    and opens another, they add the tokens of that as well. A server that does not count is asked by instruction.
    """
    bare = count((_QUESTION,), {})
    for way, fields in _WAYS:
        once = count((_QUESTION, Message("assistant", _WORDS)), fields)
        twice = count((_QUESTION, Message("assistant", f"{_WORDS} {_WORDS}")), fields)
        if bare is None or once is None or twice is None:
            continue
        words = twice - once  # and the space before them, which is a token where tokens are bytes
        if words - 1 <= once - bare <= words:
            return way
    return "instruction"
