"""Small worlds in which every quantity can be computed exactly: finite laws over (user, character, dialogue, response).

A world is arrays and nothing else; what they imply is in remid.estimate.exact and remid.verify. All arrays may have the
same leading batch axes: 100,000 worlds are one object.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from remid.types import FloatArray

#: Which mechanism changes between ID and OOD. "z" alone: the marginal of z, the others given z stay. "z|rest": the
#: conditional of z, the law of the others stays. "pairing": all marginals stay, the joint changes. "any": everything.
ShiftKind = Literal[
    "any", "none", "user", "character", "dialogue", "user|rest", "character|rest", "dialogue|rest", "pairing"
]
_AXIS = {"user": 0, "character": 1, "dialogue": 2}


@dataclass(frozen=True, slots=True, eq=False)
class DiscreteWorld:
    """Two input laws, the policy's channel, and the reference channel under each law.

    p_UAD, q_UAD: joint laws of (user, character, dialogue) under ID and OOD, each summing to 1. policy_UADY: law of the
    policy's response given the input; one model, so one channel. reference_p_UADY, reference_q_UADY: the same for the
    reference response; equal arrays where the reference channel is shared. trace_UADR: law of the trace given the
    input, or None. Responses do not depend on the trace given the input, so I(X_R;Y) = I(X;Y).
    Leading batch axes are allowed, the same on all.
    """

    p_UAD: FloatArray
    q_UAD: FloatArray
    policy_UADY: FloatArray
    reference_p_UADY: FloatArray
    reference_q_UADY: FloatArray
    trace_UADR: FloatArray | None = None

    def __post_init__(self) -> None:
        """Raises ValueError if an array is no law, or shapes do not fit."""
        lead, inputs = self.p_UAD.shape[:-3], self.p_UAD.shape[-3:]
        if self.q_UAD.shape != self.p_UAD.shape:
            raise ValueError(f"q_UAD must have the shape of p_UAD, {self.p_UAD.shape}, got {self.q_UAD.shape}")
        for name in ("policy_UADY", "reference_p_UADY", "reference_q_UADY", "trace_UADR"):
            channel = getattr(self, name)
            if channel is None:
                continue
            if channel.shape[:-1] != lead + inputs:
                raise ValueError(f"{name} must start with {lead + inputs}, got shape {channel.shape}")
            _require_law(name, channel, (-1,))
        _require_law("p_UAD", self.p_UAD, (-3, -2, -1))
        _require_law("q_UAD", self.q_UAD, (-3, -2, -1))

    def flat(self) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
        """(p_X, q_X, policy_XY, reference_p_XY, reference_q_XY) with X = (user, character, dialogue) in one axis."""
        lead = self.p_UAD.shape[:-3]
        laws = [law.reshape(*lead, -1) for law in (self.p_UAD, self.q_UAD)]
        channels = [
            channel.reshape(*lead, -1, channel.shape[-1])
            for channel in (self.policy_UADY, self.reference_p_UADY, self.reference_q_UADY)
        ]
        return laws[0], laws[1], channels[0], channels[1], channels[2]


def _require_law(name: str, mass: FloatArray, axes: tuple[int, ...]) -> None:
    if not np.all(mass >= 0) or not np.allclose(mass.sum(axis=axes), 1.0, atol=1e-9):
        raise ValueError(f"{name} must be nonnegative and sum to 1")


def random_worlds(
    n: int,
    shape: tuple[int, int, int, int],
    seed: int,
    *,
    shift: ShiftKind = "any",
    shared_reference: bool = True,
) -> DiscreteWorld:
    """n random worlds with |U|, |A|, |D|, |Y| = shape, as one batch.

    Laws are Dirichlet with concentrations from 0.1 (nearly deterministic) to 5 (nearly uniform), one per world. Q is a
    mixture of P and a fresh law of the kind `shift`, the policy a mixture of the reference and a fresh channel, the OOD
    reference (unless shared) a mixture of the ID reference and a fresh one; all three weights are uniform on [0, 1].
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    *inputs, n_y = shape
    x_shape = (n, *inputs)
    p_UAD = _dirichlet(rng, (n, int(np.prod(inputs)))).reshape(x_shape)
    fresh_UAD = _shifted(rng, p_UAD, shift)
    strength = rng.uniform(size=(n, 1, 1, 1))
    q_UAD = (1 - strength) * p_UAD + strength * fresh_UAD
    reference = _dirichlet(rng, (*x_shape, n_y))
    away, drift = rng.uniform(size=(n, 1, 1, 1, 1)), rng.uniform(size=(n, 1, 1, 1, 1))
    policy = (1 - away) * reference + away * _dirichlet(rng, (*x_shape, n_y))
    changed = reference if shared_reference else (1 - drift) * reference + drift * _dirichlet(rng, (*x_shape, n_y))
    return DiscreteWorld(p_UAD, q_UAD, policy, reference, changed)


def _dirichlet(rng: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
    """Dirichlet laws over the last axis; the concentration is drawn once per first index, log-uniform on 0.1 to 5."""
    concentration = 10 ** rng.uniform(-1.0, 0.7, size=(shape[0],) + (1,) * (len(shape) - 1))
    draws = np.maximum(rng.gamma(np.broadcast_to(concentration, shape)), 1e-300)
    return np.asarray(draws / draws.sum(-1, keepdims=True), dtype=np.float64)


def _shifted(rng: np.random.Generator, p_NUAD: FloatArray, shift: ShiftKind) -> FloatArray:
    """A fresh law that differs from p in the named mechanism alone. Mixing it with p changes no other mechanism."""
    n, *inputs = p_NUAD.shape
    if shift == "none":
        return p_NUAD
    if shift == "any":
        return _dirichlet(rng, (n, int(np.prod(inputs)))).reshape(p_NUAD.shape)
    if shift == "pairing":
        return _repaired(p_NUAD)
    axis = _AXIS[shift.removesuffix("|rest")] + 1
    others = tuple(a for a in (1, 2, 3) if a != axis)
    size = p_NUAD.shape[axis]
    if shift.endswith("|rest"):
        rest = p_NUAD.sum(axis=axis, keepdims=True)
        conditional = _dirichlet(rng, (n, *(inputs[a - 1] for a in others), size))
        return np.asarray(rest * np.moveaxis(conditional, -1, axis))
    old = p_NUAD.sum(axis=others, keepdims=True)
    new = _dirichlet(rng, (n, size)).reshape(old.shape)
    # Where the old marginal is 0 the conditional is free; uniform will do.
    free = np.broadcast_to(1.0 / np.prod([inputs[a - 1] for a in others]), p_NUAD.shape)
    return np.asarray(new * np.where(old > 0, p_NUAD / np.where(old > 0, old, 1.0), free))


def _repaired(p_NUAD: FloatArray) -> FloatArray:
    """The product of p's marginals: every component as before, their pairing gone."""
    u, a, d = (p_NUAD.sum(axis=axes) for axes in ((2, 3), (1, 3), (1, 2)))
    return np.asarray(np.einsum("nu,na,nd->nuad", u, a, d))
