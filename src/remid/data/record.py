"""One record from outside into one Sample, with every fault of it named.

The layout is RPGBench's: sample_ID, user_persona, agent_character (text or object), dialogue_context (alternating
{"user_query"} and {"agent_response"}, from the user's to the user's), agent_golden_response, subset_tag, and optionally
SThought and model_response {policy: text or null}.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from remid.data.mapping import FieldMapping, FieldName, Roles, look_up
from remid.data.outside import problems_of
from remid.data.rows import Row
from remid.data.strict_json import find_faults
from remid.data.taxonomy import Taxonomy, unmapped
from remid.data.text import is_utf8, kind, shown
from remid.errors import Problem
from remid.types import Role, Sample, Turn

#: Names under which the report shows what no policy said; a policy of that name could not be told from them.
CONTROLS = ("reference", "shuffled", "generic", "parrot")

#: Keys that open an object's rendering, in this order; the others follow alphabetically.
_CHARACTER_FIRST = ("name", "work", "script", "title")

#: The shapes of a turn, for messages.
_TURN = '{"user_query": text} or {"agent_response": text}'

_HINTS = {
    "sample_ID": "text or a whole number",
    "split": "text",
    "subset_tag": "text",
    "user_persona": "text",
    "agent_character": "text or an object",
    "dialogue_context": 'a list of {"user_query": ...} and {"agent_response": ...}',
    "agent_golden_response": "text",
    "SThought": "text or null",
    "model_response": "an object of policy -> text or null",
}


class _Record(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    sample_id: str | int = Field(alias="sample_ID")
    split: str | None = None
    subset_tag: str | None = None
    user_persona: str
    agent_character: str | dict[str, Any]
    dialogue_context: list[Any]
    agent_golden_response: str
    SThought: str | None = None
    model_response: dict[str, Any] | None = None


@dataclass(slots=True)
class Reading:
    """What the records of one call share: how to read them, and what was found wrong.

    silent: policies that a record names without a response, in order.
    """

    mapping: FieldMapping
    taxonomy: Taxonomy
    problems: list[Problem]
    unmapped: set[tuple[str, str, str]] = field(default_factory=set)
    silent: dict[str, None] = field(default_factory=dict)


def to_sample(row: Row, reading: Reading) -> Sample | None:
    """The sample that `row` holds, or None after adding to reading.problems what is wrong with it."""
    problems = _Problems(row, reading.problems)
    if not isinstance(row.value, dict):
        problems.add("", f"must be an object (one sample), not {kind(row.value)}")
        return None
    if faults := find_faults(row.value):
        for name, message in faults:
            problems.add(name, message)
        return None
    found, meta = _gather(row, reading.mapping)
    try:
        record = _Record.model_validate(found)
    except ValidationError as error:
        reading.problems += [_with_origin(p, reading.mapping) for p in problems_of(error, row.file, row.record, _HINTS)]
        return None
    before = len(reading.problems)
    sample_id = str(record.sample_id)
    for name, text in (("sample_ID", sample_id), ("agent_golden_response", record.agent_golden_response)):
        if not text.strip():
            problems.add(name, "must not be blank")
    character = character_text(record.agent_character)
    if not character.strip():
        problems.add("agent_character", "must not be blank")
    dialogue = _dialogue(record.dialogue_context, reading.mapping.roles, problems)
    responses, silent = _responses(record.model_response or {}, problems)
    reading.silent |= dict.fromkeys(silent)
    split, subset, shift = _place(row, record, reading)
    if len(reading.problems) > before or shift is None:
        return None
    return Sample(
        sample_id=sample_id,
        split=split,
        subset=subset,
        shift=shift,
        user=record.user_persona,
        character=character,
        dialogue=dialogue,
        reference=record.agent_golden_response,
        trace=record.SThought if record.SThought and record.SThought.strip() else None,
        responses=responses,
        meta=meta | {"agent_character": record.agent_character},
        place=f"{row.file}: {row.record}",
    )


def policy_fault(name: str) -> str | None:
    """Why `name` cannot name a policy, or None."""
    if not name.strip():
        return "a policy's name must not be blank"
    if not is_utf8(name):
        return "a policy's name must be valid Unicode"
    if name.strip().casefold() in CONTROLS:
        return f'"{shown(name)}" is the name of a control ({", ".join(CONTROLS)}); call the policy something else'
    return None


def character_text(character: str | Mapping[str, Any]) -> str:
    """A character as it stands in a prompt: text as it is; an object as "key: value" lines.

    name, work, script and title come first, then the other keys in alphabetical order, so that the order in which a
    file happens to write an object's keys changes nothing.
    """
    return character if isinstance(character, str) else "\n".join(_object_lines(character))


def _object_lines(value: Mapping[str, Any]) -> list[str]:
    first = [key for key in _CHARACTER_FIRST if key in value]
    lines = []
    for key in first + sorted(key for key in value if key not in _CHARACTER_FIRST):
        inner = value[key]
        if inner is None or inner in ("", [], {}):
            continue
        if isinstance(inner, dict):
            lines += [f"{key}:", *(f"  {line}" for line in _object_lines(inner))]
        elif isinstance(inner, list):
            lines += [f"{key}:", *(f"- {line}" for item in inner for line in _item_lines(item))]
        else:
            lines.append(f"{key}: {_scalar(inner)}")
    return lines


def _item_lines(item: Any) -> list[str]:
    if isinstance(item, dict):
        return [", ".join(line.strip() for line in _object_lines(item))]
    if isinstance(item, list):
        return [", ".join(line for inner in item for line in _item_lines(inner))]
    return [] if item is None else [_scalar(item)]


def _scalar(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


@dataclass(frozen=True, slots=True)
class _Problems:
    """Adds problems with a row's place."""

    row: Row
    found: list[Problem]

    def add(self, name: str, message: str) -> None:
        self.found.append(Problem(self.row.file, self.row.record, name, message))


def _with_origin(problem: Problem, mapping: FieldMapping) -> Problem:
    """The problem, with the column that a mapping takes the field from: the name that the user knows."""
    origin = {str(name): path for name, path in mapping.fields.items()}.get(problem.field)
    if origin is None:
        return problem
    return replace(problem, message=f'{problem.message} (the mapping takes it from "{shown(origin)}")')


def _gather(row: Row, mapping: FieldMapping) -> tuple[dict[str, Any], dict[str, Any]]:
    """(our field -> value where the record has one, everything else of the record)."""
    found: dict[str, Any] = {}
    used = set()
    for name in get_args(FieldName):
        # In an object of split -> list the list's name is the split, and "split" is a field like any other.
        if name == "split" and row.split is not None and "split" not in mapping.fields:
            continue
        path = mapping.fields.get(name, name)
        there, value = look_up(row.value, path) if name in mapping.fields else (name in row.value, row.value.get(name))
        if there:
            used.add(path)
        if value is None and name in mapping.defaults and name != "split":
            value = mapping.defaults[name]
        if value is not None or (there and name not in mapping.fields):
            found[name] = value
    meta = {}
    for key, value in row.value.items():
        if key not in used:
            # A field of ours that the mapping takes from elsewhere keeps its own value under a name that is free.
            taken = key in mapping.fields and key != "split"
            meta[f"original.{key}" if taken else key] = value
    return found, meta


def _place(row: Row, record: _Record, reading: Reading) -> tuple[str, str, str | None]:
    """(split, subset, shift) of a record; a shift that nothing gives is reported once per file, split and subset."""
    tag = record.subset_tag if record.subset_tag and record.subset_tag.strip() else None
    named = record.split if record.split and record.split.strip() else row.split
    by_subset = reading.taxonomy.split_of(tag) if tag else None
    split = named or by_subset or reading.mapping.defaults.get("split") or row.stem
    subset = tag or split
    shift = reading.taxonomy.shift_of(split, subset)
    if shift is None and (row.file, split, subset) not in reading.unmapped:
        reading.unmapped.add((row.file, split, subset))
        reading.problems.append(unmapped(row.file, row.record, split, subset))
    return split, subset, shift


def _dialogue(items: list[Any], roles: Roles, problems: _Problems) -> tuple[Turn, ...]:
    turns: list[Turn] = []
    for index, item in enumerate(items):
        turn = _turn(item, roles)
        if isinstance(turn, str):
            problems.add(f"dialogue_context[{index}]", turn)
            return ()
        if turns and turns[-1].role == turn.role:
            problems.add(f"dialogue_context[{index}]", f"is a second {turn.role} turn in a row; turns must alternate")
            return ()
        turns.append(turn)
    if not turns:
        problems.add("dialogue_context", "is empty; it needs at least the user's query")
    elif turns[0].role == "agent":
        problems.add("dialogue_context[0]", "starts with the agent; a dialogue must start with the user")
    elif turns[-1].role == "agent":
        message = "ends with the agent; it must end with the user's query, and the reply is agent_golden_response"
        problems.add(f"dialogue_context[{len(turns) - 1}]", message)
    return tuple(turns)


def _turn(item: Any, roles: Roles) -> Turn | str:
    """A turn, or what is wrong with it. Keys beside the speaker's and the text's are left aside."""
    if not isinstance(item, dict):
        return f"must be {_TURN}, not {kind(item)}"
    user, agent = item.get("user_query"), item.get("agent_response")
    if user is not None and agent is not None:
        return f"holds both a user_query and an agent_response; a turn is one of {_TURN}"
    if user is None and agent is None:
        said = _said(item, roles)
    else:
        said = ("user", user) if agent is None else ("agent", agent)
    if isinstance(said, str):
        return said
    role, text = said
    if not isinstance(text, str):
        return f"must hold text, not {kind(text)}"
    return Turn(role, text) if text.strip() else "must not be blank"


def _said(item: dict[str, Any], roles: Roles) -> tuple[Role, Any] | str:
    """(speaker, what was said) of a {"role", "content"} or {"from", "value"} turn, or what is wrong with it."""
    who = next((key for key in ("role", "from") if item.get(key) is not None), None)
    if who is None:
        return f"must be {_TURN}; its keys are {shown(', '.join(item)) or 'none'}"
    speaker = item[who]
    if not isinstance(speaker, str):
        return f'must name its speaker in "{who}" as text, not {kind(speaker)}'
    text = item.get("content" if who == "role" else "value")
    name = speaker.casefold()
    if name in (user.casefold() for user in roles.user):
        return "user", text
    if name in (agent.casefold() for agent in roles.agent):
        return "agent", text
    return f'is by "{shown(speaker)}", whom the mapping file\'s "roles" do not list as user or agent'


def _responses(given: dict[str, Any], problems: _Problems) -> tuple[dict[str, str], tuple[str, ...]]:
    """Policy -> response, and the policies whose response is null or blank: missing, never empty."""
    responses: dict[str, str] = {}
    silent = []
    for name, text in given.items():
        place = f"model_response.{shown(name, 60)}"
        if fault := policy_fault(name):
            problems.add(place, fault)
        elif text is not None and not isinstance(text, str):
            problems.add(place, f"must be text or null, not {kind(text)}")
        elif text is not None and text.strip():
            responses[name] = text
        else:
            silent.append(name)
    return responses, tuple(silent)
