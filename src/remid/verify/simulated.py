"""Two families of simulated worlds in which R-EMI is known exactly, drawn many replications at a time.

Both have a reference and two policies whose responses are correlated with the reference's, one fixed q that scores
all of them (exact for the reference under the ID law, as one hopes of a real q), a length-like effect of each response
and an effect of each input. Laws: "id" and three shifted subsets. Groups of items may share a character: it is drawn
once per group and moves inputs and responses of the group together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from remid.types import FloatArray, IntArray

#: Order of the first axis of all scores.
POLICIES = ("reference", "a", "b")
#: Laws in order; the last three are the subsets of one shift.
LAWS = ("id", "shift-1", "shift-2", "shift-3")


@dataclass(frozen=True, slots=True)
class Drawn:
    """R replications of one subset of B items. positive_PRB, negative_PRBm: scores of each policy, nats/response."""

    positive_PRB: FloatArray
    negative_PRBm: FloatArray


class World(Protocol):
    """What a simulated world offers."""

    @property
    def name(self) -> str: ...

    def draw(
        self, rng: np.random.Generator, replications: int, law: str, negatives_Bm: IntArray, group_B: IntArray
    ) -> Drawn:
        """Replications of one subset. group_B: label 0..G-1 of each item's group (all different: independent items)."""

    def truth(self, law: str) -> FloatArray:
        """(P,) expectation of CLUB over pairs of different groups, nats/response."""


@dataclass(frozen=True, slots=True)
class GaussianScores:
    """y = gain x + noise in 6 dimensions, scored by N(y; gain_q x, 1): E CLUB = sum of gain_q gain var(x), exactly.

    Character and style (the noise that a group shares) make up `shared` of the variance of input and noise.
    """

    name: str = "gaussian"
    shared: float = 0.4
    _gain_q: tuple[float, ...] = (1.2, 1.0, 0.8, 0.6, 0.6, 0.4)
    #: per law: standard deviation of the inputs, and the policies' gain relative to q
    _law: tuple[tuple[float, tuple[float, float, float]], ...] = (
        (1.0, (1.0, 0.8, 0.7)),
        (1.2, (1.0, 0.6, 0.65)),
        (0.9, (0.95, 0.5, 0.7)),
        (1.0, (1.0, 0.8, 0.4)),
    )

    def draw(
        self, rng: np.random.Generator, replications: int, law: str, negatives_Bm: IntArray, group_B: IntArray
    ) -> Drawn:
        """See World."""
        scale, gain_P = self._law[LAWS.index(law)]
        gain_D = np.array(self._gain_q)
        n, groups, D = group_B.size, int(group_B.max()) + 1, gain_D.size

        def mixed(*lead: int) -> FloatArray:
            common = rng.standard_normal((*lead, groups, D))[..., group_B, :]
            own = rng.standard_normal((*lead, n, D))
            return np.asarray(np.sqrt(self.shared) * common + np.sqrt(1 - self.shared) * own)

        R = replications
        signal_RBD = gain_D * scale * mixed(R)
        # Half of the noise is the same for all who answer: an easy item is easy for everyone.
        noise_PRBD = np.sqrt(0.5) * mixed(R) + np.sqrt(0.5) * mixed(len(POLICIES), R)
        y_PRBD = np.array(gain_P)[:, None, None, None] * signal_RBD + noise_PRBD
        length_PRB = np.exp(rng.normal(3.0, 0.5, (R, n)) + rng.normal(0, 0.2, (len(POLICIES), R, n)))
        column_PRB = -0.5 * np.sum(y_PRBD**2, axis=-1) - 1.5 * length_PRB
        row_RB = -0.5 * np.sum(signal_RBD**2, axis=-1) + rng.normal(0, 3, (R, n))
        positive_PRB = np.einsum("prbd,rbd->prb", y_PRBD, signal_RBD) + column_PRB + row_RB
        negative_PRBm = np.empty((*positive_PRB.shape, negatives_Bm.shape[1]))
        for k, other_B in enumerate(negatives_Bm.T):
            inner_PRB = np.einsum("prbd,rbd->prb", y_PRBD[:, :, other_B], signal_RBD)
            negative_PRBm[..., k] = inner_PRB + column_PRB[:, :, other_B] + row_RB
        return Drawn(positive_PRB, negative_PRBm)

    def truth(self, law: str) -> FloatArray:
        """See World."""
        scale, gain_P = self._law[LAWS.index(law)]
        return np.array(gain_P) * scale**2 * float(np.sum(np.square(self._gain_q)))


@dataclass(frozen=True, slots=True)
class DiscreteScores:
    """12 inputs, 8 responses, finite tables: scores are full of ties, and every expectation is a finite sum.

    A group's character is one of 4; it decides which inputs are likely. Responses come from common uniform numbers,
    so that policies agree with the reference more often than by chance. Each response has one length.
    """

    name: str = "discrete"

    def draw(
        self, rng: np.random.Generator, replications: int, law: str, negatives_Bm: IntArray, group_B: IntArray
    ) -> Drawn:
        """See World."""
        character_Z, input_ZX, table_PXY, score_XY = _tables(law)
        R, n, groups = replications, group_B.size, int(group_B.max()) + 1
        z_RB = rng.choice(character_Z.size, p=character_Z, size=(R, groups))[:, group_B]
        x_RB = _sample(input_ZX[z_RB], rng.random((R, n)))
        # One uniform number per item moves everyone's answer; with probability 0.4 a policy answers on its own.
        shared_RB, own_PRB = rng.random((R, n)), rng.random((len(POLICIES), R, n))
        alone_PRB = rng.random((len(POLICIES), R, n)) < 0.4
        u_PRB = np.where(alone_PRB, own_PRB, shared_RB)
        y_PRB = np.stack([_sample(table_PXY[p][x_RB], u_PRB[p]) for p in range(len(POLICIES))])
        positive_PRB = score_XY[x_RB, y_PRB]
        negative_PRBm = np.stack([score_XY[x_RB, y_PRB[:, :, other_B]] for other_B in negatives_Bm.T], axis=-1)
        return Drawn(positive_PRB, negative_PRBm)

    def truth(self, law: str) -> FloatArray:
        """See World."""
        character_Z, input_ZX, table_PXY, score_XY = _tables(law)
        p_X = character_Z @ input_ZX
        joint_PXY = p_X[:, None] * table_PXY
        product_PXY = p_X[:, None] * joint_PXY.sum(axis=1)[:, None, :]
        return np.asarray(np.sum((joint_PXY - product_PXY) * score_XY, axis=(1, 2)), dtype=np.float64)


def _tables(law: str) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """p(character), p(input | character), p(response | input) of each policy, and what q scores."""
    rng = np.random.default_rng(20)
    n_z, n_x, n_y = 4, 12, 8
    input_ZX = rng.dirichlet(np.full(n_x, 0.4), size=n_z)
    reference_XY = 0.9 * rng.dirichlet(np.full(n_y, 0.4), size=n_x) + 0.1 / n_y
    other_XY = 0.9 * rng.dirichlet(np.full(n_y, 0.4), size=n_x) + 0.1 / n_y
    length_Y = rng.lognormal(0.0, 0.5, n_y)
    character_LZ = np.vstack([np.full(n_z, 1 / n_z), rng.dirichlet(np.full(n_z, 3.0), size=3)])
    blur_LP = np.array([[0.0, 0.3, 0.4], [0.0, 0.5, 0.4], [0.1, 0.6, 0.5], [0.0, 0.3, 0.7]])[LAWS.index(law)]
    marginal_Y = reference_XY.mean(axis=0)
    table_PXY = np.stack([(1 - blur) * reference_XY + blur * (marginal_Y + other_XY) / 2 for blur in blur_LP])
    return character_LZ[LAWS.index(law)], input_ZX, table_PXY, np.log(reference_XY) - length_Y


def _sample(p_RBK: FloatArray, u_RB: FloatArray) -> IntArray:
    """Index drawn from each law p_RBK[r, b] by inverting its distribution function at u."""
    below_RBK = np.cumsum(p_RBK, axis=-1) < u_RB[..., None]
    return np.asarray(np.minimum(below_RBK.sum(axis=-1), p_RBK.shape[-1] - 1), dtype=np.int64)


def group_sizes(rng: np.random.Generator, n: int) -> list[int]:
    """Unequal group sizes of 2 to 6 items, each below half of n, that add up to n >= 6."""
    sizes: list[int] = []
    most = min(6, (n - 1) // 2)
    while sum(sizes) < n:
        left = n - sum(sizes)
        fits = [s for s in range(2, most + 1) if s == left or s <= left - 2]
        sizes.append(int(rng.choice(fits)))
    return sizes
