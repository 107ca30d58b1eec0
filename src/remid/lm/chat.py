"""From messages to token ids, with the response's span exact under any chat template.

The span is never searched for in rendered text that contains the response. We render the conversation with a
sentinel in place of the response: what stands before the sentinel is the prompt, the first special token after it
ends the turn. The response is then encoded by itself, which is also how a model generates it: prompt ids stay a prefix
whatever the response, nothing merges across the boundary, and the span decodes to exactly the response plus its
end-of-turn token. What users of other tools report (double BOS, spans off by the template's own tokens, truncated
responses) cannot be expressed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from remid.errors import RenderError

_SENTINEL = "REMIDsentinelRESPONSE"
_PROBE = "REMIDsentinelSYSTEM"
#: Short texts for a response to stand behind; more than one, since some merge with what follows.
_ANCHORS = ("\n", ".", "a")
#: Llama 3 templates print today's date unless told another: a score must not change overnight.
_DATE = "26 Jul 2024"
#: Raise when rendering changes any id: it is part of every score's key.
RENDER_VERSION = 1


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a chat, in the roles that chat templates know."""

    role: Literal["system", "user", "assistant"]
    content: str


class ChatRenderer:
    """Renders prompts and responses to ids for one tokenizer and chat template.

    tokenizer: a fast Hugging Face tokenizer. template: a Jinja chat template instead of the tokenizer's own.
    Raises RenderError when the template cannot express a dialogue, or never ends an assistant's turn.
    """

    def __init__(self, tokenizer: Any, template: str | None = None) -> None:
        self._tokenizer = tokenizer
        self._template = template
        # all_special_tokens names only the roles (BOS, EOS, ...): the tokens that open turns are often added ones.
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        specials = {*tokenizer.all_special_tokens, *(token.content for token in added if token.special)}
        self._specials = tuple(sorted((t for t in specials if t), key=lambda t: (-len(t), t)))
        self._folds_system = self._must_fold_system()
        before, after = self._split([Message("user", "x")])
        self.end_of_turn_id = self._find_end_of_turn(after)
        # Behind "[/INST]" a SentencePiece tokenizer reads " Hello" as the one token that a bare "Hello" is too.
        # The template's space belongs to that token then: a prompt ending in a space of its own is one no model saw.
        word = self._plain_ids("a")
        hidden = self.decode(word) == "a" and word == self._plain_ids_behind("\n", " a")
        self._gap = " " if hidden and before.endswith(" ") else ""
        self._encode_cached = lru_cache(maxsize=65536)(self._encode_response)

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Ids of everything up to the first token of the assistant's response."""
        text, _ = self._split(messages)
        return self._ids(text.removesuffix(self._gap))

    def response_ids(self, text: str) -> list[int]:
        """Ids of a response and the end-of-turn token, the scored span.

        Raises RenderError when the tokenizer cannot represent the text exactly.
        """
        return [*self._encode_cached(text), self.end_of_turn_id]

    def text_ids(self, text: str) -> list[int]:
        """Ids of a text by itself, special tokens spelt out like any other: to be compared with a response's ids."""
        return self._plain_ids(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens included, nothing tidied up."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _ids(self, text: str) -> list[int]:
        # The template writes the special tokens itself, so the tokenizer must not add its own (double BOS).
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _encode_response(self, text: str) -> tuple[int, ...]:
        # Tokenizers in the SentencePiece manner put a space before the first word and hide it again when they decode,
        # but only at the very start of a text. A response stands behind a prompt, so it is judged behind an anchor.
        plain = self._plain_ids(text)
        for anchor in _ANCHORS:
            head = self._plain_ids(anchor)
            expected = self.decode(head) + self._gap + text
            if self.decode([*head, *plain]) == expected:
                return tuple(plain)
            behind = self._plain_ids_behind(anchor, self._gap + text)
            if behind is not None and self.decode([*head, *behind]) == expected:
                return tuple(behind)
        raise RenderError(f"the tokenizer does not represent this text exactly: {text[:80]!r}")

    def _plain_ids_behind(self, anchor: str, text: str) -> list[int] | None:
        """Ids of a text that stands behind an anchor, None when something merges across the boundary."""
        head, whole = self._plain_ids(anchor), self._plain_ids(anchor + text)
        return whole[len(head) :] if whole[: len(head)] == head else None

    def _plain_ids(self, text: str) -> list[int]:
        # A response that spells a special token is text like any other: split_special_tokens keeps it that way.
        encoded = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)
        return list(encoded["input_ids"])

    def _split(self, messages: Sequence[Message]) -> tuple[str, str]:
        """Rendered text before and after the place of the response."""
        rendered = self._render([*self._prepare(messages), Message("assistant", _SENTINEL)])
        before, found, after = rendered.rpartition(_SENTINEL)
        if not found:
            raise RenderError("the chat template does not show the assistant's message")
        return before, after

    def _prepare(self, messages: Sequence[Message]) -> list[Message]:
        clean = [Message(m.role, self._neutralise(m.content)) for m in messages]
        if not (self._folds_system and clean and clean[0].role == "system"):
            return clean
        if len(clean) < 2 or clean[1].role != "user":
            raise RenderError("this chat template has no system role and the dialogue does not start with the user")
        return [Message("user", f"{clean[0].content}\n\n{clean[1].content}"), *clean[2:]]

    def _neutralise(self, text: str) -> str:
        """Break up special tokens spelled out in data, lest data open or close turns (a zero-width space goes in)."""
        for special in self._specials:
            if special in text:
                text = text.replace(special, special[0] + "\u200b" + special[1:])
        return text

    def _render(self, messages: Sequence[Message]) -> str:
        rows = [{"role": m.role, "content": m.content} for m in messages]
        try:
            rendered = self._tokenizer.apply_chat_template(
                rows, tokenize=False, chat_template=self._template, date_string=_DATE
            )
            return str(rendered)
        except Exception as error:
            raise RenderError(f"the chat template refuses this conversation: {error}") from error

    def _must_fold_system(self) -> bool:
        """Some templates refuse a system message, others drop it without a word, some only before a response."""
        probe = [Message("system", _PROBE), Message("user", "x"), Message("assistant", _SENTINEL)]
        try:
            return _PROBE not in self._render(probe).rpartition(_SENTINEL)[0]
        except RenderError:
            return True

    def _find_end_of_turn(self, after: str) -> int:
        ids = self._ids(after)
        special = set(self._tokenizer.all_special_ids) | set(getattr(self._tokenizer, "added_tokens_decoder", {}))
        for token in ids:
            if token in special:
                return int(token)
        eos = self._tokenizer.eos_token_id
        if eos is None:
            raise RenderError("neither the chat template nor the tokenizer has a token that ends a turn")
        return int(eos)
