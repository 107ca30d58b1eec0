"""Arcs of the design's circle: what a subsample keeps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipeline_fakes import scores, subset

from remid.estimate import balanced_design, remi
from remid.study.arcs import arc_items, arc_starts, circle_order, pairs_kept, take, take_pairs, whole_parts
from remid.types import PairDesign


@given(n=st.integers(1, 60), m=st.integers(1, 9), seed=st.integers(0, 5))
def test_the_circle_visits_every_item_in_the_order_of_the_negatives(n: int, m: int, seed: int) -> None:
    design = balanced_design(n, m, seed)
    order = circle_order(design)
    assert sorted(order) == list(range(n))
    for place, item in enumerate(order):
        wanted = [order[(place + shift) % n] for shift in range(1, design.negatives_Bm.shape[1] + 1)]
        assert list(design.negatives_Bm[item]) == wanted


def test_a_design_that_is_no_circle_is_refused() -> None:
    two_loops = PairDesign(np.array([[1], [0], [3], [2]]), 0)
    with pytest.raises(ValueError, match="no circle"):
        circle_order(two_loops)


@given(n=st.integers(4, 20), rest=st.integers(8, 40), m=st.integers(1, 4), start=st.integers(0, 100))
def test_an_arc_loses_only_the_pairs_across_its_end(n: int, rest: int, m: int, start: int) -> None:
    m = min(m, n - 1)
    whole = scores(np.random.default_rng(0), balanced_design(n + rest, m, 1))
    items = arc_items(whole.design, start % (n + rest), n)
    part = take_pairs(whole, items)
    assert np.isfinite(part.negative_Bm).sum() == n * m - m * (m + 1) // 2
    seen = {(i, int(j)): s for i, row in enumerate(whole.design.negatives_Bm)
            for j, s in zip(row, whole.negative_Bm[i], strict=True)}  # fmt: skip
    for a, k in np.argwhere(np.isfinite(part.negative_Bm)):
        pair = (int(items[a]), int(items[part.design.negatives_Bm[a, k]]))
        assert part.negative_Bm[a, k] == seen[pair]
    assert np.array_equal(part.positive_B, whole.positive_B[items])


def test_remi_of_an_arc_is_that_of_its_pairs() -> None:
    s = subset("a", "id", 30)
    items = arc_items(s.scores["one"].design, 7, 12)
    inside = set(items.tolist())
    part = take(whole_parts([s])[0], items)
    found = remi(part.scores.scores["one"], part.scores.scores["reference"])
    ours, theirs = s.scores["one"], s.scores["reference"]
    negatives = ours.design.negatives_Bm
    kept = [(i, k) for i in items for k in range(negatives.shape[1]) if int(negatives[i, k]) in inside]
    apart = np.mean([ours.negative_Bm[i, k] - theirs.negative_Bm[i, k] for i, k in kept])
    assert found.value == pytest.approx(np.mean((ours.positive_B - theirs.positive_B)[items]) - apart, abs=1e-9)
    assert found.n == 12
    assert pairs_kept([part]) == pytest.approx((12 * 2 - 3) / 24)


def test_a_subsample_keeps_samples_texts_and_clusters_together() -> None:
    s = subset("a", "id", 9, clusters=[f"c{k}" for k in range(9)])
    whole = whole_parts([s])[0]
    items = np.array([1, 4, 8])
    part = take(whole, items)
    assert [sample.sample_id for sample in part.scores.samples] == ["a-1", "a-4", "a-8"]
    assert part.scores.clusters == ("c1", "c4", "c8")
    assert part.texts["shuffled"] == [whole.texts["shuffled"][i] for i in items]
    assert take(whole, np.arange(9)) is whole


def test_starts_are_spread_around_the_circle() -> None:
    starts = np.sort(arc_starts(100, 5, np.random.default_rng(3)))
    assert set(np.diff(starts)) <= {19, 20, 21}
    assert 0 <= starts.min() <= starts.max() < 100
