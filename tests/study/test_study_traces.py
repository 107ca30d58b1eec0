"""The trace study on the tiny benchmark, with the first layers of the embedded model."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pipeline_fakes import world
from pipeline_tiny import POLICY, SETTINGS, Tiny, Told, benchmark, reused, stored, trace, write

import remid
from remid.errors import ConfigError
from remid.estimate import contrast, remi
from remid.lm.models import LoadedModel
from remid.pipeline.config import make_config
from remid.pipeline.progress import Progress
from remid.study.traces import _held_rows, _rows, difference, traces_study

CHOSEN = ("length-0", "same-subset")
SILENT = Progress(enabled=False)


def traced(path: Path) -> Path:
    """The tiny benchmark with a trace for every sample."""
    content = benchmark()
    for row in (row for rows in content.values() for row in rows):
        row["SThought"] = trace(row["sample_ID"])
    return write(path, content)


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, shallow: LoadedModel
) -> tuple[Path, dict[str, Any], list[str]]:
    """(folder, result, what was said) of a study in a copy of the plain run's folder."""
    folder = tiny.copy(tmp_path_factory.mktemp("study") / "run")
    data = traced(folder.parent / "traced.json")
    told = Told()
    config = make_config(data=(data,), traces="data", **SETTINGS)
    with reused(shallow):
        return folder, traces_study(config, folder, told, settings=CHOSEN), told.lines


def value(rows: list[dict[str, Any]], **where: Any) -> dict[str, Any]:
    (row,) = [row for row in rows if all(row[key] == wanted for key, wanted in where.items())]
    return row


def test_each_setting_is_the_run_with_that_trace(
    made: tuple[Path, dict[str, Any], list[str]], tiny: Tiny, models: None
) -> None:
    folder, result, _ = made
    whole = remid.evaluate(folder.parent / "traced.json", out=folder, progress=False, traces="data", **SETTINGS)
    for setting, run in (("full", whole), ("length-0", tiny.run)):
        for shift in ("character", "user"):
            (wanted,) = run.rows("remid", policy=POLICY, subset=None, shift=shift, unit="nats/response")
            row = value(result["remid"], setting=setting, policy=POLICY, shift=shift)
            for key in ("value", "ci_low", "ci_high"):
                assert row[key] == pytest.approx(wanted[key], abs=1e-9), (setting, shift, key)
        (wanted,) = run.rows("remi", policy=POLICY, subset=None, shift="id", unit="nats/response")
        assert value(result["remi"], setting=setting, policy=POLICY)["value"] == pytest.approx(
            wanted["value"], abs=1e-9
        )


def test_a_contrast_is_the_difference_of_the_two_settings(made: tuple[Path, dict[str, Any], list[str]]) -> None:
    _, result, _ = made
    seen = 0
    for row in (r for r in result["contrasts"] if r["quantity"] == "remid"):
        ours, full = (
            value(result["remid"], setting=s, policy=row["policy"], shift=row["shift"])
            for s in (row["setting"], "full")
        )
        assert row["value"] == pytest.approx(ours["value"] - full["value"], abs=1e-9)
        seen += 1
    assert seen == 2 * 4 * 2  # settings, policies but the reference, shifts
    assert {row["setting"] for row in result["contrasts"]} == set(CHOSEN)


def test_the_store_serves_all_settings_and_the_study_resumes(
    made: tuple[Path, dict[str, Any], list[str]], tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, result, said = made
    cost = {row["setting"]: row for row in result["cost"]}
    assert cost["length-0"]["pairs_to_score"] == 0  # the plain run has scored them
    assert cost["full"]["prompts_to_score"] == cost["same-subset"]["prompts_to_score"] == 12
    assert any("3 settings, 24 prompts" in line for line in said)
    assert len({key[1] for key in stored(folder)}) == 36

    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("remid.lm.models.load_model", refuse)
    config = make_config(data=(folder.parent / "traced.json",), traces="data", **SETTINGS)
    again = traces_study(config, folder, SILENT, settings=CHOSEN)
    assert {**again, "cost": None} == {**result, "cost": None}
    assert sum(row["pairs_to_score"] for row in again["cost"]) == 0


def test_the_result_holds_what_the_documentation_says(made: tuple[Path, dict[str, Any], list[str]]) -> None:
    _, result, _ = made
    json.dumps(result, allow_nan=False)
    assert [row["setting"] for row in result["settings"]] == ["full", "length-0", "same-subset"]
    assert value(result["settings"], setting="length-0")["kept"] == 0
    assert Counter(row["setting"] for row in result["held"]) == dict.fromkeys(["full", *CHOSEN], 3)
    assert all(row["change_value"] == 0 for row in result["held"] if row["setting"] == "full")
    for row in result["held"]:
        assert row["value"] < 0
        full = value(result["held"], setting="full", shift=row["shift"])
        assert row["change_value"] == pytest.approx(row["value"] - full["value"], abs=1e-9)
    assert {row["tau"] for row in result["ranks"] if row["setting"] == "full"} == {1.0}
    assert {row["tau_models"] for row in result["ranks"]} == {None}  # one model is no ranking


@pytest.mark.parametrize("lost", [None, {"one": [1, 4]}])
def test_a_contrast_of_scores_is_the_contrast_of_influences(lost: dict[str, list[int]] | None) -> None:
    a, b = world(0, lost), world(0, lost)
    rng = np.random.default_rng(5)
    for s in a:
        for scores in s.scores.values():
            scores.positive_B[:] += rng.normal(size=scores.positive_B.shape)
            scores.negative_Bm[:] += rng.normal(size=scores.negative_Bm.shape)
    for ours, full, apart in zip(a, b, difference(a, b), strict=True):
        wanted = contrast(
            remi(ours.scores["one"], ours.scores["reference"]), remi(full.scores["one"], full.scores["reference"])
        )
        found = remi(apart.scores["one"], apart.scores["reference"])
        assert found.value == pytest.approx(wanted.value, abs=1e-9)
        assert np.allclose(found.phi_B, wanted.phi_B, equal_nan=True)


def test_a_setting_that_changes_nothing_is_no_contrast() -> None:
    config = make_config(data=(Path("x"),))
    rows = _rows({"full": world(), "masked": world()}, config)
    assert {row["value"] for row in rows["contrasts"]} == {0.0}
    assert not any(row["significant"] for row in rows["contrasts"])
    assert {row["tau"] for row in rows["ranks"]} == {1.0}


def test_held_is_the_mean_of_per_token_means() -> None:
    subsets = world()
    rows = _held_rows({"full": subsets}, 0.95)
    mine = [s.scores["reference"] for s in subsets if s.shift == "user"]
    values = [p / t for s in mine for p, t in zip(s.positive_B, s.tokens_B, strict=True)]
    row = value(rows, shift="user")
    assert (row["n"], row["value"]) == (len(values), pytest.approx(np.mean(values)))
    assert row["ci_low"] < row["value"] < row["ci_high"]


def test_a_study_without_traces_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    for traces, why in (("none", "--traces data or"), ("data", "holds none")):
        with pytest.raises(ConfigError, match=why):
            traces_study(make_config(data=(tiny.data,), traces=traces), tmp_path / "out", SILENT)
