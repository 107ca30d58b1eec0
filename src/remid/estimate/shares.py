"""Which component the shift is in, estimated from embeddings: v(S) of every set of components, and shares made of it.

v(S) is RJSD with a product kernel: the elementwise product of the components' cosine Gram matrices, that is, the tensor
product of their embeddings. In population v can only grow with S (partial trace). Shares: `attribution`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from remid.estimate.attribution import marginal_shares, shapley_shares, sparse_shares
from remid.estimate.divergence import _JACKKNIFE_GROUPS, _ZERO, Divergence, _entropy, _unit_rows, _usable_rows
from remid.types import COMPONENTS, FloatArray

BoolArray = npt.NDArray[np.bool_]
SETS = tuple(frozenset(s) for size in (1, 2, 3) for s in combinations(range(3), size))
_EMPTY: frozenset[int] = frozenset()
#: Orderings whose concentration is this close to the best count as equally sparse. In simulation 0.01 to 0.05 do the
#: same, 0.15 gives up most of what tells a cause from its consequence (docs/theory.md).
TOLERANCE = 0.05
#: Below this distance of the null mean from ln 2 (nats) all items lie equally far apart, and v says nothing.
_LEAST_ROOM = 0.002
#: Draws behind the shares' intervals; they cost nothing beside the divergences.
_DRAWS = 1000
_LEAST_SIZE = 6


@dataclass(frozen=True, slots=True)
class Share:
    """A share in [0, 1] of one component, with a 95% interval (NaN where there is none)."""

    value: float
    ci_low: float
    ci_high: float


@dataclass(frozen=True, slots=True)
class Shares:
    """paper, shapley, sparse: component -> share; None where nothing shifts. v: "user+dialogue" -> nats, NaN: unknown.

    leader: the component with the largest sparse share, None without shares. leads: how often it still is the largest
    when v is drawn anew within its uncertainty, 0 to 1. reason: why a share is missing.
    """

    v: Mapping[str, float]
    paper: Mapping[str, Share] | None
    shapley: Mapping[str, Share] | None
    sparse: Mapping[str, Share] | None
    leader: str | None
    leads: float
    reason: str | None


def divergence_shares(
    id_ND: Sequence[FloatArray],
    ood_MD: Sequence[FloatArray],
    singles: Sequence[Divergence],
    *,
    n_permutations: int = 40,
    seed: int,
) -> Shares:
    """Shares of user, character and dialogue in the shift between two sets of inputs.

    id_ND, ood_MD: per component the embeddings of the same N (M) inputs; an input unusable in one is left out.
    singles: `rjsd` of each component, whose null means are used. Each v(S) is adjusted for chance,
    ln 2 (raw - null) / (ln 2 - null): the product of kernels drives raw and null towards ln 2 in any finite sample, so
    that their plain difference shrinks to 0 with the size of S while the ratio does not. What then still falls as S
    grows is raised to the largest of its parts. One set of permutations serves all larger S, so that their noise is
    shared. Intervals: v is drawn 1,000 times around its estimate with the covariance of a delete-a-group jackknife.
    They hold sampling noise of v, not the gap between RJSD and JS. Fewer than 6 inputs on a side: no shares.
    """
    usable_N, usable_M = (np.all([_usable_rows(x) for x in side], axis=0) for side in (id_ND, ood_MD))
    kernels = [
        _gram(np.concatenate([a[usable_N], b[usable_M]]).astype(np.float64)) for a, b in zip(id_ND, ood_MD, strict=True)
    ]
    n, m = int(usable_N.sum()), int(usable_M.sum())
    if min(n, m) < _LEAST_SIZE:
        return _no_shares({}, f"fewer than {_LEAST_SIZE} inputs on a side")
    is_ood_N = np.arange(n + m) >= n
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    permuted = [rng.permutation(is_ood_N) for _ in range(n_permutations)]
    left_out = [(g, side) for side in (0, 1) for g in _groups(is_ood_N == bool(side), rng)]
    raw_K, null_K, jackknife_KR = np.empty(7), np.empty(7), np.empty((7, len(left_out)))
    for k, chosen in enumerate(SETS):
        kernel_NN = np.prod([kernels[z] for z in sorted(chosen)], axis=0)
        if len(chosen) == 1:
            (z,) = chosen
            raw_K[k], null_K[k] = singles[z].raw, singles[z].null_mean
        else:
            raw_K[k] = gram_rjsd(kernel_NN, is_ood_N)
            null_K[k] = np.mean([gram_rjsd(kernel_NN, mixed_N) for mixed_N in permuted])
        for r, (gone_N, _) in enumerate(left_out):
            jackknife_KR[k, r] = gram_rjsd(kernel_NN[np.ix_(~gone_N, ~gone_N)], is_ood_N[~gone_N])
    covariance_KK = _jackknife_covariance(jackknife_KR, np.array([side for _, side in left_out]))
    return _shares(raw_K, null_K, covariance_KK, rng)


def _gram(x_ND: FloatArray) -> FloatArray:
    unit_ND = _unit_rows(x_ND)
    return np.asarray(unit_ND @ unit_ND.T)


def gram_rjsd(kernel_NN: FloatArray, is_ood_N: BoolArray) -> float:
    """RJSD (nats, not corrected) of two samples from their kernel, diagonal 1: `rjsd`'s raw value for a cosine one."""
    weight_N = np.where(is_ood_N, 0.5 / is_ood_N.sum(), 0.5 / (~is_ood_N).sum()) ** 0.5
    parts = [_entropy(kernel_NN[np.ix_(side_N, side_N)]) for side_N in (~is_ood_N, is_ood_N)]
    return max(0.0, _entropy(kernel_NN * weight_N * weight_N[:, None]) - sum(parts) / 2)


def _groups(side_N: BoolArray, rng: np.random.Generator) -> list[BoolArray]:
    """Masks of the items that each jackknife replicate leaves out, all of one side."""
    items = rng.permutation(np.flatnonzero(side_N))
    count = min(_JACKKNIFE_GROUPS, items.size)
    return [np.isin(np.arange(side_N.size), items[g::count]) for g in range(count)]


def _jackknife_covariance(values_KR: FloatArray, side_R: npt.NDArray[np.int64]) -> FloatArray:
    """(G - 1) times the covariance of the replicates, summed over the two sides."""
    total_KK = np.zeros((len(values_KR), len(values_KR)))
    for side in (0, 1):
        part_KG = values_KR[:, side_R == side]
        total_KK += (part_KG.shape[1] - 1) * np.cov(part_KG, bias=True)
    return total_KK


def _shares(raw_K: FloatArray, null_K: FloatArray, covariance_KK: FloatArray, rng: np.random.Generator) -> Shares:
    # Where raw is 0 (the same texts on both sides) `rjsd` takes nothing off, and v is 0 without any error.
    room_K = np.log(2) - null_K
    same_K = raw_K < _ZERO
    plain_K = np.where(same_K, 0.0, raw_K - null_K)
    with np.errstate(divide="ignore", invalid="ignore"):
        factor_K = np.where(same_K, 0.0, np.where(room_K > _LEAST_ROOM, np.log(2) / room_K, np.nan))
    v = {
        "+".join(COMPONENTS[z] for z in sorted(s)): float(f * p)
        for s, f, p in zip(SETS, factor_K, plain_K, strict=True)
    }
    draws_KL = plain_K[:, None] + rng.multivariate_normal(np.zeros(7), covariance_KK, _DRAWS, method="eigh").T
    draws_KL = np.column_stack([plain_K, np.where(same_K[:, None], 0.0, draws_KL)])
    paper_ZL = marginal_shares({s: draws_KL[k] for k, s in enumerate(SETS)}).T
    if not np.isfinite(factor_K).all():
        paper = _with_intervals(paper_ZL)
        return Shares(
            v,
            paper,
            None,
            None,
            None,
            float("nan"),
            "too few inputs for their spread: joint inputs lie equally far apart",
        )
    value = grown({s: factor_K[k] * draws_KL[k] for k, s in enumerate(SETS)})
    sparse_ZL = sparse_shares(value, TOLERANCE).T
    sparse = _with_intervals(sparse_ZL)
    if sparse is None:
        return _no_shares(v, "no set of components shifts measurably", _with_intervals(paper_ZL))
    leader = int(np.argmax(sparse_ZL[:, 0]))
    told_L = np.isfinite(sparse_ZL[0, 1:])
    leads = float(np.sum(np.argmax(sparse_ZL[:, 1:][:, told_L], axis=0) == leader) / _DRAWS)
    shapley = _with_intervals(shapley_shares(value).T)
    return Shares(v, _with_intervals(paper_ZL), shapley, sparse, COMPONENTS[leader], leads, None)


def grown(value: Mapping[frozenset[int], FloatArray]) -> dict[frozenset[int], FloatArray]:
    """v made monotone: each set's value is the largest over its subsets, 0 for the empty set."""
    zero = np.zeros_like(next(iter(value.values())))
    return {_EMPTY: zero} | {s: np.maximum(0.0, np.max([value[t] for t in SETS if t <= s], axis=0)) for s in SETS}


def _with_intervals(share_ZL: FloatArray) -> dict[str, Share] | None:
    """Column 0 is the estimate, the others are draws; no interval where half of them have no share."""
    if not np.isfinite(share_ZL[:, 0]).all():
        return None
    drawn_ZL = share_ZL[:, 1:][:, np.isfinite(share_ZL[0, 1:])]
    told = drawn_ZL.shape[1] > _DRAWS / 2
    low_Z, high_Z = np.quantile(drawn_ZL, [0.025, 0.975], axis=1) if told else np.full((2, 3), np.nan)
    # An estimate at an edge of what its draws give belongs to the interval all the same.
    return {
        name: Share(float(x), float(np.fmin(low, x)) if told else low, float(np.fmax(high, x)) if told else high)
        for name, x, low, high in zip(COMPONENTS, share_ZL[:, 0], low_Z, high_Z, strict=True)
    }


def _no_shares(v: Mapping[str, float], reason: str, paper: Mapping[str, Share] | None = None) -> Shares:
    return Shares(v, paper, None, None, None, float("nan"), reason)
