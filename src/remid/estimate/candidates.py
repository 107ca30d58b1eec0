"""Measures that were tried beside the gap, each from the same scored pairs: distances from the reference (docs/log.md).

All take one value per context for the policy and for the reference, paired, NaN where either is missing, and give 0
where the two agree, more where they do not. `benchmarks/gap_agreement.py` holds them against a judge. None of them
heads the page: what is wrong with each stands with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

from remid.types import FloatArray

#: A distance of a policy's values from the reference's.
Distance = Callable[[FloatArray, FloatArray], float]
_QUANTILES = np.linspace(0.1, 0.9, 9)


def two_sided(policy_B: FloatArray, reference_B: FloatArray) -> float:
    """abs(R-EMI) where values are densities: the difference of means. Blind to being above as often as below."""
    ours_B, theirs_B = _both(policy_B, reference_B)
    return float(abs(ours_B.mean() - theirs_B.mean()))


def paired_distance(policy_B: FloatArray, reference_B: FloatArray) -> float:
    """Mean absolute difference, context by context. Above 0 for a second, equally good answer, which varies too."""
    ours_B, theirs_B = _both(policy_B, reference_B)
    return float(np.abs(ours_B - theirs_B).mean())


def wasserstein(policy_B: FloatArray, reference_B: FloatArray) -> float:
    """Wasserstein-1 of the two distributions, at least `two_sided`. In small samples biased upwards."""
    return float(stats.wasserstein_distance(*_both(policy_B, reference_B)))


def quantile_distance(policy_B: FloatArray, reference_B: FloatArray) -> float:
    """Mean absolute difference of the deciles: Wasserstein-1 without the tails, which single parrots make."""
    ours_B, theirs_B = _both(policy_B, reference_B)
    return float(np.abs(np.quantile(ours_B, _QUANTILES) - np.quantile(theirs_B, _QUANTILES)).mean())


def energy_distance(policy_B: FloatArray, reference_B: FloatArray) -> float:
    """2 E|a - b| - E|a - a'| - E|b - b'| as a U-statistic: no bias, so it may lie below 0 (Szekely and Rizzo 2013).

    NaN with fewer than two contexts. A context's own pair is left out of the first mean, since the two depend.
    """
    ours_B, theirs_B = _both(policy_B, reference_B)
    n = ours_B.size
    if n < 2:
        return float("nan")

    def mean_gap(a_B: FloatArray, b_B: FloatArray) -> float:
        gap_BB = np.abs(a_B[:, None] - b_B[None, :])
        return float((gap_BB.sum() - np.trace(gap_BB)) / (n * (n - 1)))

    return 2 * mean_gap(ours_B, theirs_B) - mean_gap(ours_B, ours_B) - mean_gap(theirs_B, theirs_B)


def swap_test(
    policy_B: FloatArray, reference_B: FloatArray, distance: Distance, *, seed: int, swaps: int = 999
) -> float:
    """p-value of "the policy answers as the reference does": swapping the two within contexts changes nothing then.

    Exact for any distance (a paired permutation test with the data among the swaps, so never below 1 / (swaps + 1)).
    """
    pair_2B = np.stack(_both(policy_B, reference_B))
    seen, rng = distance(*pair_2B), np.random.default_rng(seed)
    turned_RB = rng.random((swaps, pair_2B.shape[1])) < 0.5
    drawn = [distance(*np.where(turned_B, pair_2B[::-1], pair_2B)) for turned_B in turned_RB]
    return (1 + sum(value >= seen - 1e-12 for value in drawn)) / (swaps + 1)


def copied_tokens(
    response: Sequence[int], sources: Sequence[Sequence[int]], least: int = 2
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """(T,) whether a token stands in a run of at least `least` tokens that some source has too.

    To score the rest alone takes off less than copying explains: what follows a copied word is easy as well.
    """
    runs = {tuple(source[k : k + least]) for source in sources for k in range(len(source) - least + 1)}
    copied_T = np.zeros(len(response), dtype=np.bool_)
    for k in range(len(response) - least + 1):
        if tuple(response[k : k + least]) in runs:
            copied_T[k : k + least] = True
    return copied_T


def masked_density(own_T: FloatArray, free_T: FloatArray, copied_T: FloatArray) -> float:
    """Information of a response without its copied tokens, nats/response (own_T, free_T: log q with, without input)."""
    return float(np.where(copied_T, 0.0, own_T - free_T).sum())


def _both(policy_B: FloatArray, reference_B: FloatArray) -> tuple[FloatArray, FloatArray]:
    if policy_B.shape != reference_B.shape:
        raise ValueError(f"values of the same contexts are needed, not {policy_B.shape} and {reference_B.shape}")
    here_B = np.isfinite(policy_B) & np.isfinite(reference_B)
    return policy_B[here_B], reference_B[here_B]
