"""The taxonomy is data: built in, extended and overruled by a user's file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from malformed_values import record

from remid.data import read_benchmark, read_taxonomy
from remid.errors import DataError


def extended(tmp_path: Path, shifts: dict[str, Any]) -> Path:
    path = tmp_path / "taxonomy.json"
    path.write_text(json.dumps({"shifts": shifts}), "utf-8")
    return path


@pytest.mark.parametrize(
    ("split", "subset", "shift"),
    [
        ("IDTrain", "IDTrain", "train"),
        ("IDTrain", "german", "train"),  # training data is never measured, whatever its subset
        ("IDTest", "IDTest", "id"),
        ("OOD1Test", "german", "user"),
        ("OOD1Test", "klingon", "user"),
        ("OOD2Test", "Film & Television", "character"),
        ("OOD3Test", "TurnLevelComposition", "dialogue"),
        ("OOD1Test", "Gaming", "character"),
        ("mine", "WordLevelComposition", "dialogue"),
        ("mine", "mine", None),
    ],
)
def test_a_subset_wins_over_its_split(split: str, subset: str, shift: str | None) -> None:
    assert read_taxonomy().shift_of(split, subset) == shift


def test_a_users_file_adds_and_overrules(tmp_path: Path) -> None:
    path = extended(
        tmp_path, {"time": {"splits": ["Later"], "subsets": ["1990s", "german"]}, "id": {"subsets": ["en"]}}
    )
    taxonomy = read_taxonomy(path)
    assert taxonomy.shift_of("OOD1Test", "german") == "time"
    assert taxonomy.shift_of("OOD1Test", "spanish") == "user"
    assert taxonomy.shift_of("Later", "x") == "time"
    assert taxonomy.shift_of("x", "en") == "id"
    assert taxonomy.split_of("1990s") == "Later"
    assert taxonomy.split_of("spanish") == "OOD1Test"
    assert taxonomy.split_of("klingon") is None
    assert taxonomy.split_of("IDTest") == "IDTest"  # a subset of a split's name belongs there


def test_a_users_file_reaches_the_samples(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    path.write_text(json.dumps({"Later": [record(subset_tag="1990s")]}), "utf-8")
    with pytest.raises(DataError, match=r'subset "1990s" of split "Later".*--taxonomy'):
        read_benchmark([path])
    taxonomy = extended(tmp_path, {"time": {"subsets": ["1990s"]}})
    assert read_benchmark([path], taxonomy=taxonomy).samples[0].shift == "time"


@pytest.mark.parametrize(("tag", "shift"), [("IDTest", "id"), ("OOD2Test", "character"), ("IDTrain", "train")])
def test_a_flat_file_of_any_name_may_call_its_subsets_as_splits(tmp_path: Path, tag: str, shift: str) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps(record(subset_tag=tag)) + "\n", "utf-8")
    (sample,) = read_benchmark([path]).samples
    assert (sample.split, sample.shift) == (tag, shift)


def test_what_nothing_maps_is_reported_once(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    path.write_text(json.dumps({"Mine": [record(n, subset_tag=tag) for n, tag in enumerate("aab")]}), "utf-8")
    with pytest.raises(DataError) as caught:
        read_benchmark([path])
    assert [problem.record for problem in caught.value.problems] == ["Mine[0]", "Mine[2]"]


def test_one_name_under_two_shifts_becomes_two_subsets(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    splits = {"IDTest": [record(0, subset_tag="x")], "OOD1Test": [record(1, subset_tag="x")]}
    path.write_text(json.dumps({"IDTrain": [record(2, subset_tag="x")], **splits}), "utf-8")
    assert [sample.subset for sample in read_benchmark([path]).samples] == ["x", "x [id]", "x [user]"]
