"""A whole run with a small model and the embedder: what it leaves behind, and what a second one costs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pipeline_tiny import POLICY, SETTINGS, UNANSWERED, Tiny, benchmark, records, stored, trace, write
from result_schema import Details, Result

import remid
from remid.errors import ConfigError, DataError
from remid.pipeline.measure import remi_rows
from remid.pipeline.policies import CONTROLS
from remid.pipeline.run import Run, load_run, scored_subsets, write_json

#: What a run writes for readers, byte for byte the same when nothing has changed.
FILES = ("result.json", "details.json", "report.html")


def again(tiny: Tiny, folder: Path, data: Path | None = None, **settings: Any) -> Run:
    return remid.evaluate(data or tiny.data, out=folder, progress=False, **{**SETTINGS, **settings})


@pytest.fixture
def no_model(models: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever loads the model or the embedder in this test fails."""

    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("a model was loaded")

    for name in ("lm.models.load_model", "lm.models.load_model", "lm.embed.Embedder"):
        monkeypatch.setattr(f"remid.{name}", refuse)


def check(run: Run) -> None:
    """The files are what docs/result.md says, and what the run returned."""
    text = (run.folder / "result.json").read_text("utf-8")
    Result.model_validate_json(text)
    Details.model_validate_json((run.folder / "details.json").read_text("utf-8"))
    assert "NaN" not in text
    assert json.loads(text) == run.result
    assert load_run(run.folder) == run


def test_a_run_leaves_what_the_documentation_says(tiny: Tiny) -> None:
    check(tiny.run)
    assert (tiny.folder / "tables" / "remid.csv").exists()
    assert (tiny.folder / "tables" / "remid.parquet").exists()
    assert not list(tiny.folder.glob("*.part"))


def test_what_a_run_counts_is_what_the_benchmark_holds(tiny: Tiny) -> None:
    result = tiny.run.result
    assert [(p["policy"], p["n_responses"], p["n_missing"]) for p in result["policies"]] == [
        *((name, 12, 0) for name in CONTROLS),
        (POLICY, 11, 1),
    ]
    subsets = [("IDTest", "id", "IDTest"), ("Gaming", "character", "OOD2Test"), ("german", "user", "OOD1Test")]
    assert [(s["subset"], s["shift"], s["split"], s["n"], s["n_unscorable"]) for s in result["subsets"]] == [
        (*names, 4, 0) for names in subsets
    ]
    assert [(m["what"], m["policy"], m["subset"], m["examples"]) for m in result["missing"]] == [
        ("response", POLICY, "Gaming", [UNANSWERED])
    ]
    assert {row["n"] for row in tiny.run.rows("remi", policy=POLICY, subset="Gaming")} == {3}
    assert result["scoring"]["n_prompts"] == 12
    assert result["traces"]["source"] == "none"


def test_remid_is_the_difference_of_the_runs_own_remi_rows(tiny: Tiny) -> None:
    rows = tiny.run.rows("remid", policy=POLICY)
    assert len(rows) == (2 + 2) * 3
    for row in rows:
        (on_id,) = tiny.run.rows("remi", policy=POLICY, unit=row["unit"], shift="id", subset=None)
        place = {"unit": row["unit"], "shift": row["shift"], "subset": row["subset"]}
        (on_shift,) = tiny.run.rows("remi", policy=POLICY, **place)
        assert row["value"] == on_id["value"] - on_shift["value"]


def test_details_agree_with_the_result(tiny: Tiny) -> None:
    details = tiny.run.details
    assert len(details) == 12
    for subset in ("IDTest", "Gaming", "german"):
        mine = [d for d in details if d["subset"] == subset]
        for policy in (*CONTROLS, POLICY):
            items = [r for d in mine for r in d["responses"] if r["policy"] == policy]
            found = [r["contribution"] for r in items if r["contribution"] is not None]
            (row,) = tiny.run.rows("remi", policy=policy, subset=subset, unit="nats/response")
            assert np.mean(found) == pytest.approx(row["value"], abs=1e-9)
            assert len(found) == row["n"]
            for r in items:
                assert (r["text"] is None) == (r["missing"] is not None) == (r["logp"] is None)
                if r["logp"] is not None:
                    assert r["density"] == pytest.approx(r["logp"] - r["negative_mean"])
                    assert len(r["pairs"]) == 2
                    assert sum(p["logp"] for p in r["pairs"]) / 2 == pytest.approx(r["negative_mean"])


def test_the_same_call_again_does_no_work_and_leaves_the_same_bytes(tiny: Tiny, tmp_path: Path, no_model: None) -> None:
    folder = tiny.copy(tmp_path / "run")
    for name in FILES:
        (folder / name).unlink()
    again(tiny, folder)
    for name in FILES:
        assert (folder / name).read_bytes() == (tiny.folder / name).read_bytes(), name
    assert stored(folder) == stored(tiny.folder)


def test_another_policy_costs_only_its_own_responses(tiny: Tiny, tmp_path: Path, models: None) -> None:
    folder, answers = tiny.copy(tmp_path / "run"), tmp_path / "two.jsonl"
    said = {row["sample_ID"]: f"Hm, {row['sample_ID']}." for row in records("OOD1Test")}
    said |= {row["sample_ID"]: row["agent_golden_response"] for row in records("IDTest")}
    lines = [json.dumps({"policy": "two", "sample_ID": key, "response": text}) for key, text in said.items()]
    answers.write_text("\n".join(lines), "utf-8")
    run = again(tiny, folder, responses=(answers,))
    check(run)
    before, after = stored(tiny.folder), stored(folder)
    assert before.items() <= after.items()
    assert len(after) - len(before) == 4 * 3  # on IDTest it says what the reference says
    assert len(after) == run.result["scoring"]["n_continuations"]
    assert run.rows("remi", policy=POLICY) == tiny.run.rows("remi", policy=POLICY)
    assert {row["value"] for row in run.rows("remi", policy="two", subset="IDTest")} == {0.0}
    assert {row["value"] for row in run.rows("remi", policy="two", subset="Gaming")} == {None}
    assert {(row["policy"], row["versus"]) for row in run.result["contrasts"]} == {(POLICY, "two")}


def test_another_seed_draws_other_negatives_and_reuses_the_positives(tiny: Tiny, tmp_path: Path, models: None) -> None:
    folder = tiny.copy(tmp_path / "run")
    run = again(tiny, folder, seed=1, policies=())
    before, after = stored(tiny.folder), stored(folder)
    assert before.items() <= after.items()
    added = len(after) - len(before)
    assert 0 < added < run.result["scoring"]["n_continuations"] / 2

    def positives(r: Run) -> list[Any]:
        return [(d["sample_id"], d["responses"][0]["logp"]) for d in r.details]

    def pairs(r: Run) -> set[tuple[str, str]]:
        return {(d["sample_id"], p["sample_id"]) for d in r.details for p in d["responses"][0]["pairs"]}

    assert positives(run) == positives(tiny.run)
    assert pairs(run) != pairs(tiny.run)


#: Room for 120 prompt tokens: for both samples but the one with the long dialogue.
NARROW: dict[str, Any] = {"max_tokens": 160, "limit": 2, "policies": ()}


def narrow_run(tiny: Tiny, tmp_path: Path, **settings: Any) -> Run:
    """A run on the first two ID samples with little room for prompts. What was embedded before is in the store."""
    data = write(tmp_path / "narrow.json", {"IDTest": records("IDTest")})
    return again(tiny, tiny.copy(tmp_path / "run"), data, **NARROW, **settings)


def test_a_prompt_that_does_not_fit_is_missing_counted_and_never_a_number(
    tiny: Tiny, tmp_path: Path, models: None
) -> None:
    run = narrow_run(tiny, tmp_path)
    check(run)
    rows = [m for m in run.result["missing"] if m["what"] == "prompt"]
    assert [(m["subset"], m["n"], m["examples"]) for m in rows] == [("IDTest", 1, ["i0"])]
    assert rows[0]["reason"].startswith("prompt of 146 tokens, room for 120")
    long = next(d for d in run.details if d["sample_id"] == "i0")
    assert (long["prompt_tokens"], long["dropped_turns"]) == (146, 0)
    assert {(r["logp"], r["contribution"], r["missing"]) for r in long["responses"]} == {
        (None, None, rows[0]["reason"])
    }
    (on_id,) = (s for s in run.result["subsets"] if s["subset"] == "IDTest")
    assert (on_id["n"], on_id["n_unscorable"]) == (2, 1)
    assert "unscored" in {w["code"] for w in run.result["warnings"]}
    assert run.result["scoring"]["n_dropped_turns"] == 0


def test_dropping_the_oldest_turns_is_recorded_and_loses_no_sample(tiny: Tiny, tmp_path: Path, models: None) -> None:
    run = narrow_run(tiny, tmp_path, overflow="drop-oldest")
    check(run)
    assert not [m for m in run.result["missing"] if m["what"] in ("prompt", "pair")]
    long = next(d for d in run.details if d["sample_id"] == "i0")
    assert long["dropped_turns"] in (2, 4)
    assert long["prompt_tokens"] <= 120
    assert run.result["scoring"]["n_dropped_turns"] == long["dropped_turns"]
    assert "dropped-turns" in {w["code"] for w in run.result["warnings"]}
    assert len(long["dialogue"]) == 7  # shown as it is, not as it was cut
    assert all(r["logp"] is not None for r in long["responses"])


def test_given_traces_stand_in_the_prompt_and_a_broken_one_costs_its_sample(
    tiny: Tiny, tmp_path: Path, models: None
) -> None:
    content = {split: records(split)[:2] for split in ("IDTest", "OOD2Test")}
    for rows in content.values():
        for row in rows:
            row["SThought"] = trace(row["sample_ID"]) if row["sample_ID"] != "c1" else "Be nice."
    run = again(tiny, tiny.copy(tmp_path / "run"), write(tmp_path / "traced.json", content), policies=())
    check(run)
    assert run.result["traces"] == {
        **{"source": "data", "format": None, "n": 4, "n_parsed": 3, "n_failed": 1, "failure_rate": 0.25},
        **{"draws": 1, "n_without": 1},
        "failures": {"no heading of either format": 1},
    }
    assert [(m["what"], m["subset"], m["examples"]) for m in run.result["missing"] if m["what"] == "trace"] == [
        ("trace", "Gaming", ["c1"])
    ]
    codes = {w["code"] for w in run.result["warnings"]}
    assert "traces-failed" in codes
    assert "no-traces" not in codes
    by_id = {d["sample_id"]: d for d in run.details}
    plain = {d["sample_id"]: d for d in tiny.run.details}
    assert by_id["i0"]["trace"] == "Content: It answers i0.\nStyle: It is short."
    assert by_id["i0"]["prompt_tokens"] > plain["i0"]["prompt_tokens"]
    assert by_id["i0"]["responses"][0]["logp"] != plain["i0"]["responses"][0]["logp"]
    assert (by_id["c1"]["trace"], by_id["c1"]["prompt_tokens"]) == (None, None)
    assert all(r["logp"] is None for r in by_id["c1"]["responses"])


@pytest.mark.parametrize("splits", [["OOD1Test"], ["IDTest"], ["OOD1Test", "OOD2Test"]])
def test_a_benchmark_with_id_or_shifts_alone_is_measured_as_far_as_it_goes(
    tiny: Tiny, tmp_path: Path, no_model: None, splits: list[str]
) -> None:
    data = write(tmp_path / "part.json", {split: records(split) for split in splits})
    run = again(tiny, tiny.copy(tmp_path / "run"), data)
    check(run)
    assert (run.result["remid"], run.result["divergence"], run.result["bound"]) == ([], [], [])
    assert run.result["worst_case"] == []
    assert len(run.rows("remi", policy=POLICY)) == 2 * len(splits) * 3
    assert ("no-id" in {w["code"] for w in run.result["warnings"]}) == ("IDTest" not in splits)


def test_a_policy_that_never_answered_under_a_shift_is_null_there(tiny: Tiny, tmp_path: Path, no_model: None) -> None:
    content = benchmark()
    for row in content["OOD1Test"]:
        row["model_response"] = {}
    run = again(tiny, tiny.copy(tmp_path / "run"), write(tmp_path / "mute.json", content))
    check(run)
    assert {row["value"] for row in run.rows("remid", policy=POLICY, shift="user")} == {None}
    (bound,) = run.rows("bound", policy=POLICY, subset="german")
    assert (bound["value"], bound["remid"]) == (None, None)
    (kept,) = run.rows("bound", policy=POLICY, subset="Gaming")
    assert kept == tiny.run.rows("bound", policy=POLICY, subset="Gaming")[0]


def test_a_policy_that_never_says_anything_is_listed_as_missing(tiny: Tiny, tmp_path: Path, no_model: None) -> None:
    content = benchmark()
    n = sum(map(len, content.values()))
    for row in (row for rows in content.values() for row in rows):
        row["model_response"] = {**row["model_response"], "mute": " "}
    run = again(tiny, tiny.copy(tmp_path / "run"), write(tmp_path / "mute.json", content))
    check(run)
    (row,) = (row for row in run.result["policies"] if row["policy"] == "mute")
    assert (row["n_responses"], row["n_missing"]) == (0, n)
    for table in ("remi", "remid", "gap"):
        assert {row["value"] for row in run.rows(table, policy="mute")} == {None}
    assert sum(row["n"] for row in run.result["missing"] if row["policy"] == "mute") == n


def test_a_subset_of_one_sample_is_named_and_breaks_nothing(tiny: Tiny, tmp_path: Path, no_model: None) -> None:
    content = {**benchmark(), "OOD2Test": records("OOD2Test")[:1]}
    run = again(tiny, tiny.copy(tmp_path / "run"), write(tmp_path / "lone.json", content))
    check(run)
    assert {row["value"] for row in run.rows("remi", subset="Gaming", policy=POLICY)} == {None}
    assert ("subset", "Gaming") in {(m["what"], m["subset"]) for m in run.result["missing"]}


def test_samples_of_one_cluster_are_no_negatives_of_each_other(tiny: Tiny, tmp_path: Path, models: None) -> None:
    run = again(tiny, tiny.copy(tmp_path / "run"), cluster_by="town")
    check(run)
    for subset in scored_subsets(run.folder):
        assert subset.clusters is not None
        town_B = np.array(subset.clusters)
        negatives_Bm = subset.scores[POLICY].design.negatives_Bm
        assert negatives_Bm.shape == (4, 2)
        assert not np.any(town_B[negatives_Bm] == town_B[:, None])
    assert {row["n"] for row in run.rows("remi", policy="generic", subset="IDTest")} == {4}


def test_a_field_to_cluster_by_that_is_absent_is_told_before_any_work(
    tiny: Tiny, tmp_path: Path, no_model: None
) -> None:
    with pytest.raises(DataError, match=r"IDTest\[0\]: planet: is missing; --cluster-by needs it"):
        again(tiny, tmp_path / "new", cluster_by="planet")
    assert stored(tmp_path / "new") == {}


def test_an_unknown_policy_is_told_before_any_work(tiny: Tiny, tmp_path: Path, no_model: None) -> None:
    with pytest.raises(ConfigError, match="nobody"):
        again(tiny, tmp_path / "new", policies=("nobody",))
    assert stored(tmp_path / "new") == {}


def test_training_data_alone_is_a_config_error(tiny: Tiny, tmp_path: Path, no_model: None) -> None:
    data = write(tmp_path / "train.json", {"IDTrain": records("IDTest", subset_tag=None)})
    with pytest.raises(ConfigError, match="no test samples"):
        again(tiny, tmp_path / "new", data)


@pytest.mark.parametrize("damage", ["", "{", '{"schema_version": 2}', "[]", "null"])
def test_a_folder_without_a_finished_run_is_a_data_error(tiny: Tiny, tmp_path: Path, damage: str) -> None:
    with pytest.raises(DataError):
        load_run(tmp_path / "nowhere")
    folder = tiny.copy(tmp_path / "run")
    (folder / "result.json").write_text(damage, "utf-8")
    with pytest.raises(DataError, match="run"):
        load_run(folder)


def test_the_scored_pairs_of_a_finished_run_can_be_had_again(tiny: Tiny, tmp_path: Path, no_model: None) -> None:
    folder = tiny.copy(tmp_path / "run")
    subsets = scored_subsets(folder)
    assert remi_rows(subsets, 0.95) == tiny.run.result["remi"]
    shown = {d["sample_id"]: d["responses"][0]["logp"] for d in tiny.run.details}
    found = {s.sample_id: v for g in subsets for s, v in zip(g.samples, g.scores["reference"].positive_B, strict=True)}
    assert found == shown
    result = json.loads((folder / "result.json").read_text("utf-8"))
    result["manifest"]["config"]["data"] = [str(write(tmp_path / "other.json", {"IDTest": records("IDTest")}))]
    (folder / "result.json").write_text(json.dumps(result), "utf-8")
    with pytest.raises(DataError, match="has changed since the run"):
        scored_subsets(folder)


def test_rows_are_found_by_their_fields(tiny: Tiny) -> None:
    assert tiny.run.rows("remi") == tiny.run.result["remi"]
    assert tiny.run.rows("remi", policy="nobody") == []
    assert replace(tiny.run, details=[]).rows("policies", kind="model")[0]["policy"] == POLICY


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_json(path, {"a": "é"})
    assert path.read_bytes() == '{\n "a": "é"\n}\n'.encode()
    with pytest.raises(ValueError, match="Out of range"):
        write_json(path, {"a": float("nan")})
    assert path.read_bytes() == '{\n "a": "é"\n}\n'.encode()
