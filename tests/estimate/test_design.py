from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remid.estimate import balanced_design
from remid.estimate.design import within_cluster_pairs


@given(n=st.integers(2, 60), m=st.integers(1, 70), seed=st.integers(0, 2**40))
def test_every_item_is_a_negative_equally_often_and_never_its_own(n: int, m: int, seed: int) -> None:
    negatives_Bm = balanced_design(n, m, seed).negatives_Bm
    kept = min(m, n - 1)
    assert negatives_Bm.shape == (n, kept)
    assert negatives_Bm.dtype == np.int64
    assert np.array_equal(np.bincount(negatives_Bm.ravel(), minlength=n), np.full(n, kept))
    assert not np.any(negatives_Bm == np.arange(n)[:, None])
    assert all(len(set(row)) == kept for row in negatives_Bm.tolist())


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_items_have_no_negatives(n: int) -> None:
    assert balanced_design(n, 2, 0).negatives_Bm.shape == (n, 0)


def test_the_seed_decides_the_design() -> None:
    first, again, other = (balanced_design(30, 2, seed).negatives_Bm for seed in (7, 7, 8))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(("n", "m"), [(-1, 2), (5, 0)])
def test_senseless_sizes_are_refused(n: int, m: int) -> None:
    with pytest.raises(ValueError, match="a design needs"):
        balanced_design(n, m, 0)


def grouped(seed: int, n: int) -> list[str]:
    """Labels of n items in unequal groups of 1 to 4, in random order."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 5, size=n)
    labels = np.repeat([f"character {k}" for k in range(n)], sizes)[:n]
    return [str(label) for label in rng.permutation(labels)]


@given(n=st.integers(2, 30), m=st.integers(1, 12), seed=st.integers(0, 2**30))
@settings(deadline=None, max_examples=40)
def test_with_clusters_the_design_stays_balanced(n: int, m: int, seed: int) -> None:
    labels = grouped(seed, n)
    negatives_Bm = balanced_design(n, m, seed, clusters=labels).negatives_Bm
    largest = max(map(labels.count, labels))
    kept = min(m, n - largest if 2 * largest <= n else n - 1)
    assert np.array_equal(np.bincount(negatives_Bm.ravel(), minlength=n), np.full(n, kept))
    assert not np.any(negatives_Bm == np.arange(n)[:, None])
    assert all(len(set(row)) == kept for row in negatives_Bm.tolist())


@given(n=st.integers(25, 60), m=st.integers(1, 4), seed=st.integers(0, 2**30))
@settings(deadline=None, max_examples=40)
def test_mates_are_not_paired(n: int, m: int, seed: int) -> None:
    labels = grouped(seed, n)
    design = balanced_design(n, m, seed, clusters=labels)
    assert within_cluster_pairs(design, labels) == 0
    assert all(labels[i] != labels[j] for i in range(n) for j in design.negatives_Bm[i])


def test_a_cluster_above_half_of_the_items_leaves_no_more_pairs_than_it_must() -> None:
    labels = [0] * 8 + [1, 1, 2, 2]
    design = balanced_design(12, 3, 0, clusters=labels)
    # eight inputs of cluster 0 take 24 responses, of which the other four items can give 12
    assert within_cluster_pairs(design, labels) == 12
    assert within_cluster_pairs(balanced_design(12, 3, 0), labels) > 12


@given(n=st.integers(0, 30), m=st.integers(1, 8), seed=st.integers(0, 2**30))
def test_labels_that_all_differ_change_nothing(n: int, m: int, seed: int) -> None:
    plain, labelled = balanced_design(n, m, seed), balanced_design(n, m, seed, clusters=list(range(n)))
    assert np.array_equal(plain.negatives_Bm, labelled.negatives_Bm)


def test_designs_without_clusters_are_those_that_stores_hold() -> None:
    expected = [[1, 4], [4, 2], [3, 7], [7, 5], [2, 3], [6, 0], [0, 1], [5, 6]]
    negatives = balanced_design(8, 2, 5).negatives_Bm.tolist()
    order = np.random.default_rng(np.random.SeedSequence(5)).permutation(8).tolist()
    for k in range(8):
        assert negatives[order[k]] == [order[(k + 1) % 8], order[(k + 2) % 8]]
    assert negatives == expected


def test_one_label_per_item() -> None:
    with pytest.raises(ValueError, match="one label per item"):
        balanced_design(5, 2, 0, clusters=["a", "b"])
