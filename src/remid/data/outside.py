"""What pydantic says about a value from outside, in our words and with the place."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from remid.data.text import kind, shown
from remid.errors import Problem


class Outside(BaseModel):
    """Settings for every model of a file's content: no silent conversions, no unknown keys."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


def problems_of(
    error: ValidationError, file: str, record: str = "", hints: dict[str, str] | None = None
) -> list[Problem]:
    """One Problem per field that `error` complains of. hints: field -> what it must be, for the first path element."""
    found: dict[str, Problem] = {}
    for detail in error.errors(include_url=False, include_context=False):
        field = _path(detail["loc"], hints)
        if field not in found:  # a union complains once per member; the first tells enough
            hint = (hints or {}).get(str(detail["loc"][0]) if detail["loc"] else "")
            found[field] = Problem(file, record, field, _message(dict(detail), hint))
    return list(found.values())


def _path(loc: tuple[int | str, ...], hints: dict[str, str] | None) -> str:
    # With hints the model is a record, whose unions add "str", "dict[str,any]" and the like to the path.
    parts = [part for part in loc if part != "[key]"]
    if hints and len(parts) > 1 and parts[0] != "model_response":
        parts = parts[:1]
    return ".".join(shown(str(part), 60) for part in parts)


def _message(detail: dict[str, Any], hint: str | None) -> str:
    type_ = detail["type"]
    if type_ == "missing":
        return f"is missing; it must be {hint}" if hint else "is missing"
    if type_ == "extra_forbidden":
        return "is not a key that is known here"
    if hint:
        return f"must be {hint}, not {kind(detail['input'])}"
    if type_ in ("value_error", "assertion_error"):
        return shown(detail["msg"].removeprefix("Value error, "), 200)
    if type_ in ("string_type", "list_type", "dict_type", "model_type"):
        wanted = {"string_type": "text", "list_type": "a list"}.get(type_, "an object")
        return f"must be {wanted}, not {kind(detail['input'])}"
    return shown(detail["msg"], 200)
