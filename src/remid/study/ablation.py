"""What reasoning and CoRL give the estimator: perplexity of references under arms of one training (arXiv 2512.17270,
Table 1).

Every arm is trained once per seed and scores the same test references, so arms are compared item by item. A seed
decides weights, order, sampling and the held-out part; in a world of text also the training samples. Every arm and seed
leaves its scores in a file of its own, and the same call goes on behind what is there.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from remid.data import read_benchmark
from remid.errors import ConfigError, StoreError
from remid.lm.models import find_model
from remid.pipeline.progress import Progress
from remid.study.ablation_tables import Scores, tables
from remid.study.arms import ARMS, GREEDY, MIXED, Draws, arm_settings, chosen_arms
from remid.train.config import TrainConfig, make_train_config
from remid.types import Sample


@dataclass(frozen=True, slots=True)
class Material:
    """What is trained and tested on. settings(seed): of the whole training; truth: exact log p(reference | input) of a
    sample, nats per response, None where it is not known."""

    settings: Callable[[int], TrainConfig]
    truth: Callable[[Sample], float] | None = None


def given_material(settings: Mapping[str, Any]) -> Material:
    """A user's data and settings; a seed there is where the seeds begin. Raises ConfigError for wrong settings."""
    config = make_train_config(**{"data": (), **settings})
    return Material(lambda seed: config.model_copy(update={"seed": config.seed + seed}))


def ablation_study(
    material: Material,
    arms: Sequence[str],
    seeds: int,
    folder: Path,
    progress: Progress,
    *,
    limit: int | None = None,
    draws: Draws = GREEDY,
    confidence: float = 0.95,
) -> dict[str, Any]:
    """Train and score every arm under every seed, and compare. limit: test samples of each shift at most (drawn).

    draws: with several, arms with reasoning are scored once more by the mean over these traces of their q1.

    Returns the content of the study's result.json (docs/ablation.md). The same call resumes.
    Raises DataError, ConfigError, ModelError; StoreError where the folder holds scores of other settings.
    """
    names = chosen_arms(arms)
    scored: dict[str, list[Scores]] = {name: [] for name in names}
    first = material.settings(0)
    for name in names:
        arm_settings(first, name)  # what cannot be trained says so now, and not after hours of other arms
    samples = _test_samples(first, limit)
    for seed in range(seeds):
        for name in names:
            progress.say(f"ablation: arm {name}, seed {seed}")
            scored[name].append(_one(material.settings(seed), name, seed, samples, folder, progress, draws=draws))
    truth_I = None if material.truth is None else np.array([material.truth(sample) for sample in samples])
    return {
        "study": "ablation",
        **tables(scored | _mixed(scored), [sample.shift for sample in samples], truth_I, confidence),
        "runs": [
            {"arm": name, "seed": seed, "best": one.best, "seconds": one.seconds, "cold_start": one.cold_start}
            | {"examples": one.examples[:2]}
            for name, many in scored.items()
            for seed, one in enumerate(many)
        ],
        "confidence": confidence,
        "n_seeds": seeds,
        "limit": limit,
        "draws": asdict(draws),
        "items": _counts(samples),
        "config": first.model_dump(mode="json"),
    }


def _mixed(scored: Mapping[str, Sequence[Scores]]) -> dict[str, list[Scores]]:
    """The arms whose traces were drawn, as arms of their own that are scored by the mean over them."""
    return {
        name + MIXED: [
            replace(one, nats=one.mixed, parsed=one.drawn_parsed, trace_tokens=None, without=None, hindsight=None)
            for one in many
            if one.mixed is not None
        ]
        for name, many in scored.items()
        if all(one.mixed is not None for one in many)
    }


def _test_samples(config: TrainConfig, limit: int | None) -> tuple[Sample, ...]:
    benchmark = read_benchmark(config.data, mapping=config.mapping, taxonomy=config.taxonomy)
    if not benchmark.test:
        raise ConfigError("ablation: the data has no test samples (splits IDTest, OOD1Test, ...); see docs/data.md")
    return drawn_evenly(benchmark.test, limit, config.seed)


def drawn_evenly(samples: Sequence[Sample], limit: int | None, seed: int) -> tuple[Sample, ...]:
    """At most `limit` of each shift (None: all), in file order; its subsets as alike in number as they have samples.

    Drawn by the seed; what is drawn of one shift does not depend on the others, and a larger limit draws more to it.
    """
    by_shift: dict[str, dict[str, list[int]]] = {}
    for place, sample in enumerate(samples):
        by_shift.setdefault(sample.shift, {}).setdefault(sample.subset, []).append(place)
    kept: set[int] = set()
    for shift, subsets in by_shift.items():
        rng = np.random.default_rng([seed, *shift.encode()])
        turns: list[tuple[int, int, int]] = []  # a sample of each subset in turn: turn, subset, place
        for subset, places in zip(rng.permutation(len(subsets)).tolist(), subsets.values(), strict=True):
            turns += [(turn, subset, place) for turn, place in enumerate(rng.permutation(places).tolist())]
        kept |= {place for _, _, place in sorted(turns)[:limit]}
    return tuple(sample for place, sample in enumerate(samples) if place in kept)


def _counts(samples: Sequence[Sample]) -> dict[str, dict[str, int]]:
    """How many test samples there are, by shift and subset."""
    found: dict[str, Counter[str]] = {}
    for sample in samples:
        found.setdefault(sample.shift, Counter())[sample.subset] += 1
    return {shift: dict(subsets) for shift, subsets in found.items()}


def _one(
    whole: TrainConfig,
    arm: str,
    seed: int,
    samples: Sequence[Sample],
    folder: Path,
    progress: Progress,
    *,
    draws: Draws = GREEDY,
) -> Scores:
    """Train and score one arm under one seed, or read what was left. Scores of other draws lie beside it."""
    from remid.pipeline.run import write_json
    from remid.study.borrow import borrow, borrow_texts
    from remid.study.reference_scores import reference_scores
    from remid.study.shared_adapter import train_shared
    from remid.train.watched import train_journalled, train_watched

    config, name = arm_settings(whole, arm), f"{arm}-{seed}"
    drawn = f"-draws{draws.count}-{draws.temperature:g}" if draws.count > 1 and config.reasoning else ""
    path, run = folder / "scores" / f"{name}{drawn}.json", folder / "runs" / name
    made_from = {"config": config.model_dump(mode="json"), "samples": [sample.sample_id for sample in samples]}
    made_from |= _texts_and_base(config)
    if path.exists():
        known = json.loads(path.read_text(encoding="utf-8"))
        if known["made_from"] != made_from:
            raise StoreError(f"{path}: scores of other settings, samples, data or base; use another --out")
        return _read(known["scores"])
    begin, taken = time.perf_counter(), None
    if ARMS[arm].shared:
        borrow_texts(config, run)
        estimator = train_shared(config, run, progress)
    else:
        taken = borrow(config, run)
        train = train_watched if config.stop_on_collapse else train_journalled
        estimator = train(config, run, progress)
    best = json.loads((run / "best.json").read_text(encoding="utf-8"))["name"]
    scores = reference_scores(estimator, config, samples, path.parent, progress, best=best, begin=begin, draws=draws)
    scores = replace(scores, cold_start=taken)
    write_json(path, {"made_from": made_from, "scores": asdict(scores)})
    return scores


def _texts_and_base(config: TrainConfig) -> dict[str, Any]:
    """What scores depend on besides settings: data and base may have changed under the same names."""
    benchmark = read_benchmark(config.data, mapping=config.mapping, taxonomy=config.taxonomy)
    return {"data": benchmark.digest, "base": find_model(config.model).fingerprint}


def _read(row: Mapping[str, Any]) -> Scores:
    fixed: dict[str, Any] = {key: tuple(row[key]) for key in ("sample_ids", "nats", "tokens")}
    examples = tuple((example[0], example[1]) for example in row["examples"])
    for key in ("parsed", "without", "hindsight", "mixed", "drawn_parsed"):
        fixed[key] = None if row.get(key) is None else tuple(row[key])
    return Scores(**{**row, **fixed, "examples": examples})
