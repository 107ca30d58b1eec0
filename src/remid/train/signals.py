"""What a training step shows of its health: pure functions of sampled completions, their rewards, and likelihoods.

A signal that cannot be told (no group of two, no token) is absent or None, never 0. Lengths are in tokens, likelihoods
in nats per token of the reference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from remid.types import FloatArray

#: Tokens of each completion that distinct-n looks at. The share of new n-grams falls with the amount of text, so a run
#: whose traces grow would look as if it repeated itself.
WINDOW = 64
#: Other prompts that each completion is compared with: a whole batch squared would be too many.
_NEIGHBOURS = 8
#: A group whose rewards spread less than this has no advantage (TRL's own limit).
_NO_SPREAD = 1e-8


@dataclass(frozen=True, slots=True)
class Said:
    """One sampled completion.

    group: its prompt. ids: tokens as sampled. finished: ends by its end of turn. parsed: follows its format. rewards:
    its parts by name before weighting, None where they could not be computed.
    """

    group: str
    text: str
    ids: tuple[int, ...]
    finished: bool
    parsed: bool
    rewards: Mapping[str, float] | None


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean with its standard error over n values; None where n is too small to tell."""

    value: float | None
    se: float | None
    n: int


def step_signals(said: Sequence[Said], weights: Mapping[str, float]) -> dict[str, float]:
    """The signals of one step's completions by name; those that cannot be told are absent. weights: of the rewards.

    n: completions. groups: prompts. length: tokens. distinct_1, distinct_2: different n-grams over all n-grams, which
    falls with the number of completions and as they settle on their prompts' best; own_distinct_2: of each completion
    for itself, averaged, which only repetition lowers. unique: see unique_share. unfinished, failures, missing: shares
    of completions that were cut off, do not follow the format, have no reward. spread: standard deviation of the reward
    within a group, averaged; spread/NAME: of a part.
    no_spread: share of groups without any. cross_*: see across_prompts.
    """
    if not said:
        return {}
    groups: dict[str, list[Said]] = {}
    for one in said:
        groups.setdefault(one.group, []).append(one)
    found: dict[str, float | None] = {
        "n": float(len(said)),
        "groups": float(len(groups)),
        "length": sum(len(one.ids) for one in said) / len(said),
        "distinct_1": distinct([one.ids for one in said], 1),
        "distinct_2": distinct([one.ids for one in said], 2),
        "own_distinct_2": _known_mean([distinct([one.ids], 2) for one in said]),
        "unique": unique_share([[one.text for one in group] for group in groups.values()]),
        "unfinished": _share([not one.finished for one in said]),
        "failures": _share([not one.parsed for one in said]),
        "missing": _share([one.rewards is None for one in said]),
    }
    found |= _spreads(list(groups.values()), weights)
    found |= across_prompts(list(groups.values()))
    return {name: value for name, value in found.items() if value is not None and math.isfinite(value)}


def examples(said: Sequence[Said], count: int = 2) -> list[dict[str, Any]]:
    """The first completions of the first prompts, as a journal's `samples` record holds them."""
    firsts = {one.group: one for one in reversed(said)}
    chosen = [firsts[group] for group in dict.fromkeys(one.group for one in said)][:count]
    return [
        {
            "sample_ID": one.group,
            "text": one.text,
            "parsed": one.parsed,
            "rewards": None if one.rewards is None else dict(one.rewards),
        }
        for one in chosen
    ]


def distinct(ids: Sequence[Sequence[int]], n: int) -> float | None:
    """Different n-grams over all n-grams, of the first tokens of each completion; None without any n-gram."""
    grams = [gram for tokens in ids for gram in _grams(tokens, n)]
    return len(set(grams)) / len(grams) if grams else None


def unique_share(groups: Sequence[Sequence[str]]) -> float | None:
    """How many texts of a group differ: (different - 1) / (texts - 1), averaged over groups of two or more.

    0 where all texts of a prompt are the same, 1 where none repeats, whatever the size of the groups.
    """
    shares = [(len(set(texts)) - 1) / (len(texts) - 1) for texts in groups if len(texts) > 1]
    return _mean(shares)


def within_group(groups: Sequence[Sequence[float]]) -> tuple[float | None, float | None]:
    """(mean over groups of the standard deviation within, share of groups without any), of groups of two or more."""
    spreads = [float(np.std(values, ddof=1)) for values in groups if len(values) > 1]
    return _mean(spreads), _share([spread <= _NO_SPREAD for spread in spreads])


def across_prompts(groups: Sequence[Sequence[Said]]) -> dict[str, float | None]:
    """How alike completions of different prompts are: what does not depend on its prompt tells nothing about it.

    cross_identical: share of pairs with the same text. cross_overlap: mean share of bigrams that a pair has in common
    (Jaccard, 0 to 1). cross_distinct_2: distinct-2 over one completion of each prompt. None with one prompt only.
    """
    prompts = len(groups)
    if prompts < 2:
        return {}
    same: list[bool] = []
    overlap: list[float] = []
    for place, group in enumerate(groups):
        for shift in range(1, min(prompts - 1, _NEIGHBOURS) + 1):
            other = groups[(place + shift) % prompts]
            for k, one in enumerate(group):
                second = other[k % len(other)]
                same.append(one.text.strip() == second.text.strip())
                overlap.append(_overlap(one, second))
    rounds = range(min(len(group) for group in groups))
    shares = [distinct([group[k].ids for group in groups], 2) for k in rounds]
    return {
        "cross_identical": _share(same),
        "cross_overlap": _mean(overlap),
        "cross_distinct_2": _known_mean(shares),
    }


def trace_gap(own_B: FloatArray, other_B: FloatArray) -> Mean:
    """Mean of log q2(y|x,r) - log q2(y|x, r of another sample) over samples, nats per token; NaN where one is missing.

    About 0 where q2 does not read the trace. With other_B = log q2(y|x) it is the advantage of having a trace.
    """
    return mean_of(np.asarray(own_B, dtype=np.float64) - np.asarray(other_B, dtype=np.float64))


def mean_of(values_B: FloatArray) -> Mean:
    """Mean and standard error over the finite values."""
    known = values_B[np.isfinite(values_B)]
    n = len(known)
    return Mean(
        float(known.mean()) if n else None,
        float(known.std(ddof=1) / math.sqrt(n)) if n > 1 else None,
        n,
    )


def slope(x: Sequence[float], y: Sequence[float | None]) -> Mean:
    """Slope of y over x by least squares, with the standard error that the scatter about the line implies.

    None where fewer than two (for the error three) points are known or all x agree.
    """
    pairs = [(a, b) for a, b in zip(x, y, strict=True) if b is not None and math.isfinite(b)]
    n = len(pairs)
    x_N, y_N = np.array([p[0] for p in pairs], dtype=float), np.array([p[1] for p in pairs], dtype=float)
    if n < 2 or np.ptp(x_N) == 0:
        return Mean(None, None, n)
    centred = x_N - x_N.mean()
    square = float(centred @ centred)
    value = float(centred @ y_N) / square
    left = y_N - y_N.mean() - value * centred
    return Mean(value, math.sqrt(float(left @ left) / (n - 2) / square) if n > 2 else None, n)


def _spreads(groups: Sequence[Sequence[Said]], weights: Mapping[str, float]) -> dict[str, float | None]:
    rows = [[one.rewards for one in group if one.rewards is not None] for group in groups]
    total = [[sum(weights[name] * row[name] for name in weights) for row in group] for group in rows]
    spread, none = within_group(total)
    parts = {f"spread/{name}": within_group([[row[name] for row in group] for group in rows])[0] for name in weights}
    return {"spread": spread, "no_spread": none, **parts}


def _overlap(one: Said, second: Said) -> float:
    a, b = set(_grams(one.ids, 2)), set(_grams(second.ids, 2))
    return len(a & b) / len(a | b) if a | b else float(one.ids == second.ids)


def _grams(tokens: Sequence[int], n: int) -> list[tuple[int, ...]]:
    shown = tokens[:WINDOW]
    return [tuple(shown[i : i + n]) for i in range(len(shown) - n + 1)]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _known_mean(values: Sequence[float | None]) -> float | None:
    return _mean([value for value in values if value is not None])


def _share(flags: Sequence[bool]) -> float | None:
    return sum(flags) / len(flags) if flags else None
