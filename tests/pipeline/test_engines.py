"""The same run through every engine: in this process, through a server, on a Ray cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

from openai_server import OpenAIServer
from pipeline_tiny import POLICY, SETTINGS, Tiny, Told, reused, stored, write

import remid
from remid.data import read_benchmark
from remid.engine.cluster_ray import RayCluster
from remid.engine.server_settings import ServerSettings
from remid.errors import ConfigError, EngineError, StoreError
from remid.lm.builtin import cache_dir
from remid.lm.generate import Decoding
from remid.lm.models import LoadedModel
from remid.pipeline.config import make_config
from remid.pipeline.engines import EngineConfig, Engines, ModelChoice, run_engines
from remid.pipeline.respond import RespondConfig, respond
from remid.pipeline.run import _silent


@pytest.fixture
def server(shallow: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A real server with the tests' model."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with OpenAIServer(shallow.model, shallow.tokenizer, "smollm2") as running:
        yield running


def test_a_run_scored_by_a_server_has_the_numbers_of_a_run_here(
    tmp_path: Path, tiny: Tiny, server: OpenAIServer, models: None
) -> None:
    spoken: list[str] = []
    engine = EngineConfig(agree=lambda cost: spoken.append(str(cost)))
    settings = SETTINGS | {"model": "smollm2", "score_server": server.url, "tokenizer": "builtin", "limit": 2}
    here = remid.evaluate(tiny.data, out=tmp_path / "here", progress=False, **SETTINGS | {"limit": 2})
    there = remid.evaluate(tiny.data, out=tmp_path / "there", progress=False, engine=engine, **settings)
    assert len(spoken) == 1  # what it would cost was told before it was spent
    for mine, its in zip(here.details, there.details, strict=True):
        for a, b in zip(mine["responses"], its["responses"], strict=True):
            assert (a["logp"] is None) == (b["logp"] is None)
            if a["logp"] is not None:
                assert abs(a["logp"] - b["logp"]) / a["n_tokens"] < 1e-4
    assert there.result["manifest"]["model"]["device"] == "server"
    asked = len(server.keys)
    again = remid.evaluate(tiny.data, out=tmp_path / "there", progress=False, engine=engine, **settings)
    assert again.result == there.result
    assert len(server.keys) == asked  # a finished run asks nobody


def test_a_server_that_came_back_with_another_limit_is_refused(
    tmp_path: Path, tiny: Tiny, server: OpenAIServer, models: None
) -> None:
    settings = SETTINGS | {"model": "smollm2", "score_server": server.url, "tokenizer": "builtin"}
    remid.evaluate(tiny.data, out=tmp_path / "run", progress=False, **settings | {"limit": 2})
    server.behaviour.context = 3000
    with pytest.raises(StoreError, match="takes 2999 tokens now, and took 4095"):
        remid.evaluate(tiny.data, out=tmp_path / "run", progress=False, **settings | {"limit": 3})
    server.behaviour.context = 4096
    remid.evaluate(tiny.data, out=tmp_path / "run", progress=False, **settings | {"limit": 3})


def test_a_policy_can_answer_through_a_server(tmp_path: Path, server: OpenAIServer) -> None:
    from remid.engine.server_settings import ServerSettings

    samples = read_benchmark([write(tmp_path / "b.json")]).test[:3]
    engine = EngineConfig(server=ServerSettings(base_url=server.url, model="smollm2"))
    config = RespondConfig("served", max_new_tokens=5)
    assert respond(samples, tmp_path / "r.jsonl", config, Told(), engine).written == 3
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text("utf-8").splitlines()]
    assert {line["sample_ID"] for line in lines} == {s.sample_id for s in samples}
    assert all(line["response"] and line["model"].startswith("server:") for line in lines)
    assert respond(samples, tmp_path / "r.jsonl", config, Told(), engine).written == 0


def test_a_server_that_is_not_there_is_an_error_that_says_so_before_anything_is_scored(tmp_path: Path) -> None:
    settings = SETTINGS | {"model": "m", "score_server": "http://127.0.0.1:9/v1", "tokenizer": "builtin"}
    with pytest.raises(EngineError, match=r"127\.0\.0\.1:9"):
        remid.evaluate(write(tmp_path / "b.json"), out=tmp_path / "run", progress=False, **settings)
    assert not stored(tmp_path / "run")


def test_settings_that_contradict_each_other_are_refused() -> None:
    for settings in ({"score_server": "http://localhost/v1"}, {"tokenizer": "builtin"}):
        with pytest.raises(ConfigError, match="token ids are made here"):
            make_config(data=("b.json",), **settings)
    with pytest.raises(ConfigError, match="--engine ray"):
        Engines(ModelChoice("builtin"), EngineConfig(workers=2), Told())


def test_one_model_serves_a_whole_run(embedded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    from remid.lm.generate import Decoding

    loads: list[int] = []

    def load(source: Any, **options: Any) -> LoadedModel:
        loads.append(1)
        return embedded

    monkeypatch.setattr("remid.lm.models.load_model", load)
    with run_engines(make_config(data=("b.json",), device="cpu"), None, Told()) as engines:
        assert engines.scoring([]) is engines.scoring([])
        engines.writing(Decoding(), [])
    assert len(loads) == 1


def test_a_run_on_a_ray_cluster_ends_with_the_bytes_of_a_run_here(tmp_path: Path, embedded: LoadedModel) -> None:
    few = {"negatives": 2, "device": "cpu", "limit": 3}
    data = write(tmp_path / "data.json")
    with reused(embedded):
        remid.evaluate(data, out=tmp_path / "here", progress=False, policies=(POLICY,), **few)
    # A process of its own, since Ray connects once per process, and its own home: Ray leaves a token there, which other
    # Ray programs of the user would then ask for.
    home = {**os.environ, "HOME": str(tmp_path), "REMID_CACHE": str(cache_dir()), "COLUMNS": "200"}
    home["RAY_worker_niceness"] = "0"  # else it waits for tests that run beside it
    command = [sys.executable, "-c", "from remid.cli import main; main()", "run", str(data), "--device", "cpu"]
    command += ["--negatives", "2", "--limit", "3", "--policy", POLICY, "--out", str(tmp_path / "ray")]
    command += ["--engine", "ray", "--workers", "2"]
    done = subprocess.run(command, env=home, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    for name in ("result.json", "details.json", "report.html"):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "ray" / name).read_bytes(), name
    here, ray = stored(tmp_path / "here"), stored(tmp_path / "ray")
    assert here == ray
    assert len(here) > 10


def test_a_clusters_workers_are_free_before_another_model_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that writes traces and one that scores do not fit side by side. Recorded; with a real Ray: the test above."""
    log: list[str] = []

    class Cluster:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            log.append("cluster")

        resolve_device = RayCluster.resolve_device

    class Workers:
        def __init__(self, cluster: Any, recipe: Any, settings: Any, *, device: str, say: Any) -> None:
            self.name = f"{recipe.device} {device} {sum('open' in one for one in log)}"
            log.append(f"open {self.name}")

        def close(self) -> None:
            log.append(f"close {self.name}")

    monkeypatch.setattr("remid.engine.cluster_ray.RayCluster", Cluster)
    monkeypatch.setattr("remid.engine.cluster.ClusterEngine", Workers)
    # A worker sees the one GPU that it was given, whatever its number was.
    with Engines(ModelChoice("builtin", device="cuda:1"), EngineConfig(kind="ray"), Told()) as engines:
        engines.writing(Decoding(), [])
        assert engines.scoring([]) is engines.scoring([])
        assert log == ["open cuda cuda 0", "close cuda cuda 0", "open cuda cuda 1"]
    assert log[3:] == ["close cuda cuda 1", "cluster"]


def test_scores_and_traces_spend_one_budget() -> None:
    server = ServerSettings(base_url="http://127.0.0.1:9/v1", model="m")
    with Engines(ModelChoice("m", tokenizer="builtin"), EngineConfig(server=server), Told()) as engines:
        writers = [engines.writing(Decoding(), []) for _ in range(2)]
        assert len({id(one._client.spending) for one in (engines.scoring([]), *writers)}) == 1  # type: ignore[attr-defined]


def test_a_finished_run_is_looked_into_without_the_servers_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever variable held it: nothing is asked."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    server = "https://models.example/v1"
    config = make_config(data=("b.json",), score_server=server, tokenizer="builtin", model="m")
    with pytest.raises(EngineError, match="OPENAI_API_KEY is not set"), run_engines(config, None, Told()):
        pass
    with run_engines(config, _silent(config), Told()) as engines:
        assert engines.source.name == "m"
