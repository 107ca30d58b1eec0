"""Discrete worlds: what each kind of shift changes, and what it leaves."""

from __future__ import annotations

import numpy as np
import pytest

from remid.data.worlds.discrete import DiscreteWorld, random_worlds
from remid.data.worlds.gaussian import GaussianWorld

AXES = {"user": 0, "character": 1, "dialogue": 2}


@pytest.mark.parametrize("component", AXES)
def test_marginal_shift_leaves_the_others_given_it(component: str) -> None:
    world = random_worlds(50, (3, 2, 4, 2), 1, shift=component)  # type: ignore[arg-type]
    axis = AXES[component] + 1
    others = tuple(a for a in (1, 2, 3) if a != axis)
    given_p = world.p_UAD / world.p_UAD.sum(axis=others, keepdims=True)
    given_q = world.q_UAD / world.q_UAD.sum(axis=others, keepdims=True)
    np.testing.assert_allclose(given_p, given_q, atol=1e-9)
    assert np.abs(world.p_UAD - world.q_UAD).sum(axis=(1, 2, 3)).max() > 0.1


@pytest.mark.parametrize("component", AXES)
def test_conditional_shift_leaves_the_law_of_the_others(component: str) -> None:
    world = random_worlds(50, (3, 2, 4, 2), 2, shift=f"{component}|rest")  # type: ignore[arg-type]
    axis = AXES[component] + 1
    np.testing.assert_allclose(world.p_UAD.sum(axis=axis), world.q_UAD.sum(axis=axis), atol=1e-12)
    assert np.abs(world.p_UAD - world.q_UAD).sum(axis=(1, 2, 3)).max() > 0.1


def test_pairing_shift_leaves_every_marginal() -> None:
    world = random_worlds(50, (3, 2, 4, 2), 3, shift="pairing")
    for others in ((2, 3), (1, 3), (1, 2)):
        np.testing.assert_allclose(world.p_UAD.sum(axis=others), world.q_UAD.sum(axis=others), atol=1e-12)
    assert np.abs(world.p_UAD - world.q_UAD).sum(axis=(1, 2, 3)).max() > 0.1


def test_no_shift_shared_reference_and_seed() -> None:
    world = random_worlds(5, (2, 2, 2, 3), 4, shift="none")
    np.testing.assert_array_equal(world.p_UAD, world.q_UAD)
    np.testing.assert_array_equal(world.reference_p_UADY, world.reference_q_UADY)
    drifted = random_worlds(5, (2, 2, 2, 3), 4, shared_reference=False)
    assert np.abs(drifted.reference_p_UADY - drifted.reference_q_UADY).max() > 0.01
    again = random_worlds(5, (2, 2, 2, 3), 4, shared_reference=False)
    np.testing.assert_array_equal(drifted.reference_q_UADY, again.reference_q_UADY)


def test_arrays_that_are_no_laws_are_refused() -> None:
    law = np.full((2, 1, 1), 0.5)
    channel = np.full((2, 1, 1, 2), 0.5)
    with pytest.raises(ValueError, match="sum to 1"):
        DiscreteWorld(law * 2, law, channel, channel, channel)
    with pytest.raises(ValueError, match="nonnegative"):
        DiscreteWorld(law, law, channel * np.array([3.0, -1.0]), channel, channel)
    with pytest.raises(ValueError, match="policy_UADY must start"):
        DiscreteWorld(law, law, channel[:1], channel, channel)
    with pytest.raises(ValueError, match="shape of p_UAD"):
        DiscreteWorld(law, law[:1], channel, channel, channel)


def test_gaussian_scores_average_to_information_and_to_club() -> None:
    world = GaussianWorld(correlation=0.6, dimensions=3)
    S_BB, density_B = world.draw(4000, np.random.default_rng(0))
    off = ~np.eye(len(S_BB), dtype=bool)
    club = np.diagonal(S_BB).mean() - S_BB[off].mean()
    assert club == pytest.approx(world.expected_club, rel=0.05)
    assert density_B.mean() == pytest.approx(world.information, rel=0.05)
    assert world.expected_club > world.information > 0
