"""Nested designs, the cheapest next step, and what becomes of a wish."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from remid.estimate import balanced_design, estimate, pool, remi
from remid.estimate.design import within_cluster_pairs
from remid.estimate.planning import Components, Cost
from remid.estimate.sequential import (
    BLOCK_ITEMS,
    GROWTH,
    MOST_LOOKS,
    PILOT_CLUSTERS,
    PILOT_ITEMS,
    Ask,
    Extent,
    Room,
    _in_matchings,
    at_full_shares,
    nested_design,
    next_extents,
    stopped,
)
from remid.types import PairScores

COST = Cost(1000.0, 50.0, 2)
ROOM = Room((25, 50, 100, 200), 8, COST, 200.0)


def parts(item: float = 4.0, pair: float = 2.0) -> dict[str, Components]:
    return {"p": Components(item, pair, 25, 4, 0.8, 24, 51)}


def stderr(extent: Extent, room: Room = ROOM, item: float = 4.0, pair: float = 2.0) -> float:
    return float(np.sqrt((item + pair / extent.m) / room.sizes[extent.blocks - 1]))


def grouped(n: int, largest: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    labels: list[str] = []
    while len(labels) < n:
        labels += [f"g{len(labels)}"] * int(rng.integers(1, largest + 1))
    return [labels[k] for k in rng.permutation(n)]


@pytest.mark.parametrize("clustered", [False, True])
@pytest.mark.parametrize("n", [1, 2, 7, 25, 44, 46, 130])
def test_every_prefix_is_balanced_and_contained_in_the_next(n: int, clustered: bool) -> None:
    clusters = grouped(n, 6, n) if clustered else None
    nested = nested_design(n, 4, 3, clusters)
    assert nested.sizes[-1] == n
    assert sorted(nested.order_B.tolist()) == list(range(n))
    pairs: dict[tuple[int, int], set[tuple[int, int]]] = {}
    for blocks in range(1, len(nested.sizes) + 1):
        for m in range(1, nested.most + 1):
            items_U, design = nested.prefix(blocks, m)
            assert items_U.size == nested.sizes[blocks - 1]
            counts = np.bincount(design.negatives_Bm.ravel(), minlength=items_U.size)
            assert set(counts.tolist()) == {m}
            assert all(len(set(row)) == m for row in design.negatives_Bm.tolist())
            assert not np.any(design.negatives_Bm == np.arange(items_U.size)[:, None])
            made = {(int(items_U[i]), int(items_U[j])) for i, row in enumerate(design.negatives_Bm) for j in row}
            pairs[blocks, m] = made
            assert pairs.get((blocks - 1, m), set()) <= made
            assert pairs.get((blocks, m - 1), set()) <= made


def test_blocks_keep_clusters_whole_and_the_first_has_enough_of_them() -> None:
    clusters = [f"c{k // 4}" for k in range(120)]
    nested = nested_design(120, 4, 0, clusters)
    place = np.empty(120, dtype=int)
    for block, (start, end) in enumerate(zip((0, *nested.sizes[:-1]), nested.sizes, strict=True)):
        place[nested.order_B[start:end]] = block
    assert all(len(set(place[k : k + 4])) == 1 for k in range(0, 120, 4))
    assert nested.sizes[0] == max(PILOT_ITEMS, 4 * PILOT_CLUSTERS)
    for blocks in range(1, len(nested.sizes) + 1):
        items_U, design = nested.prefix(blocks, nested.most)
        assert within_cluster_pairs(design, [clusters[i] for i in items_U]) == 0


def test_blocks_have_their_sizes_and_the_rest_joins_the_last() -> None:
    assert nested_design(25 + 2 * BLOCK_ITEMS + 7, 4, 0).sizes == (25, 45, 72)
    assert nested_design(30, 4, 0).sizes == (30,)
    assert nested_design(6, 4, 0).most == 4


def test_the_same_seed_gives_the_same_design_and_another_does_not() -> None:
    one, two, other = (nested_design(80, 4, seed) for seed in (1, 1, 2))
    assert np.array_equal(one.negatives_Bm, two.negatives_Bm)
    assert np.array_equal(one.order_B, two.order_B)
    assert not np.array_equal(one.order_B, other.order_B)


def test_pairs_in_matchings_are_the_same_pairs() -> None:
    labels = [k // 5 for k in range(25)]
    drawn = [balanced_design(25, 8, seed, clusters=labels).negatives_Bm for seed in range(20)]
    swapped = next(one for one in drawn if any(np.unique(column).size < 25 for column in one.T))
    made = _in_matchings(swapped)
    assert {(i, j) for i in range(25) for j in made[i].tolist()} == {
        (i, j) for i in range(25) for j in swapped[i].tolist()
    }
    assert all(np.unique(column).size == 25 for column in made.T)


def test_bad_sizes_are_refused() -> None:
    for n, m, clusters in ((0, 4, None), (5, 0, None), (5, 4, ["a"])):
        with pytest.raises(ValueError, match=r"needs n >= 1|one label per item"):
            nested_design(n, m, 0, clusters)


def test_a_wish_that_is_met_stops_at_once() -> None:
    start = [Extent(1, 4)]
    found, (answer,) = next_extents(start, [ROOM], [Ask("p", (0,))], [0.4], [parts()], wish=0.5, look=1)
    assert found == start
    assert answer.verdict == "met"


def test_a_wish_out_of_reach_is_said_at_once_with_what_it_would_take() -> None:
    start = [Extent(1, 4)]
    now = stderr(start[0])
    found, (answer,) = next_extents(start, [ROOM], [Ask("p", (0,))], [now], [parts()], wish=0.05, look=1)
    assert found == start
    assert answer.verdict == "unreachable"
    best = np.sqrt((4 + 2 / 8) / 200)
    assert answer.best == pytest.approx(best)
    assert answer.needed == pytest.approx((best / 0.05) ** 2)


def test_more_negatives_are_taken_where_their_noise_is_what_counts_and_items_where_it_is_not() -> None:
    start, ask = [Extent(1, 4)], [Ask("p", (0,))]
    noisy = parts(item=0.5, pair=20.0)
    now = stderr(start[0], item=0.5, pair=20.0)
    (found,), _ = next_extents(start, [ROOM], ask, [now], [noisy], wish=0.85 * now, look=1)
    assert found.blocks == 1
    assert found.m > 4
    quiet = parts(item=5.0, pair=0.01)
    now = stderr(start[0], item=5.0, pair=0.01)
    (found,), _ = next_extents(start, [ROOM], ask, [now], [quiet], wish=0.85 * now, look=1)
    assert found == Extent(2, 4)


def test_the_next_round_is_predicted_to_meet_the_wish_unless_growth_forbids_it() -> None:
    start, ask = [Extent(1, 4)], [Ask("p", (0,))]
    now = stderr(start[0])
    (found,), (answer,) = next_extents(start, [ROOM], ask, [now], [parts()], wish=0.16, look=1)
    assert answer.verdict == "open"
    assert ROOM.sizes[found.blocks - 1] <= GROWTH * 25
    (found,), _ = next_extents(start, [ROOM], ask, [now], [parts()], wish=0.16, look=MOST_LOOKS - 1)
    assert stderr(found) <= 0.16
    _, (answer,) = next_extents([found], [ROOM], ask, [0.161], [parts()], wish=0.16, look=MOST_LOOKS)
    assert answer.verdict in {"no looks left", "exhausted"}


def test_rounds_end_within_the_looks_and_meet_what_can_be_met() -> None:
    """With standard errors that follow the forecast exactly."""
    for wish in (0.5, 0.3, 0.2, 0.16, 0.1):
        extents, look = [Extent(1, 4)], 1
        while True:
            found, (answer,) = next_extents(
                extents, [ROOM], [Ask("p", (0,))], [stderr(extents[0])], [parts()], wish=wish, look=look
            )
            if found == extents:
                break
            extents, look = found, look + 1
        assert look <= MOST_LOOKS
        assert answer.verdict == ("met" if wish > np.sqrt(4.25 / 200) else "unreachable")


def test_subsets_that_matter_grow_and_others_do_not() -> None:
    rooms = [ROOM, ROOM, ROOM]
    asks = [Ask("p", (0,), (1,)), Ask("p", (0,), (2,))]
    big, small = parts(item=40.0), parts(item=0.1, pair=0.1)
    now = [float(np.sqrt(stderr(Extent(1, 4), item=40.0) ** 2 + 0.125 / 25)), 0.1]
    found, _ = next_extents([Extent(1, 4)] * 3, rooms, asks, now, [small, big, small], wish=0.8, look=1)
    assert found[1].blocks > 1
    assert found[0] == found[2] == Extent(1, 4)


def test_what_cannot_be_measured_costs_nothing_and_wishes_must_be_positive() -> None:
    start = [Extent(1, 4)]
    found, (answer,) = next_extents(start, [ROOM], [Ask("p", (0,))], [float("nan")], [{}], wish=0.5, look=1)
    assert found == start
    assert answer.verdict == "not measurable"
    with pytest.raises(ValueError, match="positive"):
        next_extents(start, [ROOM], [Ask("p", (0,))], [1.0], [parts()], wish=0.0, look=1)


def scores(n: int, seed: int, level: float = 0.0) -> PairScores:
    rng = np.random.default_rng(seed)
    design = balanced_design(n, 4, seed)
    ones_B = np.ones(n)
    return PairScores(level + rng.normal(0, 1, n), rng.normal(0, 1, (n, 4)), ones_B, ones_B, design)


def test_full_shares_weigh_subsets_by_the_whole_data() -> None:
    zero = [
        PairScores(s.positive_B * 0, s.negative_Bm * 0, s.tokens_B, s.bytes_B, s.design)
        for s in map(scores, (20, 40), (1, 2))
    ]
    a, b = (remi(scores(n, k, 5.0 * k), z) for n, k, z in zip((20, 40), (1, 2), zero, strict=True))
    made = at_full_shares([a, b], [300, 100])
    assert made.value == pytest.approx(0.75 * a.value + 0.25 * b.value)
    assert np.nanmean(made.phi_B) == pytest.approx(made.value)
    alone = [estimate(one).stderr for one in (a, b)]
    assert estimate(made).stderr == pytest.approx(np.hypot(0.75 * alone[0], 0.25 * alone[1]), rel=0.05)
    same = at_full_shares([a, b], [20, 40])
    assert same.value == pool([a, b]).value
    assert np.array_equal(same.phi_B, pool([a, b]).phi_B)


def test_a_subset_that_was_missed_altogether_is_left_out_and_does_not_count_as_zero() -> None:
    zero = PairScores(*(np.zeros((20, *more)) for more in ((), (4,))), *np.full((2, 20), 9.0), scores(20, 1).design)
    silent = replace(scores(20, 1), positive_B=np.full(20, np.nan), negative_Bm=np.full((20, 4), np.nan))
    there, gone = remi(scores(20, 1, 5.0), zero), remi(silent, zero)
    assert gone.n == 0
    alone, made = estimate(there), estimate(at_full_shares([there, gone], [300, 300]))
    assert made.value == pytest.approx(alone.value)
    assert made.stderr == pytest.approx(alone.stderr)


def test_no_block_pairs_mates_however_large_clusters_are() -> None:
    """A block that is full after one cluster would hold nothing but mates."""
    rng = np.random.default_rng(0)
    for sizes in ([30] * 20, rng.integers(5, 26, 30).tolist(), rng.integers(2, 13, 60).tolist()):
        clusters = [f"c{k}" for k, size in enumerate(sizes) for _ in range(size)]
        nested = nested_design(len(clusters), 4, 0, clusters)
        for blocks in range(1, len(nested.sizes) + 1):
            items_U, design = nested.prefix(blocks, 4)
            assert within_cluster_pairs(design, [clusters[i] for i in items_U]) == 0
        assert len(nested.sizes) > 2


def test_the_first_looks_degrees_of_freedom_widen_the_interval_and_never_narrow_it() -> None:
    policy = scores(60, 1)
    zero = np.zeros(60)
    reference = PairScores(zero, np.zeros((60, 4)), zero + 1, zero + 1, policy.design)
    made = estimate(remi(policy, reference))
    wider = stopped(made, 3.0)
    assert wider.ci_high - wider.ci_low > made.ci_high - made.ci_low
    assert wider.p_value > made.p_value
    assert (wider.value, wider.stderr, wider.df) == (made.value, made.stderr, 3.0)
    same = stopped(made, 1e9)
    assert same.ci_low == pytest.approx(made.ci_low)
    assert same.p_value == pytest.approx(made.p_value)
    assert np.isnan(stopped(made, 0.0).ci_low)
