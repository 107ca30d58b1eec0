"""Distances from the reference: by hand, and what each is blind to."""

from __future__ import annotations

import numpy as np
import pytest

from remid.estimate.candidates import (
    copied_tokens,
    energy_distance,
    masked_density,
    paired_distance,
    quantile_distance,
    swap_test,
    two_sided,
    wasserstein,
)


def test_by_hand() -> None:
    ours, theirs = np.array([1.0, 5.0, np.nan, 3.0]), np.array([2.0, 2.0, 9.0, 2.0])
    assert two_sided(ours, theirs) == pytest.approx(1)
    assert paired_distance(ours, theirs) == pytest.approx(5 / 3)
    assert wasserstein(ours, theirs) == pytest.approx(5 / 3)
    # 2 E|a-b| = 2 * (1 + 3 + 1) / 3, E|a-a'| = (4 + 2 + 2) / 3, E|b-b'| = 0
    assert energy_distance(ours, theirs) == pytest.approx(10 / 3 - 8 / 3)
    with pytest.raises(ValueError, match="same contexts"):
        two_sided(ours, theirs[:2])


def test_what_each_sees() -> None:
    rng = np.random.default_rng(0)
    theirs = rng.normal(0, 1, 4000)
    wild = theirs * 3
    assert two_sided(wild, theirs) < 0.1 < wasserstein(wild, theirs)
    again = rng.permutation(theirs)
    assert wasserstein(again, theirs) < 1e-9
    assert paired_distance(again, theirs) > 0.5
    parrots = np.where(rng.random(4000) < 0.02, 200.0, theirs)
    assert quantile_distance(parrots, theirs) < 0.05 < wasserstein(parrots, theirs)
    assert abs(energy_distance(again, theirs)) < 0.01


def test_swaps_tell_a_policy_from_its_twin() -> None:
    rng = np.random.default_rng(1)
    theirs = rng.normal(0, 1, 60)
    assert swap_test(theirs + rng.normal(1, 0.5, 60), theirs, two_sided, seed=0) < 0.01
    p_values = [
        swap_test(a, b, wasserstein, seed=k, swaps=49) for k in range(60) for a, b in [rng.normal(0, 1, (2, 20))]
    ]
    assert 0.3 < np.mean(p_values) < 0.7
    assert np.mean(np.array(p_values) <= 0.1) < 0.25


def test_copied_runs_are_masked() -> None:
    copied = copied_tokens([7, 1, 2, 3, 9, 2], [[0, 1, 2, 3], [9]])
    assert copied.tolist() == [False, True, True, True, False, False]
    own, free = np.array([-1.0, -0.1, -0.1, -0.1, -2.0, -3.0]), np.full(6, -4.0)
    assert masked_density(own, free, copied) == pytest.approx(3 + 2 + 1)
    assert copied_tokens([1], [[1]]).tolist() == [False]
