"""Shares of a shift: one changed mechanism is named, and what cannot be told apart is shared."""

from __future__ import annotations

import numpy as np
import pytest

from remid.data.worlds.discrete import random_worlds
from remid.estimate.attribution import charges, marginal_shares, shapley_shares, sparse_shares
from remid.estimate.exact import subset_divergences

COMPONENTS = ("user", "character", "dialogue")
WHOLE = frozenset({0, 1, 2})


@pytest.mark.parametrize("index", range(3))
@pytest.mark.parametrize("conditional", [False, True])
def test_one_changed_mechanism_gets_the_share(index: int, conditional: bool) -> None:
    kind = COMPONENTS[index] + ("|rest" if conditional else "")
    world = random_worlds(1000, (3, 3, 3, 2), 11, shift=kind)  # type: ignore[arg-type]
    value = subset_divergences(world.p_UAD, world.q_UAD)
    moved = value[WHOLE] > 1e-4
    assert (sparse_shares(value)[moved, index] >= 0.9).mean() > 0.99
    # What the issue is about: neither of the other two does both.
    weaker = shapley_shares if conditional else marginal_shares
    assert (weaker(value)[moved, index] >= 0.9).mean() < 0.1


def test_every_ordering_charges_the_whole_divergence() -> None:
    world = random_worlds(100, (2, 3, 2, 2), 12)
    value = subset_divergences(world.p_UAD, world.q_UAD)
    np.testing.assert_allclose(charges(value).sum(-1), value[WHOLE][:, None].repeat(6, 1), atol=1e-9)


def test_a_tolerance_of_one_is_shapley_and_independent_changes_come_near_it() -> None:
    rng = np.random.default_rng(0)
    laws = [[rng.dirichlet(np.ones(3)) for _ in range(3)] for _ in range(2)]
    p, q = (np.einsum("u,a,d->uad", *law) for law in laws)
    value = subset_divergences(p, q)
    np.testing.assert_allclose(sparse_shares(value, tolerance=1.0), shapley_shares(value))
    assert np.abs(sparse_shares(value) - shapley_shares(value)).max() < 0.15


def test_a_copy_cannot_be_told_apart_and_shares_equally() -> None:
    p, q = (np.diag([s, 1 - s])[..., None] for s in (0.2, 0.7))
    value = subset_divergences(p, q)
    np.testing.assert_allclose(sparse_shares(value), [0.5, 0.5, 0.0])


def test_no_shift_has_no_shares() -> None:
    world = random_worlds(5, (2, 2, 2, 2), 13, shift="none")
    value = subset_divergences(world.p_UAD, world.q_UAD)
    assert np.isnan(sparse_shares(value)).all()
    assert np.isnan(shapley_shares(value)).all()
    assert np.isnan(marginal_shares(value)).all()
