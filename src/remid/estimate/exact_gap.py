"""The gap of a finite world, computed exactly (estimate/gap.py estimates it; docs/theory.md, "The gap"). All in nats.

Arrays as in estimate/exact.py: leading batch axes, X the flattened input, Y the response, one token long. The estimator
q is the reference's own law, made smooth,

    q(y|x) = (1 - smooth) reference(y|x) + smooth / number of responses,      q(y) = E_p q(y|x),

so that a response which the reference never gives is as likely under every input, and tells nothing. The copier does
not know x but may repeat it: c(y|x) = (1 - begin) q(y) + begin echo(y|x).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from remid.estimate.copier import Copier
from remid.estimate.exact import mean_over, output_law, total_variation
from remid.types import FloatArray

#: How often the copier repeats: as often as in the estimator of tokens.
BEGIN = Copier().begin
#: Share of the uniform law in q.
SMOOTH = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Telling:
    """What response y tells under input x, nats: repeated_XY = log c(y|x)/((1 - begin) q(y)), and earned_XY the rest of
    log q(y|x)/q(y)."""

    earned_XY: FloatArray
    repeated_XY: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class ExactGap:
    """missing and excess with their sign, one a world, nats/token; `value` cuts them off at 0."""

    missing: FloatArray
    excess: FloatArray

    @property
    def value(self) -> FloatArray:
        """max(0, missing) + max(0, excess)."""
        return np.maximum(self.missing, 0.0) + np.maximum(self.excess, 0.0)


def telling(
    p_X: FloatArray,
    reference_XY: FloatArray,
    echo_XY: FloatArray,
    *,
    begin: float = BEGIN,
    smooth: float = SMOOTH,
) -> Telling:
    """Both parts of every response's information under every input.

    echo_XY: which response repeats which input, a law for each. begin: how often the copier repeats; 0: no copier, all
    information is earned. smooth must be above 0, unless the reference gives every response under every input.
    """
    q_XY = (1 - smooth) * reference_XY + smooth / reference_XY.shape[-1]
    q_Y = output_law(p_X, q_XY)[..., None, :]
    c_XY = (1 - begin) * q_Y + begin * echo_XY
    repeated_XY = np.log(c_XY) - np.log(q_Y) - np.log1p(-begin)
    return Telling(np.log(q_XY) - np.log(q_Y) - repeated_XY, repeated_XY)


def exact_gap(p_X: FloatArray, policy_XY: FloatArray, reference_XY: FloatArray, told: Telling) -> ExactGap:
    """The gap of a policy under one law of the input, which need not be the law that q(y) and c were made for."""
    short_X, over_X = conditional_parts(policy_XY, reference_XY, told)
    return ExactGap(mean_over(p_X, short_X), mean_over(p_X, over_X))


def conditional_parts(policy_XY: FloatArray, reference_XY: FloatArray, told: Telling) -> tuple[FloatArray, FloatArray]:
    """(short_X, over_X): what the policy earns less, and repeats more, than the reference under each input."""
    more_XY = policy_XY - reference_XY
    return np.asarray(-(more_XY * told.earned_XY).sum(-1)), np.asarray((more_XY * told.repeated_XY).sum(-1))


def exact_gap_bound(
    p_X: FloatArray, q_X: FloatArray, policy_XY: FloatArray, reference_XY: FloatArray, told: Telling
) -> FloatArray:
    """What the gap can grow by from p to q at most: TV(p, q) times the ranges of both conditional parts.

    Channels and `told` are the same under both laws. Proven; ranges over inputs that occur under either law.
    """
    seen_X = (p_X > 0) | (q_X > 0)
    ranges = [_range(part_X, seen_X) for part_X in conditional_parts(policy_XY, reference_XY, told)]
    return np.asarray(total_variation(p_X, q_X) * (ranges[0] + ranges[1]))


def _range(f_X: FloatArray, seen_X: npt.NDArray[np.bool_]) -> FloatArray:
    return np.asarray(np.where(seen_X, f_X, -np.inf).max(-1) - np.where(seen_X, f_X, np.inf).min(-1))
