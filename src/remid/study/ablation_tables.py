"""The ablation's tables: levels, arms against each other item by item, readings, gaps to the truth, orderings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray

from remid.errors import StoreError
from remid.estimate import holm
from remid.pipeline.measure import Row, number
from remid.study.arms import MIXED
from remid.study.crossed import Crossed, crossed_mean, crossed_ratio
from remid.types import FloatArray

#: Against which gaps to the truth are held.
_BASELINE = "none"
#: What is claimed to have ever higher perplexity, where these arms are there.
_CHAINS = (("full", "sft", "none"), (f"full{MIXED}", f"sft{MIXED}", "none"))
ALL = "all"


@dataclass(frozen=True, slots=True)
class Scores:
    """Test references under one arm and seed, in the order of the test samples.

    nats: log q of each, None where it cannot be computed. tokens: of each, end of turn included. parsed: whether a
    trace was written that follows the format; None as a whole: none was asked for. trace_tokens: mean length of core
    features. best: what was kept. seconds: of this arm's own training, and of scoring. examples: some traces.
    cold_start: the run whose cold start this one took over, None where it made its own. without, hindsight: log q
    under the same q2 without a trace, and with one of the kind that it was trained on; None without reasoning. mixed:
    log of q2's mean over several traces that q1 drew, drawn_parsed: which of all these followed the format; None where
    none were drawn.
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
    mixed: tuple[float | None, ...] | None = None
    drawn_parsed: tuple[bool, ...] | None = None


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
    for mixed in (False, True):  # that arms were mixed as well is nothing that the others are to be corrected for
        family = [row for row in pairs if (MIXED in row["arm"] or MIXED in row["against"]) == mixed]
        for row, p in zip(family, holm([_nan(row["p_value"]) for row in family]), strict=True):
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
    rows: list[Row] = []
    for chain in ([n for n in names if n in arms] for names in _CHAINS):
        if len(chain) < 2:
            continue
        for shift in dict.fromkeys(row["shift"] for row in pairs):
            steps = [_step(pairs, one, other, shift) for one, other in pairwise(chain)]
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


def _step(pairs: Sequence[Row], one: str, other: str, shift: str) -> Row:
    """The pair of these two arms, whichever of them stands first in the table."""
    for row in pairs:
        if row["shift"] == shift and {row["arm"], row["against"]} == {one, other}:
            if row["arm"] == one:
                return row
            return {"ratio": None if row["ratio"] is None else 1 / row["ratio"], "p_value": row["p_value"]}
    raise KeyError(f"{one}, {other}, {shift}")


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
