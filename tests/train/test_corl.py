"""A whole training run on a tiny model: every stage leaves what it must, resumes, refuses, and learns."""

from __future__ import annotations

import json
import math
import shutil
import statistics
import sys
import time
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from forks import forked
from remid.data import read_benchmark
from remid.data.same import marks
from remid.errors import ConfigError, DataError, StoreError
from remid.lm.adapters import new_adapters, read_chain, read_estimator, trainable_names
from remid.lm.models import find_model, load_model
from remid.pipeline.progress import Progress
from remid.pipeline.prompts import PROMPT_VERSIONS, role_play_messages
from remid.pipeline.traces import parse_trace
from remid.train.collect import collect_training_traces
from remid.train.config import LoraSettings, make_train_config, read_settings
from remid.train.corl import cold_start_advice, train_corl
from remid.train.journal import read_journal
from remid.train.run import open_run
from remid.train.scoring import AdapterScorer, Pair, using
from remid.train.stages import supervised_examples
from remid.train.watched import train_watched

QUIET = Progress(enabled=False)
STAGES = ["sft-q1", "sft-q2", "grpo-q1-1", "sft-q2-1", "grpo-q2-1"]


@pytest.fixture(scope="module")
def trained(training_data: Path, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "corl"
    train_watched(_config(training_data, tiny_folder), out, QUIET)
    return out


def _config(data: Path, model: Path, **more: Any) -> Any:
    grpo = {"samples": 8, "generations": 2, "prompts_per_step": 2, "trace_tokens": 24, "response_tokens": 16}
    grpo["response_beta"] = 3.0
    settings = {"data": (data,), "model": str(model), "device": "cpu", "lora": {"r": 4, "alpha": 8, "dropout": 0.0}}
    return make_train_config(
        **settings | {"sft": {"epochs": 2, "batch": 4, "rate": 3e-3}, "grpo": grpo | {"rate": 1e-3}} | more
    )


def test_a_run_leaves_every_stage_and_an_estimator(trained: Path) -> None:
    folders = sorted(path.name.partition("-")[2] for path in (trained / "stages").iterdir())
    assert sorted(STAGES) == folders
    chains = {p.parent.name.partition("-")[2]: read_chain(p) for p in (trained / "stages").glob("*/adapter")}
    assert chains["grpo-q2-1"].parents == (chains["sft-q2"].digest, chains["sft-q2-1"].digest)
    assert chains["grpo-q1-1"].parents == (chains["sft-q1"].digest,)
    # So small a model writes no trace that parses, so q1's completions are all alike to q2: no advantage, no change.
    assert chains["grpo-q1-1"].digest == chains["sft-q1"].digest
    assert len({chain.digest for chain in chains.values()}) == len(STAGES) - 1
    assert not list(trained.glob("stages/*/checkpoints"))
    estimator = read_estimator(trained / "estimator")
    assert estimator.q1 is not None


def test_an_estimator_knows_again_what_it_was_trained_on(trained: Path, training_data: Path) -> None:
    benchmark = read_benchmark([training_data])
    seen = read_estimator(trained / "estimator").trained_on
    assert seen == {mark for sample in benchmark.train for mark in marks(sample)}
    again = replace(benchmark.train[0], sample_id="other", user=f" {benchmark.train[0].user.upper()}  ")
    assert not seen.isdisjoint(marks(again))
    assert all(seen.isdisjoint(marks(sample)) for sample in benchmark.test)


@pytest.mark.parametrize("version", PROMPT_VERSIONS)
def test_q2_is_shown_core_features_where_the_settings_say(
    training_data: Path, tiny_folder: Path, tmp_path: Path, version: int
) -> None:
    """While it learns, where it is rewarded and compared, and by what the estimator says of itself."""
    config = _config(training_data, tiny_folder, traces="input", prompts=version, rounds=0)
    run = open_run(config, tmp_path / "looked-at", QUIET)
    run.stage = "sft-q2"
    traces = collect_training_traces(run)
    sample = run.split.train[0]
    features = parse_trace(traces[sample.sample_id]).features
    shown = tuple(run.renderer.prompt_ids(role_play_messages(sample, features, version=version)))
    learnt = {one.sample_id: one.prompt_ids for one in supervised_examples(run, traces, ("q2",))}
    pair = run.reference_pair(sample, features)
    assert pair is not None
    assert learnt[sample.sample_id] == pair.prompt == shown
    (found,) = run.evaluate([sample], traces).own
    assert found == run.scorer.score("q2", [pair])[0]
    train_corl(config, tmp_path / "trained", QUIET)
    assert read_estimator(tmp_path / "trained" / "estimator").prompt_version == version


def test_kept_is_the_estimator_of_the_best_stage(trained: Path) -> None:
    reports = _reports(trained)
    best = json.loads((trained / "best.json").read_text())
    scores = {name: report["log_q"] for name, report in reports.items() if name != "sft-q1"}
    assert best == {"name": max(scores, key=lambda name: scores[name]), "log_q": max(scores.values())}
    estimator, last = read_estimator(trained / "estimator"), STAGES[: STAGES.index(best["name"]) + 1]
    for role in ("q1", "q2"):
        made = [name for name in last if role in name][-1]
        (folder,) = trained.glob(f"stages/*-{made}/adapter")
        assert estimator.about[role][0]["digest"] == read_chain(folder).digest  # type: ignore[index]


def test_a_stage_is_held_against_the_best_before_it_sample_by_sample(trained: Path) -> None:
    reports = _reports(trained)
    assert "over_best" not in reports["sft-q1"]
    assert "over_best" not in reports["sft-q2"]
    best = "sft-q2"
    for name in STAGES[2:]:
        mine, theirs = reports[name], reports[best]
        assert mine["best_before"] == best
        differences = [mine["by_sample"][key] - value for key, value in theirs["by_sample"].items()]
        assert mine["over_best"] == pytest.approx(statistics.mean(differences))
        if any(differences):
            error = statistics.stdev(differences) / math.sqrt(len(differences))
            assert mine["over_best_se"] == pytest.approx(error)
        assert mine["over_best_n"] == len(differences) == len(mine["by_sample"])
        best = name if mine["over_best"] > 0 else best
    assert json.loads((trained / "best.json").read_text())["name"] == best
    assert not [r for r in read_journal(trained) if "by_sample" in r]


def _reports(folder: Path) -> dict[str, Any]:
    places = sorted((folder / "stages").glob("*/held_out.json"))
    return {p.parent.name.partition("-")[2]: json.loads(p.read_text()) for p in places}


def test_a_stage_that_makes_it_worse_is_left_out(training_data: Path, tiny_folder: Path, tmp_path: Path) -> None:
    """A rate that ruins q2 in reinforcement learning: the stage before it is kept."""
    train_corl(_ruinous(training_data, tiny_folder, rounds=1), tmp_path, QUIET)
    reports = _reports(tmp_path)
    assert reports["grpo-q2-1"]["over_best"] < -0.5
    assert json.loads((tmp_path / "best.json").read_text())["name"] == "sft-q2-1"
    (stage,) = tmp_path.glob("stages/*-sft-q2-1/adapter")
    assert read_estimator(tmp_path / "estimator").about["q2"][0]["digest"] == read_chain(stage).digest


@pytest.mark.slow
def test_patience_counts_rounds_by_their_best_stage(training_data: Path, tiny_folder: Path, tmp_path: Path) -> None:
    train_corl(_ruinous(training_data, tiny_folder, rounds=4, patience=1), tmp_path, QUIET)
    reports = _reports(tmp_path)
    rounds = [[r["over_best"] > 0 for name, r in reports.items() if name.endswith(f"-{k}")] for k in range(1, 5)]
    done = [one for one in rounds if one]
    assert [any(one) for one in done] == [True] * (len(done) - 1) + [False]
    assert not any(one[-1] for one in done)  # every round ends worse than it was, and that alone ends nothing
    assert len(done) > 1


def _ruinous(data: Path, model: Path, **more: Any) -> Any:
    grpo = _config(data, model).grpo.model_copy(update={"rate": 1.0, "response_beta": 0.0})
    return _config(data, model, grpo=grpo.model_dump(), **more)


def test_what_a_collapsed_stage_made_is_not_kept_and_the_run_stays_ended(
    training_data: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    """ "No signal" is named at step 8 of q1: a model so small writes no trace that parses."""
    grpo = _config(training_data, tiny_folder).grpo.model_copy(update={"samples": 24})
    config = _config(training_data, tiny_folder, grpo=grpo.model_dump(), rounds=2, stop_on_collapse=True)
    for _ in range(2):  # the second call must end where the first one did
        train_watched(config, tmp_path / "run", QUIET)
        reports = _reports(tmp_path / "run")
        assert list(reports) == STAGES[:3]
        assert reports["grpo-q1-1"]["collapsed"]
        assert json.loads((tmp_path / "run" / "best.json").read_text())["name"] == "sft-q2"


def test_a_lost_estimator_is_made_again(trained: Path, training_data: Path, tiny_folder: Path, tmp_path: Path) -> None:
    """As after a kill between a stage's end and the estimator, or between that and best.json."""
    out = tmp_path / "run"
    shutil.copytree(trained, out)
    whole = read_estimator(out / "estimator").about["digest"]
    shutil.rmtree(out / "estimator")
    train_corl(_config(training_data, tiny_folder), out, QUIET)
    assert read_estimator(out / "estimator").about["digest"] == whole
    best = (out / "best.json").read_text()
    (out / "best.json").write_text(json.dumps({"name": "sft-q1", "log_q": -9.0}))
    train_corl(_config(training_data, tiny_folder), out, QUIET)
    assert (out / "best.json").read_text() == best


def test_the_journal_has_every_step_and_every_part(trained: Path) -> None:
    rows = read_journal(trained)
    steps = {stage: [r for r in rows if r["kind"] == "step" and r["stage"] == stage] for stage in STAGES}
    assert [r["step"] for r in steps["grpo-q1-1"]] == [1, 2, 3, 4]
    assert set(steps["grpo-q1-1"][0]["rewards"]) >= {"likelihood", "format", "length"}
    assert set(steps["grpo-q2-1"][0]["rewards"]) >= {"typical", "shape"}
    # q2 is held to what it was before the stage, q1 is not unless asked for; at the first step it still is just that.
    assert steps["grpo-q2-1"][0]["signals"]["kl"] == pytest.approx(0, abs=1e-6)
    assert steps["grpo-q2-1"][-1]["signals"]["kl"] > 0
    assert not any("kl" in row["signals"] for row in steps["grpo-q1-1"])
    for row in steps["grpo-q1-1"]:
        assert 0 < row["rewards"]["likelihood"]["mean"] < 1
        assert row["signals"]["n"] == 4
    held_out = [r["stage"] for r in rows if r["kind"] == "held_out" and r.get("step") is None]
    assert held_out == STAGES
    assert rows[-1]["kind"] == "end"


def test_a_cold_start_whose_traces_cannot_be_read_says_what_to_do(trained: Path) -> None:
    (report,) = (report for name, report in _reports(trained).items() if name == "sft-q1")
    notes = [row for row in read_journal(trained) if row["kind"] == "note" and "parse_failures" in row]
    assert report["parse_failures"] == 1.0
    assert [note["stage"] for note in notes] == ["sft-q1"]
    assert "100% of" in notes[0]["text"]
    assert "sft.batch" in notes[0]["text"]


def test_supervision_makes_held_out_references_likelier(trained: Path) -> None:
    q1, q2 = (json.loads((trained / "stages" / name / "held_out.json").read_text()) for name in _firsts(trained))
    assert q2["log_q"] > q1["log_q"] + 0.3  # after sft-q1 the estimator is the untrained base


def _firsts(trained: Path) -> list[str]:
    return sorted(path.name for path in (trained / "stages").iterdir())[:2]


def test_the_same_call_again_trains_nothing_and_other_settings_are_refused(
    trained: Path, training_data: Path, tiny_folder: Path
) -> None:
    before = len(read_journal(trained))
    weights = {p: p.read_bytes() for p in trained.glob("stages/*/adapter/*.safetensors")}
    train_watched(_config(training_data, tiny_folder), trained, QUIET)
    assert {p: p.read_bytes() for p in weights} == weights
    assert {r["kind"] for r in read_journal(trained)[before:]} <= {"note", "end"}
    with pytest.raises(StoreError, match="seed"):
        train_watched(_config(training_data, tiny_folder, seed=1), trained, QUIET)


def test_a_run_is_repeatable(trained: Path, training_data: Path, tiny_folder: Path, tmp_path: Path) -> None:
    train_corl(_config(training_data, tiny_folder), tmp_path / "again", QUIET)
    for path in trained.glob("stages/*/adapter/chain.json"):
        again = tmp_path / "again" / path.relative_to(trained)
        assert json.loads(path.read_text())["digest"] == json.loads(again.read_text())["digest"]


@pytest.mark.parametrize("stage", ["sft-q2", "grpo-q1-1", "grpo-q2-1"])
def test_a_run_that_is_killed_goes_on_with_the_same_curve(
    stage: str, trained: Path, training_data: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    process = forked(train_watched, _config(training_data, tiny_folder), out, QUIET)
    try:
        _wait_for_step(out, stage, process)
    finally:
        process.kill()
        process.join()
    train_watched(_config(training_data, tiny_folder), out, QUIET)
    assert _curve(out) == _curve(trained)
    for path in trained.glob("stages/*/adapter/chain.json"):
        again = out / path.relative_to(trained)
        assert json.loads(path.read_text())["digest"] == json.loads(again.read_text())["digest"]


def _wait_for_step(out: Path, stage: str, process: BaseProcess) -> None:
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and process.exitcode is None:
        rows = read_journal(out) if (out / "train.jsonl").exists() else []
        if any(r["kind"] == "step" and r["stage"] == stage for r in rows):
            return
        time.sleep(0.02)
    pytest.fail(f"{stage} was never reached")


def _curve(out: Path) -> dict[tuple[str, int], Any]:
    rows = [r for r in read_journal(out) if r["kind"] == "step"]
    return {
        (r["stage"], r["step"]): (r["rewards"], r["signals"].get("reward"), r["learning"].get("loss")) for r in rows
    }


def test_training_data_that_are_test_data_are_refused(tmp_path: Path, training_data: Path, tiny_folder: Path) -> None:
    found = json.loads(training_data.read_text())
    found["IDTrain"][3]["dialogue_context"] = found["IDTest"][0]["dialogue_context"]
    found["IDTrain"][3]["user_persona"] = found["IDTest"][0]["user_persona"].upper()
    found["IDTrain"][3]["agent_character"] = found["IDTest"][0]["agent_character"]
    leaky = tmp_path / "leaky.json"
    leaky.write_text(json.dumps(found))
    with pytest.raises(DataError, match="IDTrain"):
        train_corl(_config(leaky, tiny_folder), tmp_path / "out", QUIET)
    run = open_run(_config(leaky, tiny_folder, drop_leaks=True), tmp_path / "other", QUIET)
    kept = {sample.sample_id for sample in (*run.split.train, *run.split.held_out)}
    assert kept == {f"IDTrain-{k}" for k in range(18)} - {"IDTrain-3"}


def test_scoring_under_an_adapter_leaves_the_model_as_it_was(tiny_folder: Path) -> None:
    loaded = load_model(find_model(str(tiny_folder)), device="cpu")
    model = new_adapters(loaded.model, LoraSettings(r=2), ("q1", "q2"), 0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name and ".q2." in name:
                weight.normal_(std=0.1)
    model.train()
    before = trainable_names(model)
    scorer = AdapterScorer(model, loaded, max_tokens=64)
    pairs = [Pair((5, 6, 7), (8, 9)), None, Pair((5, 6, 7), tuple(range(5, 70))), Pair((5, 6), (8,))]
    q1, q2, base = (scorer.score(name, pairs) for name in ("q1", "q2", None))
    assert [x is None for x in q2] == [False, True, True, False]
    assert q1 == base  # q1 is fresh, and changes nothing
    assert q2[0] is not None
    assert q1[0] is not None
    assert abs(q2[0].nats - q1[0].nats) > 1e-3
    assert (trainable_names(model), model.training, model.active_adapter) == (before, True, "q1")
    with using(model, "q2"), torch.no_grad():
        logits = model(input_ids=torch.tensor([[5, 6, 7, 8]])).logits[0]
    expected = float(torch.log_softmax(logits, -1)[[2, 3], [8, 9]].sum())
    assert q2[0].nats == pytest.approx(expected, abs=1e-3)


def test_settings_come_from_a_file_and_every_wrong_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "corl.toml"
    path.write_text('data = ["a.json"]\nrounds = 2\n[grpo]\ngenerations = 8\n')
    config = make_train_config(**read_settings(path))
    assert (config.rounds, config.grpo.generations, config.grpo.samples) == (2, 8, 64)
    with pytest.raises(ConfigError, match=r"lora.rank(.|\n)*grpo.generations"):
        make_train_config(data=("a",), grpo={"generations": 1}, lora={"rank": 3})
    with pytest.raises(ConfigError, match="rounds"):
        make_train_config(data=("a",), reasoning=False, rounds=1)
    path.write_text("data = [")
    with pytest.raises(ConfigError, match="TOML"):
        read_settings(path)


def test_a_wrong_setting_of_a_file_is_told_with_the_file(tmp_path: Path) -> None:
    """Each by itself; what only settings together cannot be may yet be changed by the command line."""
    path = tmp_path / "corl.toml"
    path.write_text('holdout = 3\ntrces = "data"\n[sft]\nrate = "high"\n')
    with pytest.raises(ConfigError) as caught:
        read_settings(path)
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[:2] for line in lines] == [[str(path), name] for name in ("holdout", "sft.rate", "trces")]
    path.write_text("reasoning = false\n[sft]\nbatch = 3\n")
    assert read_settings(path) == {"reasoning": False, "sft": {"batch": 3}}


@pytest.mark.parametrize(
    ("stage", "changed", "figure"),
    [
        ("sft-q1", {"parse_failures": 0.5}, "parse_failures"),
        ("sft-q1", {"parse_failures": 0.4}, None),
        ("sft-q1", {"advantage": -0.2}, None),  # q2 is not trained yet
        ("sft-q2", {"parse_failures": 0.5}, None),  # said before
        ("sft-q2", {"advantage": -0.2}, "advantage"),
        ("sft-q2", {"advantage": -0.11}, None),  # may be 0.01
        ("sft-q2", {"advantage": 0.2}, None),
        ("sft-q2", {"advantage": None, "advantage_se": None}, None),
        ("sft-q2-1", {"advantage": -0.2}, None),
    ],
)
def test_a_cold_start_says_what_is_wrong_with_it(stage: str, changed: dict[str, Any], figure: str | None) -> None:
    found = {"parse_failures": None, "advantage": 0.0, "advantage_se": 0.05, "advantage_n": 14} | changed
    said = list(cold_start_advice(stage, found))
    assert [name for _, name in said] == ([] if figure is None else [figure])
    if figure == "advantage":
        assert "-0.200 nats/token (standard error 0.050, n = 14)" in said[0][0]
