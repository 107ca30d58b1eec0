"""What certainty costs: intervals where a run stops as its standard error looks small enough, pairs at equal error.

Source: docs/stopping.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from remid.estimate import Influence, contrast_scores, estimate, remi, remid
from remid.estimate.planning import Components, Cost, components
from remid.estimate.sequential import (
    Ask,
    Extent,
    NestedDesign,
    Room,
    at_full_shares,
    nested_design,
    next_extents,
    stopped,
)  # fmt: skip
from remid.types import Estimate, FloatArray, IntArray, PairScores
from remid.verify.negatives import compare_designs
from remid.verify.simulated import LAWS, POLICIES, DiscreteScores, Drawn, GaussianScores, World, group_sizes

#: What is estimated when scoring has stopped. The shift is two subsets; R-EMI and the contrast are on ID.
QUANTITIES = ("R-EMID", "R-EMI", "contrast")
#: The wish, as a multiple of the standard error that the first round has in the median.
WISHES = {"easy": 1.3, "at the first look": 1.0, "middling": 0.7, "far": 0.5, "out of reach": 0.15}
_SUBSETS = LAWS[:3]
#: Items of the subsets, as shares of n.
_SHARES = (1.0, 1.0, 0.56)
_NEGATIVES = 4
#: Group sizes and designs that a cell's replications are spread over, 20 at least on each.
_LAYOUTS = 10
#: Tokens of a prompt and a response as on dialogues; three who answer.
_COST = Cost(1500.0, 75.0, len(POLICIES))


@dataclass(frozen=True, slots=True)
class StoppingRow:
    """One quantity in one cell. n: items of ID that there are; asked: what the wish is about; wish: its name in WISHES.

    coverage: of the 95% interval with the first look's degrees of freedom; naive: of the interval that a run of fixed
    size would give; mc_error: Monte-Carlo standard error. se_ratio: root mean square of the reported standard error,
    over its true value. looks, items (of all three subsets together), negatives (per item): means at the stop.
    met: share of replications in which both policies met the wish.
    """

    world: str
    clustered: bool
    n: int
    asked: str
    wish: str
    quantity: str
    coverage: float
    naive: float
    mc_error: float
    se_ratio: float
    looks: float
    items: float
    negatives: float
    met: float
    replications: int


@dataclass(frozen=True, slots=True, eq=False)
class _Layout:
    """Group labels, nested designs and rooms of the subsets."""

    groups: tuple[IntArray, ...]
    designs: tuple[NestedDesign, ...]
    rooms: tuple[Room, ...]
    clustered: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Look:
    """What one look sees: a standard error per ask, components per subset, the estimates of QUANTITIES, and the
    degrees of freedom that each keeps if this is the first look."""

    stderr_A: list[float]
    parts: list[dict[str, Components]]
    made: list[Estimate]
    df_Q: list[float]


@dataclass(frozen=True, slots=True, eq=False)
class _Stop:
    """A replication at its end. naive, made: estimates of QUANTITIES without and with the first look's df."""

    naive: list[Estimate]
    made: list[Estimate]
    looks: int
    items: float
    negatives: float
    met: bool


def stopping_table(
    replications: int = 1000,
    sizes: Sequence[int] = (45, 125, 250),
    seed: int = 0,
    *,
    asked: Sequence[str] = QUANTITIES[:2],
) -> list[StoppingRow]:
    """Every wish in both worlds, independent and clustered, for each number of items that there are.

    About 5 ms a replication on one core: 1,000 replications of the 120 cells take ten minutes. Sizes need n >= 45.
    """
    rows = []
    for world in (GaussianScores(), DiscreteScores()):
        for clustered in (False, True):
            for n in sizes:
                for ask in asked:
                    for wish in WISHES:
                        rows += stopping_cell(
                            world, n, wish, asked=ask, clustered=clustered, replications=replications, seed=seed
                        )
    return rows


def stopping_cell(
    world: World, n: int, wish: str, *, asked: str = "R-EMID", clustered: bool, replications: int, seed: int = 0
) -> list[StoppingRow]:
    """A row per quantity. asked: "R-EMID" or "R-EMI" of both policies. Replications are spread evenly over layouts."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, n, int(clustered), [*WISHES].index(wish)]))
    minus = (1, 2) if asked == "R-EMID" else ()
    asks = [Ask(policy, (0,), minus) for policy in POLICIES[1:]]
    each = -(-replications // min(_LAYOUTS, max(replications // 20, 1)))
    stops: list[_Stop] = []
    target = None
    while len(stops) < replications:
        layout = _layout(rng, n, clustered)
        if target is None:
            target = WISHES[wish] * _first_stderr(layout, world, rng, asks)
        drawn = _draw(layout, world, rng, each)
        stops += [_run(layout, drawn, r, asks, target) for r in range(each)]
    truth_Q = _truth(world, n)
    cell: dict[str, Any] = {"world": world.name, "clustered": clustered, "n": n, "asked": asked, "wish": wish}
    return [StoppingRow(quantity=q, **cell, **_measured(stops, k, truth_Q[k])) for k, q in enumerate(QUANTITIES)]


def _draw(layout: _Layout, world: World, rng: np.random.Generator, replications: int) -> list[Drawn]:
    """Scores of every item and negative there is, per subset."""
    subsets = zip(_SUBSETS, layout.designs, layout.groups, strict=True)
    return [world.draw(rng, replications, law, design.negatives_Bm, group_B) for law, design, group_B in subsets]


def _first_stderr(layout: _Layout, world: World, rng: np.random.Generator, asks: Sequence[Ask]) -> float:
    """Median over 50 draws of what the first round's standard error is."""
    drawn = _draw(layout, world, rng, 50)
    start = [Extent(1, _NEGATIVES)] * len(_SUBSETS)
    return float(np.median([_look(layout, drawn, r, start, asks).stderr_A[0] for r in range(50)]))


def _layout(rng: np.random.Generator, n: int, clustered: bool) -> _Layout:
    groups = []
    for share in _SHARES:
        size = round(n * share)
        group_B = np.arange(size, dtype=np.int64)
        if clustered:
            sizes = group_sizes(rng, size)
            group_B = rng.permutation(np.repeat(np.arange(len(sizes), dtype=np.int64), sizes))
        groups.append(group_B)
    designs = tuple(
        nested_design(g.size, _NEGATIVES, int(rng.integers(1 << 30)), g if clustered else None) for g in groups
    )
    rooms = tuple(Room(d.sizes, d.most, _COST, float(g.size)) for d, g in zip(designs, groups, strict=True))
    return _Layout(tuple(groups), designs, rooms, clustered)


def _run(layout: _Layout, drawn: Sequence[Drawn], r: int, asks: Sequence[Ask], wish: float) -> _Stop:
    """One replication, as `pipeline.rounds` runs it."""
    extents = [Extent(1, _NEGATIVES)] * len(_SUBSETS)
    look, df_Q = 1, [0.0]
    while True:
        seen = _look(layout, drawn, r, extents, asks)
        if look == 1:
            df_Q = seen.df_Q
        found, answers = next_extents(extents, layout.rooms, asks, seen.stderr_A, seen.parts, wish=wish, look=look)
        if found == extents:
            made = [stopped(one, df) for one, df in zip(seen.made, df_Q, strict=True)]
            items = sum(room.sizes[e.blocks - 1] for e, room in zip(extents, layout.rooms, strict=True))
            negatives = sum(e.m for e in extents) / len(extents)
            return _Stop(seen.made, made, look, items, negatives, all(a.verdict == "met" for a in answers))
        extents, look = found, look + 1


def _look(layout: _Layout, drawn: Sequence[Drawn], r: int, extents: Sequence[Extent], asks: Sequence[Ask]) -> _Look:
    labels: list[IntArray | None] = []
    scores: list[list[PairScores]] = []
    for group_B, nested, one, extent in zip(layout.groups, layout.designs, drawn, extents, strict=True):
        items_U, design = nested.prefix(extent.blocks, extent.m)
        ones_U = np.ones(items_U.size)
        scores.append(
            [
                PairScores(
                    one.positive_PRB[p, r, items_U],
                    one.negative_PRBm[p, r, items_U, : extent.m],
                    ones_U,
                    ones_U,
                    design,
                )
                for p in range(len(POLICIES))
            ]
        )
        labels.append(group_B[items_U] if layout.clustered else None)
    sizes = [room.share for room in layout.rooms]
    gain_PS: list[list[Influence]] = [[remi(part[p], part[0]) for part in scores] for p in range(1, len(POLICIES))]
    joint = None
    if layout.clustered:
        joint = [f"{k}/{g}" for k, part in enumerate(labels[1:]) if part is not None for g in part.tolist()]

    pooled = [at_full_shares(gain_S[1:], sizes[1:]) for gain_S in gain_PS]
    at_id = [estimate(gain_S[0], clusters=labels[0]) for gain_S in gain_PS]
    shifts = [
        remid(gain_S[0], one, clusters_id=labels[0], clusters_ood=joint)
        for gain_S, one in zip(gain_PS, pooled, strict=True)
    ]
    reference, a, b = scores[0]
    versus = estimate(contrast_scores(a, b, reference), clusters=labels[0])
    asked = shifts if asks[0].minus else at_id
    subsets = zip(scores, labels, strict=True) if asks[0].minus else [(scores[0], labels[0])]
    parts = [
        {policy: components(part[1 + p], part[0], clusters=label) for p, policy in enumerate(POLICIES[1:])}
        for part, label in subsets
    ]
    parts += [{}] * (len(scores) - len(parts))
    df_Q = [min(at_id[0].df, estimate(pooled[0], clusters=joint).df), at_id[0].df, versus.df]
    return _Look([one.stderr for one in asked], parts, [shifts[0], at_id[0], versus], df_Q)


def _truth(world: World, n: int) -> list[float]:
    """In the order of QUANTITIES."""
    club = {law: world.truth(law) for law in _SUBSETS}
    gain = {law: float(club[law][1] - club[law][0]) for law in _SUBSETS}
    sizes = [round(n * share) for share in _SHARES[1:]]
    pooled = sum(size * gain[law] for size, law in zip(sizes, _SUBSETS[1:], strict=True)) / sum(sizes)
    return [gain["id"] - pooled, gain["id"], float(club["id"][1] - club["id"][2])]


def _measured(stops: Sequence[_Stop], k: int, truth: float) -> dict[str, Any]:
    """The measured fields of a StoppingRow for the k-th quantity."""

    def covers(made: Sequence[Estimate]) -> float:
        return float(np.mean([one.ci_low <= truth <= one.ci_high for one in made]))

    error_R = np.array([stop.made[k].value - truth for stop in stops])
    stderr_R = np.array([stop.made[k].stderr for stop in stops])
    coverage = covers([stop.made[k] for stop in stops])
    return {
        "coverage": coverage,
        "naive": covers([stop.naive[k] for stop in stops]),
        "mc_error": float(np.sqrt(coverage * (1 - coverage) / len(stops))),
        "se_ratio": float(np.sqrt(np.mean(stderr_R**2) / np.mean(error_R**2))),
        "looks": float(np.mean([stop.looks for stop in stops])),
        "items": float(np.mean([stop.items for stop in stops])),
        "negatives": float(np.mean([stop.negatives for stop in stops])),
        "met": float(np.mean([stop.met for stop in stops])),
        "replications": len(stops),
    }


@dataclass(frozen=True, slots=True)
class EqualErrorRow:
    """One policy. se_random: standard error of R-EMI over draws of `random_pairs` random pairs, drawn afresh for policy
    and reference as the paper's release does; se_shared: with the same pairs for both; se_m: of the balanced design
    with m = 1, 2, 3, 4 negatives (nats/response, given the items). sampling: the standard error from the items' draw.

    tokens_random: what the paper's design takes pair by pair, every pair with its prompt, for all who answer.
    """

    policy: str
    n: int
    random_pairs: int
    se_random: float
    se_shared: float
    se_m: tuple[float, ...]
    sampling: float
    tokens_random: float

    @property
    def least_m(self) -> int | None:
        """The least m that is no noisier than the random pairs on the same items; None if none of 1 to 4 is."""
        return next((m for m, se in enumerate(self.se_m, 1) if se <= self.se_random), None)

    def items(self, m: int) -> int:
        """How many items have, with m negatives, the standard error that n have with random pairs, draw of the items
        and of the pairs together. Both variances fall as 1/n."""
        ratio = (self.sampling**2 + self.se_m[m - 1] ** 2) / (self.sampling**2 + self.se_random**2)
        return int(np.ceil(self.n * ratio))

    def cheaper(self, m: int, cost: Cost, *, same_items: bool = False) -> float:
        """How many times fewer tokens: at equal standard error, or on the same items with a smaller one."""
        return self.tokens_random / cost.of(self.n if same_items else self.items(m), m)


def equal_error(
    S_PBB: FloatArray,
    names: Sequence[str],
    cost: Cost,
    *,
    random_pairs: int = 1000,
    draws: int = 400,
    seed: int = 0,
) -> list[EqualErrorRow]:
    """What the standard error of the paper's random pairs costs in the balanced design; a row per policy.

    S_PBB: all pairs, log q(response j of p | input i), nats; p = 0 is the reference (`verify.null.load_matrices`).
    cost: mean tokens of a prompt and a response, and how many answer, the reference included. Pair by pair every pair
    takes its prompt again: answerers * (n + random_pairs) * (prompt + response) tokens. Raises ValueError as
    `compare_designs`.
    """
    compared = compare_designs(S_PBB, names, most=4, random_pairs=random_pairs, draws=draws, seed=seed)
    whole = cost.prompt_tokens + cost.response_tokens
    return [
        EqualErrorRow(
            policy=row.policy,
            n=row.n,
            random_pairs=random_pairs,
            se_random=row.fresh_se,
            se_shared=row.shared_se,
            se_m=row.design_se_m,
            sampling=row.sampling_se,
            tokens_random=cost.answerers * (row.n + random_pairs) * whole,
        )
        for row in compared
    ]
