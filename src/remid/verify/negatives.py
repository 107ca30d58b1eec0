"""What the choice of negatives costs: the balanced design against random pairs, on a full matrix of scores.

Given the items, the only thing left to chance is which pairs are used. The standard error of R-EMI over that choice is
compared at equal items, for m shifts of the balanced design and for M random pairs i != j as the paper draws them:
the same pairs for policy and reference, or fresh ones for each (as its released code does).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from remid.estimate import balanced_design, estimate, remi
from remid.types import FloatArray
from remid.verify.null import pair_scores


@dataclass(frozen=True, slots=True)
class DesignRow:
    """One policy. All standard errors in nats per response.

    design_se_m: over balanced designs, for m = 1, 2, ...; shared_se, fresh_se: over draws of `random_pairs` pairs, the
    same for policy and reference, or drawn for each. sampling_se: over items, with all pairs (the U-statistic).
    least_m_shared, least_m_fresh: least m from which on the balanced design is no noisier; None if not within reach.
    """

    policy: str
    n: int
    random_pairs: int
    design_se_m: tuple[float, ...]
    shared_se: float
    fresh_se: float
    sampling_se: float
    least_m_shared: int | None
    least_m_fresh: int | None

    def pairs(self, m: int) -> int:
        """Pairs per policy that m shifts score."""
        return m * self.n

    def total_se(self, design_se: float) -> float:
        """Sampling and design together, nats per response."""
        return float(np.hypot(self.sampling_se, design_se))


def compare_designs(
    S_PBB: FloatArray,
    names: Sequence[str],
    *,
    most: int = 10,
    random_pairs: int = 1000,
    draws: int = 400,
    seed: int = 0,
) -> list[DesignRow]:
    """A row per policy. S_PBB[p, i, j] = log q(response j of p | input i), nats; p = 0 is the reference.

    most: largest m looked at (at most items - 1). draws: designs per standard error, whose own relative error is about
    1/sqrt(2 draws). Raises ValueError for other shapes, fewer than 4 items or scores that are missing.
    """
    if S_PBB.ndim != 3 or S_PBB.shape[1] != S_PBB.shape[2] or len(names) != len(S_PBB) or len(S_PBB) < 2:
        raise ValueError(f"need scores of shape (policies, items, items) and a name each, got {S_PBB.shape}, {names}")
    n = S_PBB.shape[1]
    if n < 4 or not np.isfinite(S_PBB).all():
        raise ValueError("need at least 4 items and every pair of them scored")
    most = min(most, n - 1)
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    gain_QBB = S_PBB[1:] - S_PBB[0]
    balanced_QDm = np.stack([_balanced_means(gain_QBB, most, int(rng.integers(1 << 30))) for _ in range(draws)], axis=1)
    shared_QD = np.stack([_random_means(gain_QBB, rng, random_pairs) for _ in range(draws)], axis=1)
    fresh_PD = np.stack(
        [[_random_means(S_BB[None], rng, random_pairs)[0] for S_BB in S_PBB] for _ in range(draws)], axis=1
    )
    fresh_QD = fresh_PD[1:] - fresh_PD[0]
    everything = balanced_design(n, n - 1, 0)
    reference = pair_scores(S_PBB[0], everything)
    rows = []
    for q, name in enumerate(names[1:]):
        design_se_m = balanced_QDm[q].std(axis=0, ddof=1)
        shared, fresh = float(shared_QD[q].std(ddof=1)), float(fresh_QD[q].std(ddof=1))
        rows.append(
            DesignRow(
                policy=name,
                n=n,
                random_pairs=random_pairs,
                design_se_m=tuple(float(x) for x in design_se_m),
                shared_se=shared,
                fresh_se=fresh,
                sampling_se=estimate(remi(pair_scores(S_PBB[1 + q], everything), reference)).stderr,
                least_m_shared=_least(design_se_m, shared),
                least_m_fresh=_least(design_se_m, fresh),
            )
        )
    return rows


def _balanced_means(gain_QBB: FloatArray, most: int, seed: int) -> FloatArray:
    """(Q, most): mean of the negatives for m = 1..most. The first m columns of a design are the design for m."""
    negatives_Bm = balanced_design(gain_QBB.shape[1], most, seed).negatives_Bm
    by_shift_Qm = gain_QBB[:, np.arange(len(negatives_Bm))[:, None], negatives_Bm].mean(axis=1)
    return np.asarray(np.cumsum(by_shift_Qm, axis=1) / np.arange(1, most + 1), dtype=np.float64)


def _random_means(S_QBB: FloatArray, rng: np.random.Generator, pairs: int) -> FloatArray:
    """(Q,): mean over random pairs i != j, drawn with replacement."""
    n = S_QBB.shape[1]
    i_M = rng.integers(n, size=pairs)
    j_M = (i_M + rng.integers(1, n, size=pairs)) % n
    return np.asarray(S_QBB[:, i_M, j_M].mean(axis=1), dtype=np.float64)


def _least(design_se_m: FloatArray, target: float) -> int | None:
    good = np.flatnonzero(design_se_m <= target)
    return int(good[0]) + 1 if good.size else None
