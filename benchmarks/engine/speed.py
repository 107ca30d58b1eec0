"""A. The paper's design pair by pair against ours on the same pairs: one policy, all policies, equal standard error.

Pair by pair is slow, so it runs a random sample of its batches; ours runs whole contexts, a sample of them for all
policies. Both are brought to the whole design by its exact number of tokens. The designs are drawn once, and what is
sampled of them, with a seed. Time per token of ours is that of groups of contexts, which share fewer beginnings than
all of them do; so is the order, and both are to ours' disadvantage.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from remid.engine.roofline import Shape, shape_of, useful
from remid.estimate.planning import Cost
from remid.pipeline.policies import REFERENCE
from remid.verify.stopping import equal_error

from .arms import ours, pair_by_pair, timed, total
from .bench import Bench
from .pairs import Contexts, Pair, all_pairs, as_work, balanced_pairs, batches, padded, paper_pairs, within
from .spread import Row, ratio, turns


def speed(bench: Bench) -> Row:
    """Seconds of every arm, block by block, tokens of every design, and the ratios."""
    size = bench.sizes
    contexts = bench.contexts()
    n, model, scorer = len(contexts.prompts), bench.stock.model, bench.scorer
    one = [REFERENCE, bench.policy]
    designs = {
        "one": paper_pairs(n, one, size.negatives, seed=1),
        "eleven": paper_pairs(n, [REFERENCE, *contexts.policies], size.negatives, seed=2),
        "balanced": balanced_pairs(n, one, 1, seed=3),
    }
    rng = np.random.default_rng(4)
    slow = batches(designs["one"], size.batch)
    chosen = rng.permutation(len(slow))[: size.blocks * size.slow_batches].reshape(size.blocks, -1)
    groups = np.array_split(rng.permutation(n)[: size.speed_contexts], size.blocks)
    shape = shape_of(bench.loaded.model)
    seconds: dict[str, list[float]] = {}
    tokens: dict[str, list[int]] = {}
    numbers: dict[str, dict[Any, float]] = {"pairwise": {}, "ours": {}}
    for block, group in enumerate(groups):
        part = {name: within(pairs, map(int, group)) for name, pairs in designs.items()}
        part["eleven"] = within(part["eleven"], map(int, group[: size.eleven_contexts]))
        for arm in turns(["pairwise", *designs], block):
            if arm == "pairwise":
                taken, count = _pairwise(model, contexts, [slow[b] for b in chosen[block]], numbers["pairwise"])
            else:
                work = as_work(contexts, part[arm])
                taken, _, found = timed(lambda work=work: ours(scorer, work))
                count = useful(work, shape).tokens
                if arm == "one":
                    numbers["ours"] |= {key: total(logp_T) for key, logp_T in found.items()}
            seconds.setdefault(arm, []).append(taken)
            tokens.setdefault(arm, []).append(count)
        bench.say(f"speed, block {block + 1} of {size.blocks}: " + _line(seconds))
    made = {name: _design(contexts, pairs, shape, size.batch) for name, pairs in designs.items()}
    common = [k for k in numbers["pairwise"] if k in numbers["ours"]]
    return {
        "contexts": n,
        "left_out": contexts.left_out,
        "policies": len(contexts.policies),
        "policy": bench.policy,
        "negatives": size.negatives,
        "batch": size.batch,
        "pairs_by_pair_sampled": int(chosen.size) * size.batch,
        "contexts_measured": {"one": sum(map(len, groups)), "eleven": len(groups) * size.eleven_contexts},
        "designs": made,
        "seconds": seconds,
        "tokens": tokens,
        "ratios": _ratios(seconds, tokens, made),
        "largest_difference_nats_per_response": max(
            (abs(numbers["pairwise"][k] - numbers["ours"][k]) for k in common), default=None
        ),
        "pairs_compared": len(common),
        "equal_error": _equal_error(bench, contexts),
    }


def _line(seconds: dict[str, list[float]]) -> str:
    return ", ".join(f"{arm} {s[-1]:.1f} s" for arm, s in seconds.items())


def _pairwise(model: Any, contexts: Contexts, chosen: list[Any], numbers: dict[Any, float]) -> tuple[float, int]:
    """Seconds and tokens, padding included, of some batches."""
    seconds, count = 0.0, 0
    for batch in chosen:
        rows = [contexts.row(pair) for pair in batch]
        taken, _, found = timed(lambda rows=rows: pair_by_pair(model, rows))
        seconds += taken
        count += padded(contexts, batch)
        numbers |= dict(zip(rows, found, strict=True))
    return seconds, count


def _design(contexts: Contexts, pairs: list[Pair], shape: Shape, batch: int) -> Row:
    """Exact tokens of a design: pair by pair, in padded batches, and ours."""
    work = as_work(contexts, pairs)
    floor = useful(work, shape)
    return {
        "pairs": len(pairs),
        "distinct_pairs": sum(len(w.continuations) for w in work),
        "tokens_pair_by_pair": contexts.tokens(pairs),
        "tokens_padded": sum(padded(contexts, one) for one in batches(pairs, batch)),
        "tokens_ours": floor.tokens,
        "flop_ours": floor.total,
    }


def _ratios(seconds: dict[str, list[float]], tokens: dict[str, list[int]], designs: dict[str, Row]) -> Row:
    """Paper's design over ours, whole designs. padded: as the release batches; the others count no padding.

    `balanced` is the paper's design with one policy against the balanced one.
    """
    per_token = {arm: [s / t for s, t in zip(seconds[arm], tokens[arm], strict=True)] for arm in seconds}
    made: Row = {}
    for arm, slow in (("one", "one"), ("eleven", "eleven"), ("balanced", "one")):
        fast_B = [rate * designs[arm]["tokens_ours"] for rate in per_token[arm]]
        for name, count in (("unpadded", "tokens_pair_by_pair"), ("padded", "tokens_padded")):
            slow_B = [rate * designs[slow][count] for rate in per_token["pairwise"]]
            made.setdefault(arm, {})[name] = ratio(slow_B, fast_B)
        made[arm]["tokens"] = designs[slow]["tokens_pair_by_pair"] / designs[arm]["tokens_ours"]
    return made


def _equal_error(bench: Bench, contexts: Contexts) -> Row | None:
    """Standard errors of both designs over all pairs of some contexts, scored here; None if not asked for."""
    n = min(bench.sizes.matrix_contexts, len(contexts.prompts))
    if n < 4:
        return None
    bench.say(f"speed, all pairs of {n} contexts for the standard errors")
    names = [REFERENCE, bench.policy]
    found = ours(bench.scorer, as_work(contexts, all_pairs(n, names)))
    S_PBB = np.array([[[total(found[contexts.row((i, who, j))]) for j in range(n)] for i in range(n)] for who in names])
    lengths = [len(contexts.answers[who][j]) for who in names for j in range(n)]
    cost = Cost(float(np.mean([len(p) for p in contexts.prompts[:n]])), float(np.mean(lengths)), len(names))
    (row,) = equal_error(S_PBB, names, cost, random_pairs=bench.sizes.negatives)
    return {**asdict(row), "least_m": row.least_m, "items_m1": row.items(1), "fewer_tokens_m1": row.cheaper(1, cost)}
