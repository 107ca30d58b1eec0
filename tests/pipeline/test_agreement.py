"""Other estimators in the result: rows, ceilings, and what counts as a disagreement."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pipeline_fakes import subset, world
from scipy import special

from remid.estimate import club, estimate, infonce, l1out, wilson
from remid.pipeline import agreement, measure
from remid.pipeline.agreement import ESTIMATORS
from remid.pipeline.measure import Cell, SubsetScores, contrasted, mean_influence, with_pooled
from remid.pipeline.policies import CONTROLS, REFERENCE

LOST = {"one": [0, 3], "two": [3]}
Row = dict[str, Any]


def tables(subsets: list[SubsetScores], confidence: float = 0.95) -> tuple[list[Row], list[Row], list[Row]]:
    policies = [name for name in subsets[0].scores if name not in CONTROLS]
    rows, gains = agreement.estimator_rows(subsets, confidence)
    contrasts = measure.contrast_rows(subsets, policies, confidence)
    return rows, *agreement.agreement_rows(rows, gains, contrasts, confidence)


def find(rows: list[Row], **where: Any) -> Row:
    (found,) = [row for row in rows if all(row[key] == value for key, value in where.items())]
    return found


def test_each_row_stands_once() -> None:
    rows, _, _ = tables(world(0, LOST))
    cells = [("a", "id"), ("b", "id"), ("de", "user"), ("es", "user"), ("Gaming", "character")]
    cells += [(None, shift) for shift in ("id", "user", "character")]
    policies = (*CONTROLS, "one", "two")
    wanted = [(name, "information", p, *cell) for name in ESTIMATORS for p in policies for cell in cells]
    for name in ESTIMATORS:
        others = [(name, p, cell) for p in policies if p != REFERENCE for cell in cells]
        wanted += [(n, "remi", p, *cell) for n, p, cell in others]
        wanted += [(n, "remid", p, *cell) for n, p, cell in others if cell[1] != "id"]
    keys = ("estimator", "quantity", "policy", "subset", "shift")
    assert sorted((tuple(row[key] for key in keys) for row in rows), key=str) == sorted(wanted, key=str)


@pytest.mark.parametrize("lost", [{}, LOST])
def test_clubs_rows_are_those_of_the_headline(lost: dict[str, list[int]]) -> None:
    subsets = world(1, lost)
    rows, _, _ = tables(subsets)
    for table in ("remi", "remid"):
        for row in getattr(measure, f"{table}_rows")(subsets, 0.95):
            if row["policy"] != REFERENCE and row["unit"] == "nats/response":
                where = {key: row[key] for key in ("policy", "subset", "shift")}
                mine = find(rows, estimator="club", quantity=table, **where)
                assert all(mine[key] == row[key] for key in ("value", "stderr", "ci_low", "ci_high", "n_missing"))


def test_values_are_the_estimators_own_and_remid_is_the_difference() -> None:
    subsets = world(0, LOST)
    rows, _, _ = tables(subsets, 0.9)
    s = subsets[2]
    made = estimate(infonce(s.scores["one"]), confidence=0.9)
    row = find(rows, estimator="infonce", quantity="information", policy="one", subset="de")
    assert (row["value"], row["ci_low"], row["n"], row["n_missing"]) == (
        made.value,
        made.ci_low,
        made.n,
        made.n_missing,
    )
    gain = l1out(s.scores["one"], s.scores[REFERENCE])
    assert find(rows, estimator="l1out", quantity="remi", policy="one", subset="de")["value"] == gain.value
    on_id = find(rows, estimator="l1out", quantity="remi", policy="one", subset=None, shift="id")
    drop = find(rows, estimator="l1out", quantity="remid", policy="one", subset="de")
    assert drop["value"] == on_id["value"] - gain.value
    assert drop["n"] == on_id["n"] + gain.n


def test_ceilings_and_what_is_near_them() -> None:
    subsets = [subset("a", "id", 12), subset("b", "id", 2), subset("de", "user", 8)]
    for s in subsets:
        s.scores["one"].positive_B[:] += 50
        s.scores["two"].positive_B[:] -= 50
    rows, _, _ = tables(subsets)
    nce = [row for row in rows if row["estimator"] == "infonce"]
    top = find(nce, quantity="information", policy="one", subset="a")
    assert (top["saturation"], top["doubtful"]) == (pytest.approx(math.log(3)), True)
    pooled = find(nce, quantity="information", policy="one", subset=None, shift="id")
    assert pooled["saturation"] == pytest.approx((12 * math.log(3) + 2 * math.log(2)) / 14)
    assert not find(nce, quantity="information", policy="two", subset="a")["doubtful"]
    assert all(row["doubtful"] for row in nce if row["policy"] == "one")  # one side at its ceiling is enough
    assert {row["saturation"] for row in nce if row["quantity"] != "information"} == {None}
    assert not any(row["doubtful"] for row in rows if row["estimator"] in {"club", "l1out", "smile"})
    nwj = [row for row in rows if row["estimator"] == "nwj" and row["quantity"] == "information"]
    assert any(row["value"] < 0 for row in nwj)
    assert all(row["doubtful"] == (row["value"] < 0) for row in nwj if row["value"] is not None)


@pytest.mark.parametrize(("lift", "share"), [(90.0, 1.0), (-90.0, 0.0)])
def test_a_share_of_all_or_none_is_not_taken_for_certain(lift: float, share: float) -> None:
    """Every response the same: no spread, which is no knowledge. What differs by it is doubtful on both sides."""
    subsets = [subset("a", "id", 12), subset("de", "user", 8)]
    for s in subsets:
        s.scores["one"].positive_B[:] += lift
    rows, gains = agreement.estimator_rows(subsets, 0.95)
    shares = [row for row in rows if row["estimator"] == "retrieval" and row["policy"] == "one"]
    for row in (row for row in shares if row["quantity"] == "information"):
        assert row["value"] == share
        low, high = wilson(share, row["n"], float(special.stdtrit(row["n"] - 1, 0.975)))
        assert (row["ci_low"], row["ci_high"]) == (pytest.approx(low), pytest.approx(high))
        assert row["ci_high"] - row["ci_low"] > 0.2
    assert all(row["doubtful"] for row in shares)
    assert all(gains["retrieval", "one"].doubtful.values())
    mine = find(rows, estimator="retrieval", quantity="information", policy="two", subset="a")
    assert 0 <= mine["ci_low"] < mine["value"] < mine["ci_high"] <= 1


def _row(value: float, low: float, high: float, *, doubtful: bool = False) -> Row:
    return {"value": value, "ci_low": low, "ci_high": high, "doubtful": doubtful}


@pytest.mark.parametrize(
    ("row", "theirs", "level"),
    [
        (_row(1, -1, 3), _row(2, 1, 3), None),
        (_row(-1, -3, 1), _row(2, 1, 3), "point"),
        (_row(-2, -3, -1), _row(2, -1, 5), "interval"),
        (_row(-2, -3, -1), _row(2, 1, 3), "opposed"),
        (_row(2, 1, 3), _row(-2, -3, -1), "opposed"),
        (_row(-2, -3, -1, doubtful=True), _row(2, 1, 3), "point"),
        (_row(0, 0, 0), _row(2, 1, 3), None),
        (_row(-2, -3, -1), _row(0, -1, 1), None),
        ({**_row(-2, 0, 0), "ci_low": None, "ci_high": None}, _row(2, 1, 3), "point"),
    ],
)
def test_levels_of_disagreement(row: Row, theirs: Row, level: str | None) -> None:
    assert agreement._level(row, theirs) == level


def _torn() -> list[SubsetScores]:
    """CLUB says that policy "one" gains; an input effect, which cancels from CLUB alone, makes leave-one-out say loss.

    Each input raises all of policy one's scores by its own amount: the likeliest candidate then wins every column.
    """
    made = [subset("a", "id", 40), subset("de", "user", 40)]
    for s in made:
        rng = np.random.default_rng(len(s.subset))
        offset_B = rng.normal(0, 60, 40)
        s.scores["one"].positive_B[:] += offset_B + 6
        s.scores["one"].negative_Bm[:] += offset_B[:, None]
    return made


def test_a_significant_disagreement_is_found_named_and_counted() -> None:
    rows, counts, found = tables(_torn())
    mine = [row for row in found if row["estimator"] == "l1out" and row["about"] == "sign" and row["policy"] == "one"]
    assert [(row["quantity"], row["subset"], row["shift"]) for row in mine if row["quantity"] == "remi"] == [
        ("remi", None, "id"),
        ("remi", None, "user"),
    ]  # a subset that is alone in its shift counts once
    row = mine[0]
    club_row = find(rows, estimator="club", quantity="remi", policy="one", subset=None, shift="id")
    assert row["ci_high"] < 0 < club_row["value"] == row["club_value"]
    order = [row for row in found if row["about"] == "order" and row["estimator"] == "l1out"]
    assert {(row["policy"], row["versus"]) for row in order} == {("one", "two")}
    for count in counts:
        same = [row for row in found if all(row[key] == count[key] for key in ("estimator", "about", "quantity"))]
        assert count["n_interval"] == sum(row["level"] == "interval" for row in same)
        assert count["n_opposed"] == sum(row["level"] == "opposed" for row in same)
        policies, order_cells = 5, 2 if count["quantity"] == "remi" else 1
        assert count["n_cells"] == order_cells * (policies if count["about"] == "sign" else 1)
    levels = [row["level"] for row in found]
    assert levels == sorted(levels, reverse=True)


def test_order_rows_are_differences_of_the_models_own() -> None:
    subsets = world(1)
    rows, gains = agreement.estimator_rows(subsets, 0.95)
    for row in agreement._order_rows(gains, 0.95):
        where = {key: row[key] for key in ("estimator", "quantity", "shift")}
        ours, theirs = (find(rows, policy=row[key], subset=None, **where) for key in ("policy", "versus"))
        if row["value"] is not None:
            assert row["value"] == pytest.approx(ours["value"] - theirs["value"], rel=1e-9, abs=1e-9)


def test_two_that_are_alike_do_not_differ_because_one_missed_more() -> None:
    """Scored in rounds a pooled cell weighs its subsets, each policy by its own n: weights must not be subtracted."""
    rng = np.random.default_rng(0)
    ours, theirs = [], []
    for name, level, answered in (("a", 2.0, 10), ("b", 20.0, 50)):
        phi_B = rng.normal(level, 1, 50)
        some_B = np.where(np.arange(50) < answered, phi_B, np.nan)
        cut, whole = mean_influence(some_B, "nats/response"), mean_influence(phi_B, "nats/response")
        ours.append(Cell(name, "id", cut, None, whole=50))
        theirs.append(Cell(name, "id", whole, None, whole=50))
    *_, pooled = with_pooled([contrasted(a, b) for a, b in zip(ours, theirs, strict=True)])
    assert pooled.subset is None
    assert pooled.influence.value == 0
    assert pooled.influence.n == 60


@pytest.mark.parametrize(
    "make",
    [
        lambda: [subset("a", "id", 1), subset("de", "user", 2), subset("es", "user", 1)],
        lambda: world(0, {"one": list(range(12)), "two": list(range(1, 12))}),
        lambda: [subset("de", "user", 4)],
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_cannot_be_estimated_is_null(make: Callable[[], list[SubsetScores]]) -> None:
    for rows in tables(make()):
        for row in rows:
            assert all(math.isfinite(value) for value in row.values() if isinstance(value, float))


def test_clusters_reach_every_estimator() -> None:
    labels = [f"g{number // 3}" for number in range(12)]
    plain, _ = agreement.estimator_rows([subset("a", "id", 12)], 0.95)
    grouped, _ = agreement.estimator_rows([subset("a", "id", 12, clusters=labels)], 0.95)
    for a, b in zip(plain, grouped, strict=True):
        assert a["value"] == b["value"]
        assert a["stderr"] != b["stderr"] or a["stderr"] == 0
    row = find(grouped, estimator="club", quantity="information", policy="one", subset="a")
    scores = subset("a", "id", 12).scores["one"]
    assert row["stderr"] == estimate(club(scores), clusters=labels).stderr
