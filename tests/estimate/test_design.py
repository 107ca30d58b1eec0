from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remid.estimate import balanced_design


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
