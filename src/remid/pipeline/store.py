"""The run store: one SQLite file in which every finished item is durable, found again by what it was made from.

Rows are keyed by content (scorer, prompt, text), not by position: the same command again finds its work, a policy added
later shares the reference's scores, and equal pairs are scored once. A transaction holds one forward pass, so a kill
leaves either all of it or nothing.
"""

from __future__ import annotations

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

_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS prompts (
  scorer TEXT, prompt TEXT, n_tokens INTEGER, dropped_turns INTEGER, missing TEXT,
  PRIMARY KEY (scorer, prompt)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS scores (
  scorer TEXT, prompt TEXT, response TEXT, n_tokens INTEGER, logp REAL, token_logp BLOB, missing TEXT,
  PRIMARY KEY (scorer, prompt, response)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS generations (
  generator TEXT, prompt TEXT, text TEXT, finished INTEGER,
  PRIMARY KEY (generator, prompt)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS embeddings (
  embedder TEXT, text TEXT, vector BLOB,
  PRIMARY KEY (embedder, text)) WITHOUT ROWID;
"""
_TABLES = {"prompts", "scores", "generations", "embeddings"}


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

    Raises StoreError when another process holds the folder, or the file is not ours.
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
        path = folder / "store.sqlite"
        try:
            self._db = _open(path)
        except sqlite3.Error as error:
            self._lock.close()
            raise StoreError(f"{path}: is not a run store ({error}); move it away or use a new --out folder") from error
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
        with _Transaction(self._db):
            self._db.executemany("INSERT OR IGNORE INTO prompts VALUES (?,?,?,?,?)", heads)
            self._db.executemany("INSERT OR IGNORE INTO scores VALUES (?,?,?,?,?,?,?)", values)

    def generations(self, generator: str) -> dict[str, tuple[str, bool]]:
        """Prompt key -> (text, finished) of everything that a generator wrote."""
        rows = self._db.execute("SELECT prompt, text, finished FROM generations WHERE generator=?", (generator,))
        return {prompt: (text, bool(finished)) for prompt, text, finished in rows}

    def add_generations(self, generator: str, rows: Iterable[tuple[str, str, bool]]) -> None:
        """One batch of generated texts: (prompt key, text, finished)."""
        with _Transaction(self._db):
            self._db.executemany(
                "INSERT OR IGNORE INTO generations VALUES (?,?,?,?)", [(generator, *row) for row in rows]
            )

    def embeddings(self, embedder: str) -> dict[str, npt.NDArray[np.float32]]:
        """Text key -> vector of everything embedded."""
        rows = self._db.execute("SELECT text, vector FROM embeddings WHERE embedder=?", (embedder,))
        return {key: np.frombuffer(vector, dtype=np.float32) for key, vector in rows}

    def add_embeddings(self, embedder: str, rows: Iterable[tuple[str, npt.NDArray[np.float32]]]) -> None:
        """One batch of vectors by text key."""
        with _Transaction(self._db):
            values = [(embedder, key, vector.tobytes()) for key, vector in rows]
            self._db.executemany("INSERT OR IGNORE INTO embeddings VALUES (?,?,?)", values)


def _open(path: Path) -> sqlite3.Connection:
    """A connection to a store with our tables. Raises StoreError or sqlite3.Error, and then has changed nothing."""
    db = sqlite3.connect(path, isolation_level=None)
    try:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type='table'")}
        if version == 0 and not tables <= _TABLES:  # version 0 with our tables: killed while it was made
            raise StoreError(f"{path}: is another program's database; move it away or use a new --out folder")
        if version not in (0, _SCHEMA_VERSION):
            raise StoreError(f"{path}: made by another version of remid (schema {version}); use a new --out folder")
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")  # a kill loses nothing; only a power cut could lose the tail
        db.executescript(_SCHEMA)
        db.execute(f"PRAGMA user_version={_SCHEMA_VERSION}")
    except BaseException:
        db.close()
        raise
    return db


class _Transaction:
    """BEGIN IMMEDIATE ... COMMIT, with ROLLBACK on any error; StoreError where it cannot be written (a full disk)."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            if kind is None:
                self._db.execute("COMMIT")
        except sqlite3.Error as failed:
            error = failed
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        if isinstance(error, sqlite3.OperationalError):
            raise StoreError(f"the run store cannot be written ({error}); the same command goes on here") from error


def _blob(values: npt.NDArray[np.float32] | None) -> bytes | None:
    return None if values is None else values.astype(np.float32).tobytes()
