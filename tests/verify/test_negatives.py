from __future__ import annotations

import numpy as np
import pytest

from remid.estimate import balanced_design, remi
from remid.types import FloatArray
from remid.verify.negatives import compare_designs
from remid.verify.null import pair_scores


def matrices(n: int, seed: int, effects: float) -> FloatArray:
    """Pair noise of sd 1 and row and column effects of sd `effects`, each policy its own."""
    rng = np.random.default_rng(seed)
    S_PBB = rng.normal(size=(2, n, n)) + effects * rng.normal(size=(2, n, 1)) + effects * rng.normal(size=(2, 1, n))
    S_PBB[1, np.arange(n), np.arange(n)] += 3
    return S_PBB


def test_standard_errors_have_their_closed_forms() -> None:
    """Differences have pair noise 2 and effects 2 e^2 each: sqrt(2/(mB)) against sqrt((2 + 4 e^2)/M)."""
    n, e = 60, 2.0
    row = compare_designs(matrices(n, 0, e), ("reference", "a"), most=4, random_pairs=500, draws=600)[0]
    for m, se in enumerate(row.design_se_m, start=1):
        assert se == pytest.approx(np.sqrt(2 / (m * n) * (1 - m / (n - 1))), rel=0.15)
    gain_BB = np.diff(matrices(n, 0, e), axis=0)[0]
    off = gain_BB[~np.eye(n, dtype=bool)]
    assert row.shared_se == pytest.approx(off.std() / np.sqrt(500), rel=0.12)
    apart = [S_BB[~np.eye(n, dtype=bool)].var() for S_BB in matrices(n, 0, e)]
    assert row.fresh_se == pytest.approx(np.sqrt(sum(apart) / 500), rel=0.12)
    assert row.least_m_shared == 1
    assert row.pairs(3) == 180
    assert row.total_se(0.0) == row.sampling_se


def test_without_effects_random_pairs_are_no_worse() -> None:
    """The balanced design gains by cancelling effects; where there are none, only the number of pairs counts."""
    row = compare_designs(matrices(40, 1, 0.0), ("reference", "a"), most=8, random_pairs=1000, draws=300)[0]
    assert row.least_m_shared is None


def test_the_balanced_value_is_that_of_remi() -> None:
    S_PBB = matrices(20, 2, 1.0)
    design = balanced_design(20, 3, 7)
    made = remi(pair_scores(S_PBB[1], design), pair_scores(S_PBB[0], design)).value
    gain_BB = S_PBB[1] - S_PBB[0]
    by_hand = np.diagonal(gain_BB).mean() - np.mean([gain_BB[i, j] for i in range(20) for j in design.negatives_Bm[i]])
    assert made == pytest.approx(by_hand)
    longer = balanced_design(20, 6, 7).negatives_Bm
    assert np.array_equal(longer[:, :3], design.negatives_Bm)  # on which the comparison for all m at once rests


def test_incomplete_matrices_are_refused() -> None:
    S_PBB = matrices(10, 3, 1.0)
    S_PBB[0, 1, 2] = np.nan
    with pytest.raises(ValueError, match="every pair"):
        compare_designs(S_PBB, ("reference", "a"))
    with pytest.raises(ValueError, match="shape"):
        compare_designs(S_PBB, ("reference",))
