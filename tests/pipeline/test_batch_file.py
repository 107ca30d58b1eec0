"""A file of answers: a batch is in it whole or not at all, and one process writes at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from remid.errors import StoreError
from remid.pipeline.batch_file import BatchFile


def lines_of(count: int, word: str = "a") -> bytes:
    return b"".join(b'{"policy": "%s", "sample_ID": "%d"}\n' % (word.encode(), k) for k in range(count))


@pytest.mark.parametrize("written", [0, 1, 17, 40, 200, 10_000])
def test_a_batch_cut_short_anywhere_is_whole_when_the_file_is_opened_again(tmp_path: Path, written: int) -> None:
    path = tmp_path / "r.jsonl"
    with BatchFile(path) as file:
        file.add(lines_of(3))
    second = lines_of(5, "b")
    # What a kill leaves: the batch beside the file, and as much of it in the file as was written.
    (tmp_path / ".r.jsonl.pending").write_bytes(b"%d\n" % len(lines_of(3)) + second)
    with path.open("ab") as stream:
        stream.write(second[:written])
    with BatchFile(path):
        pass
    assert path.read_bytes() == lines_of(3) + second
    assert [found.name for found in tmp_path.iterdir()] == ["r.jsonl"]


def test_a_batch_beside_a_file_that_has_changed_since_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    for content in (b"", lines_of(9, "other")):
        path.write_bytes(content)
        (tmp_path / ".r.jsonl.pending").write_bytes(b"%d\n" % len(lines_of(3)) + lines_of(5, "b"))
        with BatchFile(path):
            pass
        assert path.read_bytes() == content


def test_a_second_process_may_not_write_into_the_same_file(tmp_path: Path) -> None:
    with BatchFile(tmp_path / "r.jsonl") as file:
        file.add(lines_of(1))
        with pytest.raises(StoreError, match="another remid process"):
            BatchFile(tmp_path / "r.jsonl")
    with BatchFile(tmp_path / "r.jsonl") as file:
        file.add(lines_of(1))
    assert (tmp_path / "r.jsonl").read_bytes() == lines_of(1) * 2
