"""One run: the stages in order, each finding in the store what is already there, and the files they leave behind."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from remid.data import read_benchmark
from remid.data.mapping import look_up
from remid.data.read import sample_fields
from remid.errors import ConfigError, DataError, Problem
from remid.estimate import balanced_design
from remid.lm.chat import Message
from remid.lm.embed import EmbedderSource, find_embedder
from remid.lm.models import ModelSource, find_model, resolve_device, resolve_dtype
from remid.pipeline import measure
from remid.pipeline.config import RunConfig
from remid.pipeline.details import detail_rows
from remid.pipeline.missing import Missing, find_missing
from remid.pipeline.policies import CONTROLS, Texts, chosen_policies, subset_texts
from remid.pipeline.progress import Progress
from remid.pipeline.prompts import role_play_messages
from remid.pipeline.reason import Traces, collect_traces
from remid.pipeline.score import Unit, pair_scores, plan_units, prompt_key, score_units, scorer_key
from remid.pipeline.shift import Shifts, embed_texts, needed_texts
from remid.pipeline.store import Store
from remid.pipeline.warn import find_warnings
from remid.types import ID, Benchmark, PairDesign, Sample

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run: its folder and what result.json and details.json hold (docs/result.md)."""

    folder: Path
    result: dict[str, Any]
    details: list[dict[str, Any]]

    def rows(self, table: str, **where: Any) -> list[dict[str, Any]]:
        """Rows of one table of the result, such as rows("remid", policy="my-model", unit="nats/response")."""
        return [row for row in self.result[table] if all(row.get(key) == value for key, value in where.items())]


@dataclass(frozen=True, slots=True)
class Group:
    """The test samples of one subset, in file order, with their negatives, prompts and everyone's responses."""

    subset: str
    shift: str
    split: str
    samples: tuple[Sample, ...]
    design: PairDesign
    prompts: tuple[tuple[Message, ...] | None, ...]
    answers: dict[str, Texts]

    @property
    def keys(self) -> list[str | None]:
        """Prompt keys, None where the sample has no prompt."""
        return [None if messages is None else prompt_key(messages) for messages in self.prompts]


def execute(config: RunConfig, folder: Path, progress: Progress) -> Run:
    """Run every stage and write result.json and details.json. The same call again resumes, or finds all done.

    Raises DataError, ConfigError, ModelError or StoreError (errors.py).
    """
    benchmark = read_benchmark(
        config.data,
        mapping=config.mapping,
        taxonomy=config.taxonomy,
        responses=config.responses,
        group_by=config.group_by,
    )
    samples = limited(benchmark, config.limit)
    if not samples:
        raise ConfigError("data: no test samples (only training data); R-EMI needs an in-distribution test subset")
    policies = chosen_policies(benchmark, config.policies)
    _clusters(tuple(samples), config.cluster_by)  # fails now where the field is missing, not after hours of scoring
    source, embedder = find_model(config.model), find_embedder(config.embedder)
    with Store(folder) as store:
        log = _Log(folder)
        with log.stage("traces"):
            traces = collect_traces(benchmark, samples, store, source, config, progress)
        groups = _groups(samples, policies, traces, config)
        scorer_id = scorer_key(source, config)
        units = [unit for g in groups for unit in plan_units(g.prompts, g.answers, g.design)]
        with log.stage("scoring"):
            score_units(units, store, scorer_id, source, config, progress)
        with log.stage("measuring"):
            result, details = _measure(benchmark, groups, units, traces, store, scorer_id, embedder, config, progress)
        result["manifest"] = _manifest(benchmark, groups, source, embedder, config)
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


def write_json(path: Path, content: Any) -> None:
    """Write whole or not at all: a reader never sees half a file."""
    scratch = path.with_name(path.name + ".part")
    scratch.write_text(json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(scratch, path)


def limited(benchmark: Benchmark, limit: int | None) -> list[Sample]:
    """Test samples, at most `limit` of each subset, in file order."""
    seen: dict[str, int] = {}
    kept = []
    for sample in benchmark.test:
        seen[sample.subset] = seen.get(sample.subset, 0) + 1
        if limit is None or seen[sample.subset] <= limit:
            kept.append(sample)
    return kept


def _groups(samples: list[Sample], policies: tuple[str, ...], traces: Traces, config: RunConfig) -> list[Group]:
    """Subsets in order of first appearance, ID first."""
    names = sorted(dict.fromkeys(s.subset for s in samples), key=lambda n: _first(samples, n).shift != ID)
    groups = []
    for name in names:
        members = tuple(s for s in samples if s.subset == name)
        design = balanced_design(len(members), config.negatives, config.seed)
        prompts = tuple(_prompt(sample, traces) for sample in members)
        answers = subset_texts(members, policies, design)
        groups.append(Group(name, members[0].shift, members[0].split, members, design, prompts, answers))
    return groups


def _first(samples: list[Sample], subset: str) -> Sample:
    return next(s for s in samples if s.subset == subset)


def _prompt(sample: Sample, traces: Traces) -> tuple[Message, ...] | None:
    if traces.source == "none":
        return tuple(role_play_messages(sample))
    features = traces.features[sample.sample_id]
    return None if features is None else tuple(role_play_messages(sample, features))


def _measure(  # noqa: PLR0913, PLR0917
    benchmark: Benchmark, groups: list[Group], units: list[Unit], traces: Traces, store: Store, scorer_id: str,
    embedder: EmbedderSource, config: RunConfig, progress: Progress,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:  # fmt: skip
    """Everything of result.json but the manifest, and details.json."""
    scored, prompts = store.scored(scorer_id), store.prompts(scorer_id)
    subsets = [
        measure.SubsetScores(
            g.subset,
            g.shift,
            g.samples,
            {policy: pair_scores(g.keys, texts, g.design, scored) for policy, texts in g.answers.items()},
            _clusters(g.samples, config.cluster_by),
        )
        for g in groups
    ]
    answers = {g.subset: g.answers for g in groups}
    policies = [name for name in groups[0].answers if name not in CONTROLS]
    confidence = config.confidence
    with progress.stage("estimating", 4) as step:
        information = measure.information_rows(subsets, confidence)
        step(1)
        remi_list = measure.remi_rows(subsets, confidence)
        step(1)
        remid_list = measure.remid_rows(subsets, confidence)
        step(1)
        contrasts = measure.contrast_rows(subsets, policies, confidence)
        step(1)
    vectors = embed_texts(needed_texts(subsets, answers), store, embedder, progress)
    shifts = Shifts(subsets, answers, vectors, permutations=config.permutations, seed=config.seed)
    divergences = shifts.divergence_rows(progress)
    bounds = shifts.bound_rows(divergences, remid_list, progress)
    missing = find_missing(groups, traces, scored, prompts)
    result: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "policies": [_policy_row(name, groups) for name in groups[0].answers],
        "subsets": [_subset_row(g, missing) for g in groups],
        "information": information,
        "remi": remi_list,
        "remid": remid_list,
        "contrasts": contrasts,
        "bound": bounds,
        "divergence": divergences,
        "worst_case": measure.worst_rows(remid_list, bounds),
        "missing": missing.rows,
        "traces": traces.summary,
        "scoring": _scoring_counts(units, scored, prompts),
    }
    result["warnings"] = find_warnings(benchmark, result, config)
    features = {k: v for k, v in traces.features.items() if v is not None}
    keys = {s.sample_id: key for g in groups for s, key in zip(g.samples, g.keys, strict=True)}
    by_sample = {sample_id: prompts.get(key) if key else None for sample_id, key in keys.items()}
    return result, detail_rows(subsets, answers, features, by_sample, missing.reasons)


def _clusters(samples: tuple[Sample, ...], field: str | None) -> tuple[str, ...] | None:
    if field is None:
        return None
    labels = []
    for sample in samples:
        _, value = look_up(sample_fields(sample), field)
        if value is None:
            file, _, record = sample.place.rpartition(": ")
            raise DataError([Problem(file, record, field, "is missing; --cluster-by needs it in every test sample")])
        labels.append(json.dumps(value, sort_keys=True, ensure_ascii=False))
    return tuple(labels)


def _policy_row(name: str, groups: list[Group]) -> dict[str, Any]:
    texts = [text for g in groups for text in g.answers[name]]
    kind = "control" if name in CONTROLS else "model"
    answered = sum(text is not None for text in texts)
    return {"policy": name, "kind": kind, "n_responses": answered, "n_missing": len(texts) - answered}


def _subset_row(g: Group, missing: Missing) -> dict[str, Any]:
    unscorable = sum((s.sample_id, "reference") in missing.reasons for s in g.samples)
    n = len(g.samples)
    return {"subset": g.subset, "shift": g.shift, "split": g.split, "n": n, "n_unscorable": unscorable}


def _scoring_counts(units: list[Unit], scored: Mapping[Any, Any], prompts: Mapping[str, Any]) -> dict[str, int]:
    from remid.pipeline.score import text_key

    pairs = {(unit.key, text_key(text)) for unit in units for text in unit.texts}
    rows = [prompts[key] for key in {unit.key for unit in units}]
    return {
        "n_prompts": len(rows),
        "n_continuations": len(pairs),
        "n_prompt_tokens": sum(row.n_tokens for row in rows),
        "n_continuation_tokens": sum(scored[pair][0] for pair in pairs),
        "n_dropped_turns": sum(row.dropped_turns for row in rows),
    }


def _manifest(
    benchmark: Benchmark, groups: list[Group], source: ModelSource, embedder: EmbedderSource, config: RunConfig
) -> dict[str, Any]:
    device = resolve_device(config.device)
    settings = json.loads(config.model_dump_json())
    return {
        "remid": version("remid"),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers")},
        "numpy": np.__version__,
        "config": settings,
        "benchmark": {
            "source": benchmark.source,
            "digest": benchmark.digest,
            "n": sum(len(g.samples) for g in groups),
        },
        "model": {
            "name": source.name,
            "fingerprint": source.fingerprint,
            "dtype": resolve_dtype(config.dtype, device),
            "device": device,
        },
        "embedder": {"name": embedder.name, "fingerprint": embedder.fingerprint},
        "seed": config.seed,
        "groupings": {"group_by": config.group_by, "cluster_by": config.cluster_by},
    }


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
