"""The bound against sample size (the paper's Figure 5a), from the stored scores of a finished run. No model runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from remid.errors import ConfigError, DataError, Problem
from remid.lm.embed import find_embedder
from remid.pipeline.config import RunConfig
from remid.pipeline.measure import number
from remid.pipeline.progress import Progress
from remid.pipeline.run import load_run, scored_subsets
from remid.pipeline.shift import Vectors, embed_texts, needed_texts
from remid.pipeline.store import Store
from remid.study.agreement import agreement
from remid.study.arcs import Part, arc_items, arc_starts, pairs_kept, take, whole_parts
from remid.study.cells import Row, bound_cells
from remid.types import ID, FloatArray

SIZES = (10, 20, 40, 80)
#: Means over cells and draws that are shown against n.
INGREDIENTS = (
    *("remid", "remid_stderr", "bound", "bound_raw", "h_hat", "surprise_max", "cross_entropy"),
    *("input_term", "reference_term", "delta", "delta_raw"),
    *(f"js_{z}{end}" for z in ("user", "character", "dialogue") for end in ("", "_raw")),
    *(f"share_{z}{end}" for z in ("user", "character", "dialogue") for end in ("", "_raw")),
)


def sample_size_study(
    folder: Path,
    progress: Progress,
    *,
    sizes: Sequence[int] = SIZES,
    draws: int = 5,
    permutations: int = 50,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """R-EMID, the bound and its ingredients at n items per subset, and how closely the bound follows.

    folder: a finished run. sizes: items per subset; a subset with fewer gives all it has; sizes that no subset exceeds
    are left out, and the whole run is always the last. draws: subsamples per size. permutations: behind each RJSD.
    Returns what docs/studies.md says. Raises DataError for no finished run or one without ID and shifted subsets,
    ConfigError for settings that cannot work.
    """
    if min(sizes, default=0) < 4 or draws < 1 or permutations < 20:
        raise ConfigError("study sample-size: needs sizes of at least 4, a draw at least and 20 permutations at least")
    if load_run(folder).result["manifest"]["config"]["cluster_by"] is not None:
        # With clusters the design is no single circle, and an arc of it no random subsample.
        raise ConfigError(f"study sample-size: {folder} was run with --cluster-by; run it without, then study that")
    parts = whole_parts(scored_subsets(folder))
    shifts = {part.scores.shift for part in parts}
    if ID not in shifts or len(shifts) < 2:
        raise DataError([Problem(str(folder), "", "", "holds no run with both ID and shifted subsets")])
    vectors = _vectors(folder, parts, progress)
    options = {"draws": draws, "permutations": permutations, "confidence": confidence, "seed": seed}
    rows, cells = rows_by_size(parts, vectors, progress, sizes=sizes, **options)  # type: ignore[arg-type]
    settings = {**options, "unit": "nats/response"}
    manifest = load_run(folder).result["manifest"]
    return {"study": "sample-size", "sizes": rows, "cells": cells, "settings": settings, "run": manifest}


def rows_by_size(
    parts: Sequence[Part],
    vectors: Vectors,
    progress: Progress,
    *,
    sizes: Sequence[int],
    draws: int,
    permutations: int,
    confidence: float,
    seed: int,
) -> tuple[list[Row], list[Row]]:
    """(a row per size, the cells behind them) for subsets and vectors in memory; see sample_size_study."""
    largest = max(len(part.scores.samples) for part in parts)
    plan = [(n, draw, draws) for n in sorted({n for n in sizes if n < largest}) for draw in range(draws)]
    plan.append((largest, 0, 1))
    cells: list[Row] = []
    kept: dict[int, float] = {}
    # The cost of a divergence grows a little faster than its number of items squared.
    with progress.stage("subsamples", sum(n**2 for n, _, _ in plan)) as step:
        for n, draw, n_draws in plan:
            drawn = [_subsample(part, n, draw, n_draws, seed) for part in parts]
            kept[n] = kept.get(n, 0.0) + pairs_kept(drawn) / n_draws
            rows = bound_cells(drawn, vectors, permutations=permutations, seed=seed)
            cells += [{"n": n, "draw": draw, **row} for row in rows]
            step(n**2)
    return _size_rows(cells, kept, confidence), cells


def _vectors(folder: Path, parts: Sequence[Part], progress: Progress) -> Vectors:
    config = RunConfig.model_validate(load_run(folder).result["manifest"]["config"])
    texts = needed_texts([part.scores for part in parts], {part.scores.subset: part.texts for part in parts})
    with Store(folder) as store:
        return embed_texts(texts, store, find_embedder(config.embedder), progress)


def _subsample(part: Part, n: int, draw: int, n_draws: int, seed: int) -> Part:
    """The draw-th of n_draws arcs of n items of the subset; the same call gives the same arc."""
    total = len(part.scores.samples)
    if n >= total:
        return part
    rng = np.random.default_rng([seed, n, *part.scores.subset.encode()])
    start = int(arc_starts(total, n_draws, rng)[draw])
    design = next(iter(part.scores.scores.values())).design
    return take(part, arc_items(design, start, n))


def _size_rows(cells: Sequence[Row], kept: dict[int, float], confidence: float) -> list[Row]:
    """One row per size: means of all ingredients, the gap, and agreement of the bound with R-EMID, over the draws."""
    rows = []
    last = max(cell["n"] for cell in cells)
    final = {(cell["policy"], cell["subset"]): cell for cell in cells if cell["n"] == last}
    for n in dict.fromkeys(cell["n"] for cell in cells):
        mine = [cell for cell in cells if cell["n"] == n]
        by_draw = [[cell for cell in mine if cell["draw"] == d] for d in dict.fromkeys(cell["draw"] for cell in mine)]
        row: Row = {"n": n, "whole": n == last, "draws": len(by_draw), "pairs_kept": number(kept[n])}
        row["n_items"] = _average([cell["n_ood"] for cell in mine])
        for key in INGREDIENTS:
            row[key] = _average([cell[key] for cell in mine])
            row[f"{key}_sd"] = _spread([_average([cell[key] for cell in draw]) for draw in by_draw])
        pairs = [(c["bound"], c["remid"]) for c in mine if c["bound"] is not None and c["remid"] is not None]
        row["gap"] = _average([bound - lost for bound, lost in pairs])
        row["exceeded"] = sum(lost > bound for bound, lost in pairs)
        row["n_cells"] = len(pairs)
        for name, key, target, within in (
            ("follows", "bound", None, False),
            ("follows_within", "bound", None, True),
            ("follows_raw", "bound_raw", None, False),
            ("follows_final", "bound", "remid", False),
            ("bound_final", "bound", "bound", False),
        ):
            columns = [_columns(draw, key, target, final, within) for draw in by_draw]
            row[name] = _followed(columns, [[cell["subset"] for cell in draw] for draw in by_draw], confidence)
        rows.append(row)
    return rows


def _columns(
    draw: Sequence[Row], key: str, target: str | None, final: dict[tuple[str, str], Row], within: bool
) -> tuple[FloatArray, FloatArray]:
    """A column of one draw's cells, and the R-EMID of the same draw (target None) or a column of the whole run.

    within: each policy's mean is taken off both, so that only differences between shifts are left.
    """
    other = [cell["remid"] if target is None else final[cell["policy"], cell["subset"]][target] for cell in draw]
    x_N, y_N = (np.array([np.nan if v is None else v for v in column]) for column in ([c[key] for c in draw], other))
    if within:
        known_N = np.isfinite(x_N) & np.isfinite(y_N)
        x_N, y_N = np.where(known_N, x_N, np.nan), np.where(known_N, y_N, np.nan)
        for policy in {cell["policy"] for cell in draw}:
            mine_N = known_N & np.array([cell["policy"] == policy for cell in draw])
            for column_N in (x_N, y_N):
                column_N[mine_N] -= column_N[mine_N].mean() if mine_N.any() else 0.0
    return x_N, y_N


def _followed(
    columns: Sequence[tuple[FloatArray, FloatArray]], groups: Sequence[Sequence[str]], confidence: float
) -> Row:
    """Agreement of two columns, averaged over the draws, the ends of the intervals too: a typical interval at this n.

    _sd: between the draws, which overlap, so that it falls faster with n than the error does.
    """
    found = [
        agreement(x_N, y_N, labels, confidence=confidence) for (x_N, y_N), labels in zip(columns, groups, strict=True)
    ]
    row: Row = {name: _average([one[name] for one in found]) for name in found[0]}
    return row | {f"{name}_sd": _spread([one[name] for one in found]) for name in ("pearson", "kendall")}


def _average(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _spread(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.std(known, ddof=1)) if len(known) > 1 else None
