from __future__ import annotations

import numpy as np
import pytest

from remid.estimate import balanced_design, club
from remid.types import FloatArray, PairScores
from remid.verify.coverage import QUANTITIES, coverage_cell, coverage_table
from remid.verify.simulated import LAWS, POLICIES, DiscreteScores, GaussianScores, World, group_sizes

WORLDS = [GaussianScores(), DiscreteScores()]


def clubs(world: World, law: str, group_B: FloatArray, replications: int) -> FloatArray:
    """(P, replications) CLUB of each policy."""
    design = balanced_design(group_B.size, 4, 0, clusters=group_B)
    drawn = world.draw(np.random.default_rng(1), replications, law, design.negatives_Bm, group_B.astype(np.int64))
    ones_B = np.ones(group_B.size)
    return np.array(
        [
            [
                club(PairScores(drawn.positive_PRB[p, r], drawn.negative_PRBm[p, r], ones_B, ones_B, design)).value
                for r in range(replications)
            ]
            for p in range(len(POLICIES))
        ]
    )


@pytest.mark.parametrize("world", WORLDS, ids=lambda w: w.name)
@pytest.mark.parametrize("law", LAWS)
def test_the_stated_truth_is_the_expectation_of_club(world: World, law: str) -> None:
    for group_B in (np.arange(24), np.repeat(np.arange(8), 3)):
        made_PR = clubs(world, law, group_B, 400)
        error_P = made_PR.mean(axis=1) - world.truth(law)
        assert np.all(np.abs(error_P) < 4.5 * made_PR.std(axis=1) / 20)


def test_the_discrete_truth_is_the_sum_over_its_tables() -> None:
    """q is the reference's own conditional less a length: then CLUB = sum of (joint - product) log q."""
    truth_P = DiscreteScores().truth("id")
    assert truth_P[0] > truth_P[1] > 0


@pytest.mark.parametrize("n", [6, 8, 11, 25, 100])
def test_group_sizes_are_unequal_and_below_half(n: int) -> None:
    rng = np.random.default_rng(n)
    for _ in range(50):
        sizes = group_sizes(rng, n)
        assert sum(sizes) == n
        assert min(sizes) >= 2
        assert max(sizes) <= 6
        assert 2 * max(sizes) < n


@pytest.mark.parametrize("clustered", [False, True])
@pytest.mark.parametrize("world", WORLDS, ids=lambda w: w.name)
def test_intervals_cover_at_four_negatives(world: World, clustered: bool) -> None:
    """240 runs: Monte-Carlo error 1.4 points; the long run (docs/theory.md) has 93% to 97%."""
    rows = coverage_cell(world, 40, 4, clustered=clustered, replications=240)
    assert [row.quantity for row in rows] == list(QUANTITIES)
    for row in rows:
        assert 0.905 <= row.coverage <= 0.995, row
        assert 0.85 <= row.se_ratio <= 1.35, row
        assert abs(row.bias) < 0.2, row


def test_the_table_has_every_cell_and_is_reproducible() -> None:
    rows = coverage_table(8, sizes=(25,), negatives=(3,), seed=5)
    assert len(rows) == 2 * 2 * len(QUANTITIES)
    assert rows == coverage_table(8, sizes=(25,), negatives=(3,), seed=5)
    assert rows != coverage_table(8, sizes=(25,), negatives=(3,), seed=6)
    assert all(row.replications == 8 for row in rows)
