"""D. The scoring stage of a run against the machine's own matrix products, and where the rest of the time goes.

The stage is `pipeline.score.score_units` on a fresh store, the model loaded before: messages to ids, planning, forward
passes, last layer, and every score written. The products are 2048 x 2048 in float32, in the same process, before,
between and after the repeats; the faster of oneDNN and torch.mm counts.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from remid.engine.roofline import Shape, executed, matrix_rate, passes_of, shape_of, useful
from remid.lm.scoring import BLOCK_ROWS, PASS_ROWS, Scorer
from remid.lm.work import Work
from remid.pipeline.config import make_config
from remid.pipeline.engines import run_engines
from remid.pipeline.plan import make_plan
from remid.pipeline.policies import REFERENCE
from remid.pipeline.progress import Progress
from remid.pipeline.score import Unit, plan_units, score_units
from remid.pipeline.store import Store
from remid.types import ID

from .bench import Bench
from .pairs import as_work, balanced_pairs, within
from .spread import Row, spread

#: Contexts of the part that is profiled.
_PROFILED = 4
#: Which operators are what; all others compute element by element.
_PRODUCTS = {"mkldnn::_linear_pointwise", "aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm"}
_SOFTMAX = {"aten::_softmax", "aten::_log_softmax"}
_COPIES = {
    "aten::copy_", "aten::cat", "aten::index", "aten::index_copy_", "aten::index_select", "aten::gather",
    "aten::fill_", "aten::zero_", "aten::masked_fill_", "aten::clone", "aten::_to_copy", "aten::embedding",
}  # fmt: skip


def stage(bench: Bench) -> Row:
    """Operations, seconds, and the share of the machine's rate, at each number of threads; then a profile."""
    threads = sorted({1, bench.threads}, reverse=True)
    runs: list[Row] = []
    for count in threads:
        bench.use(count)
        runs.append(_measure(bench, count, bench.sizes.stage_repeats if count == bench.threads else 1))
        bench.say(f"stage, {count} threads: {100 * runs[-1]['share']['median']:.1f}% of the products' rate")
    bench.use(bench.threads)
    return {"runs": runs, "profile": _profile(bench)}


def _measure(bench: Bench, threads: int, repeats: int) -> Row:
    shape = shape_of(bench.loaded.model)
    taken: list[Row] = []
    rates = [_rates(threads)]
    work: list[Work] = []
    for _ in range(repeats):
        row, work = _once(bench)
        taken.append(row)
        rates.append(_rates(threads))
    floor, done = useful(work, shape), executed(work, shape, PASS_ROWS, BLOCK_ROWS)
    # What the machine could do around each repeat: the mean of before and after.
    around, by_processor = (
        [(a[by] + b[by]) / 2 for a, b in pairwise(rates)] for by in ("best", "best_by_processor_time")
    )
    achieved = [floor.total / row["seconds"] for row in taken]
    return {
        "threads": threads,
        "prompts": len(work),
        "responses": sum(len(w.continuations) for w in work),
        "useful": asdict(floor) | {"total": floor.total},
        "executed": asdict(done) | {"total": done.total},
        "cut": passes_of(work, PASS_ROWS, BLOCK_ROWS),
        "repeats": taken,
        "tokens_per_second": spread([floor.tokens / row["seconds"] for row in taken]),
        "rates": rates,
        "flops_per_second": spread(achieved),
        "share": spread([a / r for a, r in zip(achieved, around, strict=True)]),
        "share_by_processor_time": spread(
            [floor.total / row["processor_seconds"] / r for row, r in zip(taken, by_processor, strict=True)]
        ),
    }


def _rates(threads: int) -> Row:
    """Operations per second of products by way; the best by the clock, and per second of processor time."""
    by_clock, by_processor = matrix_rate(), matrix_rate(clock=time.process_time)
    best = {"best": max(by_clock.values()), "best_by_processor_time": max(by_processor.values())}
    return {"threads": threads, **by_clock, **best}


def _once(bench: Bench) -> tuple[Row, list[Work]]:
    """Seconds of the stage on a fresh store, and what it scored."""
    config = make_config(
        data=(bench.data,), policies=(bench.policy,), model=bench.model, device="cpu", dtype="float32",
        negatives=max(2, bench.sizes.negatives_run), limit=max(4, bench.sizes.stage_contexts), traces="none",
    )  # fmt: skip
    quiet = Progress(enabled=False)
    with (
        tempfile.TemporaryDirectory() as folder,
        Store(Path(folder)) as store,
        run_engines(config, None, quiet) as engines,
    ):
        plan = make_plan(config, store, engines, quiet)
        units = [u for g in plan.groups if g.shift == ID for u in plan_units(g.prompts, g.answers, g.design)]
        units = units[: bench.sizes.stage_contexts]
        work = _as_work(units, engines)
        begin = time.perf_counter()
        list(engines.scoring(work).score([Work(work[0].prompt[:8], ((1,),))]))  # loads, and probes the layouts
        loading = time.perf_counter() - begin
        begin, processor = time.perf_counter(), time.process_time()
        score_units(units, store, plan.scorer_id, engines, config, quiet)
        row = {
            "seconds": time.perf_counter() - begin,
            "processor_seconds": time.process_time() - processor,
            "seconds_load": loading,
        }
        scored = len(store.scored(plan.scorer_id))
    assert scored == sum(len(w.continuations) for w in work), "the stage left something out"
    return row, work


def _as_work(units: Sequence[Unit], engines: Any) -> list[Work]:
    """What the stage will make of these units. The ids are forgotten again, so that it has to make them itself."""
    renderer, _ = engines.reader()
    work = [
        Work(tuple(renderer.prompt_ids(u.messages)), tuple(tuple(renderer.response_ids(t)) for t in u.texts))
        for u in units
    ]
    renderer._encode_cached.cache_clear()
    return work


def _profile(bench: Bench) -> Row:
    """Seconds by kind of operation on a few contexts, without the store; products with what they achieve."""
    from torch.profiler import ProfilerActivity, profile

    shape, rate = shape_of(bench.loaded.model), max(matrix_rate().values())
    work = _some_work(bench)
    scorer = Scorer(bench.loaded)
    list(scorer.score(work[:1]))
    begin = time.perf_counter()
    list(scorer.score(work))
    bare = time.perf_counter() - begin
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as recorded:
        begin = time.perf_counter()
        list(scorer.score(work))
        seconds = time.perf_counter() - begin
    parts: dict[str, float] = {}
    operators: dict[str, float] = {}
    for event in recorded.key_averages(group_by_input_shape=True):
        took = event.self_cpu_time_total / 1e6
        kind = _kind(event.key, event.input_shapes, shape)
        parts[kind] = parts.get(kind, 0.0) + took
        operators[event.key] = operators.get(event.key, 0.0) + took
    parts["Python, and all that is no operator"] = seconds - sum(parts.values())
    done, floor = executed(work, shape, PASS_ROWS, BLOCK_ROWS), useful(work, shape)
    products = {"products: layers": done.body, "products: last layer": done.last, "products: attention": done.attention}
    return {
        "contexts": len(work),
        "threads": bench.threads,
        "seconds": seconds,
        "seconds_without_profiler": bare,
        "rate": rate,
        "parts": parts,
        "operators": dict(sorted(operators.items(), key=lambda item: -item[1])[:20]),
        "products": {
            name: {
                "seconds": parts.get(name, 0.0),
                "executed": flop,
                "share_of_rate": flop / parts[name] / rate if parts.get(name) else None,
            }
            for name, flop in products.items()
        },
        "useful": asdict(floor) | {"total": floor.total},
        "executed": asdict(done) | {"total": done.total},
    }


def _some_work(bench: Bench) -> list[Work]:
    contexts = bench.contexts()
    pairs = balanced_pairs(len(contexts.prompts), [REFERENCE, bench.policy], bench.sizes.negatives_run, seed=8)
    drawn = np.random.default_rng(9).permutation(len(contexts.prompts))[: min(_PROFILED, bench.sizes.stage_contexts)]
    return as_work(contexts, within(pairs, map(int, drawn)))


def _kind(name: str, shapes: Any, shape: Shape) -> str:
    if name in _SOFTMAX:
        return "softmax and log-softmax"
    if name in _COPIES:
        return "copies and gathers"
    if name not in _PRODUCTS:
        return "element by element, norms, activations"
    rows = shapes[0] if shapes else []
    if len(rows) > 2:
        return "products: layers"
    return "products: last layer" if rows and rows[-1] == shape.hidden else "products: attention"
