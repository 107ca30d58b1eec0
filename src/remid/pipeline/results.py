"""A run's result and details out of its plan and its store (docs/result.md)."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np

from remid.lm.embed import EmbedderSource
from remid.pipeline import measure
from remid.pipeline.agreement import agreement_rows, estimator_rows
from remid.pipeline.bounds import bound_rows
from remid.pipeline.components import component_rows, component_units
from remid.pipeline.details import detail_rows
from remid.pipeline.gap import change_rows, gap_cells, gap_contrast_rows, gap_rows
from remid.pipeline.missing import Missing, find_missing
from remid.pipeline.plan import Group, Plan
from remid.pipeline.policies import CONTROLS
from remid.pipeline.progress import Progress
from remid.pipeline.score import Unit, text_key
from remid.pipeline.shift import Shifts, embed_texts, needed_texts
from remid.pipeline.store import Store
from remid.pipeline.surface import surface_rows
from remid.pipeline.told import AllTold
from remid.pipeline.warn import find_warnings

SCHEMA_VERSION = 1


def make_result(
    plan: Plan, store: Store, told: AllTold, embedder: EmbedderSource, progress: Progress
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(result.json, details.json) of a plan whose pairs are all in the store. Embeds what is not embedded yet.

    told: what `pipeline.told.tell` read from it.
    """
    config, groups, units = plan.config, plan.groups, [*plan.units, *component_units(plan)]
    scored, prompts = store.scored(plan.scorer_id), store.prompts(plan.scorer_id)
    subsets = plan.subsets(store)
    # When scoring stops is decided by R-EMID alone: to what else is shown, the rounds before the last are nothing.
    last = [replace(s, first=None) for s in subsets]
    answers = {g.subset: g.answers for g in groups}
    policies = [name for name in groups[0].answers if name not in CONTROLS]
    confidence = config.confidence
    with progress.stage("estimating", 6) as step:
        information = measure.information_rows(subsets, confidence)
        step(1)
        remi_list = measure.remi_rows(subsets, confidence)
        step(1)
        remid_list = measure.remid_rows(subsets, confidence)
        step(1)
        contrasts = measure.contrast_rows(subsets, policies, confidence)
        step(1)
        estimators, gains = estimator_rows(subsets, confidence)
        agreement, disagreements = agreement_rows(estimators, gains, contrasts, confidence)
        step(1)
        gap_list = gap_cells(subsets, told, confidence, config.seed)
        step(1)
    vectors = embed_texts(needed_texts(subsets, answers), store, embedder, progress)
    shifts = Shifts(subsets, answers, vectors, permutations=config.permutations, seed=config.seed)
    divergences = shifts.divergence_rows(progress)
    bounds = bound_rows(shifts, list(groups[0].answers), divergences, remid_list, confidence, progress)
    missing = find_missing(groups, plan.traces, scored, prompts)
    result: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "policies": [_policy_row(name, groups) for name in groups[0].answers],
        "subsets": [_subset_row(g, missing) for g in groups],
        "gap": gap_rows(gap_list, last, told, answers, confidence),
        "gap_change": change_rows(gap_list, bounds, confidence),
        "gap_contrasts": gap_contrast_rows(gap_list, policies, confidence),
        "information": information,
        "remi": remi_list,
        "remid": remid_list,
        "contrasts": contrasts,
        "estimators": estimators,
        "agreement": agreement,
        "disagreements": disagreements,
        "surface": surface_rows(last, answers, confidence),
        "components": component_rows(plan, last, scored),
        "bound": bounds,
        "divergence": divergences,
        "worst_case": measure.worst_rows(remid_list, bounds),
        "missing": missing.rows,
        "traces": plan.traces.summary,
        "scoring": _scoring_counts(units, scored, prompts),
        "stopping": plan.stopping,
    }
    result["manifest"] = _manifest(plan, embedder)
    result["warnings"] = find_warnings(plan.benchmark, result, config)
    keys = {s.sample_id: key for g in groups for s, key in zip(g.samples, g.keys, strict=True)}
    by_sample = {sample_id: prompts.get(key) if key else None for sample_id, key in keys.items()}
    return result, detail_rows(subsets, answers, plan.traces.features, by_sample, missing.reasons)


def _manifest(plan: Plan, embedder: EmbedderSource) -> dict[str, Any]:
    benchmark, source, config = plan.benchmark, plan.source, plan.config
    dtype, device = plan.where
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
            "n": sum(len(g.samples) for g in plan.groups),
        },
        "model": {
            "name": source.name,
            "fingerprint": source.fingerprint,
            "dtype": dtype,
            "device": device,
        },
        "estimator": plan.estimator,
        "embedder": {"name": embedder.name, "fingerprint": embedder.fingerprint},
        "seed": config.seed,
        "groupings": {"group_by": config.group_by, "cluster_by": config.cluster_by},
    }


def _policy_row(name: str, groups: tuple[Group, ...]) -> dict[str, Any]:
    texts = [text for g in groups for text in g.answers[name]]
    kind = "control" if name in CONTROLS else "model"
    answered = sum(text is not None for text in texts)
    return {"policy": name, "kind": kind, "n_responses": answered, "n_missing": len(texts) - answered}


def _subset_row(g: Group, missing: Missing) -> dict[str, Any]:
    unscorable = sum((s.sample_id, "reference") in missing.reasons for s in g.samples)
    n = len(g.samples)
    return {"subset": g.subset, "shift": g.shift, "split": g.split, "n": n, "n_unscorable": unscorable}


def _scoring_counts(units: list[Unit], scored: Mapping[Any, Any], prompts: Mapping[str, Any]) -> dict[str, int]:
    pairs = {(unit.key, text_key(text)) for unit in units for text in unit.texts}
    rows = [prompts[key] for key in {unit.key for unit in units}]
    return {
        "n_prompts": len(rows),
        "n_continuations": len(pairs),
        "n_prompt_tokens": sum(row.n_tokens for row in rows),
        "n_continuation_tokens": sum(scored[pair][0] for pair in pairs),
        "n_dropped_turns": sum(row.dropped_turns for row in rows),
    }
