"""A run with a trained estimator: its q1 writes the traces, its q2 scores, and nothing is mixed with anything."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "lm"))

from pipeline_fakes import sample
from pipeline_tiny import SETTINGS, Told, _embedder, benchmark, stored, trace, write
from result_schema import Result
from tiny_adapters import Sizes, chat_folder, perturb, save, teach

import remid
from remid.cli import app
from remid.data import read_benchmark
from remid.data.same import marks
from remid.errors import ConfigError, ModelError
from remid.lm import models
from remid.lm.adapters import new_adapters, stack, write_estimator
from remid.lm.chat import ChatRenderer
from remid.lm.models import LoadedModel, find_model, load_model
from remid.pipeline.config import make_config
from remid.pipeline.engines import EngineConfig, Engines, ModelChoice, run_engines
from remid.pipeline.prompts import PROMPT_VERSION, PROMPT_VERSIONS, role_play_messages
from remid.pipeline.reason import Traces, collect_traces, trace_messages
from remid.pipeline.run import Run, scored_subsets
from remid.pipeline.score import prompt_key
from remid.pipeline.store import Store
from remid.types import Benchmark

WORDS = ("## Core Features", "\nContent:", " yes", "\nStyle:", " dry")
TAUGHT = "".join(WORDS)
FILES = ("result.json", "details.json", "report.html")


@dataclass(frozen=True)
class Home:
    """A benchmark, a base, and estimators on it. Not to be changed."""

    data: Path
    base: Path
    trained: Path
    without: Path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """q1 has learnt one trace by heart, q2 has random weights."""
    folder = tmp_path_factory.mktemp("estimator")
    data, base = write(folder / "b.json"), chat_folder(folder / "base", words=WORDS)
    loaded = load_model(find_model(str(base)), device="cpu")
    renderer = ChatRenderer(loaded.tokenizer)
    peft_model = new_adapters(loaded.model, Sizes(r=8, alpha=16), ("q1", "q2"), 0)
    samples = read_benchmark([data]).test[::4]
    asked = [(renderer.prompt_ids(trace_messages(one, "compact")), renderer.response_ids(TAUGHT)) for one in samples]
    teach(peft_model, "q1", asked, steps=40, rate=1e-2)
    perturb(peft_model, "q2", 1)
    for name in ("q1", "q2"):
        save(peft_model, name, folder / name, loaded.source, "grpo-1", ["a" * 64])
    how = {"base": loaded.source, "q2": folder / "q2", "prompt_version": PROMPT_VERSION, "trace_tokens": 60}
    write_estimator(folder / "trained", q1=folder / "q1", trace_format="compact", **how)
    write_estimator(folder / "without", q1=None, trace_format=None, **how)
    return Home(data, base, folder / "trained", folder / "without")


@pytest.fixture(autouse=True)
def quick_embedder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("remid.lm.embed.Embedder", lambda source: _embedder())


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the models that are loaded in this test, in order."""
    names: list[str] = []
    original = models.load_model

    def load(source: Any, **options: Any) -> LoadedModel:
        names.append(source.name)
        return original(source, **options)

    monkeypatch.setattr("remid.lm.models.load_model", load)
    return names


def measure(home: Home, out: Path, estimator: Path | None = None, **settings: Any) -> Run:
    settings = {**SETTINGS, "model": str(home.base), "estimator": estimator, **settings}
    return remid.evaluate(home.data, out=out, progress=False, **settings)


@pytest.fixture(scope="module")
def finished(home: Home, tmp_path_factory: pytest.TempPathFactory) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("remid.lm.embed.Embedder", lambda source: _embedder())
        return measure(home, tmp_path_factory.mktemp("run"), home.trained)


def copied(run: Run, to: Path) -> Path:
    shutil.copytree(run.folder, to)
    return to


def test_q1_writes_the_traces_and_q2_scores(home: Home, tmp_path: Path, loads: list[str]) -> None:
    run = measure(home, tmp_path / "run", home.trained, limit=2)
    assert [name.removeprefix(f"{home.base} + ") for name in loads] == ["q1 (grpo-1)", "q2 (grpo-1)"]
    assert run.result["traces"]["source"] == "model"
    assert run.result["traces"]["n_failed"] == 0
    assert {row["trace"] for row in run.details} == {TAUGHT.partition("\n")[2]}
    texts = {row[2] for row in stored(run.folder, "generations").values()}
    assert texts == {TAUGHT}


def test_the_result_names_the_estimator_without_a_path(home: Home, finished: Run) -> None:
    Result.model_validate_json((finished.folder / "result.json").read_text("utf-8"))
    manifest = finished.result["manifest"]
    found = manifest["estimator"]
    base = find_model(str(home.base))
    assert found["base"] == base.fingerprint
    assert [(s["stage"], s["parents"]) for role in ("q1", "q2") for s in found[role]] == [("grpo-1", ["a" * 64])] * 2
    assert str(home.trained) not in json.dumps(found)
    assert manifest["model"]["fingerprint"] == stack(base, [home.trained / "q2"]).fingerprint
    assert manifest["config"]["estimator"] == str(home.trained)
    assert found["digest"] in (finished.folder / "report.html").read_text("utf-8")


def test_samples_that_it_was_trained_on_are_counted_and_warned_of(home: Home, finished: Run, tmp_path: Path) -> None:
    assert finished.result["manifest"]["estimator"]["n_seen"] is None
    known = tmp_path / "known"
    shutil.copytree(home.trained, known)
    test = read_benchmark([home.data]).test
    (known / "trained_on.txt").write_text("\n".join(mark for one in test[1:3] for mark in marks(one)))
    run = measure(home, copied(finished, tmp_path / "run"), known)
    assert run.result["manifest"]["estimator"]["n_seen"] == 2
    assert "trained-on" in {row["code"] for row in run.result["warnings"]}
    assert {key: run.result[key] for key in ("remi", "gap")} == {key: finished.result[key] for key in ("remi", "gap")}


def test_a_run_with_the_estimator_differs_from_one_without_and_the_store_keeps_them_apart(
    home: Home, finished: Run, tmp_path: Path
) -> None:
    folder = copied(finished, tmp_path / "both")
    with_it = stored(folder)
    plain = measure(home, folder, traces="none")
    alone = measure(home, tmp_path / "alone", traces="none")
    assert plain.result == alone.result
    assert plain.result["manifest"]["estimator"] is None
    assert plain.rows("remi") != finished.rows("remi")
    both = stored(folder)
    assert both == with_it | stored(tmp_path / "alone")
    assert len(both) == len(with_it) + len(stored(tmp_path / "alone"))
    q2_alone = measure(home, folder, home.trained, traces="none")  # the same prompts as without, another scorer
    assert q2_alone.rows("remi") != plain.rows("remi")
    again = measure(home, folder, home.trained)
    assert again.result == finished.result


def test_a_run_with_the_estimator_resumes_to_the_same_bytes(home: Home, finished: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    measure(home, folder, home.trained, limit=2)
    begun = stored(folder)
    measure(home, folder, home.trained)
    for name in FILES:
        assert (folder / name).read_bytes() == (finished.folder / name).read_bytes(), name
    assert stored(folder) == begun | stored(finished.folder)


def test_a_finished_run_with_an_estimator_loads_nothing_and_can_be_looked_into(
    home: Home, finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(finished, tmp_path / "run")
    monkeypatch.setattr("remid.lm.models.load_model", lambda *args, **options: pytest.fail("a model was loaded"))
    assert measure(home, folder, home.trained).result == finished.result
    assert [s.subset for s in scored_subsets(folder)] == ["IDTest", "Gaming", "german"]


def collect(home: Home, folder: Path, estimator: Path, told: Told, **settings: Any) -> Traces:
    traces = settings.pop("data_traces", (None, None))
    samples = [sample(number, trace=text) for number, text in enumerate(traces)]
    config = make_config(data=("b.json",), device="cpu", model=str(home.base), estimator=estimator, **settings)
    with Store(folder) as store, run_engines(config, None, Told()) as engines:
        return collect_traces(Benchmark(tuple(samples), "b.json", "0"), samples, store, engines, config, told)


def test_auto_takes_traces_from_where_the_estimator_had_them(home: Home, tmp_path: Path) -> None:
    told = Told()
    both = (trace("0"), trace("1"))
    assert collect(home, tmp_path / "a", home.trained, told, data_traces=both).source == "model"
    assert "--traces data" in told.lines[0]
    assert collect(home, tmp_path / "b", home.without, told).source == "none"
    assert collect(home, tmp_path / "b", home.without, told, data_traces=both).source == "none"
    assert "trained without" in told.lines[-1]
    assert collect(home, tmp_path / "b", home.trained, told, data_traces=both, traces="data").source == "data"
    assert collect(home, tmp_path / "b", home.trained, told, traces="none").source == "none"
    with pytest.raises(ConfigError, match="has no q1"):
        collect(home, tmp_path / "b", home.without, told, traces="model")


def test_q1_is_asked_as_in_training_whatever_the_data_and_the_settings_say(home: Home, tmp_path: Path) -> None:
    data = write(
        tmp_path / "b.json",
        {"IDTrain": [{**row, "sample_ID": f"t{k}", "SThought": trace("t")} for k, row in
                     enumerate(benchmark()["IDTest"])]} | benchmark(),
    )  # fmt: skip
    run = remid.evaluate(
        data,
        out=tmp_path / "run",
        progress=False,
        **SETTINGS | {"estimator": home.trained, "model": str(home.base), "limit": 2},
        trace_format="full",
        trace_tokens=8,
    )
    assert run.result["traces"]["format"] == "compact"
    assert {row["trace"] for row in run.details} == {TAUGHT.partition("\n")[2]}


def test_the_base_is_the_one_the_estimator_names(home: Home) -> None:
    default = Engines(ModelChoice("builtin", estimator=home.trained), EngineConfig(), Told())
    named = Engines(ModelChoice(str(home.base), estimator=home.trained), EngineConfig(), Told())
    assert default.source.fingerprint == named.source.fingerprint == stack(
        find_model(str(home.base)), [home.trained / "q2"]
    ).fingerprint  # fmt: skip
    assert default.source.root.name == str(home.base)


def test_a_base_that_lies_elsewhere_is_taken_and_another_model_refused(home: Home, tmp_path: Path) -> None:
    estimator = shutil.copytree(home.trained, tmp_path / "estimator")
    path = estimator / "estimator.json"
    content = json.loads(path.read_text())
    content["base"]["name"] = str(tmp_path / "gone")
    path.write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"gone, which is not here; say where it is: --model"):
        Engines(ModelChoice("builtin", estimator=estimator), EngineConfig(), Told())
    moved = shutil.copytree(home.base, tmp_path / "moved")
    found = Engines(ModelChoice(str(moved), estimator=estimator), EngineConfig(), Told())
    assert found.source.root.name == str(moved)
    other = chat_folder(tmp_path / "other", seed=8)
    with pytest.raises(ModelError, match=r"other is another model \(folder:\w+\); give the model that it was trained"):
        Engines(ModelChoice(str(other), estimator=estimator), EngineConfig(), Told())
    shutil.copytree(other, tmp_path / "gone")
    with pytest.raises(ModelError, match="gone is another model"):
        Engines(ModelChoice("builtin", estimator=estimator), EngineConfig(), Told())


def test_an_estimator_trained_on_other_prompts_is_refused(home: Home, tmp_path: Path) -> None:
    estimator = shutil.copytree(home.trained, tmp_path / "estimator")
    path = estimator / "estimator.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prompt_version": 0}))
    with pytest.raises(ModelError, match=r"trained on prompts of version 0\.\d+, and this remid asks in version"):
        Engines(ModelChoice("builtin", estimator=estimator), EngineConfig(), Told())


def test_an_estimator_is_asked_in_the_version_of_the_prompts_that_it_was_trained_on(
    home: Home, finished: Run, tmp_path: Path
) -> None:
    """Version 1 had the core features in the system message: other prompts, so other scores by the same weights."""
    older = shutil.copytree(home.trained, tmp_path / "older")
    path = older / "estimator.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prompt_version": 1}))
    run = measure(home, tmp_path / "run", older)
    features = TAUGHT.partition("\n")[2]
    sample = next(s for s in read_benchmark([home.data]).test if s.sample_id == "i1")
    keys = {v: prompt_key(role_play_messages(sample, features, version=v)) for v in PROMPT_VERSIONS}
    scored = {v: {key[1] for key in stored(folder)} for v, folder in ((1, run.folder), (2, finished.folder))}
    assert [[keys[v] in scored[of] for v in PROMPT_VERSIONS] for of in (1, 2)] == [[True, False], [False, True]]


def test_a_server_cannot_score_with_an_estimator(home: Home, tmp_path: Path) -> None:
    settings = {"score_server": "http://127.0.0.1:9/v1", "tokenizer": str(home.base), "model": "m"}
    with pytest.raises(ConfigError, match="not with an estimator"):
        measure(home, tmp_path / "run", home.trained, **settings)


def test_changed_weights_end_the_command_with_a_message(home: Home, tmp_path: Path) -> None:
    estimator = shutil.copytree(home.trained, tmp_path / "estimator")
    weights = estimator / "q2" / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    command = ["run", str(home.data), "--out", str(tmp_path / "run"), "--estimator", str(estimator), "--quiet"]
    done = CliRunner().invoke(app, command)
    assert isinstance(done.exception, ModelError)
    assert "is not what was saved" in str(done.exception)


def test_the_command_line_takes_the_base_from_the_estimator(home: Home, finished: Run, tmp_path: Path) -> None:
    folder = copied(finished, tmp_path / "run")
    command = ["run", str(home.data), "--out", str(folder), "--estimator", str(home.trained), "--device", "cpu"]
    done = CliRunner().invoke(app, [*command, "--negatives", "2", "--quiet"])
    assert done.exit_code == 0, done.output
    manifest = json.loads((folder / "result.json").read_text("utf-8"))["manifest"]
    assert manifest["model"] == finished.result["manifest"]["model"]
    assert manifest["estimator"] == finished.result["manifest"]["estimator"]
