"""One run: the stages in order, each finding in the store what is already there, and the files they leave behind."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from remid.errors import ConfigError, DataError, Problem, StoreError
from remid.lm.embed import find_embedder
from remid.pipeline.components import component_units
from remid.pipeline.config import RunConfig
from remid.pipeline.engines import EngineConfig, Engines, run_engines, with_server
from remid.pipeline.measure import SubsetScores
from remid.pipeline.mix import mix_scores
from remid.pipeline.plan import Plan, make_plan
from remid.pipeline.progress import Progress
from remid.pipeline.results import SCHEMA_VERSION, make_result
from remid.pipeline.rounds import score_in_rounds
from remid.pipeline.score import score_units
from remid.pipeline.store import Store
from remid.pipeline.told import AllTold, tell


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run: its folder and what result.json and details.json hold (docs/result.md)."""

    folder: Path
    result: dict[str, Any]
    details: list[dict[str, Any]]

    def rows(self, table: str, **where: Any) -> list[dict[str, Any]]:
        """Rows of one table of the result, such as rows("remid", policy="my-model", unit="nats/response").

        Raises ConfigError for a table or a column that there is not: a misspelt one would match nothing, or all.
        """
        tables = [name for name, rows in self.result.items() if isinstance(rows, list)]
        if table not in tables:
            raise ConfigError(f"rows: no table {table}; there are {', '.join(tables)}")
        columns = dict.fromkeys(key for row in self.result[table] for key in row)
        if wrong := [key for key in where if columns and key not in columns]:
            raise ConfigError(f"rows: {table} has no column {', '.join(wrong)}; it has {', '.join(columns)}")
        return [row for row in self.result[table] if all(row.get(key) == value for key, value in where.items())]


def execute(config: RunConfig, folder: Path, progress: Progress, engine: EngineConfig | None = None) -> Run:
    """Run every stage and write result.json and details.json. The same call again resumes, or finds all done.

    engine: where the model runs. Raises DataError, ConfigError, ModelError, EngineError or StoreError (errors.py).
    """
    embedder = find_embedder(config.embedder)
    with Store(folder) as store, run_engines(config, engine, progress) as engines:
        log = _Log(folder)
        with log.stage("planning"):
            plan = make_plan(config, store, engines, progress)
        with log.stage("scoring"):
            plan = score_plan(plan, store, engines, progress)
            if parts := component_units(plan):
                score_units(parts, store, plan.scorer_id, engines, config, progress)
        with log.stage("measuring"):
            told = tell(plan, store, engines, progress)
            result, details = make_result(plan, store, told, embedder, progress)
        # Still holding the folder, lest another process write its result between these two.
        write_json(folder / "result.json", result)
        write_json(folder / "details.json", details)
    return Run(folder, result, details)


def load_run(folder: Path) -> Run:
    """A finished run from its folder. Raises DataError when there is none."""
    try:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        details = json.loads((folder / "details.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError([Problem(str(folder), "", "", f"holds no finished run ({error})")]) from error
    if not isinstance(result, dict) or result.get("schema_version") != SCHEMA_VERSION:
        raise DataError([Problem(str(folder / "result.json"), "", "schema_version", f"is not {SCHEMA_VERSION}")])
    return Run(folder, result, details)


def scored_subsets(folder: Path) -> list[SubsetScores]:
    """The scored pairs of a finished run, for analyses that go beyond its result. Computes nothing anew.

    Raises DataError when the folder holds no finished run, or the data it was made from has changed.
    """
    with _replayed(folder) as (plan, store, _):
        return plan.subsets(store)


def told_subsets(folder: Path) -> tuple[list[SubsetScores], AllTold]:
    """The same, with what every response tells (earned, repeated), by subset and policy. Raises as scored_subsets."""
    with _replayed(folder) as (plan, store, engines):
        return plan.subsets(store), tell(plan, store, engines, Progress(enabled=False))


@contextmanager
def _replayed(folder: Path) -> Iterator[tuple[Plan, Store, Engines]]:
    manifest = load_run(folder).result["manifest"]
    where = {name: manifest["model"][name] for name in ("device", "dtype")}
    served = manifest["config"].get("score_server") is not None
    config = RunConfig.model_validate(manifest["config"] | ({} if served else where))
    quiet = Progress(enabled=False)
    with Store(folder) as store, run_engines(config, _silent(config), quiet) as engines:
        plan = make_plan(config, store, engines, quiet)
        if plan.benchmark.digest != manifest["benchmark"]["digest"]:
            raise DataError([Problem(plan.benchmark.source, "", "", f"has changed since the run in {folder} was made")])
        yield score_plan(plan, store, engines, quiet, replay=True), store, engines


def _silent(config: RunConfig) -> EngineConfig:
    """Of a run whose server is not asked anything any more, and so needs no key."""
    engine = with_server(None, config.score_server, config.model)
    return engine if engine.server is None else replace(engine, server=replace(engine.server, api_key_env=""))


def score_plan(plan: Plan, store: Store, engines: Engines, progress: Progress, *, replay: bool = False) -> Plan:
    """The plan that was scored, all at once or in rounds. replay: score nothing."""

    def score(part: Plan) -> None:
        if not replay:
            score_units(part.units, store, part.scorer_id, engines, part.config, progress)
        mix_scores(part, store)

    if plan.config.until_se is None:
        score(plan)
        return plan
    done = score_in_rounds(plan, plan.config.until_se, store, score, progress)
    return replace(done.plan, first=done.first, whole=done.whole, stopping=done.stopping)


def make_folder(folder: Path) -> None:
    """The folder that a command writes to, before it computes anything. Raises StoreError where there can be none."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{folder}: cannot be made a folder: {error.strerror}; use another --out") from None


def write_json(path: Path, content: Any) -> None:
    """Write whole or not at all: a reader never sees half a file."""
    scratch = path.with_name(path.name + ".part")
    try:
        scratch.write_text(json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    except OSError:  # half a file would only take the room that is lacking
        scratch.unlink(missing_ok=True)
        raise
    os.replace(scratch, path)


class _Log:
    """log.jsonl: how long each stage took, apart from the result, whose bytes must not depend on it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "log.jsonl"

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.time()
        yield
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"stage": name, "started": start, "seconds": time.time() - start}) + "\n")
