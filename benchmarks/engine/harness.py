"""C. lm-evaluation-harness' Hugging Face backend on the same pairs as ours, on exactly the same ids.

It gets the model as transformers loads it, its own order and its cache of logits, and whichever of a few batch sizes is
fastest on a context that does not count. Pairs are those of a run: reference and one policy, balanced negatives.
"""

from __future__ import annotations

from importlib.metadata import version

import numpy as np

from remid.engine.roofline import shape_of, useful
from remid.pipeline.policies import REFERENCE

from .arms import harness, ours, through_harness, timed, total
from .bench import Bench
from .pairs import Contexts, Ids, as_work, balanced_pairs, within
from .spread import Row, ratio, turns

_BATCHES = (1, 4, 8)


def against_harness(bench: Bench) -> Row:
    """Seconds and numbers of both, context by context. Raises ImportError where there is no lm_eval."""
    lm = harness(bench.lm_eval, bench.stock)
    contexts = bench.contexts()
    pairs = balanced_pairs(len(contexts.prompts), [REFERENCE, bench.policy], bench.sizes.negatives_run, seed=6)
    drawn = np.random.default_rng(7).permutation(len(contexts.prompts))
    trial, *measured = (int(i) for i in drawn[: bench.sizes.harness_contexts + 1])
    rows = _rows(contexts, pairs, trial)[: 2 if bench.quick else None]
    trials = {size: timed(lambda size=size: through_harness(lm, rows, size))[0] for size in _BATCHES}
    best = min(trials, key=lambda size: trials[size])
    bench.say("lm-evaluation-harness, seconds by batch size: " + str({k: round(v, 1) for k, v in trials.items()}))
    seconds: dict[str, list[float]] = {"harness": [], "ours": []}
    numbers: dict[str, list[float]] = {"harness": [], "ours": []}
    tokens = {"harness": 0, "ours": 0}
    for block, i in enumerate(measured):
        rows = _rows(contexts, pairs, i)
        work = as_work(contexts, within(pairs, [i]))
        for arm in turns(["harness", "ours"], block):
            if arm == "harness":
                taken, _, found = timed(lambda rows=rows: through_harness(lm, rows, best))
                tokens[arm] += sum(len(p) + len(a) - 1 for p, a in rows)
            else:
                taken, _, scored = timed(lambda work=work: ours(bench.scorer, work))
                found = [total(scored[row]) for row in rows]
                tokens[arm] += useful(work, shape_of(bench.loaded.model)).tokens
            seconds[arm].append(taken)
            numbers[arm] += found
        last = ", ".join(f"{arm} {taken[-1]:.1f} s" for arm, taken in seconds.items())
        bench.say(f"lm-evaluation-harness, context {block + 1}: {last}")
    gap = np.abs(np.array(numbers["harness"]) - np.array(numbers["ours"]))
    return {
        "version": version("lm_eval"),
        "contexts": len(measured),
        "pairs": len(gap),
        "negatives": bench.sizes.negatives_run,
        "trial_seconds": {str(size): taken for size, taken in trials.items()},
        "batch": best,
        "seconds": seconds,
        "tokens": tokens,
        "ratio": ratio(seconds["harness"], seconds["ours"]),
        "largest_difference_nats_per_response": float(gap.max()),
        "mean_difference_nats_per_response": float(gap.mean()),
    }


def _rows(contexts: Contexts, pairs: list[tuple[int, str, int]], i: int) -> list[tuple[Ids, Ids]]:
    """A context's pairs, each distinct one once: nobody is made to score one twice."""
    return list(dict.fromkeys(map(contexts.row, within(pairs, [i]))))
