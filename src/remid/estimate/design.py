"""Which responses are scored under which other inputs, so that easy texts and easy inputs cannot move the estimate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from remid.types import IntArray, PairDesign

BoolArray = npt.NDArray[np.bool_]


def balanced_design(
    n: int, m: int, seed: int, clusters: Sequence[object] | npt.NDArray[np.generic] | None = None
) -> PairDesign:
    """Draw m negatives for each of n items so that every item is a negative exactly m times.

    The items are permuted once (seeded); in that order item k gets the m items that follow it, around the circle.
    Every row and every column is then used m times, so additive effects of an input (it makes all responses likely) or
    of a response (it is short) cancel exactly from CLUB. m is clipped to n - 1, where every pair is used once;
    n < 2 has no negatives and gives shape (n, 0). The same (n, m, seed) gives the same design everywhere.

    clusters: n hashable labels of items that share something (a character, a user). Two such items are no draw from
    the product of the marginals, so they are not paired: the order on the circle is changed until mates stand more
    than m apart, and pairs that remain swap responses with other pairs; the design stays balanced. It cannot be done
    for a cluster of more than half of the items, nor where m is near n; what remains is counted by
    `within_cluster_pairs`. Labels that are all different give the same design as none.

    Returns a PairDesign with negatives_Bm of shape (n, min(m, n - 1)). Raises ValueError for negative n, m < 1, or
    another number of labels. Source: docs/theory.md, "Negatives".
    """
    if n < 0 or m < 1:
        raise ValueError(f"a design needs n >= 0 items and m >= 1 negatives each, got n={n}, m={m}")
    if clusters is not None and len(clusters) != n:
        raise ValueError(f"clusters need one label per item, {n}, got {len(clusters)}")
    label_B = None if clusters is None else _as_integers(clusters)
    most = n - 1
    if label_B is not None and n:
        largest = int(np.bincount(label_B).max())
        most = n - largest if 2 * largest <= n else most
    shifts_m = np.arange(1, min(m, most) + 1)
    negatives_Bm = np.empty((n, shifts_m.size), dtype=np.int64)
    if n >= 2:
        rng = np.random.default_rng(np.random.SeedSequence(seed))
        order_B = rng.permutation(n)
        if label_B is not None:
            _part_mates(order_B, label_B, shifts_m.size, rng)
        negatives_Bm[order_B] = order_B[(np.arange(n)[:, None] + shifts_m) % n]
        if label_B is not None:
            _swap_responses(negatives_Bm, label_B, rng)
    return PairDesign(negatives_Bm=negatives_Bm, seed=seed)


def within_cluster_pairs(design: PairDesign, clusters: Sequence[object] | npt.NDArray[np.generic]) -> int:
    """How many negatives pair two items of one cluster; each pulls CLUB down by what mates share (docs/theory.md)."""
    label_B = _as_integers(clusters)
    return int(np.sum(label_B[design.negatives_Bm] == label_B[:, None]))


def _as_integers(clusters: Sequence[object] | npt.NDArray[np.generic]) -> IntArray:
    """Labels of any hashable kind as 0..G-1 in order of first appearance."""
    labels = list(clusters)
    number = {label: k for k, label in enumerate(dict.fromkeys(labels))}
    return np.array([number[label] for label in labels], dtype=np.int64)


def _part_mates(order_B: IntArray, label_B: IntArray, m: int, rng: np.random.Generator) -> None:
    """Swap places on the circle, in place, as long as it leaves fewer mates within m steps of each other."""
    n = order_B.size
    if 2 * m >= n:
        return  # everyone is within m steps of everyone
    here = label_B[order_B].tolist()
    steps = [*range(-m, 0), *range(1, m + 1)]

    def near(place: int) -> int:
        return sum(here[(place + step) % n] == here[place] for step in steps)

    def swap(a: int, b: int) -> None:
        here[a], here[b] = here[b], here[a]
        order_B[[a, b]] = order_B[[b, a]]

    for _ in range(10):
        crowded = [place for place in range(n) if near(place)]
        for place in crowded:
            for other in rng.integers(n, size=20).tolist():
                before = near(place) + near(other)
                if here[place] == here[other] or not before:
                    continue
                swap(place, other)
                if near(place) + near(other) < before:
                    break
                swap(place, other)
        if not crowded:
            return


def _swap_responses(negatives_Bm: IntArray, label_B: IntArray, rng: np.random.Generator) -> None:
    """Pairs (i, j) of mates and (k, l) become (i, l) and (k, j), in place: rows and columns keep their counts."""
    for i, column in np.argwhere(label_B[negatives_Bm] == label_B[:, None]).tolist():
        j = negatives_Bm[i, column]
        if label_B[i] != label_B[j]:
            continue  # mended by an earlier swap
        gains_Bm = (label_B[negatives_Bm] != label_B[i]) & ~np.isin(negatives_Bm, negatives_Bm[i])
        gains_Bm &= ((label_B != label_B[j]) & ~(negatives_Bm == j).any(axis=1))[:, None]
        found = np.argwhere(gains_Bm)
        if len(found):
            k, other = found[rng.integers(len(found))]
            negatives_Bm[i, column], negatives_Bm[k, other] = negatives_Bm[k, other], j
