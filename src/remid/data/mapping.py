"""A mapping file: how other people's records name the fields that we need.

    {"fields": {"user_persona": "their.column", ...}, "defaults": {"split": "IDTest"},
     "roles": {"user": ["human"], "agent": ["gpt"]}}

fields: our field -> their column, or a dotted path into nested records (numbers index lists). defaults: what stands
for a field that a record lacks. roles: which speakers of {"role": .., "content": ..} or {"from": .., "value": ..}
dialogues are the user and the agent. Every key is optional.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError

from remid.data import strict_json
from remid.data.outside import Outside, problems_of
from remid.data.text import shown
from remid.errors import DataError, Problem

FieldName = Literal[
    "sample_ID",
    "split",
    "subset_tag",
    "user_persona",
    "agent_character",
    "dialogue_context",
    "agent_golden_response",
    "SThought",
    "model_response",
]
#: Fields for which one value can serve many records.
DefaultName = Literal["split", "subset_tag", "user_persona", "agent_character"]


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return text


Name = Annotated[str, AfterValidator(_not_blank)]


class Roles(Outside):
    """Speakers' names, compared without regard to case."""

    user: list[Name] = Field(default=["user", "human"], min_length=1)
    agent: list[Name] = Field(default=["agent", "assistant", "gpt"], min_length=1)


class FieldMapping(Outside):
    """The content of a mapping file. Without one: our own field names, no defaults, the usual roles."""

    fields: dict[FieldName, Name] = Field(default_factory=dict)
    defaults: dict[DefaultName, Name] = Field(default_factory=dict)
    roles: Roles = Roles()


def read_mapping(path: Path | None) -> FieldMapping:
    """The mapping of a file, or the empty one. DataError names file and field of each fault."""
    if path is None:
        return FieldMapping()
    file = shown(str(path), 400)
    try:
        mapping = FieldMapping.model_validate(strict_json.read_checked_json(path))
    except ValidationError as error:
        raise DataError(problems_of(error, file)) from None
    both = {name.casefold() for name in mapping.roles.user} & {name.casefold() for name in mapping.roles.agent}
    if both:
        names = ", ".join(sorted(shown(name) for name in both))
        raise DataError([Problem(file, "", "roles", f"names {names} both as user and as agent")])
    return mapping


def look_up(record: Mapping[str, Any], path: str) -> tuple[bool, Any]:
    """(whether it is there, value) at a dotted path. A column that is really called "a.b" comes before a in b."""
    if path in record:
        return True, record[path]
    value: Any = record
    for part in path.split("."):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif (
            isinstance(value, list) and part.isascii() and part.isdigit() and len(part) < 10 and int(part) < len(value)
        ):
            value = value[int(part)]
        else:
            return False, None
    return True, value
