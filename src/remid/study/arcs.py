"""Subsamples of a scored subset that keep what the design gave: consecutive arcs of its circle of negatives.

Only the pairs of the design were scored. A random subsample of n of N items keeps a share of about n/N of them; n items
that follow each other on the circle keep all but m(m+1)/2 of n*m. The circle's order is a seeded permutation, so an arc
is a simple random subsample all the same. Different arcs of one circle overlap and are not independent of each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from remid.pipeline.measure import SubsetScores
from remid.pipeline.policies import CONTROLS, REFERENCE, Texts, subset_texts
from remid.types import IntArray, PairDesign, PairScores


@dataclass(frozen=True, slots=True)
class Part:
    """One subset, or a subsample of it: its scores, and everyone's responses by policy, in the order of the items."""

    scores: SubsetScores
    texts: dict[str, Texts]


def whole_parts(subsets: Sequence[SubsetScores]) -> list[Part]:
    """The subsets of a run with their responses; `shuffled` is made on the whole design, hence before any `take`."""
    parts = []
    for s in subsets:
        policies = [name for name in s.scores if name not in CONTROLS]
        parts.append(Part(s, subset_texts(s.samples, policies, s.scores[REFERENCE].design)))
    return parts


def circle_order(design: PairDesign) -> IntArray:
    """Items (B,) in the order of the design's circle, from item 0 on: each one's first negative is its successor.

    Raises ValueError where the first negatives do not form one circle, that is, for no design of ours.
    """
    n, m = design.negatives_Bm.shape
    if n < 2 or m == 0:
        return np.arange(n)
    order_B = np.zeros(n, dtype=np.int64)
    for k in range(1, n):
        order_B[k] = design.negatives_Bm[order_B[k - 1], 0]
    if len(np.unique(order_B)) != n:
        raise ValueError("the design is no circle: following the first negatives does not visit every item")
    return order_B


def arc_starts(total: int, n_draws: int, rng: np.random.Generator) -> IntArray:
    """Where each of the draws starts on a circle of `total` items: evenly spaced, so that arcs overlap least."""
    return np.floor((rng.random() + np.arange(n_draws)) * total / n_draws).astype(np.int64) % max(total, 1)


def arc_items(design: PairDesign, start: int, n: int) -> IntArray:
    """The n items (all if there are fewer) from place `start` of the circle on, in the subset's own order."""
    order_B = circle_order(design)
    places = (start + np.arange(min(n, order_B.size))) % max(order_B.size, 1)
    return np.sort(order_B[places])


def take(part: Part, items: IntArray) -> Part:
    """The subset with these items alone. Pairs with an item outside are missing (NaN), as if never scored."""
    s = part.scores
    if len(items) == len(s.samples):
        return part
    scores = replace(
        s,
        samples=tuple(s.samples[i] for i in items),
        scores={policy: take_pairs(scores, items) for policy, scores in s.scores.items()},
        clusters=None if s.clusters is None else tuple(s.clusters[i] for i in items),
    )
    return Part(scores, {policy: [row[i] for i in items] for policy, row in part.texts.items()})


def take_pairs(scores: PairScores, items: IntArray) -> PairScores:
    """PairScores of these items alone, on the part of the design that lies among them."""
    local_B = np.full(scores.positive_B.size, -1)
    local_B[items] = np.arange(len(items))
    negatives_nm = local_B[scores.design.negatives_Bm[items]]
    inside_nm = negatives_nm >= 0
    # An index that no pair uses: the score is NaN, and an item's own place says so to a reader.
    own_n1 = np.arange(len(items))[:, None]
    return PairScores(
        scores.positive_B[items],
        np.where(inside_nm, scores.negative_Bm[items], np.nan),
        scores.tokens_B[items],
        scores.bytes_B[items],
        PairDesign(np.where(inside_nm, negatives_nm, own_n1), scores.design.seed),
    )


def pairs_kept(parts: Sequence[Part]) -> float:
    """Share of the n*m pairs of a full design that have a score of the reference. NaN where there are none."""
    found = [np.isfinite(part.scores.scores[REFERENCE].negative_Bm) for part in parts]
    total = sum(mask.size for mask in found)
    return sum(int(mask.sum()) for mask in found) / total if total else float("nan")
