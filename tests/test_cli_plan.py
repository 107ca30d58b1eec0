"""remid plan: from a finished run to the size of the next one."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent / "pipeline"))

from pipeline_tiny import reused, tiny_run

from remid import cli
from remid.lm.models import LoadedModel
from remid.pipeline.run import scored_subsets


@pytest.fixture
def pilot(tmp_path_factory: pytest.TempPathFactory, shallow: LoadedModel, tmp_path: Path) -> Path:
    """A copy of the session's run on the tiny benchmark: four samples a subset."""
    with reused(shallow):
        return tiny_run(tmp_path_factory, shallow).copy(tmp_path / "pilot")


def remid(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: object) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["remid", *map(str, words)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli.main()
    said = capsys.readouterr()
    assert isinstance(stop.value.code, int)
    return stop.value.code, said.out, said.err


@pytest.mark.parametrize("wish", [("--se", 2), ("--half-width", 4), ("--detect", 5)])
def test_a_plan_names_sizes_and_costs(
    pilot: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, wish: tuple[str, float]
) -> None:
    code, out, err = remid(capsys, monkeypatch, "plan", pilot, *wish)
    assert (code, err) == (0, "")
    for word in ("R-EMID", "pilot n", "tokens", "samples per side", "--negatives", "user", "character"):
        assert word in out, out


def test_a_plan_for_remi_covers_id_as_well(
    pilot: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = remid(capsys, monkeypatch, "plan", pilot, "--remi", "--se", 1, "--policy", "parrot")
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines() if line.strip().startswith("parrot")] == [
        ["parrot", "id"],
        ["parrot", "character"],
        ["parrot", "user"],
    ]


def test_a_policy_that_cannot_be_planned_for_holds_up_nobody_else(
    pilot: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = scored_subsets(pilot)
    for subset in made:
        empty = np.full_like(subset.scores["one"].positive_B, np.nan)
        subset.scores["mute"] = replace(subset.scores["one"], positive_B=empty)
    monkeypatch.setattr("remid.pipeline.run.scored_subsets", lambda folder: made)
    code, out, err = remid(capsys, monkeypatch, "plan", pilot, "--se", 2)
    assert code == 0
    assert "one" in out
    assert "mute" not in out
    assert "left out: mute in subset" in err
    code, _, err = remid(capsys, monkeypatch, "plan", pilot, "--se", 2, "--policy", "mute")
    assert code == 2
    assert "mute" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "exactly one of"),
        (("--se", 1, "--detect", 2), "exactly one of"),
        (("--se", 0), "positive"),
        (("--se", "nan"), "positive"),
        (("--se", 1, "--policy", "nobody"), "no policy nobody"),
    ],
)
def test_senseless_wishes_are_one_message(
    pilot: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[object, ...],
    said: str,
) -> None:
    code, _, err = remid(capsys, monkeypatch, "plan", pilot, *words)
    assert code == 2
    assert err.startswith("remid: ")
    assert said in err


def test_a_folder_without_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = remid(capsys, monkeypatch, "plan", tmp_path, "--se", 1)
    assert code == 2
    assert "holds no finished run" in err
