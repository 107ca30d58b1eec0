"""The run store: what is in it stays in it, a transaction is all or nothing, and nobody else's file is touched."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from remid.errors import StoreError
from remid.pipeline.store import PromptRow, ScoreRow, Store, content_key

PROMPT = PromptRow(12, 2, None)
LOGP = np.array([-1.5, -0.25], dtype=np.float32)
ROW = ScoreRow(2, -1.75, LOGP, None)
LOST = ScoreRow(3, None, None, "3 tokens do not fit")
VECTOR = np.arange(4, dtype=np.float32)


def fill(store: Store) -> None:
    store.add_scores("q", {"p1": PROMPT}, [("p1", "a", ROW), ("p1", "b", LOST)])
    store.add_generations("g", [("p1", "naïve text\n", True), ("p2", "", False)])
    store.add_embeddings("e", [("t", VECTOR)])


def check(store: Store) -> None:
    assert store.prompts("q") == {"p1": PROMPT}
    assert store.scored("q") == {("p1", "a"): (2, -1.75, None), ("p1", "b"): (3, None, "3 tokens do not fit")}
    found = store.token_logps("q", "p1", "a")
    assert found is not None
    assert found.tobytes() == LOGP.tobytes()
    assert store.token_logps("q", "p1", "b") is None
    assert store.token_logps("q", "p1", "unknown") is None
    assert store.generations("g") == {"p1": ("naïve text\n", True), "p2": ("", False)}
    assert store.embeddings("e")["t"].tobytes() == VECTOR.tobytes()


def test_rows_survive_reopening(tmp_path: Path) -> None:
    with Store(tmp_path / "deep" / "run") as store:
        fill(store)
    with Store(tmp_path / "deep" / "run") as store:
        check(store)


def test_rows_survive_a_kill_right_after_they_were_added(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; sys.path.insert(0, sys.argv[2]); import test_store as t\n"
        "store = t.Store(Path(sys.argv[1])); t.fill(store); os.kill(os.getpid(), signal.SIGKILL)"
    )
    command = [sys.executable, "-c", script, str(tmp_path), str(Path(__file__).parent)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    with Store(tmp_path) as store:
        check(store)


def test_scorers_generators_and_embedders_do_not_see_each_others_rows(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        fill(store)
        assert (store.prompts("r"), store.scored("r"), store.generations("h"), store.embeddings("f")) == (
            {},
            {},
            {},
            {},
        )


def test_a_row_that_is_there_is_never_replaced(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        fill(store)
        other = np.zeros(2, dtype=np.float32)
        store.add_scores("q", {"p1": PromptRow(99, 0, "late")}, [("p1", "a", ScoreRow(2, 0.0, other, None))])
        store.add_generations("g", [("p1", "other", False)])
        store.add_embeddings("e", [("t", VECTOR + 1)])
        check(store)


def test_a_failure_that_may_pass_is_told_but_not_kept(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        fill(store)
        store.note_failures("q", [("p1", "c", 7, "out of memory"), ("p1", "a", 2, "out of memory")])
        assert store.scored("q")["p1", "c"] == (7, None, "out of memory")
        assert store.scored("q")["p1", "a"] == (2, -1.75, None)  # what was scored stays scored
    with Store(tmp_path) as store:
        check(store)


def test_an_interrupted_transaction_leaves_nothing_of_itself(tmp_path: Path) -> None:
    def interrupted() -> Iterator[tuple[str, str, bool]]:
        yield "p3", "first", True
        raise KeyboardInterrupt

    with Store(tmp_path) as store:
        fill(store)
        bad = ScoreRow(2, -1.0, LOGP, None)
        with pytest.raises(sqlite3.ProgrammingError):
            store.add_scores("q", {"p9": PROMPT}, [("p9", "a", bad), ("p9", object(), bad)])  # type: ignore[list-item]
        with pytest.raises(KeyboardInterrupt):
            store.add_generations("g", interrupted())
        check(store)
        store.add_generations("g2", [("p", "it goes on", True)])
        assert store.generations("g2") == {"p": ("it goes on", True)}
    with Store(tmp_path) as store:
        check(store)


def test_a_full_disk_is_told_as_a_store_error_and_loses_nothing(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        fill(store)
        pages = store._db.execute("PRAGMA page_count").fetchone()[0]
        store._db.execute(f"PRAGMA max_page_count={pages}")
        with pytest.raises(StoreError, match="cannot be written"):
            store.add_embeddings("e", [(str(number), np.zeros(4096, np.float32)) for number in range(50)])
        check(store)


def test_a_second_process_is_refused_and_may_work_once_the_first_is_done(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from remid.errors import StoreError\n"
        "from remid.pipeline.store import Store\n"
        "try:\n    Store(Path(sys.argv[1]))\nexcept StoreError as error:\n    print(error)"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with Store(tmp_path) as store:
        fill(store)
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        assert "another remid process" in said
        assert str(tmp_path) in said
        check(store)
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == ""


@pytest.mark.parametrize("content", [b"notes\n" * 200, b"\0" * 4096, b"SQLite format 3\0" + b"\xff" * 4080])
def test_a_foreign_file_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "store.sqlite"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"store\.sqlite"):
        Store(tmp_path)
    assert path.read_bytes() == content


def test_another_programs_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE bookmarks (url TEXT)")
    db.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="another program"):
        Store(tmp_path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("version", [3, 7, -1])
def test_a_store_of_another_schema_is_refused_and_left_as_it_is(tmp_path: Path, version: int) -> None:
    with Store(tmp_path) as store:
        fill(store)
    path = tmp_path / "store.sqlite"
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version={version}")
    db.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match=f"schema {version}"):
        Store(tmp_path)
    assert path.read_bytes() == before


def test_a_refusal_gives_the_folder_free(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    path.write_text("notes")
    with pytest.raises(StoreError) as caught:
        Store(tmp_path)
    path.unlink()
    with Store(tmp_path) as store:  # while the error, and with it the first store, is still alive
        fill(store)
    assert caught.value


def test_a_store_killed_while_it_was_made_is_finished(tmp_path: Path) -> None:
    with Store(tmp_path):
        pass
    with sqlite3.connect(tmp_path / "store.sqlite") as db:
        db.execute("DROP TABLE embeddings")
        db.execute("PRAGMA user_version=0")
    db.close()
    with Store(tmp_path) as store:
        fill(store)
        check(store)


def test_a_file_where_the_folder_should_be_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(StoreError, match="run"):
        Store(tmp_path / "run")


def test_content_keys_tell_contents_apart_and_do_not_depend_on_key_order() -> None:
    contents = ["", "a", ["a"], [["a"]], ["a", "b"], ["ab"], {"a": "b"}, None, 1, "1", "e\u0301", "\u00e9"]
    assert len({content_key(content) for content in contents}) == len(contents)
    assert content_key({"a": 1, "b": 2}) == content_key({"b": 2, "a": 1})
    assert all(len(content_key(content)) == 32 for content in contents)
