"""How large a loss must be for a run to find it, in the simulated worlds of coverage.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from remid.verify.coverage import QUANTITIES, replicate
from remid.verify.simulated import DiscreteScores, GaussianScores


@dataclass(frozen=True, slots=True)
class PowerRow:
    """detectable: the R-EMID (nats/response) that a two-sided test at 5% finds in 80% of runs with n items a side.

    stderr: root mean square error of the estimated R-EMID. spread: standard deviation of an R-EMI contribution,
    sqrt(n / 2) stderr, by which the numbers carry over to other data (`remid plan` does that from a pilot).
    """

    world: str
    n: int
    m: int
    detectable: float
    stderr: float
    spread: float
    replications: int


def power_rows(replications: int, sizes: Sequence[int], m: int, seed: int) -> list[PowerRow]:
    """A loss d is found where d + error > half-width, so the least d for 80% is a quantile of half-width - error.

    This takes the error's law to be the same at every d, which holds where a loss only moves the policy's mean.
    """
    index = QUANTITIES.index("R-EMID")
    rows = []
    for world in (GaussianScores(), DiscreteScores()):
        for n in sizes:
            made, truth_Q = replicate(world, n, m, clustered=False, replications=replications, seed=seed + 1)
            error = np.array([found[index].value for found in made]) - truth_Q[index]
            half = np.array([(found[index].ci_high - found[index].ci_low) / 2 for found in made])
            stderr = float(np.sqrt(np.mean(error**2)))
            detectable = float(np.quantile(half - error, 0.8))
            rows.append(PowerRow(world.name, n, m, detectable, stderr, float(np.sqrt(n / 2)) * stderr, len(made)))
    return rows
