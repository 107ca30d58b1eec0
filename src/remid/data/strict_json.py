"""JSON read strictly: what Python's parser lets through, and nothing good comes of, is named with its place.

Let through by `json` and refused here: repeated keys, NaN and Infinity, numbers out of range, lone surrogates (text
that cannot be written as UTF-8), and nesting so deep that later steps would run out of stack.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from remid.data.text import is_utf8, shown
from remid.errors import DataError, Problem

#: Levels of nesting that a record may have. No real record comes near; Python's stack gives out at some hundreds.
MAX_DEPTH = 64


class RepeatedKeys(dict[str, Any]):
    """An object that its file writes with some key more than once; `find_faults` reports it with its place."""

    repeated: tuple[str, ...] = ()


def read_bytes(path: Path) -> bytes:
    """The bytes of a regular file, without a UTF-8 byte order mark. DataError where that cannot be had."""
    file = shown(str(path), 400)
    try:
        if path.is_dir():
            raise DataError([Problem(file, "", "", "is a folder; a file is expected here")])
        if path.exists() and not path.is_file():
            raise DataError([Problem(file, "", "", "is not a regular file")])
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError([Problem(file, "", "", "does not exist")]) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError([Problem(file, "", "", f"cannot be read: {shown(reason)}")]) from None
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError([Problem(file, "", "", "is UTF-16 text; save it as UTF-8")])
    data = data.removeprefix(b"\xef\xbb\xbf")
    if b"\0" in data:
        raise DataError([Problem(file, "", "", "is a binary file, not JSON text")])
    if not data.strip():
        raise DataError([Problem(file, "", "", "is empty")])
    return data


def decode(data: bytes, file: str, record: str = "") -> str:
    """UTF-8 bytes as text. DataError with file and record where they are none."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        message = f"is not UTF-8 text: byte 0x{data[error.start]:02x} at byte {error.start}; save it as UTF-8"
        raise DataError([Problem(file, record, "", message)]) from None


def parse(text: str, file: str, record: str = "") -> Any:
    """The value that JSON `text` stands for, not yet searched for faults. DataError where it is no JSON."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        where = f"column {error.colno}" if record else f"line {error.lineno}, column {error.colno}"
        message = f"is not valid JSON: {error.msg} at {where}"
    except RecursionError:
        message = f"is nested too deeply; {MAX_DEPTH} levels are the limit"
    except ValueError:  # int() refuses thousands of digits
        message = "holds a number that is too long to read"
    raise DataError([Problem(file, record, "", message)])


def read_json(path: Path) -> Any:
    """The one JSON value of a file, not yet searched for faults. DataError where it cannot be read."""
    file = shown(str(path), 400)
    return parse(decode(read_bytes(path), file), file)


def read_checked_json(path: Path) -> Any:
    """The one JSON value of a small file (mapping, taxonomy), free of faults. DataError otherwise."""
    value = read_json(path)
    file = shown(str(path), 400)
    if faults := find_faults(value):
        raise DataError([Problem(file, "", field, message) for field, message in faults])
    return value


def find_faults(value: Any) -> list[tuple[str, str]]:
    """What `json` lets through but we refuse, as (field path, message). Iterative, so that no nesting can break it."""
    faults: list[tuple[str, str]] = []
    stack: list[tuple[str, int, Any]] = [("", 1, value)]
    while stack:
        path, depth, item = stack.pop()
        if isinstance(item, str):
            if not is_utf8(item):
                faults.append((path, "holds a lone surrogate, which is not text and cannot be written as UTF-8"))
        elif isinstance(item, float):
            if not math.isfinite(item):
                faults.append((path, "must be a finite number or null, not NaN or infinity"))
        elif isinstance(item, dict | list) and depth > MAX_DEPTH:
            faults.append((shown(path), f"is nested too deeply; {MAX_DEPTH} levels are the limit"))
        elif isinstance(item, dict):
            faults += _key_faults(path, item)
            stack += [(_join(path, key), depth + 1, inner) for key, inner in item.items()]
        elif isinstance(item, list):
            stack += [(f"{path}[{index}]", depth + 1, inner) for index, inner in enumerate(item)]
    return faults


def _key_faults(path: str, item: dict[str, Any]) -> list[tuple[str, str]]:
    faults = [
        (_join(path, key), "holds a lone surrogate in its name, which cannot be written as UTF-8")
        for key in item
        if not is_utf8(key)
    ]
    if isinstance(item, RepeatedKeys):
        faults += [(_join(path, key), "is written more than once in one object; keep one") for key in item.repeated]
    return faults


def _join(path: str, key: str) -> str:
    name = key if key.isascii() and key.isprintable() and len(key) <= 60 else shown(key, 60)
    return f"{path}.{name}" if path else name


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    plain = dict(pairs)
    if len(plain) == len(pairs):
        return plain
    names = [key for key, _ in pairs]
    marked = RepeatedKeys(plain)
    marked.repeated = tuple(key for key in plain if names.count(key) > 1)
    return marked
