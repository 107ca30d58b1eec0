"""Rows of the bounds table from made-up scores and vectors, and the warning where a plug-in has failed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pipeline_fakes import subset

from remid.pipeline.bounds import bound_rows, exceeded_bounds
from remid.pipeline.measure import remid_rows
from remid.pipeline.policies import REFERENCE
from remid.pipeline.progress import Progress
from remid.pipeline.shift import Shifts, needed_texts

QUIET = Progress(enabled=False)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    """Bounds of two subsets whose texts have vectors drawn at random, those of German texts around another mean."""
    subsets = [subset("a", "id", 12, ["one"]), subset("de", "user", 9, ["one"], lost={"one": [2]})]
    answers: dict[str, Any] = {
        s.subset: {
            who: [None if who == "one" and i == 2 else f"{who} {s.subset} {i}" for i in range(len(s.samples))]
            for who in s.scores
        }
        for s in subsets
    }
    rng = np.random.default_rng(0)
    vectors = {
        text: (rng.normal(size=16) + (3 if " de " in text else 1)).astype(np.float32)
        for text in sorted(needed_texts(subsets, answers))
    }
    shifts = Shifts(subsets, answers, vectors, permutations=20, seed=0)
    divergences = shifts.divergence_rows(QUIET)
    return bound_rows(shifts, [REFERENCE, "one"], divergences, remid_rows(subsets, 0.95), 0.95, QUIET)


def test_every_policy_and_target_has_bounds_that_add_up(rows: list[dict[str, Any]]) -> None:
    assert [(r["policy"], r["subset"]) for r in rows] == [(p, s) for p in (REFERENCE, "one") for s in ("de", None)]
    for row in rows:
        known = {name: b for name, b in row["bounds"].items() if b["value"] is not None}
        assert "T0" in known
        assert row["least"] == min(known, key=lambda name: known[name]["value"])
        for bound in known.values():
            assert bound["value"] == pytest.approx(bound["information"] + bound["slack"])
            assert bound["reason"] is None
        assert all(b["reason"] for name, b in row["bounds"].items() if name not in known)


def test_the_reference_shares_all_with_itself(rows: list[dict[str, Any]]) -> None:
    for row in rows[:2]:
        assert (row["ingredients"]["eps_id"], row["ingredients"]["eps_ood"]) == (0.0, 0.0)
        assert row["bounds"]["T2"]["value"] == 0.0


def test_the_reference_cannot_exceed_a_bound(rows: list[dict[str, Any]]) -> None:
    assert not any(bound["exceeded"] for row in rows[:2] for bound in row["bounds"].values())


def test_shares_belong_to_the_shift(rows: list[dict[str, Any]]) -> None:
    assert rows[0]["shares"] == rows[2]["shares"]
    parts = rows[0]["shares"]["sparse"]
    assert sum(part["value"] for part in parts.values()) == pytest.approx(1)


def test_a_failed_plug_in_is_warned_of(rows: list[dict[str, Any]]) -> None:
    assert exceeded_bounds({}) == []
    row = {
        **rows[2],
        "remid": 50.0,
        "bounds": {name: {**b, "exceeded": name == "T0"} for name, b in rows[2]["bounds"].items()},
    }
    ((code, text, policy, name),) = exceeded_bounds({"bound": [rows[0], row]})
    assert (code, policy, name) == ("bound-exceeded", "one", "de")
    assert "+50.0 nats/response" in text
    assert "plug-in bound T0" in text
