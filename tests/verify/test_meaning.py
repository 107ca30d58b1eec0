"""The check of meaning: it holds as documented, and a measure that parrots win is caught."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from remid.estimate import exact
from remid.verify import meaning as check
from remid.verify import run, show
from remid.verify.meaning_worlds import ignoring, policies, scenes


@pytest.fixture(scope="module")
def found() -> check.Meaning:
    return check.meaning(100, 5)


def test_every_policy_is_a_law_and_the_reference_seldom_echoes() -> None:
    for scene in list(scenes(54, 0))[::9]:
        for policy_XY in policies(scene).values():
            assert policy_XY.sum(-1) == pytest.approx(1)
            assert (policy_XY >= 0).all()
        assert ((scene.reference_XY * scene.echo_XY).sum(-1) <= 0.05).all()


def test_who_ignores_a_part_says_the_same_whatever_it_is_and_has_the_references_marginal() -> None:
    scene = next(iter(scenes(54, 1)))
    users, characters, dialogues, _ = scene.shape
    for axis, part in enumerate(("user", "character", "dialogue")):
        blind_XY = ignoring(scene, part)
        apart = blind_XY.reshape(-1, users, characters, dialogues, blind_XY.shape[-1])
        assert np.ptp(apart, axis=1 + axis).max() < 1e-12
        laws = [exact.output_law(scene.p_X, channel) for channel in (blind_XY, scene.reference_XY)]
        assert laws[0] == pytest.approx(laws[1])


def test_the_gap_orders_what_signed_emi_does_not(found: check.Meaning) -> None:
    assert found.told_right == found.n_told >= 100
    row = {row.policy: row for row in found.rows}
    assert row["parrot"].right == 1
    assert row["parrot"].emi_right < 0.3
    assert row["reference"].right == 1
    assert row["reference"].emi_right < 0.1
    assert found.cross_all_right < found.n / 2  # a q of the reference's own is no help against parrots
    assert row["longer"].least == row["longer"].median == 0
    assert all(half.right == half.n for half in found.halves if half.kind == "mixture")


def test_no_shift_breaks_the_bound_and_the_gap_sees_copies_grow(found: check.Meaning) -> None:
    assert check.violations(found.growth) == 0
    assert found.copying.gap_grows > 0.95
    assert found.copying.emi_grows > 0.2


def test_a_measure_without_a_copier_fails_the_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "BEGINS", (0.0,))
    monkeypatch.setattr(check, "BEGIN", 0.0)
    broken = check.meaning(54, 5)
    assert broken.told_right < broken.n_told


def test_the_page_has_a_section_with_every_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "BEGINS", (check.BEGIN, 0.0))
    sizes = run.Sizes(0, 0, 0, 0, 0, 0, 0, (), 0, 0, True, 54)
    checks, rows = run._meaning(sizes, 0)
    assert [c.passed for c in checks] == [True] * 3
    section = show._meaning(rows["meaning"])
    assert [row[0] for row in section.tables[0].rows][:2] == ["reference", "noise 10%"]
    assert len(section.tables) == 4


def test_a_reference_that_earns_very_little_is_not_taken_for_one_that_only_echoes() -> None:
    scene = list(scenes(54, 0))[-1]
    answers_XY = np.where(scene.echo_XY.any(1, keepdims=True), 0.0, scene.reference_XY)
    law_Y = exact.output_law(scene.p_X, answers_XY)[:, None]
    weak_XY = 0.1 * answers_XY + 0.9 * law_Y
    weak = replace(scene, reference_XY=weak_XY / weak_XY.sum(-1, keepdims=True))
    earned = check._measured(weak)["told",]
    assert ((earned > check.TOLERANCE) & (earned < -np.log1p(-check.BEGIN))).all()
