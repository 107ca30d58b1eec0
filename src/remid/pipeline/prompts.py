"""The words around a sample: what an estimator or a policy is shown before it answers or is scored.

The dialogue stays a chat in the model's own template; character and user stand in the system message, a trace's core
features at the prompt's end. Policies and the estimator see the same prompt, except for the trace.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from remid.lm.chat import Message
from remid.types import Sample

#: Raise when any prompt changes; an estimator is asked in the version that it was trained on.
#: 1: core features in the system message, in front of the dialogue. 2: behind the last turn, which q2 reads better, and
#: where traces of one sample share all that comes before them (docs/log.md).
PROMPT_VERSION: Final = 2
PROMPT_VERSIONS = (1, 2)

_TASK = (
    "Play the character described below in a conversation with the user. Stay in character and give only the next line."
)

#: In place of a dialogue that is left out: chat templates want a user's turn, and this one is of no language.
NO_DIALOGUE: Final = Message("user", "...")


def role_play_messages(
    sample: Sample, features: str | None = None, *, without: Collection[str] = (), version: int = PROMPT_VERSION
) -> list[Message]:
    """The chat that asks for the character's next turn.

    features: core features of a reasoning trace, or None. without: components to leave out, for policies that are to be
    blind to them and to see what a response owes to them; of a dialogue `NO_DIALOGUE` is left. version: one of
    PROMPT_VERSIONS.
    """
    parts = [_TASK]
    if "character" not in without:
        parts.append(f"# Character\n{sample.character}")
    if "user" not in without:
        parts.append(f"# User\n{sample.user}")
    if features is not None and version == 1:
        parts.append(f"# What a good answer does\n{features}")
    dialogue = [NO_DIALOGUE] if "dialogue" in without else dialogue_messages(sample)
    messages = [Message("system", "\n\n".join(parts)), *dialogue]
    if features is not None and version > 1:
        last = messages[-1]
        messages[-1] = Message(last.role, f"{last.content}\n\n(The next line should be like this.)\n{features}")
    return messages


def dialogue_messages(sample: Sample) -> list[Message]:
    """The dialogue's turns as chat messages."""
    return [Message("user" if turn.role == "user" else "assistant", turn.text) for turn in sample.dialogue]


def drop_oldest_turns(messages: list[Message], exchanges: int) -> list[Message]:
    """Without the oldest `exchanges` pairs of user and assistant turns; system message and last user turn stay."""
    return [messages[0], *messages[1 + 2 * exchanges :]]
