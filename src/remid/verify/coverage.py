"""How often the 95% intervals hold the truth, in simulated worlds where it is known (docs/theory.md, "Uncertainty")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from remid.estimate import Influence, balanced_design, contrast_scores, estimate, pool, remi, remid
from remid.types import Estimate, FloatArray, IntArray, PairDesign, PairScores
from remid.verify.simulated import LAWS, DiscreteScores, GaussianScores, World, group_sizes

#: What is estimated in each replication. The shift is three subsets with laws of their own.
QUANTITIES = ("R-EMI", "contrast", "R-EMID", "pooled R-EMI", "pooled R-EMID")
#: Items of the shift's subsets, as shares of n: unequal, and none larger than ID.
_SHARES = (1.0, 0.72, 0.56)
#: Designs (and group sizes) that the replications of a cell are spread over.
_LAYOUTS = 40


@dataclass(frozen=True, slots=True)
class CoverageRow:
    """One cell. n: items of ID, and of the shift's largest subset. m: negatives per item.

    coverage: share of replications whose 95% interval holds the truth; mc_error: its Monte-Carlo standard error.
    se_ratio: root mean square of the reported standard error over the true root mean square error. bias: mean error in
    units of the true standard error. width: median length of the interval, truth's unit (nats per response).
    """

    world: str
    quantity: str
    n: int
    m: int
    clustered: bool
    coverage: float
    mc_error: float
    se_ratio: float
    bias: float
    width: float
    replications: int


@dataclass(frozen=True, slots=True)
class _Layout:
    """A subset's groups (label of each item) and its design."""

    group_B: IntArray
    design: PairDesign


def coverage_table(
    replications: int = 1000,
    sizes: Sequence[int] = (25, 100, 400),
    negatives: Sequence[int] = (4,),
    seed: int = 0,
) -> list[CoverageRow]:
    """Coverage of every quantity in both worlds, for each n and m, independent and clustered.

    About 4 ms a replication on one core, the whole default table (24 cells of 1,000) 100 s. Sizes need n >= 18.
    """
    rows = []
    for world in (GaussianScores(), DiscreteScores()):
        for clustered in (False, True):
            for n in sizes:
                for m in negatives:
                    rows += coverage_cell(world, n, m, clustered=clustered, replications=replications, seed=seed)
    return rows


def coverage_cell(
    world: World, n: int, m: int, *, clustered: bool, replications: int, seed: int = 0
) -> list[CoverageRow]:
    """One row per quantity; replications are spread evenly over the layouts (rounded up)."""
    made, truth_Q = replicate(world, n, m, clustered=clustered, replications=replications, seed=seed)
    cell: dict[str, Any] = {"world": world.name, "n": n, "m": m, "clustered": clustered}
    return [
        CoverageRow(quantity=q, **cell, **_summary([e[k] for e in made], truth_Q[k])) for k, q in enumerate(QUANTITIES)
    ]


def replicate(
    world: World, n: int, m: int, *, clustered: bool, replications: int, seed: int = 0
) -> tuple[list[list[Estimate]], list[float]]:
    """Per replication one estimate for each of QUANTITIES, and the truths in the same order."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, n, m, int(clustered)]))
    truth_Q = _truth(world, n)
    layouts_used = min(_LAYOUTS, replications)
    each = -(-replications // layouts_used)
    made: list[list[Estimate]] = []
    for _ in range(layouts_used):
        layouts = {law: _layout(rng, size, m, clustered) for law, size in _plan(n).items()}
        sides = {law: _scores(world, rng, each, law.partition("/")[0], lay) for law, lay in layouts.items()}
        labels = {law: lay.group_B if clustered else None for law, lay in layouts.items()}
        made += [_estimates({law: side[r] for law, side in sides.items()}, labels) for r in range(each)]
    return made, truth_Q


def _plan(n: int) -> dict[str, int]:
    """Items per subset: ID, one shifted subset of the same size ("/alone"), and the three that are pooled."""
    pooled = {law: round(n * share) for law, share in zip(LAWS[1:], _SHARES, strict=True)}
    return {"id": n, "shift-1/alone": n, **pooled}


def _layout(rng: np.random.Generator, n: int, m: int, clustered: bool) -> _Layout:
    group_B = np.arange(n, dtype=np.int64)
    if clustered:
        sizes = group_sizes(rng, n)
        group_B = rng.permutation(np.repeat(np.arange(len(sizes), dtype=np.int64), sizes))
    return _Layout(group_B, balanced_design(n, m, int(rng.integers(1 << 30)), clusters=group_B))


def _scores(
    world: World, rng: np.random.Generator, replications: int, law: str, layout: _Layout
) -> list[tuple[PairScores, ...]]:
    """Per replication the scores of reference, policy a and policy b."""
    drawn = world.draw(rng, replications, law, layout.design.negatives_Bm, layout.group_B)
    ones_B = np.ones(layout.group_B.size)
    policies = range(drawn.positive_PRB.shape[0])
    return [
        tuple(
            PairScores(drawn.positive_PRB[p, r], drawn.negative_PRBm[p, r], ones_B, ones_B, layout.design)
            for p in policies
        )
        for r in range(replications)
    ]


def _estimates(sides: dict[str, tuple[PairScores, ...]], labels: dict[str, IntArray | None]) -> list[Estimate]:
    """One estimate per quantity, made as a run makes them."""

    def gain(law: str) -> Influence:
        return remi(sides[law][1], sides[law][0])

    at_id, alone = gain("id"), gain("shift-1/alone")
    shift = pool([gain(law) for law in LAWS[1:]])
    parts = [labels[law] for law in LAWS[1:]]
    groups = None
    if labels["id"] is not None:
        groups = [f"{k}/{g}" for k, part in enumerate(parts) if part is not None for g in part.tolist()]
    reference, a, b = sides["id"]
    return [
        estimate(at_id, clusters=labels["id"]),
        estimate(contrast_scores(a, b, reference), clusters=labels["id"]),
        remid(at_id, alone, clusters_id=labels["id"], clusters_ood=labels["shift-1/alone"]),
        estimate(shift, clusters=groups),
        remid(at_id, shift, clusters_id=labels["id"], clusters_ood=groups),
    ]


def _truth(world: World, n: int) -> list[float]:
    """In the order of QUANTITIES."""
    club = {law: world.truth(law) for law in LAWS}
    gain = {law: float(club[law][1] - club[law][0]) for law in LAWS}
    plan = _plan(n)
    pooled = sum(plan[law] * gain[law] for law in LAWS[1:]) / sum(plan[law] for law in LAWS[1:])
    return [
        gain["id"],
        float(club["id"][1] - club["id"][2]),
        gain["id"] - gain["shift-1"],
        pooled,
        gain["id"] - pooled,
    ]


def _summary(made: Sequence[Estimate], truth: float) -> dict[str, Any]:
    """The measured fields of a CoverageRow."""

    def every(field: str) -> FloatArray:
        return np.array([getattr(e, field) for e in made], dtype=np.float64)

    error, half = every("value") - truth, (every("ci_high") - every("ci_low")) / 2
    coverage = float(np.mean(np.abs(error) <= half))
    return {
        "coverage": coverage,
        "mc_error": float(np.sqrt(coverage * (1 - coverage) / len(made))),
        "se_ratio": float(np.sqrt(np.mean(every("stderr") ** 2) / np.mean(error**2))),
        "bias": float(np.mean(error) / np.std(error)),
        "width": float(np.median(2 * half)),
        "replications": len(made),
    }
