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
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from remid.data import read_benchmark
from remid.errors import ConfigError, StoreError
from remid.estimate import holm
from remid.lm.models import find_model
from remid.pipeline.measure import Row, number
from remid.pipeline.progress import Progress
from remid.pipeline.prompts import PROMPT_VERSION
from remid.study.arms import ARMS, arm_settings, chosen_arms
from remid.study.crossed import Crossed, crossed_mean, crossed_ratio
from remid.train.config import TrainConfig, make_train_config
from remid.types import FloatArray, Sample

#: Against which gaps to the truth are held.
_BASELINE = "none"
ALL = "all"


@dataclass(frozen=True, slots=True)
class Scores:
    """Test references under one arm and seed, in the order of the test samples.

    nats: log q of each, None where it cannot be computed. tokens: of each, end of turn included. parsed: whether a
    trace was written that follows the format; None as a whole: none was asked for. trace_tokens: mean length of core
    features. best: what was kept. seconds: of this arm's own training, and of scoring. examples: some traces.
    cold_start: the run whose cold start this one took over, None where it made its own. without, hindsight: log q
    under the same q2 without a trace, and with one of the kind that it was trained on; None without reasoning.
    """

    sample_ids: tuple[str, ...]
    nats: tuple[float | None, ...]
    tokens: tuple[int | None, ...]
    parsed: tuple[bool, ...] | None
    trace_tokens: float | None
    best: str
    seconds: float
    examples: tuple[tuple[str, str], ...]
    cold_start: str | None = None
    without: tuple[float | None, ...] | None = None
    hindsight: tuple[float | None, ...] | None = None


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
    confidence: float = 0.95,
) -> dict[str, Any]:
    """Train and score every arm under every seed, and compare. limit: test samples of each shift at most (drawn).

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
            scored[name].append(_one(material.settings(seed), name, seed, samples, folder, progress))
    truth_I = None if material.truth is None else np.array([material.truth(sample) for sample in samples])
    return {
        "study": "ablation",
        **tables(scored, [sample.shift for sample in samples], truth_I, confidence),
        "runs": [
            {"arm": name, "seed": seed, "best": one.best, "seconds": one.seconds, "cold_start": one.cold_start}
            | {"examples": one.examples[:2]}
            for name, many in scored.items()
            for seed, one in enumerate(many)
        ],
        "confidence": confidence,
        "n_seeds": seeds,
        "limit": limit,
        "items": _counts(samples),
        "config": first.model_dump(mode="json"),
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
    whole: TrainConfig, arm: str, seed: int, samples: Sequence[Sample], folder: Path, progress: Progress
) -> Scores:
    """Train and score one arm under one seed, or read what was left."""
    from remid.pipeline.run import write_json
    from remid.study.borrow import borrow, borrow_texts
    from remid.study.reference_scores import reference_scores
    from remid.study.shared_adapter import train_shared
    from remid.train.corl import train_corl
    from remid.train.watched import train_watched

    config, name = arm_settings(whole, arm), f"{arm}-{seed}"
    path, run = folder / "scores" / f"{name}.json", folder / "runs" / name
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
        train = train_watched if config.stop_on_collapse else train_corl  # watching costs evaluations
        estimator = train(config, run, progress)
    best = json.loads((run / "best.json").read_text(encoding="utf-8"))["name"]
    scores = reference_scores(estimator, config, samples, path.parent, progress, best=best, begin=begin)
    scores = replace(scores, cold_start=taken)
    write_json(path, {"made_from": made_from, "scores": asdict(scores)})
    return scores


def _texts_and_base(config: TrainConfig) -> dict[str, Any]:
    """What scores depend on besides settings: data and base may have changed under the same names."""
    benchmark = read_benchmark(config.data, mapping=config.mapping, taxonomy=config.taxonomy)
    return {"data": benchmark.digest, "base": find_model(config.model).fingerprint, "prompts": PROMPT_VERSION}


def _read(row: Mapping[str, Any]) -> Scores:
    fixed: dict[str, Any] = {key: tuple(row[key]) for key in ("sample_ids", "nats", "tokens")}
    examples = tuple((example[0], example[1]) for example in row["examples"])
    for key in ("parsed", "without", "hindsight"):
        fixed[key] = None if row[key] is None else tuple(row[key])
    return Scores(**{**row, **fixed, "examples": examples})


def tables(
    scored: Mapping[str, Sequence[Scores]], shifts: Sequence[str], truth_I: FloatArray | None, confidence: float
) -> dict[str, list[Row]]:
    """Rows of the result: levels (an arm under a shift), pairs (two arms), gaps to the truth, and orderings.

    An item that some arm or seed could not score is left out of all, and counted.
    """
    nats, tokens_I = _arrays(scored)
    whole_I = np.isfinite(tokens_I) & np.all([np.isfinite(table_SI).all(axis=0) for table_SI in nats.values()], axis=0)
    shift_I = np.array(shifts)
    levels: list[Row] = []
    pairs: list[Row] = []
    gaps: list[Row] = []
    readings: list[Row] = []
    for shift in (*dict.fromkeys(shifts), ALL):
        mine_I = (shift_I == shift) | (shift == ALL)
        kept_I = mine_I & whole_I
        where = {"shift": shift, "n": int(kept_I.sum()), "n_missing": int((mine_I & ~whole_I).sum())}
        part = {name: table_SI[:, kept_I] for name, table_SI in nats.items()}
        tokens_SI = np.broadcast_to(tokens_I[kept_I], next(iter(part.values())).shape)
        for name, own_SI in part.items():
            levels.append({"arm": name, **where, **_level(own_SI, tokens_SI, scored[name], confidence)})
        for one, other in combinations(part, 2):
            pairs.append(
                {"arm": one, "against": other, **where, **_pair(part[one], part[other], tokens_SI, confidence)}
            )
        readings += [
            {"arm": name, **where, **_reading(scored[name], kept_I, part.get(_BASELINE), tokens_SI, confidence)}
            for name in part
            if scored[name][0].without is not None
        ]
        if truth_I is not None:
            gap = {name: truth_I[kept_I] - own_SI for name, own_SI in part.items()}
            gaps += [{"arm": name, **where, **_gap(name, gap, confidence)} for name in gap]
    for row, p in zip(pairs, holm([_nan(row["p_value"]) for row in pairs]), strict=True):
        row["p_adjusted"] = number(float(p))
        row["significant"] = bool(p < 1 - confidence)
    return {
        "levels": levels,
        "pairs": pairs,
        "gaps": gaps,
        "readings": readings,
        "orderings": _orderings(list(nats), pairs),
    }


def _arrays(scored: Mapping[str, Sequence[Scores]]) -> tuple[dict[str, FloatArray], FloatArray]:
    """Per arm (S, I) log q in nats per response, and (I,) tokens; NaN where there is none."""
    every = [one for many in scored.values() for one in many]
    if any(one.sample_ids != every[0].sample_ids for one in every):
        raise StoreError("ablation: the arms were scored on different test samples; use another --out")
    nats = {name: np.array([one.nats for one in many], dtype=np.float64) for name, many in scored.items()}
    tokens_RI = np.array([one.tokens for one in every], dtype=np.float64)
    # A reference has as many tokens in every arm; where one arm could not score it, another may tell.
    known_RI = np.isfinite(tokens_RI)
    total_I = np.where(known_RI, tokens_RI, 0.0).sum(axis=0)
    return nats, np.where(known_RI.any(axis=0), total_I / np.maximum(known_RI.sum(axis=0), 1), np.nan)


def _level(nats_SI: FloatArray, tokens_SI: FloatArray, scores: Sequence[Scores], confidence: float) -> Row:
    """Perplexity exp(-sum log q / sum tokens) and nats per response, with intervals."""
    surprise = crossed_ratio(-nats_SI, tokens_SI)
    low, high = surprise.interval(confidence)
    with np.errstate(invalid="ignore", divide="ignore"):
        per_seed_S = np.exp(-nats_SI.sum(axis=1) / tokens_SI.sum(axis=1))
    written = [one.parsed for one in scores if one.parsed is not None]
    return {
        "perplexity": number(float(np.exp(surprise.value))),
        "perplexity_low": number(float(np.exp(low))),
        "perplexity_high": number(float(np.exp(high))),
        "perplexity_per_seed": [number(float(value)) for value in per_seed_S],
        **_interval("nats", crossed_mean(nats_SI), confidence),
        "parse_failures": 1 - float(np.mean(written)) if written else None,
        "trace_tokens": _mean([one.trace_tokens for one in scores]),
    }


def _pair(one_SI: FloatArray, other_SI: FloatArray, tokens_SI: FloatArray, confidence: float) -> Row:
    """Arm against arm on the same items: perplexity as a share of the other's, log q minus log q, the test of it."""
    apart = crossed_ratio(other_SI - one_SI, tokens_SI)
    low, high = apart.interval(confidence)
    return {
        "ratio": number(float(np.exp(apart.value))),
        "ratio_low": number(float(np.exp(low))),
        "ratio_high": number(float(np.exp(high))),
        **_interval("nats", crossed_mean(one_SI - other_SI), confidence),
        "p_value": number(apart.p_value),
        "df": number(apart.df),
    }


def _reading(
    scores: Sequence[Scores],
    kept_I: NDArray[np.bool_],
    base_SI: FloatArray | None,
    tokens_SI: FloatArray,
    confidence: float,
) -> Row:
    """log q with a trace minus log q without, under the same q2, nats per response.

    own: with what q1 wrote from the input. hindsight: with one of the kind that q2 was trained on. The
    second asks whether q2 reads, the first whether what q1 writes is worth reading. Items without are left out.
    against_none: the arm with hindsight against the arm without reasoning (base_SI), what a perfect q1 could give.
    """
    own_SI, without_SI, hindsight_SI = (
        np.array([getattr(one, name) for one in scores], dtype=np.float64)[:, kept_I]
        for name in ("nats", "without", "hindsight")
    )
    known_I = np.isfinite(own_SI + without_SI).all(axis=0)
    told_I = known_I & np.isfinite(hindsight_SI).all(axis=0)
    against = None
    if base_SI is not None:
        against = _pair(hindsight_SI[:, told_I], base_SI[:, told_I], tokens_SI[:, told_I], confidence)
    return {
        "n_own": int(known_I.sum()),
        "n_hindsight": int(told_I.sum()),
        **_interval("own", crossed_mean((own_SI - without_SI)[:, known_I]), confidence),
        **_interval("hindsight", crossed_mean((hindsight_SI - without_SI)[:, told_I]), confidence),
        "against_none": against,
    }


def _gap(name: str, gap: Mapping[str, FloatArray], confidence: float) -> Row:
    """log p - log q, nats per response, and its share of the baseline's. Its expectation is a Kullback-Leibler
    divergence."""
    row = _interval("gap", crossed_mean(gap[name]), confidence)
    if _BASELINE not in gap or name == _BASELINE:
        return row | {"share": None, "share_low": None, "share_high": None}
    return row | _interval("share", crossed_ratio(gap[name], gap[_BASELINE]), confidence)


def _orderings(arms: Sequence[str], pairs: Sequence[Row]) -> list[Row]:
    """Per shift: whether perplexity rises from each of full, sft, none to the next, and the p-value of that as a whole.

    An order holds if every step holds, so its p-value is the largest of the steps' one-sided ones (intersection-union).
    """
    chain = [name for name in ("full", "sft", "none") if name in arms]
    rows: list[Row] = []
    if len(chain) < 2:
        return rows
    for shift in dict.fromkeys(row["shift"] for row in pairs):
        steps = [
            row
            for one, other in pairwise(chain)
            for row in pairs
            if (row["arm"], row["against"], row["shift"]) == (one, other, shift)
        ]
        sided = [None if s["p_value"] is None or s["ratio"] is None else _one_sided(s) for s in steps]
        known = [p for p in sided if p is not None]
        rows.append(
            {
                "shift": shift,
                "order": chain,
                "holds": all((s["ratio"] or 2.0) < 1 for s in steps),
                "p_value": max(known) if len(known) == len(steps) else None,
            }
        )
    return rows


def _one_sided(step: Row) -> float:
    half = float(step["p_value"]) / 2
    return half if step["ratio"] < 1 else 1 - half


def _interval(name: str, found: Crossed, confidence: float) -> Row:
    low, high = found.interval(confidence)
    return {name: number(found.value), f"{name}_low": number(low), f"{name}_high": number(high)}


def _nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
