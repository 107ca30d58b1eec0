from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from remid.errors import DataError
from remid.types import FloatArray
from remid.verify.null import load_matrices, null_simulated, null_splits
from remid.verify.simulated import GaussianScores


def matrices(n: int, seed: int, groups: int = 0) -> FloatArray:
    """Reference and two policies, of one law. groups > 0: items in groups that share a large gain."""
    rng = np.random.default_rng(seed)
    S_PBB = rng.normal(size=(3, n, n)) + 5 * rng.normal(size=(3, 1, n))
    gain_B = rng.normal(size=n) if not groups else 4 * rng.normal(size=groups)[np.arange(n) % groups]
    S_PBB[:, np.arange(n), np.arange(n)] += np.array([0, 1, 2])[:, None] * (3 + gain_B)
    return S_PBB


def test_simulated_null_is_seldom_significant() -> None:
    """100 splits of six cells: 5% plus three Monte-Carlo errors."""
    made = null_simulated(GaussianScores(), n=40, m=4, splits=100)
    assert len(made.cells) == len(made.share_C) == 6
    assert made.share <= 0.05 + 3 * max(made.mc_error, 0.01)
    assert made.holm_any <= 0.05 + 3 * 0.022
    assert made.holm_share <= made.share


def test_splits_of_a_full_matrix_are_seldom_significant() -> None:
    made = null_splits(matrices(60, 0), ("reference", "a", "b"), m=4, splits=100)
    assert made.cells == ("a", "b")
    assert made.share <= 0.05 + 3 * 0.02
    assert made == null_splits(matrices(60, 0), ("reference", "a", "b"), m=4, splits=100)


def test_groups_stay_on_one_side() -> None:
    """Split by item, mates on both sides make the halves alike; by group, nothing is found beyond chance either."""
    S_PBB = matrices(60, 1, groups=15)
    labels = [k % 15 for k in range(60)]
    together = null_splits(S_PBB, ("reference", "a", "b"), m=4, splits=60, clusters=labels)
    assert together.share <= 0.05 + 3 * 0.03


def test_items_of_two_kinds_raise_no_alarm() -> None:
    """Half of the items gain 50 nats: random splits mix them evenly, and the spread between items says so."""
    S_PBB = matrices(60, 2)
    S_PBB[1, np.arange(30), np.arange(30)] += 50
    assert null_splits(S_PBB, ("reference", "a", "b"), m=4, splits=60).share_C[0] <= 0.15


def test_senseless_matrices_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        null_splits(np.zeros((2, 9, 8)), ("reference", "a"))
    with pytest.raises(ValueError, match="at least 8"):
        null_splits(np.zeros((2, 5, 5)), ("reference", "a"))


def test_matrices_are_read_from_a_file(tmp_path: Path) -> None:
    S_PBB = matrices(9, 0)
    np.savez(tmp_path / "s.npz", policies=np.array(["reference", "a", "b"]), S_PBB=S_PBB)
    names, read_PBB = load_matrices(tmp_path / "s.npz")
    assert names == ("reference", "a", "b")
    assert np.array_equal(read_PBB, S_PBB)
    np.savez(tmp_path / "bad.npz", policies=np.array(["reference"]), S_PBB=S_PBB)
    np.savez(tmp_path / "other.npz", scores=S_PBB)
    (tmp_path / "no.npz").write_text("no", encoding="utf-8")
    for name in ("bad", "other", "no", "absent"):
        with pytest.raises(DataError, match=name):
            load_matrices(tmp_path / f"{name}.npz")
