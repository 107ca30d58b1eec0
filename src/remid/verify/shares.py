"""Does the attribution name the component that changed? Random worlds in which one mechanism alone shifts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from remid.data.worlds.discrete import ShiftKind, random_worlds
from remid.estimate.attribution import marginal_shares, shapley_shares, sparse_shares
from remid.estimate.exact import subset_divergences
from remid.types import COMPONENTS

METHODS = (("sparse", sparse_shares), ("Shapley", shapley_shares), ("paper", marginal_shares))
#: Smaller shifts are left out: shares of nothing say nothing. Nats of JS between the inputs.
SMALLEST = 1e-4


@dataclass(frozen=True, slots=True)
class ShareRow:
    """One kind of shift under one method. named: share of worlds in which the shifted component gets at least 90%.

    attributed: share of all attributed JS (summed over worlds, weighted by JS) that falls on the shifted component.
    """

    shifted: str
    conditional: bool
    method: str
    n: int
    attributed: float
    mean: float
    named: float


def share_rows(n: int, seed: int) -> list[ShareRow]:
    """Each component, its marginal or its conditional shifted, n dependent 3 x 3 x 3 worlds a kind, three methods."""
    rows = []
    for index, component in enumerate(COMPONENTS):
        for conditional in (False, True):
            kind: ShiftKind = f"{component}|rest" if conditional else component  # type: ignore[assignment]
            world = random_worlds(n, (3, 3, 3, 2), seed + 2 * index + conditional, shift=kind)
            value = subset_divergences(world.p_UAD, world.q_UAD)
            whole_N = value[frozenset({0, 1, 2})]
            moved_N = whole_N > SMALLEST
            for name, method in METHODS:
                share_N = np.nan_to_num(method(value)[moved_N, index])
                attributed = float(np.average(share_N, weights=whole_N[moved_N]))
                named = float((share_N >= 0.9).mean())
                rows.append(
                    ShareRow(component, conditional, name, int(moved_N.sum()), attributed, float(share_N.mean()), named)
                )
    return rows
