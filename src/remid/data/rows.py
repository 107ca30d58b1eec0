"""Records as the user's files hold them, each with its place, in any of the formats that we read.

No interpretation happens here beyond the file format: what a field means is decided in record.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remid.data import strict_json
from remid.data.text import is_utf8, kind, shown
from remid.errors import DataError, Problem


@dataclass(frozen=True, slots=True)
class Row:
    """One record. file, record: its place, as in Problem. split: the name of the list that holds it, or None."""

    file: str
    record: str
    split: str | None
    stem: str
    value: Any


def read_rows(path: Path, problems: list[Problem]) -> list[Row]:
    """All rows of one file or folder, in file order. What cannot be read goes to `problems`.

    A folder is a Hugging Face dataset (save_to_disk); otherwise the name's ending says the format: .json, .jsonl or
    .ndjson, .parquet.
    """
    before = len(problems)
    try:
        rows = _read(path, problems)
    except DataError as error:
        problems += error.problems
        return []
    if not rows and len(problems) == before:
        problems.append(Problem(shown(str(path), 400), "", "", "holds no samples"))
    return rows


def read_lines(path: Path, problems: list[Problem]) -> Iterator[tuple[str, Any]]:
    """("line N", value) for each line of a JSONL file; N counts from 1, blank lines are skipped.

    DataError where the file cannot be opened at all, or is one array; a line that cannot be read goes to `problems`.
    """
    file = shown(str(path), 400)
    data = strict_json.read_bytes(path)
    if _is_array(data):
        message = (
            "begins with an array; here every line is an object of its own, without brackets around or commas between"
        )
        raise DataError([Problem(file, "", "", message)])
    # Only \n ends a line. str.splitlines would also cut at U+2028 and U+0085, which JSON text may hold as they are.
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        record = f"line {number}"
        try:
            yield record, strict_json.parse(strict_json.decode(line, file, record), file, record)
        except DataError as error:
            problems += error.problems


def _is_array(data: bytes) -> bool:
    """Whether lines are parts of one array, of which each would be a problem of its own; a line that is one is not."""
    first, _, rest = data.strip().partition(b"\n")
    if not (first.startswith(b"[") and rest.endswith(b"]")):
        return False
    try:
        strict_json.parse(strict_json.decode(first, ""), "")
    except DataError:
        return True
    return False


def _read(path: Path, problems: list[Problem]) -> list[Row]:
    file = shown(str(path), 400)
    ending = path.suffix.lower()
    if _is_dir(path) or ending == ".parquet":
        # pyarrow and datasets take a second to import; only those who have such files pay for it.
        from remid.data import columnar

        tables = columnar.read_folder(path, file) if _is_dir(path) else [(None, columnar.read_parquet(path, file))]
        return [
            Row(file, f"{shown(split or '')}[{index}]", split, path.stem, value)
            for split, values in tables
            for index, value in enumerate(values)
        ]
    if ending in (".jsonl", ".ndjson"):
        return [Row(file, record, None, path.stem, value) for record, value in read_lines(path, problems)]
    if ending == ".json":
        return _rpgbench(strict_json.read_json(path), file, path.stem, problems)
    message = "has an ending that says no format; use .json, .jsonl, .parquet, or a folder that datasets saved to disk"
    raise DataError([Problem(file, "", "", message)])


def _rpgbench(value: Any, file: str, stem: str, problems: list[Problem]) -> list[Row]:
    """Rows of an object split -> list of samples, or of a bare list of samples (as many tools write)."""
    if isinstance(value, list):
        return [Row(file, f"[{index}]", None, stem, item) for index, item in enumerate(value)]
    if not isinstance(value, dict):
        message = f"must hold an object of split -> list of samples, or a list of samples, not {kind(value)}"
        raise DataError([Problem(file, "", "", message)])
    if isinstance(value, strict_json.RepeatedKeys):
        for key in value.repeated:
            problems.append(Problem(file, "", shown(key), "is written more than once; join the two lists"))
    rows = []
    for split, items in value.items():
        if not isinstance(items, list):
            problems.append(Problem(file, "", shown(split), f"must be a list of samples, not {kind(items)}"))
        elif not is_utf8(split) or not split.strip():
            problems.append(Problem(file, "", shown(split) or '""', "is not a name for a split"))
        else:
            rows += [Row(file, f"{shown(split)}[{index}]", split, stem, item) for index, item in enumerate(items)]
    return rows


def _is_dir(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False
