"""A damaged store: what is not as it was written is never used, what is whole is never lost."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pipeline_tiny import stored

from remid.errors import StoreError
from remid.pipeline import rescue as rescue_module
from remid.pipeline.rescue import KEYS, row_crc
from remid.pipeline.store import PromptRow, ScoreRow, Store, content_key

LOGP = -np.arange(1, 9, dtype=np.float32) / 7
TEXT = "## Core Features\nContent: ÄÖÜ.\nStyle: plain."


def fill_store(folder: Path, rows: int = 3) -> None:
    """Rows of every table; keys are hashes, as in earnest."""
    with Store(folder) as store:
        for number in range(rows):
            key = content_key(number)
            score = ScoreRow(8, float(LOGP.astype(np.float64).sum()), LOGP, None)
            lost = ScoreRow(9, None, None, "9 tokens do not fit")
            zero = ScoreRow(1, -0.0, np.zeros(1, np.float32), None)
            store.add_scores(
                "q", {key: PromptRow(12, 2, None)}, [(key, "a", score), (key, "b", lost), (key, "c", zero)]
            )
            store.add_generations("g", [(key, TEXT, True), (content_key([number]), "", False)])
            store.add_embeddings("e", [(key, np.arange(512, dtype=np.float32))])


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("scores", "logp", -5.142857),
        ("scores", "n_tokens", 7),
        ("scores", "token_logp", LOGP[:7].tobytes()),
        ("scores", "token_logp", None),
        ("scores", "missing", "9 tokens do not sit"),
        ("prompts", "n_tokens", 13),
        ("prompts", "missing", "x"),
        ("generations", "text", TEXT.replace("plain", "plein")),
        ("generations", "finished", 2),
        ("embeddings", "vector", np.arange(1, 513, dtype=np.float32).tobytes()),
        ("scores", "crc", 1),
    ],
)
def test_a_row_that_is_not_what_was_written_is_left_behind_and_told(
    tmp_path: Path, table: str, column: str, value: Any
) -> None:
    fill_store(tmp_path)
    before = {name: stored(tmp_path, name) for name in KEYS}
    first = min(before[table])
    db = sqlite3.connect(tmp_path / "store.sqlite")
    (names,) = [[row[1] for row in db.execute(f"PRAGMA table_info({table})")]]
    where = " AND ".join(f"{name}=?" for name in names[: KEYS[table]])
    with db:
        db.execute(f"UPDATE {table} SET {column}=? WHERE {where}", (value, *first))
    db.close()
    with pytest.raises(StoreError) as caught:
        Store(tmp_path)
    assert f"1 rows of {table}" in str(caught.value)
    assert "the same command computes what is missing" in str(caught.value)
    del before[table][first]
    with Store(tmp_path):
        pass
    assert {name: stored(tmp_path, name) for name in KEYS} == before
    assert (tmp_path / "store.sqlite.damaged").exists()


@pytest.mark.parametrize("seed", range(12))
def test_flipped_bytes_anywhere_are_found_or_change_nothing(tmp_path: Path, seed: int) -> None:
    """Whatever is hit, no row that a store hands out differs from what was written."""
    fill_store(tmp_path, rows=40)
    before = {name: stored(tmp_path, name) for name in KEYS}
    path = tmp_path / "store.sqlite"
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    for place in rng.integers(4096, len(content), size=1 + seed % 4):  # the first page has a test of its own
        content[place] ^= 1 << int(rng.integers(8))
    path.write_bytes(bytes(content))
    for _ in range(2):
        try:
            with Store(tmp_path):
                break
        except StoreError:
            continue
    else:
        pytest.fail("a store that was mended is refused again")
    for name, rows in before.items():
        now = stored(tmp_path, name)
        assert now.items() <= rows.items()
        assert len(now) > 0


def test_a_page_that_is_gone_costs_its_own_rows_only(tmp_path: Path) -> None:
    fill_store(tmp_path, rows=200)
    before = stored(tmp_path, "embeddings")
    path = tmp_path / "store.sqlite"
    content = path.read_bytes()
    pages = len(content) // 4096
    path.write_bytes(content[: 4096 * (pages // 2)] + b"\xa5" * 4096 + content[4096 * (pages // 2 + 1) :])
    with pytest.raises(StoreError, match="was damaged"):
        Store(tmp_path)
    with Store(tmp_path):
        pass
    now = stored(tmp_path, "embeddings")
    assert len(before) // 2 < len(now)
    assert now.items() <= before.items()


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_a_file_cut_short_is_told_and_never_taken_for_whole(tmp_path: Path, share: float) -> None:
    fill_store(tmp_path, rows=200)
    path = tmp_path / "store.sqlite"
    before = {name: stored(tmp_path, name) for name in KEYS}
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(StoreError, match=r"damaged|not a run store"):
        Store(tmp_path)
    for name, rows in before.items() if (tmp_path / "store.sqlite.damaged").exists() else ():
        assert stored(tmp_path, name).items() <= rows.items()


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
import test_rescue
from remid.pipeline.store import Store
first = Store(Path(sys.argv[1]))
Store.__init__ = lambda self, folder: self.__dict__.update(first.__dict__)
Store.__exit__ = lambda *rest: None
test_rescue.fill_store(Path(sys.argv[1]))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_journal_that_was_deleted_costs_its_rows_and_the_next_process_goes_on(tmp_path: Path) -> None:
    """Also: the lock of a process dies with it."""
    here = Path(__file__).parent
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(here)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    journal = tmp_path / "store.sqlite-wal"
    assert journal.stat().st_size > 0
    journal.unlink()
    fill_store(tmp_path)
    assert len(stored(tmp_path, "scores")) == 9


def test_a_kill_between_the_two_renames_of_a_rescue_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_store(tmp_path)
    before = stored(tmp_path, "generations")
    path = tmp_path / "store.sqlite"
    path.write_bytes(path.read_bytes().replace(b"9 tokens do not fit", b"8 tokens do not fit", 1))

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(rescue_module, "finish_rescue", killed)
        with pytest.raises(KeyboardInterrupt):
            Store(tmp_path)
    assert not path.exists()
    with Store(tmp_path):
        pass
    assert stored(tmp_path, "generations") == before
    assert len(stored(tmp_path, "scores")) == 8


def test_a_store_of_the_first_schema_is_taken_over_and_its_scores_are_checked(tmp_path: Path) -> None:
    def older(folder: Path) -> None:
        fill_store(folder)
        db = sqlite3.connect(folder / "store.sqlite")
        for table in KEYS:
            db.execute(f"ALTER TABLE {table} DROP COLUMN crc")
        db.execute("PRAGMA user_version=1")
        db.commit()
        db.close()

    older(tmp_path)
    with Store(tmp_path) as store:
        assert len(store.scored("q")) == 9
    fill_store(tmp_path, rows=4)
    with Store(tmp_path) as store:
        assert len(store.scored("q")) == 12
    older(tmp_path / "bad")
    db = sqlite3.connect(tmp_path / "bad" / "store.sqlite")
    db.execute("UPDATE scores SET logp = logp - 1 WHERE response='a'")
    db.commit()
    db.close()
    with pytest.raises(StoreError, match="3 rows of scores"):
        Store(tmp_path / "bad")


def test_a_checksum_sees_every_value_and_its_place() -> None:
    rows = [
        ("a", "b"),
        ("ab", ""),
        ("", "ab"),
        ("a", b"b"),
        ("a", None),
        ("a", "None"),
        ("a", 1),
        ("a", 1.5),
        ("b", "a"),
    ]
    assert len({row_crc(row) for row in rows}) == len(rows)
    assert row_crc(("a", True)) == row_crc(("a", 1))
    assert row_crc((-0.0,)) == row_crc((0.0,))
