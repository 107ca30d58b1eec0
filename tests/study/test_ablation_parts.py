"""What makes the ablation cheap gives the same results to the bit; and two adapters on one base are two models."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hops_small import small

from remid.data import read_benchmark
from remid.errors import ConfigError, StoreError
from remid.lm.adapters import load_weights, new_adapters, read_chain, read_estimator
from remid.lm.chat import ChatRenderer
from remid.lm.models import find_model, load_model
from remid.pipeline.progress import Progress
from remid.pipeline.reason import drawn_key, trace_messages
from remid.pipeline.score import prompt_key
from remid.pipeline.traces import parse_trace
from remid.study.ablation import Material, _one, _texts_and_base
from remid.study.ablation_tables import Scores
from remid.study.arms import Draws, arm_settings
from remid.study.borrow import borrow, borrow_texts
from remid.study.reference_scores import reference_scores
from remid.study.shared_adapter import train_shared
from remid.train.config import TrainConfig, make_train_config
from remid.train.corl import train_corl
from remid.train.evaluate import reference_pair
from remid.train.examples import q1_example, q2_example, split_training
from remid.train.journal import read_journal
from remid.train.scoring import AdapterScorer
from remid.train.sft import run_sft
from remid.types import Sample

QUIET = Progress(False)


@pytest.fixture
def material(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Material:
    return small(tmp_path / "world", monkeypatch)


def items(config: TrainConfig) -> tuple[Sample, ...]:
    return read_benchmark(config.data).test[::6]


def scored(estimator: Path, config: TrainConfig, store: Path) -> Scores:
    return replace(
        reference_scores(estimator, config, items(config), store, QUIET, best="", begin=0.0), seconds=0.0, best=""
    )


@pytest.mark.parametrize(("first", "second"), [("full", "sft"), ("sft", "full")])
def test_a_borrowed_cold_start_is_the_one_that_would_have_been_made(
    first: str, second: str, material: Material, tmp_path: Path
) -> None:
    whole, runs = material.settings(0), tmp_path / "runs"
    config = arm_settings(whole, second)
    assert borrow(config, runs / f"{second}-0") is None  # nothing there yet
    train_corl(arm_settings(whole, first), runs / f"{first}-0", QUIET)
    for other in (arm_settings(material.settings(1), second), arm_settings(whole, "sft-longer")):
        assert borrow(other, runs / "other") is None
    assert not (runs / "other").exists()
    assert borrow(config, runs / f"{second}-0") == f"{first}-0"
    ends = [row["stage"] for row in read_journal(runs / f"{second}-0") if row["kind"] == "held_out"]
    assert ends == ["sft-q1", "sft-q2"]
    borrowed = train_corl(config, runs / f"{second}-0", QUIET)
    assert borrow(config, runs / f"{second}-0") == f"{first}-0"  # as it is told when the study goes on
    trained = {row["stage"] for row in read_journal(runs / f"{second}-0") if row["kind"] == "stage"}
    assert trained == (set() if second == "sft" else {"grpo-q1-1", "sft-q2-1", "grpo-q2-1"})
    anew = train_corl(config, tmp_path / "anew", QUIET)
    for role in ("q1", "q2"):
        weights = [folder / role / "adapter_model.safetensors" for folder in (borrowed, anew)]
        assert weights[0].read_bytes() == weights[1].read_bytes()
    assert read_estimator(borrowed).about == read_estimator(anew).about
    assert scored(borrowed, config, tmp_path / "a") == scored(anew, config, tmp_path / "b")


def test_a_cold_start_of_other_data_is_refused(material: Material, tmp_path: Path) -> None:
    config, runs = arm_settings(material.settings(0), "sft"), tmp_path / "runs"
    train_corl(config, runs / "sft-0", QUIET)
    rows = json.loads(config.data[0].read_text("utf-8"))
    rows["IDTrain"] = rows["IDTrain"][:-1]
    config.data[0].write_text(json.dumps(rows), "utf-8")
    longer = config.model_copy(update={"rounds": 1})
    assert borrow(longer, runs / "full-0") == "sft-0"
    with pytest.raises(StoreError, match="data"):
        train_corl(longer, runs / "full-0", QUIET)


def test_what_a_model_wrote_for_one_arm_is_there_for_another(material: Material, tmp_path: Path) -> None:
    from remid.pipeline.store import Store

    whole, runs = material.settings(0), tmp_path / "runs"
    config = arm_settings(whole, "model-sft")
    (runs / "model-sft-0").mkdir(parents=True)
    (runs / "model-sft-0" / "train.json").write_text(json.dumps({"config": {}, "data": "", "base": ""}))
    with Store(runs / "model-sft-0") as store:
        store.add_generations("author", [("asked", "told", True)])
    assert borrow(arm_settings(whole, "sft"), runs / "sft-0") is None
    assert not (runs / "sft-0").exists()
    assert borrow(config, runs / "model-sft-1") is None
    with Store(runs / "model-sft-1") as store:
        assert store.generations("author") == {"asked": ("told", True)}


def test_traces_are_written_once_and_kept_batch_by_batch(
    material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from remid.train import evaluate

    config = arm_settings(material.settings(0), "sft")
    estimator = train_corl(config, tmp_path / "run", QUIET)
    monkeypatch.setattr(evaluate, "_BATCH", 3)
    whole = scored(estimator, config, tmp_path / "whole")
    calls = 0
    generate = evaluate.generate

    def counted(*args: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return generate(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(evaluate, "generate", counted)
    with pytest.raises(KeyboardInterrupt):
        scored(estimator, config, tmp_path / "broken")
    assert scored(estimator, config, tmp_path / "broken") == whole
    assert calls == 1 + -(-len(items(config)) // 3)  # the batch that was broken off, and every batch once
    assert scored(estimator, config, tmp_path / "broken") == whole
    assert calls == 1 + -(-len(items(config)) // 3)


def test_one_adapter_learns_both(material: Material, tmp_path: Path) -> None:
    config = arm_settings(material.settings(0), "shared-sft")
    estimator = train_shared(config, tmp_path / "run", QUIET)
    chains = [read_chain(estimator / role) for role in ("q1", "q2")]
    assert chains[0].digest == chains[1].digest
    (note,) = (row for row in read_journal(tmp_path / "run") if row["kind"] == "note" and "both" in row["text"])
    assert note["n"] == 2 * (12 - round(0.1 * 12))
    found = scored(estimator, config, tmp_path / "store")
    assert None not in found.nats
    assert found.parsed is not None
    before = (estimator / "q1" / "adapter_model.safetensors").read_bytes()
    assert train_shared(config, tmp_path / "run", QUIET) == estimator
    assert (estimator / "q1" / "adapter_model.safetensors").read_bytes() == before


def weights(model: torch.nn.Module, adapter: str) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters() if f".{adapter}." in name}


def test_two_adapters_on_one_base_are_two_models(material: Material, tmp_path: Path) -> None:
    config = material.settings(0)
    source = find_model(config.model)
    train = split_training(read_benchmark(config.data), None, config.holdout, 0).train

    def trained(roles: Sequence[str]) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, list[float]]]:
        """Weights of the adapters and log q of references, by role, with the base loaded once for these roles."""
        loaded = load_model(source, device="cpu")
        model = new_adapters(loaded.model, config.lora, ("q1", "q2"), 0)  # fresh weights are drawn one after another
        for role in {"q1", "q2"} - set(roles):
            model.delete_adapter(role)
        renderer = ChatRenderer(loaded.tokenizer)
        for role in roles:
            made = [
                q1_example(s, s.trace or "", "compact", renderer, 256)
                if role == "q1"
                else q2_example(s, None, renderer, 256)
                for s in train
            ]
            examples = [one for one in made if not isinstance(one, str)]
            assert len(examples) == len(train)
            run_sft(model, role, examples, loaded.tokenizer, config.sft, tmp_path / "-".join([*roles, role]), seed=5)
        scorer = AdapterScorer(model, loaded, 256)
        pairs = [reference_pair(sample, None, renderer) for sample in items(config)]
        found = {role: [one.nats for one in scorer.score(role, pairs) if one is not None] for role in roles}
        return {role: weights(model, role) for role in roles}, found

    together, said = trained(["q1", "q2"])
    for role in ("q1", "q2"):
        alone, said_alone = trained([role])
        assert alone[role].keys() == together[role].keys()
        assert all(torch.equal(value, together[role][name]) for name, value in alone[role].items())
        assert said_alone[role] == said[role]
        assert len(said[role]) == len(items(config))
    assert said["q1"] != said["q2"]


def test_scores_of_data_that_changed_since_are_refused(material: Material, tmp_path: Path) -> None:
    """References corrected under the same ids: arms that are finished must not be compared with arms on other texts."""
    whole = material.settings(0)
    config, samples = arm_settings(whole, "none"), items(whole)
    made_from = {"config": config.model_dump(mode="json"), "samples": [s.sample_id for s in samples]}
    n = len(samples)
    scores = Scores(tuple(made_from["samples"]), (-1.0,) * n, (3,) * n, None, None, "sft-q2", 1.0, ())
    (tmp_path / "scores").mkdir()
    kept = {"made_from": made_from | _texts_and_base(config), "scores": asdict(scores)}
    (tmp_path / "scores" / "none-0.json").write_text(json.dumps(kept))
    assert _one(whole, "none", 0, samples, tmp_path, QUIET) == scores
    rows = json.loads(config.data[0].read_text("utf-8"))
    rows["IDTest"][0]["agent_golden_response"] += " And so it is."
    config.data[0].write_text(json.dumps(rows), "utf-8")
    with pytest.raises(StoreError, match="other settings, samples, data or base"):
        _one(whole, "none", 0, samples, tmp_path, QUIET)


def test_an_author_is_for_the_arms_that_ask_one_and_every_arm_is_looked_at_first() -> None:
    whole = make_train_config(data=("b.json",), traces="model", author={"model": "m", "server": "http://gpu/v1"})
    assert arm_settings(whole, "full").author.model == "m"
    assert arm_settings(whole, "extractive-sft").author.model is None
    with pytest.raises(ConfigError, match="model that the server shall use"):
        make_train_config(data=("b.json",), traces="model", author={"server": "http://gpu/v1"})


def test_a_shared_adapters_texts_are_asked_for_once(material: Material, tmp_path: Path) -> None:
    from remid.pipeline.store import Store

    config, runs = arm_settings(material.settings(0), "model-sft"), tmp_path / "runs"
    (runs / "sft-0").mkdir(parents=True)
    (runs / "sft-0" / "train.json").write_text(json.dumps({"config": {}, "data": "", "base": ""}))
    with Store(runs / "sft-0") as store:
        store.add_generations("author", [("asked", "told", True)])
    borrow_texts(config, runs / "shared-sft-0")
    assert [path.name for path in (runs / "shared-sft-0").iterdir()] == ["store.sqlite"]


def test_mixed_scores_are_the_mean_over_traces_that_q1_drew(
    material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = arm_settings(material.settings(0), "sft")
    estimator, tests = train_corl(config, tmp_path / "run", QUIET), items(config)

    def as_text(tokenizer: Any, ids: Sequence[int], end: int) -> tuple[str, bool]:
        """What this untaught q1 draws follows no format; two in three of these do, and no two draws are the same."""
        word = tokenizer.decode(list(ids)[:3])
        return (f"## Core Features\nContent: {word}\nStyle: s" if ids[0] % 3 else "no", True)

    monkeypatch.setattr("remid.lm.sampling.as_text", as_text)

    def made(store: Path, draws: int) -> Scores:
        found = reference_scores(estimator, config, tests, store, QUIET, best="", begin=0.0, draws=Draws(draws))
        return replace(found, seconds=0.0)

    single, mixed = made(tmp_path / "a", 1), made(tmp_path / "b", 4)
    assert replace(mixed, mixed=None, drawn_parsed=None) == single
    assert mixed.drawn_parsed is not None
    assert len(mixed.drawn_parsed) == 4 * len(tests)
    assert made(tmp_path / "b", 4) == mixed  # found in the store
    fewer = made(tmp_path / "c", 2)
    assert fewer.mixed != mixed.mixed
    assert made(tmp_path / "c", 4).mixed == pytest.approx(mixed.mixed, abs=1e-4)  # two of them found
    db = sqlite3.connect(tmp_path / "b" / "store.sqlite")
    written = dict(db.execute("SELECT prompt, text FROM generations"))
    db.close()
    loaded = load_model(find_model(config.model), device="cpu", dtype="float32")
    model = new_adapters(loaded.model, config.lora, ("q1", "q2"), config.seed)
    load_weights(model, "q2", read_estimator(estimator).q2[0], loaded.source.fingerprint)
    renderer, scorer = ChatRenderer(loaded.tokenizer), AdapterScorer(model, loaded, config.max_tokens)
    assert mixed.mixed is not None
    parsed = set()
    for sample, value in zip(tests, mixed.mixed, strict=True):
        key = prompt_key(tuple(trace_messages(sample, "compact")))
        texts = [written[drawn_key(key, k)] for k in range(1, 5)]
        features = [parse_trace(text).features for text in texts]
        parsed |= {f is not None for f in features}
        pairs = [reference_pair(sample, f, renderer) for f in features]
        likelihoods = [found.nats for pair in pairs if (found := scorer.score("q2", [pair])[0]) is not None]
        assert value == pytest.approx(np.logaddexp.reduce(likelihoods) - np.log(4), abs=1e-4)
    assert parsed == {True, False}
    assert mixed.mixed != single.nats
