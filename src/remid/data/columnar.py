"""Parquet files and Hugging Face dataset folders as plain records. Imported only when such a file is read.

Columnar formats cannot tell "missing" from "null": a field that some record lacks comes back as null in all of them.
So null fields are dropped here, at every level, which is what the same records would hold in JSON.
"""

from __future__ import annotations

import datetime
import decimal
import math
from pathlib import Path
from typing import Any

from remid.data.text import shown
from remid.errors import DataError, Problem


def read_parquet(path: Path, file: str) -> list[dict[str, Any]]:
    """The records of one Parquet file. DataError where it cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet

    try:
        if not path.is_file():
            what = "is not a regular file" if path.exists() else "does not exist"
            raise DataError([Problem(file, "", "", what)])
        # ParquetFile, not read_table: the latter treats folders named "a=b" on the path as extra columns.
        with pa.parquet.ParquetFile(path) as parquet:
            table = parquet.read()
        return _records(table, file, "")
    except DataError:
        raise
    except Exception as error:  # pyarrow raises many kinds on damaged bytes, none of which is our bug
        raise _unreadable(file, "is not a readable Parquet file", error) from None


def read_folder(path: Path, file: str) -> list[tuple[str | None, list[dict[str, Any]]]]:
    """(split, records) of each part of a dataset that `save_to_disk` wrote; split is None for a lone Dataset.

    Reads from this disk only: nothing is looked up on a hub, and no code that came with the data is run.
    """
    try:
        if not any((path / name).is_file() for name in ("dataset_dict.json", "state.json")):
            message = "is a folder but not a dataset that Hugging Face `datasets` saved to disk (save_to_disk)"
            raise DataError([Problem(file, "", "", message)])
        import datasets

        loaded = datasets.load_from_disk(str(path.resolve()), keep_in_memory=True)
        parts = dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {None: loaded}
        return [(_split_name(split), _dataset_records(part, file, split)) for split, part in parts.items()]
    except DataError:
        raise
    except Exception as error:  # as above: damaged folders surface as almost anything
        raise _unreadable(file, "is not a readable dataset folder", error) from None


def _split_name(split: Any) -> str | None:
    return None if split is None else str(split)


def _dataset_records(dataset: Any, file: str, split: Any) -> list[dict[str, Any]]:
    if not dataset.num_rows:
        return []
    # Arrow does not look at offsets when it maps a file; unchecked, damaged ones would crash the process.
    dataset.data.validate(full=True)
    # The arrow format hands out the stored values: images and audio are not decoded.
    return _records(dataset.with_format("arrow")[:], file, shown(str(split or "")))


def _records(table: Any, file: str, prefix: str) -> list[dict[str, Any]]:
    import pyarrow as pa

    table.validate(full=True)
    names = table.column_names
    if repeated := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise DataError([Problem(file, "", shown(name), "is the name of more than one column") for name in repeated])
    maps = {field.name for field in table.schema if pa.types.is_map(field.type)}
    problems: list[Problem] = []
    records = []
    for index, row in enumerate(table.to_pylist()):
        record = {}
        for name, value in row.items():
            try:
                plain = _plain(dict(value) if name in maps and value is not None else value)
            except TypeError as error:
                problems.append(Problem(file, f"{prefix}[{index}]", shown(name), str(error)))
                continue
            if plain is not None:
                record[name] = plain
        records.append(record)
    if problems:
        raise DataError(problems)
    return records


def _plain(value: Any) -> Any:
    """An Arrow value as JSON would hold it: no null fields, NaN (pandas' missing) as null, dates as ISO text."""
    if isinstance(value, dict):
        if not all(isinstance(name, str) for name in value):
            raise TypeError("holds a map whose keys are not text")
        return {name: plain for name, inner in value.items() if (plain := _plain(inner)) is not None}
    if isinstance(value, list):
        # Only Arrow's maps come as tuples.
        is_map = bool(value) and all(isinstance(item, tuple) for item in value)
        return _plain(dict(value)) if is_map else [_plain(item) for item in value]
    return _plain_scalar(value)


def _plain_scalar(value: Any) -> str | int | float | None:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta | decimal.Decimal):
        return str(value)
    raise TypeError(f"holds a value of type {type(value).__name__}; leave out what is not text or numbers")


def _unreadable(file: str, what: str, error: Exception) -> DataError:
    return DataError([Problem(file, "", "", f"{what}: {shown(f'{type(error).__name__}: {error}', 200)}")])
