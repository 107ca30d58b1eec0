"""Null runs: ID against ID. Whatever is called significant there is a false alarm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from remid.errors import DataError, Problem
from remid.estimate import Influence, balanced_design, holm, remi, remid
from remid.types import FloatArray, IntArray, PairDesign, PairScores
from remid.verify.simulated import POLICIES, World, group_sizes

_LEVEL = 0.05


@dataclass(frozen=True, slots=True)
class NullResult:
    """False alarms at the 5% level over `splits` null runs of `cells` cells each.

    share_C: per cell, how often p < 0.05; share, mc_error: over all cells, and its Monte-Carlo standard error (over
    splits, since the cells of one split are dependent). holm_share: cells that stay below 0.05 after Holm's adjustment.
    holm_any: splits with at least one such cell (the familywise error, at most 0.05); holm_any_error: of that.
    """

    cells: tuple[str, ...]
    splits: int
    share_C: tuple[float, ...]
    share: float
    mc_error: float
    holm_share: float
    holm_any: float
    holm_any_error: float


def null_simulated(
    world: World, *, n: int = 50, m: int = 3, clustered: bool = False, splits: int = 200, seed: int = 0
) -> NullResult:
    """One ID sample of n items against three others of the same law, for both policies: six cells a split."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, n, m, int(clustered)]))

    def split(_: int) -> list[float]:
        base, *others = (_simulated_half(world, rng, n, m, clustered) for _ in range(4))
        return [_p_value(base[p], other[p]) for other in others for p in range(len(POLICIES) - 1)]

    return _count([f"{p} {k}" for k in (1, 2, 3) for p in POLICIES[1:]], [split(k) for k in range(splits)])


def null_splits(
    S_PBB: FloatArray,
    names: Sequence[str],
    *,
    m: int = 3,
    splits: int = 200,
    seed: int = 0,
    clusters: Sequence[object] | None = None,
) -> NullResult:
    """Split the B items of a full score matrix at random into halves and compare them as ID and shift.

    S_PBB[p, i, j] = log q(response j of p | input i), nats; p = 0 is the reference. names: of the P rows. One cell per
    policy. clusters: B labels whose items stay together. Designs are drawn anew for each half. Splits share items,
    so the Monte-Carlo errors are only roughly right. Raises ValueError for other shapes or fewer than 8 items.
    """
    if S_PBB.ndim != 3 or S_PBB.shape[1] != S_PBB.shape[2] or len(names) != len(S_PBB) or len(S_PBB) < 2:
        raise ValueError(f"need scores of shape (policies, items, items) and a name each, got {S_PBB.shape}, {names}")
    n = S_PBB.shape[1]
    if n < 8:
        raise ValueError(f"need at least 8 items to split, got {n}")
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    order = {label: k for k, label in enumerate(dict.fromkeys(clusters or range(n)))}
    group_B = np.array([order[label] for label in (clusters or range(n))], dtype=np.int64)

    def half(items_H: IntArray) -> list[_Half]:
        labels_H = group_B[items_H] if clusters else None
        design = balanced_design(items_H.size, m, int(rng.integers(1 << 30)), clusters=labels_H)
        scores = [pair_scores(S_BB[np.ix_(items_H, items_H)], design) for S_BB in S_PBB]
        return [_Half(remi(policy, scores[0]), labels_H) for policy in scores[1:]]

    def split(_: int) -> list[float]:
        # Whole groups in random order, to the first half until it holds half of the items.
        shuffled_G = rng.permutation(len(order))
        place_B = np.argsort(shuffled_G)[group_B]
        before_G = np.concatenate([[0], np.cumsum(np.bincount(place_B, minlength=len(order)))[:-1]])
        first_B = before_G[place_B] < n // 2
        return [
            _p_value(a, b) for a, b in zip(half(np.flatnonzero(first_B)), half(np.flatnonzero(~first_B)), strict=True)
        ]

    return _count(list(names[1:]), [split(k) for k in range(splits)])


def pair_scores(S_BB: FloatArray, design: PairDesign) -> PairScores:
    """The pairs of a full score matrix that a design keeps; lengths unknown (nats per response only)."""
    n = len(S_BB)
    unknown_B = np.full(n, np.nan)
    negative_Bm = S_BB[np.arange(n)[:, None], design.negatives_Bm]
    return PairScores(np.diagonal(S_BB).copy(), negative_Bm, unknown_B, unknown_B, design)


def load_matrices(path: Path) -> tuple[tuple[str, ...], FloatArray]:
    """Names and S_PBB (policy, input, response; nats; reference first) from an .npz with `policies` and `S_PBB`.

    Raises DataError where the file cannot be read or holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as held:
            names, S_PBB = tuple(map(str, held["policies"])), np.asarray(held["S_PBB"], dtype=np.float64)
    except (OSError, ValueError, KeyError) as error:
        raise DataError([Problem(str(path), "", "", f"is no .npz with `policies` and `S_PBB` ({error})")]) from error
    if S_PBB.ndim != 3 or S_PBB.shape[1] != S_PBB.shape[2] or len(names) != len(S_PBB) or len(names) < 2:
        message = f"must be (policies, items, items) with a name each, got {S_PBB.shape} and {len(names)} names"
        raise DataError([Problem(str(path), "", "S_PBB", message)])
    return names, S_PBB


@dataclass(frozen=True, slots=True)
class _Half:
    influence: Influence
    labels_B: npt.NDArray[np.int64] | None


def _simulated_half(world: World, rng: np.random.Generator, n: int, m: int, clustered: bool) -> list[_Half]:
    group_B = np.arange(n, dtype=np.int64)
    if clustered:
        sizes = group_sizes(rng, n)
        group_B = np.repeat(np.arange(len(sizes), dtype=np.int64), sizes)
    design = balanced_design(n, m, int(rng.integers(1 << 30)), clusters=group_B)
    drawn = world.draw(rng, 1, "id", design.negatives_Bm, group_B)
    ones_B = np.ones(n)
    scores = [
        PairScores(positive_B, negative_Bm, ones_B, ones_B, design)
        for positive_B, negative_Bm in zip(drawn.positive_PRB[:, 0], drawn.negative_PRBm[:, 0], strict=True)
    ]
    return [_Half(remi(policy, scores[0]), group_B if clustered else None) for policy in scores[1:]]


def _p_value(a: _Half, b: _Half) -> float:
    return remid(a.influence, b.influence, clusters_id=a.labels_B, clusters_ood=b.labels_B).p_value


def _count(cells: list[str], p_values: list[list[float]]) -> NullResult:
    """Shares of p-values below the level. A cell without a test (NaN) is not significant."""
    p_KC = np.array(p_values, dtype=np.float64)
    hit_KC = p_KC < _LEVEL
    adjusted_KC = np.stack([holm(row) for row in p_values]) < _LEVEL
    any_share = float(adjusted_KC.any(axis=1).mean())
    return NullResult(
        cells=tuple(cells),
        splits=len(p_values),
        share_C=tuple(float(x) for x in hit_KC.mean(axis=0)),
        share=float(hit_KC.mean()),
        mc_error=float(hit_KC.mean(axis=1).std(ddof=1) / np.sqrt(len(p_values))),
        holm_share=float(adjusted_KC.mean()),
        holm_any=any_share,
        holm_any_error=float(np.sqrt(any_share * (1 - any_share) / len(p_values))),
    )
