"""E. Time and peak memory at four sizes of prompts, continuations, policies and prompt length, a process for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from remid.engine.roofline import memory, shape_of, useful
from remid.lm.lanes import lanes_for, parts_of
from remid.lm.scoring import BLOCK_ROWS, PASS_ROWS
from remid.lm.work import Work
from remid.pipeline.policies import REFERENCE

from .bench import Bench
from .once import score_elsewhere
from .pairs import Ids, as_work, balanced_pairs
from .spread import Row

#: The four sizes, and what the other axes stand at meanwhile.
_PROMPTS, _ANSWERS, _LENGTHS = (4, 8, 16, 32), (16, 32, 64, 128), (250, 500, 1000, 2000)
_LENGTH, _ANSWER, _FEW = 500, 40, 8
_POLICY_CONTEXTS = 8


def growth(bench: Bench) -> Row:
    """Per axis: sizes, tokens, seconds, bytes at the peak and by the formula, and how straight the line is."""
    shape = shape_of(bench.loaded.model)
    axes: Row = {}
    for axis, every in _axes(bench).items():
        works = every[:: len(every) - 1] if bench.quick else every  # each process takes seconds to begin
        rows = []
        for size, work in works:
            told = score_elsewhere(work, bench.model, bench.threads)
            floor = useful(work, shape)
            formula = memory(
                shape,
                max(len(w.prompt) for w in work),
                max(len(c) for w in work for c in w.continuations),
                PASS_ROWS,
                BLOCK_ROWS,
                lanes_for(parts_of(work), bench.threads),
            )
            rows.append(
                {"size": size, "tokens": floor.tokens, "flop": floor.total, **told}
                | {"formula": asdict(formula) | {"total": formula.total}}
            )
            peak = (told["bytes_peak"] - told["bytes_libraries"]) / 1e6
            bench.say(f"{axis} {size}: {told['seconds']:.1f} s, {peak:.0f} MB above the libraries")
        sizes = [row["size"] for row in rows]
        axes[axis] = {
            "rows": rows,
            "time": _straight(sizes, [row["seconds"] for row in rows]),
            "time_by_flop": _straight([row["flop"] for row in rows], [row["seconds"] for row in rows]),
            "time_by_processor": _straight(sizes, [row["processor_seconds"] for row in rows]),
            "peak": _straight(sizes, [row["bytes_peak"] for row in rows]),
        }
    return {"packing": {"rows": PASS_ROWS, "block": BLOCK_ROWS}, "threads": bench.threads, "axes": axes}


def _axes(bench: Bench) -> dict[str, list[tuple[int, list[Work]]]]:
    scale = bench.sizes.growth
    vocabulary = shape_of(bench.loaded.model).vocabulary

    def sized(counts: Sequence[int]) -> list[int]:
        return [max(k + 1, round(count * scale)) for k, count in enumerate(counts)]

    contexts = bench.contexts(max(2, round(_POLICY_CONTEXTS * scale)))
    n = len(contexts.prompts)
    counts = sorted({1, *(round(len(contexts.policies) * share) for share in (0.27, 0.55, 1))})
    few = max(2, round(_FEW * scale))
    length = max(16, round(_LENGTH * scale))
    # The policy with the longest response comes first: memory depends on the longest, and every size has it.
    longest_first = sorted(contexts.policies, key=lambda name: -max(map(len, contexts.answers[name])))
    policies = []
    for count in counts:
        who = [REFERENCE, *longest_first[:count]]
        policies.append(
            (count, as_work(contexts, balanced_pairs(n, who, min(bench.sizes.negatives_run, n - 1), seed=10)))
        )
    return {
        "prompts": [(k, _random(vocabulary, k, length, few)) for k in sized(_PROMPTS)],
        "continuations": [(k, _random(vocabulary, 4, length, k)) for k in sized(_ANSWERS)],
        "policies": policies,
        "prompt length": [(k, _random(vocabulary, 4, k, few)) for k in sized(_LENGTHS)],
    }


def _random(vocabulary: int, prompts: int, length: int, answers: int) -> list[Work]:
    """Ids that no two prompts share a beginning of: what they say changes neither time nor memory."""
    rng = np.random.default_rng(11)

    def ids(count: int) -> Ids:
        return tuple(map(int, rng.integers(vocabulary, size=count)))

    return [Work(ids(length), tuple(ids(_ANSWER) for _ in range(answers))) for _ in range(prompts)]


def _straight(size_K: Sequence[float], value_K: Sequence[float]) -> Row:
    """The line of least squares, and the largest distance from it as a share of the largest value.

    exponent: slope in logarithms, 1 where the value is proportional to the size.
    """
    slope, at_zero = np.polyfit(size_K, value_K, 1)
    off = np.abs(np.array(value_K) - (at_zero + slope * np.array(size_K)))
    exponent, _ = np.polyfit(np.log(size_K), np.log(value_K), 1)
    return {
        "slope": float(slope),
        "at_zero": float(at_zero),
        "largest_off": float(off.max() / max(value_K)),
        "exponent": float(exponent),
    }
