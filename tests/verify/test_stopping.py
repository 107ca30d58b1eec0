"""Intervals after stopping on worlds with known answers, and pairs at equal error."""

from __future__ import annotations

import numpy as np
import pytest

from remid.estimate import balanced_design
from remid.estimate.planning import Cost
from remid.verify.simulated import DiscreteScores, GaussianScores, World
from remid.verify.stopping import QUANTITIES, equal_error, stopping_cell


@pytest.mark.parametrize("world", [GaussianScores(), DiscreteScores()], ids=lambda w: w.name)
@pytest.mark.parametrize("wish", ["at the first look", "middling"])
def test_intervals_cover_where_scoring_stopped(world: World, wish: str) -> None:
    """200 runs of three quantities: Monte-Carlo error 1.5 points each; the long run is in docs/stopping.md."""
    rows = stopping_cell(world, 80, wish, clustered=False, replications=200)
    assert [row.quantity for row in rows] == list(QUANTITIES)
    assert all(row.coverage >= 0.95 - 3.5 * 0.0154 for row in rows)
    assert np.mean([row.coverage for row in rows]) <= 0.995
    assert all(row.coverage >= row.naive for row in rows)
    assert all(1 <= row.looks <= 5 for row in rows)


def test_intervals_cover_with_clusters() -> None:
    rows = stopping_cell(GaussianScores(), 80, "middling", clustered=True, replications=100)
    assert all(row.coverage >= 0.95 - 3.5 * 0.022 for row in rows)


def test_wishes_cost_what_they_should() -> None:
    by_wish = {
        wish: stopping_cell(GaussianScores(), 125, wish, clustered=False, replications=40)[0]
        for wish in ("easy", "middling", "out of reach")
    }
    assert by_wish["easy"].looks < 1.5
    assert by_wish["middling"].met > 0.9
    assert by_wish["middling"].items > by_wish["easy"].items
    assert by_wish["out of reach"].met == 0
    assert by_wish["out of reach"].looks == 1


def test_the_same_seed_gives_the_same_rows() -> None:
    one, two = (stopping_cell(DiscreteScores(), 45, "far", clustered=False, replications=10, seed=4) for _ in range(2))
    assert one == two


def test_equal_error_counts_pairs_and_tokens() -> None:
    n = 40
    design = balanced_design(n, n - 1, 0)
    drawn = GaussianScores().draw(np.random.default_rng(0), 1, "id", design.negatives_Bm, np.arange(n))
    S_PBB = np.empty((2, n, n))
    for p in range(2):
        np.fill_diagonal(S_PBB[p], drawn.positive_PRB[p, 0])
        np.put_along_axis(S_PBB[p], design.negatives_Bm, drawn.negative_PRBm[p, 0], axis=1)
    # Different lengths under policy and reference: what random pairs pay for and balanced ones do not.
    S_PBB[1] += np.random.default_rng(1).normal(0, 20, n)
    cost = Cost(1000.0, 50.0, 2)
    (row,) = equal_error(S_PBB, ["reference", "a"], cost, draws=60)
    assert row.least_m == 1
    assert row.tokens_random == 2 * (n + 1000) * 1050
    assert row.cheaper(4, cost, same_items=True) == pytest.approx(row.tokens_random / (n * (1000 + 5 * 50 * 2)))
    for m in (1, 4):
        together = np.hypot(row.sampling, row.se_m[m - 1]) * np.sqrt(n / row.items(m))
        assert together <= np.hypot(row.sampling, row.se_random)
        assert row.items(m) < n
        assert row.cheaper(m, cost) > row.cheaper(m, cost, same_items=True)
