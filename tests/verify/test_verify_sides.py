"""The check of the estimators' sides: right estimators pass, a wrong one is caught."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from remid.estimate import Influence, balanced_design, club
from remid.types import PairScores
from remid.verify import sides
from remid.verify.null import pair_scores


def test_no_estimator_is_on_the_wrong_side_and_club_is_where_theory_puts_it() -> None:
    rows = sides.estimator_sides(n=8, draws=150, n_worlds=2, seed=3)
    assert {row.estimator for row in rows} == {name for name, _, _ in sides.SIDES}
    assert not [row for row in rows if row.wrong]
    for row in rows:
        if row.expected is not None:
            assert abs(row.mean - row.expected) < 5 * row.mc_error
            assert row.expected > row.truth


def test_an_estimator_on_the_wrong_side_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def half_of_club(scores: PairScores) -> Influence:
        found = club(scores)
        return replace(found, value=found.value / 4)

    monkeypatch.setattr(sides, "SIDES", (("quarter", half_of_club, "above"),))
    assert any(row.wrong for row in sides.estimator_sides(n=8, draws=100, n_worlds=2, seed=3))


def test_full_matrix_as_pairs_keeps_every_pair_once() -> None:
    S_BB = np.arange(25.0).reshape(5, 5)
    pairs = pair_scores(S_BB, balanced_design(5, 4, 0))
    assert pairs.positive_B.tolist() == np.diagonal(S_BB).tolist()
    for i in range(5):
        assert sorted(pairs.negative_Bm[i]) == sorted(S_BB[i, j] for j in range(5) if j != i)
        assert pairs.negative_Bm[i].tolist() == S_BB[i, pairs.design.negatives_Bm[i]].tolist()
