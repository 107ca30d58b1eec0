"""With the exact q: do the estimators err to the side that theory says? Discrete and Gaussian worlds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from remid.data.worlds.discrete import random_worlds
from remid.data.worlds.gaussian import GaussianWorld
from remid.estimate import Influence, balanced_design, club
from remid.estimate.estimators import infonce, interpolated, l1out, nwj
from remid.estimate.exact import expected_club, information, output_law
from remid.types import FloatArray, PairScores
from remid.verify.null import pair_scores

#: Estimator, and the side of the truth it is on in expectation when q is the exact conditional.
SIDES: tuple[tuple[str, Callable[[PairScores], Influence], str], ...] = (
    ("CLUB", club, "above"),
    ("L1Out", l1out, "above"),
    ("InfoNCE", infonce, "below"),
    ("NWJ", nwj, "below"),
    ("I_alpha", interpolated, "below"),
)
#: Monte-Carlo standard errors beyond which a mean on the wrong side is called wrong.
_MARGIN = 4.0


@dataclass(frozen=True, slots=True)
class SideRow:
    """Mean of an estimator over draws of n pairs against I(X;Y), nats.

    Each draw's luck is taken off through its mean information density, which is known here and has mean I.
    expected: what the estimator's expectation is known to be (CLUB: I + reverse KL), else None.
    """

    world: str
    estimator: str
    side: str
    truth: float
    mean: float
    mc_error: float
    expected: float | None
    n: int
    draws: int

    @property
    def wrong(self) -> bool:
        """Whether theory is contradicted: on the wrong side by more than 4 Monte-Carlo standard errors."""
        miss = self.truth - self.mean if self.side == "above" else self.mean - self.truth
        return miss > _MARGIN * self.mc_error


#: S_BB (inputs x responses) and the information density of the pairs (i, i), nats.
_Drawn = tuple[FloatArray, FloatArray]


def estimator_sides(*, n: int, draws: int, n_worlds: int, seed: int) -> list[SideRow]:
    """Every estimator of SIDES on the full n x n matrix, in n_worlds discrete worlds and three Gaussian ones.

    A small n shows the bias of those that approach the truth with n; at n = 8 it is plain.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    p_NX, _, policy_NXY, _, _ = random_worlds(n_worlds, (3, 2, 2, 4), seed).flat()
    rows = []
    for index in range(n_worlds):
        p_X, channel_XY = p_NX[index], _no_zeros(policy_NXY[index])
        truth, expected = float(information(p_X, channel_XY)), float(expected_club(p_X, channel_XY))
        drawn = [_discrete_draw(p_X, channel_XY, n, rng) for _ in range(draws)]
        rows += _rows(f"discrete {index + 1}", drawn, truth, expected)
    for correlation, dimensions in ((0.3, 3), (0.6, 3), (0.6, 8)):
        world = GaussianWorld(correlation, dimensions)
        drawn = [world.draw(n, rng) for _ in range(draws)]
        name = f"Gaussian, r {correlation}, {dimensions} d"
        rows += _rows(name, drawn, world.information, world.expected_club)
    return rows


def _no_zeros(channel_XY: FloatArray) -> FloatArray:
    """A channel with a zero makes CLUB infinite; a ten-thousandth of the uniform law takes zeros away."""
    return np.asarray(0.9999 * channel_XY + 0.0001 / channel_XY.shape[-1])


def _discrete_draw(p_X: FloatArray, channel_XY: FloatArray, n: int, rng: np.random.Generator) -> _Drawn:
    x_B = rng.choice(p_X.size, size=n, p=p_X / p_X.sum())
    cumulative_BY = channel_XY[x_B].cumsum(axis=1)
    y_B = np.minimum((rng.uniform(size=(n, 1)) > cumulative_BY).sum(axis=1), channel_XY.shape[1] - 1)
    S_BB = np.log(channel_XY)[x_B][:, y_B]
    return S_BB, np.diagonal(S_BB) - np.log(output_law(p_X, channel_XY))[y_B]


def _rows(world: str, drawn: list[_Drawn], truth: float, expected_of_club: float) -> list[SideRow]:
    pairs = [pair_scores(S_BB, balanced_design(len(S_BB), len(S_BB) - 1, 0)) for S_BB, _ in drawn]
    luck = np.array([density_B.mean() - truth for _, density_B in drawn])
    rows = []
    for name, estimator, side in SIDES:
        values = np.array([estimator(scores).value for scores in pairs]) - luck
        error = float(values.std(ddof=1) / np.sqrt(values.size))
        expected = expected_of_club if name == "CLUB" else None
        n = pairs[0].positive_B.size
        rows.append(SideRow(world, name, side, truth, float(values.mean()), error, expected, n, values.size))
    return rows
