"""Damage to a run store: found when the store is opened, and what is still whole carried over into a new file.

Every row has a checksum of its own, so a row is either as it was written or left behind; nothing is guessed. SQLite's
own check covers the pages that hold them. Rows that were left behind are computed again by the same command.
"""

from __future__ import annotations

import os
import sqlite3
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from remid.errors import StoreError

#: Tables of a store, and how many of their first columns are their key.
KEYS = {"prompts": 2, "scores": 3, "generations": 2, "embeddings": 2}


def row_crc(row: Sequence[Any]) -> int:
    """CRC-32 over a row's values, of whatever types SQLite gives back."""
    crc = 0
    for value in row:
        # SQLite keeps no -0.0 and no bool.
        plain = value + 0.0 if isinstance(value, float) else int(value) if isinstance(value, bool) else value
        crc = zlib.crc32(plain if isinstance(plain, bytes) else repr(plain).encode(), zlib.crc32(b"\0", crc))
    return crc


def find_damage(db: sqlite3.Connection) -> str | None:
    """What is wrong with a store, or None. Reads all of it: about 5 s for a million scored pairs."""
    try:
        (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            return f"its pages: {verdict.splitlines()[-1]}"
        for table in KEYS:
            bad = sum(not _whole(table, row) for row in db.execute(f"SELECT * FROM {table}"))
            if bad:
                return f"{bad} rows of {table} are not what was written"
    except sqlite3.DatabaseError as error:
        return str(error)
    return None


def rescue(path: Path, schema: str, damage: str) -> StoreError:
    """Carry over all whole rows into a new store and keep the damaged file beside it; the error to raise.

    schema: statements that make an empty store. Raises sqlite3.Error or OSError where the new file cannot be written;
    the damaged one is then as it was.
    """
    new = path.with_name(path.name + ".rescued")
    new.unlink(missing_ok=True)
    counts = {}
    old, db = sqlite3.connect(path), sqlite3.connect(new, isolation_level=None)
    old.text_factory = lambda raw: raw.decode("utf-8", "replace")
    try:
        db.execute("PRAGMA synchronous=FULL")
        db.executescript(schema)
        db.execute("BEGIN")
        for table in KEYS:
            rows = _readable(old, table)
            counts[table] = len(rows)
            if rows:
                places = ",".join("?" * len(rows[0]))
                db.executemany(f"INSERT OR IGNORE INTO {table} VALUES ({places})", rows)
        db.execute("COMMIT")
    finally:
        old.close()
        db.close()
    if not any(counts.values()):
        new.unlink()
        return StoreError(
            f"{path}: is damaged ({damage}), and nothing in it can be read; check the disk, and move the file away: "
            "the same command then begins anew"
        )
    os.replace(path, _kept(path))
    finish_rescue(path)
    kept = ", ".join(f"{count} {table}" for table, count in counts.items())
    return StoreError(
        f"{path}: was damaged ({damage}). What is whole has been carried over ({kept}); the damaged file is kept as "
        f"{_kept(path).name}. Check the disk; the same command computes what is missing and goes on"
    )


def finish_rescue(path: Path) -> None:
    """Put a rescued store in the place of one that was moved away, also where a kill came between the two."""
    new = path.with_name(path.name + ".rescued")
    if path.exists() or not new.exists():
        return
    # The damaged file's journal would be played into the new one.
    for end in ("-wal", "-shm"):
        journal = path.with_name(path.name + end)
        if journal.exists():
            os.replace(journal, _kept(path).with_name(_kept(path).name + end))
    os.replace(new, path)


def _kept(path: Path) -> Path:
    return path.with_name(path.name + ".damaged")


def _readable(db: sqlite3.Connection, table: str) -> list[tuple[Any, ...]]:
    """Whole rows on both sides of what cannot be read."""
    found: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    count = KEYS[table]
    for order in ("ASC", "DESC"):
        keys = ", ".join(f"{place} {order}" for place in range(1, count + 1))
        try:
            for row in db.execute(f"SELECT * FROM {table} ORDER BY {keys}"):
                if _whole(table, row):
                    found[row[:count]] = row
        except sqlite3.DatabaseError:
            continue
    return list(found.values())


def _whole(table: str, row: tuple[Any, ...]) -> bool:
    """Whether a row is what was written. Rows of older stores have no checksum, but scores repeat themselves."""
    *values, crc = row
    if crc is not None:
        return bool(crc == row_crc(values))
    if table != "scores":
        return True
    _, _, _, n_tokens, logp, blob, missing = values
    if blob is None:
        return logp is None and missing is not None
    if len(blob) != 4 * n_tokens:
        return False
    total = float(np.frombuffer(blob, np.float32).astype(np.float64).sum())
    return bool(total == logp) if np.isfinite(total) else logp is None
