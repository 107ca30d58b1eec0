"""Scoring in rounds until a wished standard error is met: nested designs, the cheapest next step, honest intervals.

Items of a subset are put into a seeded random order and cut into blocks; each block is a balanced design of its own.
The first k blocks with the first m negatives of every item are then balanced for every k and m, and contained in what
follows, so nothing that was scored is thrown away. Source: docs/stopping.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import sparse, special
from scipy.sparse import csgraph

from remid.estimate.design import balanced_design
from remid.estimate.inference import pool
from remid.estimate.information import Influence
from remid.estimate.planning import Components, Cost
from remid.types import Estimate, FloatArray, IntArray, PairDesign

#: Items of the first block and of those that follow, clusters that the first must hold, and the most negatives per
#: item. Below 25 items a variance says too little to decide on; beyond 8 negatives their noise is hardly worth it.
PILOT_ITEMS, BLOCK_ITEMS, PILOT_CLUSTERS, MOST_NEGATIVES = 25, 20, 10, 8
#: How often the standard error may be looked at, and how much a subset may grow between two looks.
MOST_LOOKS, GROWTH = 5, 2.0
#: A wish is called out of reach where all items and negatives would miss it by more than this factor. Looks know a
#: standard error to some 10 to 15%.
_MARGIN = 1.1

Labels = Sequence[object] | npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True, eq=False)
class NestedDesign:
    """A subset's items in blocks, and the largest design.

    order_B: item numbers, block after block. sizes: items in the first k + 1 blocks, for k = 0, 1, ...
    negatives_Bm: (n, most) by item number; every prefix of its columns is balanced within each block.
    """

    order_B: IntArray
    sizes: tuple[int, ...]
    negatives_Bm: IntArray
    seed: int

    @property
    def most(self) -> int:
        """The largest m."""
        return int(self.negatives_Bm.shape[1])

    def prefix(self, blocks: int, m: int) -> tuple[IntArray, PairDesign]:
        """Item numbers (ascending) of the first blocks, and their design with m negatives, numbered within them."""
        items_U = np.sort(self.order_B[: self.sizes[blocks - 1]])
        place_B = np.full(self.order_B.size, -1, dtype=np.int64)
        place_B[items_U] = np.arange(items_U.size)
        return items_U, PairDesign(place_B[self.negatives_Bm[items_U, :m]], self.seed)


def nested_design(n: int, m: int, seed: int, clusters: Labels | None = None) -> NestedDesign:
    """Blocks and negatives of n items; m: negatives per item that the first round is to have.

    The first block has PILOT_ITEMS items, the others BLOCK_ITEMS; what is left at the end is shared out among the
    blocks before it (whole to the last). Clusters stay whole: a block takes clusters in random order until it is full
    and none of them is half of it, the first until it has PILOT_CLUSTERS as well. Mates are parted as in
    `balanced_design`. m grows to MOST_NEGATIVES or half of the smallest block, below which no pair occurs in both
    directions.
    Raises ValueError for n < 1, m < 1, or another number of labels.
    """
    if n < 1 or m < 1:
        raise ValueError(f"a design in rounds needs n >= 1 items and m >= 1 negatives, got n={n}, m={m}")
    if clusters is not None and len(clusters) != n:
        raise ValueError(f"clusters need one label per item, {n}, got {len(clusters)}")
    rng = np.random.default_rng(np.random.SeedSequence([seed, n]))
    label_B = np.arange(n) if clusters is None else _numbered(clusters)
    blocks = _blocks(label_B, rng, grouped=clusters is not None)
    least = min(block.size for block in blocks)
    wanted = max(m, min(MOST_NEGATIVES, (least - 1) // 2))
    made = []
    for block in blocks:
        labels = None if clusters is None else label_B[block]
        design = balanced_design(block.size, wanted, int(rng.integers(1 << 30)), clusters=labels)
        made.append(block[_in_matchings(design.negatives_Bm)])
    most = min(part.shape[1] for part in made)
    negatives_Bm = np.empty((n, most), dtype=np.int64)
    for block, part in zip(blocks, made, strict=True):
        negatives_Bm[block] = part[:, :most]
    return NestedDesign(np.concatenate(blocks), tuple(np.cumsum([b.size for b in blocks]).tolist()), negatives_Bm, seed)


def _numbered(clusters: Labels) -> IntArray:
    labels = list(clusters)
    number = {label: k for k, label in enumerate(dict.fromkeys(labels))}
    return np.array([number[label] for label in labels], dtype=np.int64)


def _blocks(label_B: IntArray, rng: np.random.Generator, *, grouped: bool) -> list[IntArray]:
    """Item numbers per block: clusters in random order, whole, until a block is full."""
    shuffled_G = rng.permutation(int(label_B.max()) + 1)
    by_label = [np.flatnonzero(label_B == g) for g in shuffled_G] if grouped else [np.array([g]) for g in shuffled_G]
    blocks: list[list[IntArray]] = [[]]
    for items in by_label:
        first = len(blocks) == 1
        full = _full(blocks[-1], PILOT_ITEMS if first else BLOCK_ITEMS)
        if full and not (first and len(blocks[0]) < PILOT_CLUSTERS):
            blocks.append([])
        blocks[-1].append(items)
    if len(blocks) > 1 and not _full(blocks[-1], BLOCK_ITEMS):
        rest = blocks.pop()
        blocks[-1] += rest
    return [np.concatenate(parts) for parts in blocks]


def _full(parts: Sequence[IntArray], least: int) -> bool:
    """Whether a block has enough items, and less than half of them are of one cluster, so that mates can be parted."""
    sizes = [part.size for part in parts]
    return sum(sizes) >= least and 2 * max(sizes) < sum(sizes)


def _in_matchings(negatives_Bm: IntArray) -> IntArray:
    """The same pairs with every column a permutation, so that every prefix of columns is balanced.

    A circle's shifts are permutations already. Where responses were exchanged to part mates they are not; but a
    bipartite graph of degree m at every node is a union of m perfect matchings (Koenig), found one after the other.
    """
    n, m = negatives_Bm.shape
    if all(np.unique(column).size == n for column in negatives_Bm.T):
        return negatives_Bm
    left_BB = sparse.lil_matrix((n, n), dtype=np.int8)
    left_BB[np.repeat(np.arange(n), m), negatives_Bm.ravel()] = 1
    made_Bm = np.empty_like(negatives_Bm)
    for k in range(m):
        matched_B = csgraph.maximum_bipartite_matching(left_BB.tocsr(), perm_type="column")
        made_Bm[:, k] = matched_B
        left_BB[np.arange(n), matched_B] = 0
        left_BB = sparse.csr_matrix(left_BB)
        left_BB.eliminate_zeros()
        left_BB = left_BB.tolil()
    return made_Bm


@dataclass(frozen=True, slots=True)
class Extent:
    """How much of one subset has been scored: its first blocks, and m negatives per item."""

    blocks: int
    m: int


@dataclass(frozen=True, slots=True)
class Room:
    """What one subset offers. sizes: as in NestedDesign; most: the largest m; cost: in tokens.

    share: the subset's part of all items of its law (ID, or one shift), which it keeps however far it has grown.
    """

    sizes: tuple[int, ...]
    most: int
    cost: Cost
    share: float


@dataclass(frozen=True, slots=True)
class Ask:
    """One number whose standard error is asked for: R-EMI pooled over `plus`, less that over `minus` (R-EMID).

    policy: its name. plus, minus: numbers of subsets; minus empty: R-EMI alone.
    """

    policy: str
    plus: tuple[int, ...]
    minus: tuple[int, ...] = ()


Verdict = Literal["met", "open", "unreachable", "exhausted", "no looks left", "not measurable"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of an Ask at one look. stderr, best: now, and predicted with every item and negative (its unit).

    needed: how many times all items of every subset the wish takes where `best` misses it, else 1. Verdicts: "met";
    "open": the next round is for it; "unreachable": all items and negatives would miss it clearly, so nothing more is
    spent on it; "exhausted": nothing is left that would help; "no looks left"; "not measurable": no standard error.
    """

    verdict: Verdict
    stderr: float
    best: float
    needed: float


def at_full_shares(parts: Sequence[Influence], shares: Sequence[float]) -> Influence:
    """Subsets pooled with the weight that each has in the whole data, whatever part of it has been scored.

    `pool` counts every scored item the same, so that the pooled number would mean something else from round to round.
    Here subset s weighs shares[s], over the shares of those that have an item at all. Raises ValueError as `pool` does.
    """
    n = sum(part.n for part in parts)
    total = float(sum(share for part, share in zip(parts, shares, strict=True) if part.n))
    scaled = []
    for part, share in zip(parts, shares, strict=True):
        weight = share / total * n / part.n if part.n else 1.0
        if abs(weight - 1) < 1e-12:
            scaled.append(part)
            continue
        phi_B = part.phi_B * weight
        scaled.append(
            replace(
                part,
                phi_B=phi_B,
                value=float(np.nanmean(phi_B)),
                noise_excess_S=part.noise_excess_S * weight**2,
                noise_floor_S=part.noise_floor_S * weight**2,
                weight_S=part.weight_S * weight,
            )
        )
    return pool(scaled)


def stopped(made: Estimate, df_first: float, confidence: float = 0.95) -> Estimate:
    """The estimate with the interval and p-value that it keeps although its size was chosen by looking at its SE.

    df_first: degrees of freedom at the first look; for R-EMID the fewer of its two sides'. A run stops where its
    standard error happens to look small; Student's t with so few is wide enough for that (docs/stopping.md).
    """
    df = min(made.df, df_first)
    if not (df > 0 and np.isfinite(made.stderr)):
        return replace(made, ci_low=float("nan"), ci_high=float("nan"), p_value=float("nan"), df=0.0)
    half = float(special.stdtrit(df, (1 + confidence) / 2)) * made.stderr
    p_value = float(2 * special.stdtr(df, -abs(made.value) / made.stderr)) if made.stderr > 0 else float("nan")
    return replace(made, ci_low=made.value - half, ci_high=made.value + half, p_value=p_value, df=df)


@dataclass(frozen=True, slots=True, eq=False)
class _Forecast:
    """Variance of every ask at any extents: base_AS / n_S + noise_AS / (n_S m_S), summed over subsets."""

    base_AS: FloatArray
    noise_AS: FloatArray

    def variance_A(self, n_S: FloatArray, m_S: FloatArray) -> FloatArray:
        return np.asarray(np.sum((self.base_AS + self.noise_AS / m_S) / n_S, axis=1), dtype=np.float64)


def next_extents(
    extents: Sequence[Extent],
    rooms: Sequence[Room],
    asks: Sequence[Ask],
    stderr_A: Sequence[float],
    parts: Sequence[dict[str, Components]],
    *,
    wish: float,
    look: int,
) -> tuple[list[Extent], list[Answer]]:
    """Extents of the next round, the same ones where scoring stops, and what became of every ask.

    stderr_A: standard errors as measured now, NaN where there is none. parts: per subset the variance components of
    each policy's R-EMI. look: 1 after the first round. Never sees an estimate's value, only standard errors.
    The next round goes where a greedy search ends: step by step one more block or one more negative, whichever lowers
    the logarithms of the variances still too high most per token. One round may go GROWTH times as far as the last,
    in n and in m; the one before the last look may go all the way. Raises ValueError for a wish that is not positive.
    """
    if not wish > 0:
        raise ValueError(f"a wished standard error must be positive, got {wish}")
    forecast = _forecast(extents, rooms, asks, stderr_A, parts)
    ends_S = np.array([room.sizes[-1] for room in rooms], dtype=np.float64)
    most_S = np.array([max(room.most, e.m, 1) for e, room in zip(extents, rooms, strict=True)], dtype=np.float64)
    best_A = np.sqrt(forecast.variance_A(ends_S, most_S)).tolist()
    last = look >= MOST_LOOKS
    answers = [_answer(stderr, best, wish, last=last) for stderr, best in zip(stderr_A, best_A, strict=True)]
    open_A = np.array([answer.verdict == "open" for answer in answers])
    if not open_A.any():
        return list(extents), answers
    found = _search(extents, rooms, forecast, open_A, wish)
    if look + 1 < MOST_LOOKS:
        found = [_clipped(*each) for each in zip(extents, found, rooms, strict=True)]
    if found == list(extents):
        answers = [replace(answer, verdict="exhausted") if answer.verdict == "open" else answer for answer in answers]
    return found, answers


def _answer(stderr: float, best: float, wish: float, *, last: bool) -> Answer:
    if not np.isfinite(stderr):
        return Answer("not measurable", stderr, float("nan"), float("nan"))
    verdict: Verdict = "open"
    if stderr <= wish:
        verdict = "met"
    elif best > _MARGIN * wish and best < (1 - 1e-9) * stderr:
        verdict = "unreachable"
    elif best >= (1 - 1e-9) * stderr:
        verdict = "exhausted"
    elif last:
        verdict = "no looks left"
    return Answer(verdict, stderr, best, max(1.0, (best / wish) ** 2))


def _forecast(
    extents: Sequence[Extent],
    rooms: Sequence[Room],
    asks: Sequence[Ask],
    stderr_A: Sequence[float],
    parts: Sequence[dict[str, Components]],
) -> _Forecast:
    """Components times squared weights, scaled so that the forecast for the present extents is what was measured."""
    base_AS, noise_AS = np.zeros((len(asks), len(rooms))), np.zeros((len(asks), len(rooms)))
    for a, ask in enumerate(asks):
        for side in (ask.plus, ask.minus):
            total = sum(rooms[s].share for s in side)
            for s in side:
                found = parts[s].get(ask.policy)
                if found is not None:
                    square = (rooms[s].share / total) ** 2
                    base_AS[a, s], noise_AS[a, s] = square * found.item, square * found.pair
    made = _Forecast(base_AS, noise_AS)
    n_S, m_S = _sizes(extents, rooms)
    now_A = made.variance_A(n_S, m_S)
    scale_A = np.where(now_A > 0, np.nan_to_num(np.square(stderr_A)) / np.where(now_A > 0, now_A, 1.0), 1.0)
    return _Forecast(base_AS * scale_A[:, None], noise_AS * scale_A[:, None])


def _sizes(extents: Sequence[Extent], rooms: Sequence[Room]) -> tuple[FloatArray, FloatArray]:
    n_S = np.array([room.sizes[e.blocks - 1] for e, room in zip(extents, rooms, strict=True)], dtype=np.float64)
    return n_S, np.array([max(e.m, 1) for e in extents], dtype=np.float64)


def _search(
    extents: Sequence[Extent], rooms: Sequence[Room], forecast: _Forecast, open_A: npt.NDArray[np.bool_], wish: float
) -> list[Extent]:
    """Greedy: see `next_extents`. Extents that are forecast to meet the wish, or as near as steps still help."""
    now = list(extents)
    open_forecast = _Forecast(forecast.base_AS[open_A], forecast.noise_AS[open_A])

    def lacking(at: Sequence[Extent]) -> float:
        variance_A = open_forecast.variance_A(*_sizes(at, rooms))
        return float(np.sum(np.maximum(np.log(np.maximum(variance_A, 1e-300)) - 2 * np.log(wish), 0.0)))

    def tokens(e: Extent, room: Room) -> float:
        return room.cost.of(room.sizes[e.blocks - 1], e.m)

    lack = lacking(now)
    while lack > 0:
        best: tuple[float, int, Extent, float] | None = None
        for s, room in enumerate(rooms):
            here = now[s]
            steps = [Extent(here.blocks + 1, here.m)] if here.blocks < len(room.sizes) else []
            steps += [Extent(here.blocks, here.m + 1)] if here.m < room.most else []
            for step in steps:
                gain = lack - lacking([*now[:s], step, *now[s + 1 :]])
                if gain <= 0:
                    continue
                rate = gain / (tokens(step, room) - tokens(here, room))
                if best is None or rate > best[0]:
                    best = (rate, s, step, lack - gain)
        if best is None:
            break
        _, s, now[s], lack = best
    return now


def _clipped(start: Extent, target: Extent, room: Room) -> Extent:
    """As far towards the target as one round may grow; a block at least, if the target has one more."""
    most = GROWTH * room.sizes[start.blocks - 1]
    blocks = max(sum(size <= most for size in room.sizes), start.blocks + 1)
    return Extent(min(target.blocks, blocks), min(target.m, int(GROWTH * start.m)))
