"""The checks of the bounds can themselves fail: a wrong bound is found, the right ones survive."""

from __future__ import annotations

import numpy as np
import pytest

from remid.estimate import exact_bounds as module
from remid.estimate.exact import emid
from remid.verify import bounds as checks


def test_random_search_finds_no_violation_and_a_median_below_five() -> None:
    for shared in (True, False):
        rows = {row.bound: row for row in checks.random_search(4000, 1, shared=shared)}
        assert all(row.violations == 0 for name, row in rows.items() if name != checks.PAPER)
        assert rows["least"].ratio_median < 5
        assert rows["least without cross"].ratio_median < 5
        assert rows[checks.PAPER].ratio_median > 20


def test_the_attack_breaks_a_bound_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = module.exact_bounds

    def broken(*arrays: np.ndarray) -> dict[str, np.ndarray]:
        found = whole(*arrays)
        return {**found, "T1": found["T1"] * 0.7}  # holds on most random worlds

    monkeypatch.setattr(checks, "exact_bounds", broken)
    rows = checks.attack(("T1", "T7"), chains=20, steps=60, seed=0, shared=True, shapes=((3, 3),))
    assert [row.violated for row in rows] == [True, False]


def test_the_papers_form_fails_where_theory_says() -> None:
    assert not checks.large_alphabet_case(1468).violated
    assert checks.large_alphabet_case(1469).violated
    latin = checks.latin_case()
    assert latin.within_assumption
    assert latin.paper == pytest.approx(0.0, abs=1e-9)
    assert latin.emid == pytest.approx(2 / 3 * np.log(3))
    case = checks.pairing_case()
    assert case.paper == pytest.approx(0.0, abs=1e-9)
    assert case.emid == pytest.approx(np.log(2) / 2)


def test_witnesses_share_every_bound_and_differ_in_emid() -> None:
    worlds = checks.witnesses()
    first, second = (checks.all_bounds(world) for world in worlds)
    for name in first:
        assert first[name] == pytest.approx(second[name], abs=1e-12), name
    truths = [float(emid(*world.flat())) for world in worlds]
    assert abs(truths[0] - truths[1]) > 0.05
    assert all(truth <= float(first["least"]) + 1e-12 for truth in truths)
