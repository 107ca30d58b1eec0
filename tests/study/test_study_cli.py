"""remid study on the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from pipeline_tiny import Tiny, write

from remid import cli


def call(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["remid", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert isinstance(stop.value.code, int)
    return stop.value.code


def test_sample_size_leaves_a_result_and_a_page(
    tiny: Tiny, tmp_path: Path, models: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tiny.copy(tmp_path / "run"), tmp_path / "out"
    words = ("study", "sample-size", folder, "--out", out, "--draws", "2", "--permutations", "20", "--quiet")
    assert call(monkeypatch, *words) == 0
    result = json.loads((out / "result.json").read_text("utf-8"))
    assert result["run"]["settings"]["draws"] == 2
    assert [row["n"] for row in result["worlds"]][-1] is None
    assert "How closely the bound follows" in (out / "study.html").read_text("utf-8")
    said = capsys.readouterr().out
    assert "4 (all)" in said
    assert str(out / "study.html") in said


def test_sample_size_without_a_run_is_about_exact_worlds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "study", "sample-size", "--out", tmp_path, "--quiet") == 0
    assert json.loads((tmp_path / "result.json").read_text("utf-8"))["run"] is None
    assert "Where the truth is known" in capsys.readouterr().out


def test_traces_of_data_without_any_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "plain.json")
    for more, why in (
        ((), "holds none"),
        (("--settings", "length-3"), "length-3"),
        (("--traces", "none"), "needs traces"),
    ):
        assert call(monkeypatch, "study", "traces", data, "--out", tmp_path / "out", "--quiet", *more) == 2
        said = capsys.readouterr().err
        assert said.startswith("remid: ")
        assert why in said
    assert call(monkeypatch, "study", "sample-size", tmp_path, "--out", tmp_path / "out") == 2
    assert "holds no finished run" in capsys.readouterr().err
