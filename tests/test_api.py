"""The Python door: evaluate, load and report, and that nothing else is public."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent / "pipeline"))

from pipeline_tiny import SETTINGS, Tiny, reuse, tiny_run

import remid
from remid.errors import ConfigError, DataError, RemidError
from remid.lm.models import LoadedModel
from remid.pipeline.config import RunConfig, make_config


@pytest.fixture
def tiny(tmp_path_factory: pytest.TempPathFactory, shallow: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    """The session's run on the tiny benchmark; within the test, models are loaded already."""
    reuse(shallow, monkeypatch)
    return tiny_run(tmp_path_factory, shallow)


def test_the_same_call_gives_the_same_run(tiny: Tiny, tmp_path: Path) -> None:
    folder = tiny.copy(tmp_path / "run")
    assert remid.evaluate(str(tiny.data), out=str(folder), progress=False, **SETTINGS).result == tiny.run.result


@pytest.mark.parametrize("form", [str, Path, lambda path: [str(path)], lambda path: (path,)])
def test_data_may_be_a_path_or_several_in_any_form(
    tiny: Tiny, tmp_path: Path, form: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[RunConfig] = []
    run = replace(tiny.run, folder=tiny.copy(tmp_path / "run"))
    monkeypatch.setattr("remid.pipeline.run.execute", lambda config, *_: asked.append(config) or run)
    assert remid.evaluate(form(tiny.data), out=tmp_path / "run", progress=False, **SETTINGS) == run
    assert asked == [make_config(data=(tiny.data,), **SETTINGS)]


def test_a_run_is_loaded_as_it_was_made(tiny: Tiny) -> None:
    assert remid.load(tiny.folder) == remid.load(str(tiny.folder)) == tiny.run


@pytest.mark.parametrize(
    ("table", "where", "word"),
    [
        ("remids", {}, "no table remids"),
        ("remid", {"subst": None}, "no column subst"),
        ("remi", {"polcy": "x"}, "polcy"),
    ],
)
def test_a_misspelt_table_or_column_is_told(tiny: Tiny, table: str, where: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        tiny.run.rows(table, **where)


def test_a_report_needs_nothing_but_the_runs_own_files(tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for name in ("result.json", "details.json"):
        shutil.copy(tiny.folder / name, folder)
    page = remid.write_report(remid.load(folder))
    assert page == folder / "report.html"
    assert page.read_bytes() == (tiny.folder / "report.html").read_bytes()
    tables = sorted(path.name for path in (folder / "tables").iterdir())
    assert tables == sorted(path.name for path in (tiny.folder / "tables").iterdir())


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"colour": "red"}, "colour"),
        ({"confidence": 1.0}, "confidence"),
        ({"limit": 0}, "limit"),
        ({"traces": "some"}, "traces"),
        ({"permutations": 3, "negatives": 0}, "permutations"),
    ],
)
def test_wrong_settings_are_named(tiny: Tiny, tmp_path: Path, settings: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        remid.evaluate(tiny.data, out=tmp_path / "new", progress=False, **settings)
    assert not (tmp_path / "new").exists()


def test_no_data_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="data"):
        remid.evaluate([], out=tmp_path / "new")


def test_what_is_not_there_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent"):
        remid.evaluate(tmp_path / "absent.json", out=tmp_path / "new", progress=False)
    with pytest.raises(DataError, match="no finished run"):
        remid.load(tmp_path)


def test_all_that_is_public_is_there_and_every_error_has_one_base() -> None:
    assert all(hasattr(remid, name) for name in remid.__all__)
    errors = [getattr(remid, name) for name in remid.__all__ if name.endswith("Error")]
    assert len(errors) == 6
    assert all(issubclass(error, RemidError) for error in errors)
