"""Training traces by a server or another local model: through a whole run, never asked twice, by one process only."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from openai_server import Behaviour, OpenAIServer

from remid.engine.server_settings import ServerSettings
from remid.engine.spending import Cost
from remid.errors import ConfigError, EngineError
from remid.lm.models import find_model, load_model
from remid.pipeline.engines import EngineConfig
from remid.pipeline.progress import Progress
from remid.pipeline.store import Store
from remid.pipeline.traces import COMPACT_HEADING
from remid.train.collect import collect_training_traces
from remid.train.config import make_train_config
from remid.train.run import open_run
from remid.train.watched import train_watched

QUIET = Progress(enabled=False)
REPLY = "It makes light of the matter and says where it went.\nStyle: Short and dry.\nAnd more."


@pytest.fixture
def server(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    """A running server that answers every chat with the same trace."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    loaded = load_model(find_model(str(tiny_folder)), device="cpu")
    with OpenAIServer(loaded.model, loaded.tokenizer, behaviour=Behaviour(reply=REPLY)) as running:
        yield running


def asked(server: OpenAIServer) -> list[str]:
    """What was asked for traces: the last messages that show a reference."""
    rows = ["\n".join(str(m["content"]) for m in request.get("messages", [])) for request in server.requests]
    return [row for row in rows if "The character's next line\n" in row]


def by(url: str, settings: dict[str, Any], **more: Any) -> Any:
    author = {"model": "tiny", "server": url, "tokens": 8}
    return make_train_config(**settings | {"traces": "model", "author": author, "rounds": 0} | more)


def test_a_server_writes_the_traces_of_a_run(server: OpenAIServer, settings: dict[str, Any], tmp_path: Path) -> None:
    costs: list[Cost] = []
    priced = ServerSettings(server.url, "tiny", price_prompt=1.0, price_completion=2.0)
    engine = EngineConfig(server=priced, agree=costs.append)
    train_watched(by(server.url, settings, limit=5), tmp_path, QUIET, engine)
    traces = json.loads((tmp_path / "traces.json").read_text())
    assert len(traces) == 4
    assert set(traces.values()) == {f"{COMPACT_HEADING}\nContent: " + REPLY.removesuffix("\nAnd more.")}
    assert len(asked(server)) == len(set(asked(server))) == 4
    assert [(cost.requests, cost.completion_tokens) for cost in costs] == [(4, 4 * 8)]
    assert costs[0].money
    assert json.loads((tmp_path / "estimator" / "estimator.json").read_text())["q1"]


def test_a_budget_stops_before_training_and_what_was_paid_for_is_kept(
    server: OpenAIServer, settings: dict[str, Any], tmp_path: Path
) -> None:
    def collected(tokens: int) -> Mapping[str, str]:
        reached = ServerSettings(server.url, "tiny", concurrency=1, max_total_tokens=tokens)
        run = open_run(by(server.url, settings), tmp_path, QUIET, EngineConfig(server=reached))
        return collect_training_traces(run)

    with pytest.raises(EngineError, match="budget"):
        collected(6000)
    paid = len(asked(server))
    assert 0 < paid < 15
    traces = collected(1_000_000)
    assert len(traces) == len(asked(server)) == len(set(asked(server))) == 15  # of 18 samples three are held out
    server.requests.clear()
    run = open_run(by(server.url, settings), tmp_path, QUIET)  # no options at all: the address is in the settings
    assert collect_training_traces(run) == traces
    assert server.requests == []


def test_traces_that_repeat_the_reference_are_left_out(
    server: OpenAIServer, settings: dict[str, Any], tmp_path: Path
) -> None:
    server.behaviour.reply = "It says: Gone with the tide. Ask me about the rest.\nStyle: Short."
    run = open_run(by(server.url, settings), tmp_path, QUIET)
    traces = collect_training_traces(run)
    thieves = {s.sample_id for s in run.split.train if s.reference.startswith("Gone with the tide. Ask me about")}
    assert thieves
    assert set(traces) == {s.sample_id for s in run.split.train} - thieves
    (note,) = [row for row in run.journal.read() if row["kind"] == "note"]
    assert note["failures"] == {"quotes the reference": len(thieves)}


def test_another_local_model_than_the_base_writes(settings: dict[str, Any], tiny_folder: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    other = tmp_path / "other"
    shutil.copytree(tiny_folder, other)
    model = AutoModelForCausalLM.from_pretrained(other)
    torch.manual_seed(5)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(other)
    author = {"model": str(other), "tokens": 12}
    run = open_run(make_train_config(**settings | {"traces": "model", "author": author}), tmp_path / "run", QUIET)
    with pytest.raises(ConfigError, match="no training sample has one"):  # it writes nonsense
        collect_training_traces(run)
    base = open_run(make_train_config(**settings | {"traces": "model"}), tmp_path / "base", QUIET)
    with pytest.raises(ConfigError, match="no training sample has one"):
        collect_training_traces(base)
    written = {}
    for name in ("run", "base"):
        with Store(tmp_path / name) as store:
            written[name] = store._db.execute("SELECT generator, prompt, text FROM generations").fetchall()
        assert len(written[name]) == len(run.split.train)
    assert not {row[0] for row in written["run"]} & {row[0] for row in written["base"]}  # who wrote is in the key
    assert {row[2] for row in written["run"]} != {row[2] for row in written["base"]}


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"author": {"model": "tiny", "server": "http://localhost:1/v1"}}, 'writes traces = "model" only'),
        ({"traces": "model", "author": {"server": "http://localhost:1/v1"}}, "name the model"),
    ],
)
def test_an_author_that_cannot_be_meant_is_refused(more: dict[str, Any], why: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=why):
        make_train_config(**settings | more)


@pytest.mark.slow
def test_two_processes_collect_once_and_train_one_run(
    server: OpenAIServer, settings: dict[str, Any], tmp_path: Path
) -> None:
    config = by(server.url, settings, rounds=1)
    (tmp_path / "corl.json").write_text(config.model_dump_json())
    out = tmp_path / "run"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launch, "-m", "remid", "train", "corl", "--config", str(tmp_path / "corl.json"), "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert len(asked(server)) == len(set(asked(server))) == 15
    rows = [json.loads(line) for line in (out / "train.jsonl").read_text().splitlines()]
    for kind in ("stage", "note", "end"):
        keys = [json.dumps({**row, "time": 0}, sort_keys=True) for row in rows if row["kind"] == kind]
        assert len(keys) == len(set(keys)), kind


def told(*words: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command line in a process of its own."""
    command = [sys.executable, "-m", "remid", "train", *map(str, words)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200", "TERMINAL_WIDTH": "200"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, done.stdout, done.stderr


def test_the_command_takes_a_server_and_options_win_over_the_file(
    server: OpenAIServer, settings: dict[str, Any], tmp_path: Path
) -> None:
    file, out = tmp_path / "sft.json", tmp_path / "run"
    # A setting that an option sets too, one of a table of which an option sets another, and one that stays.
    given = {**settings, "data": [str(path) for path in settings["data"]], "seed": 3, "author": {"tokens": 8}}
    file.write_text(json.dumps(given))
    author = ("--traces", "model", "--trace-server", server.url, "--trace-model", "tiny")
    options = ("--seed", 4, "--lora-r", 2, "--limit", 5, "--adapter-dtype", "bfloat16", "--price-prompt", 1)
    code, said, warned = told(
        "sft", "--config", file, "--out", out, *author, *options, "--price-completion", 2, "--max-cost", 1, "--yes"
    )
    assert code == 0, warned
    assert "estimate: 4 requests, about" in warned
    assert "at the given prices" in warned
    assert f"estimator: {out / 'estimator'}" in said
    config = json.loads((out / "train.json").read_text())["config"]
    assert (config["seed"], config["limit"], config["rounds"]) == (4, 5, 0)
    assert config["lora"] == {"r": 2, "alpha": 8, "dropout": 0.0, "layers": None}
    assert config["author"] == {"model": "tiny", "server": server.url, "tokens": 8}
    assert len(asked(server)) == 4
    stage, kept = (
        folder / "adapter_model.safetensors" for folder in (out / "stages/02-sft-q2/adapter", out / "estimator/q2")
    )
    assert kept.stat().st_size < 0.8 * stage.stat().st_size


def test_sft_refuses_what_belongs_to_rounds_and_help_says_so() -> None:
    code, _, warned = told("sft", "--grpo-rate", "1e-4", "--rounds", 2)
    assert (code, warned.count("\n")) == (2, 1)
    assert "--rounds" in warned
    assert "remid train corl" in warned
    code, said, _ = told("sft", "--help")
    assert code == 0
    assert said.index("--trace-server") < said.index("Rounds of CoRL (remid train corl)") < said.index("--rounds")
