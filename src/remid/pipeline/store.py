"""The run store: one SQLite file in which every finished item is durable, found again by what it was made from.

Rows are keyed by content (scorer, prompt, text), not by position: the same command again finds its work, a policy added
later shares the reference's scores, and equal pairs are scored once. A transaction holds one forward pass, so a kill
leaves either all of it or nothing. What a disk has damaged is found when the store is opened (pipeline/rescue.py).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from remid.errors import StoreError
from remid.pipeline.rescue import KEYS, find_damage, finish_rescue, rescue, row_crc

_SCHEMA_VERSION = 2  # 1: without checksums
_SCHEMA = """
CREATE TABLE IF NOT EXISTS prompts (
  scorer TEXT, prompt TEXT, n_tokens INTEGER, dropped_turns INTEGER, missing TEXT, crc INTEGER,
  PRIMARY KEY (scorer, prompt)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS scores (
  scorer TEXT, prompt TEXT, response TEXT, n_tokens INTEGER, logp REAL, token_logp BLOB, missing TEXT,
  crc INTEGER,
  PRIMARY KEY (scorer, prompt, response)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS generations (
  generator TEXT, prompt TEXT, text TEXT, finished INTEGER, crc INTEGER,
  PRIMARY KEY (generator, prompt)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS embeddings (
  embedder TEXT, text TEXT, vector BLOB, crc INTEGER,
  PRIMARY KEY (embedder, text)) WITHOUT ROWID;
"""
#: What makes writing fail through no fault of ours.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}


def content_key(content: Any) -> str:
    """32 hex digits that identify JSON-like content."""
    line = json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(line.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class PromptRow:
    """A prompt as it was scored. missing: why it could not be (its tokens are counted all the same)."""

    n_tokens: int
    dropped_turns: int
    missing: str | None


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One scored pair. token_logp: per token, float32 nats, end-of-turn token last. logp: their float64 sum."""

    n_tokens: int
    logp: float | None
    token_logp: npt.NDArray[np.float32] | None
    missing: str | None


class Store:
    """The store of one run folder, held by one process at a time. Use it as a context manager.

    Raises StoreError when another process holds the folder, the file is not ours or damaged, or there is no room.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock: IO[str] = (folder / ".lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(f"{folder}: another remid process is working in this run folder; wait for it") from error
        except OSError as error:
            raise StoreError(f"{folder}: cannot be used as a run folder: {error.strerror}") from error
        self._failed: dict[str, dict[tuple[str, str], tuple[int, float | None, str | None]]] = {}
        self._folder = folder
        try:
            self._db = _open(folder / "store.sqlite")
        except (sqlite3.Error, OSError) as error:
            self._lock.close()
            raise _cannot_write(folder, error) from error
        except StoreError:
            self._lock.close()
            raise

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()
        self._lock.close()
        if isinstance(error, OSError) and error.errno in _DISK:
            raise _cannot_write(self._folder, error) from error

    def prompts(self, scorer: str) -> dict[str, PromptRow]:
        """All prompts of a scorer by their key."""
        rows = self._db.execute(
            "SELECT prompt, n_tokens, dropped_turns, missing FROM prompts WHERE scorer=?", (scorer,)
        )
        return {key: PromptRow(n, dropped, missing) for key, n, dropped, missing in rows}

    def scored(self, scorer: str) -> dict[tuple[str, str], tuple[int, float | None, str | None]]:
        """(prompt key, response key) -> (tokens, log-likelihood in nats, reason if missing) of everything scored."""
        rows = self._db.execute(
            "SELECT prompt, response, n_tokens, logp, missing FROM scores WHERE scorer=?", (scorer,)
        )
        found = {(prompt, response): (n, logp, missing) for prompt, response, n, logp, missing in rows}
        return self._failed.get(scorer, {}) | found

    def note_failures(self, scorer: str, rows: Iterable[tuple[str, str, int, str]]) -> None:
        """Pairs that failed and may succeed another time: (prompt, response, tokens, reason). Not written down."""
        failed = self._failed.setdefault(scorer, {})
        failed.update({(prompt, response): (n, None, reason) for prompt, response, n, reason in rows})

    def token_logps(self, scorer: str, prompt: str, response: str) -> npt.NDArray[np.float32] | None:
        """Per-token log-probabilities (float32, nats) of one scored pair, or None."""
        query = "SELECT token_logp FROM scores WHERE scorer=? AND prompt=? AND response=?"
        row = self._db.execute(query, (scorer, prompt, response)).fetchone()
        return None if row is None or row[0] is None else np.frombuffer(row[0], dtype=np.float32)

    def add_scores(
        self, scorer: str, prompts: Mapping[str, PromptRow], rows: Iterable[tuple[str, str, ScoreRow]]
    ) -> None:
        """What came of one forward pass, all or nothing: (prompt key, response key, score), and the prompts' own rows.

        A row that is there already is kept.
        """
        heads = [(scorer, key, row.n_tokens, row.dropped_turns, row.missing) for key, row in prompts.items()]
        values = [
            (scorer, prompt, response, row.n_tokens, row.logp, _blob(row.token_logp), row.missing)
            for prompt, response, row in rows
        ]
        self._add(prompts=heads, scores=values)

    def generations(self, generator: str) -> dict[str, tuple[str, bool]]:
        """Prompt key -> (text, finished) of everything that a generator wrote."""
        rows = self._db.execute("SELECT prompt, text, finished FROM generations WHERE generator=?", (generator,))
        return {prompt: (text, bool(finished)) for prompt, text, finished in rows}

    def add_generations(self, generator: str, rows: Iterable[tuple[str, str, bool]]) -> None:
        """One batch of generated texts: (prompt key, text, finished)."""
        self._add(generations=[(generator, *row) for row in rows])

    def embeddings(self, embedder: str) -> dict[str, npt.NDArray[np.float32]]:
        """Text key -> vector of everything embedded."""
        rows = self._db.execute("SELECT text, vector FROM embeddings WHERE embedder=?", (embedder,))
        return {key: np.frombuffer(vector, dtype=np.float32) for key, vector in rows}

    def add_embeddings(self, embedder: str, rows: Iterable[tuple[str, npt.NDArray[np.float32]]]) -> None:
        """One batch of vectors by text key."""
        self._add(embeddings=[(embedder, key, vector.tobytes()) for key, vector in rows])

    def _add(self, **tables: list[tuple[Any, ...]]) -> None:
        """Rows of several tables in one transaction, each with its checksum; nothing of them where one cannot be."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for table, rows in tables.items():
                if not rows:
                    continue
                places = ",".join("?" * (len(rows[0]) + 1))
                whole = ((*row, row_crc(row)) for row in rows)
                self._db.executemany(f"INSERT OR IGNORE INTO {table} VALUES ({places})", whole)
            self._db.execute("COMMIT")
        except BaseException as error:
            with contextlib.suppress(sqlite3.Error):  # a disk that is full may have ended it already
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
            if isinstance(error, sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError:
                raise _cannot_write(self._folder, error) from error
            raise


def _open(path: Path) -> sqlite3.Connection:
    """A connection to a store with our tables, whole to the last row.

    Raises StoreError for a file that is not ours, which is left as it is, and for one that is damaged, of which what is
    whole is kept; sqlite3.Error or OSError where nothing can be written.
    """
    finish_rescue(path)
    db = sqlite3.connect(path, isolation_level=None)
    try:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type='table'")}
        if version == 0 and not tables <= KEYS.keys():  # version 0 with our tables: killed while it was made
            raise StoreError(f"{path}: is another program's database; move it away or use a new --out folder")
        if version not in (0, 1, _SCHEMA_VERSION):
            raise StoreError(f"{path}: made by another version of remid (schema {version}); use a new --out folder")
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")  # a kill loses nothing; only a power cut could lose the tail
        db.executescript(_SCHEMA)
        for table in KEYS if version < _SCHEMA_VERSION else ():
            if "crc" not in {row[1] for row in db.execute(f"PRAGMA table_info({table})")}:
                db.execute(f"ALTER TABLE {table} ADD COLUMN crc INTEGER")
        db.execute(f"PRAGMA user_version={_SCHEMA_VERSION}")
        damage = find_damage(db)
    except sqlite3.DatabaseError as error:
        db.close()
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_NOTADB:
            raise StoreError(f"{path}: is not a run store ({error}); move it away or use a new --out folder") from error
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_CORRUPT:
            raise
        damage = str(error)
    except BaseException:
        db.close()
        raise
    if damage:
        db.close()
        raise rescue(path, f"{_SCHEMA}PRAGMA user_version={_SCHEMA_VERSION};", damage)
    return db


def _cannot_write(folder: Path, error: Exception) -> StoreError:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    code = error.sqlite_errorcode & 0xFF if isinstance(error, sqlite3.Error) else None
    advice = "make room on that disk, or see what is wrong with it"
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        advice = "close the program that has store.sqlite open"
    return StoreError(
        f"{folder}: cannot be written ({reason}). What is finished is kept: {advice}, and the same command goes on"
    )


def _blob(values: npt.NDArray[np.float32] | None) -> bytes | None:
    return None if values is None else values.astype(np.float32).tobytes()
