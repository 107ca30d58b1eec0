"""Rows of the result: what must hold between them whatever the scores are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pipeline_fakes import subset, world

from remid.estimate import UNITS, club, estimate, holm, remi
from remid.pipeline import measure
from remid.pipeline.measure import SubsetScores
from remid.pipeline.policies import CONTROLS, REFERENCE

SEEDS = (0, 1, 2)
#: Two answers missing in every subset, and all of them in none.
LOST = {"one": [0, 3], "two": [3]}
Row = dict[str, Any]


def find(rows: list[Row], **where: Any) -> Row:
    """The one row that matches."""
    found = [row for row in rows if all(row[key] == value for key, value in where.items())]
    assert len(found) == 1, (where, len(found))
    return found[0]


def numbers(rows: list[Row]) -> Iterator[float]:
    for row in rows:
        for value in row.values():
            if isinstance(value, dict):
                yield from numbers([value])
            elif isinstance(value, float):
                yield value


def all_rows(subsets: list[SubsetScores], confidence: float = 0.95) -> dict[str, list[Row]]:
    remid_list = measure.remid_rows(subsets, confidence)
    policies = [name for name in subsets[0].scores if name not in CONTROLS]
    return {
        "information": measure.information_rows(subsets, confidence),
        "remi": measure.remi_rows(subsets, confidence),
        "remid": remid_list,
        "contrasts": measure.contrast_rows(subsets, policies, confidence),
        "worst_case": measure.worst_rows(remid_list, []),
    }


@pytest.mark.parametrize("seed", SEEDS)
def test_the_reference_is_exactly_zero_everywhere(seed: int) -> None:
    rows = all_rows(world(seed))
    mine = [row for table in ("remi", "remid") for row in rows[table] if row["policy"] == REFERENCE]
    assert len(mine) == (5 + 3) * 3 + (3 + 2) * 3
    assert all(row["value"] == 0 and row["stderr"] == 0 for row in mine)
    assert all(row["ci_low"] == 0 and row["ci_high"] == 0 and row["p_value"] is None for row in mine)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("lost", [{}, LOST])
def test_every_remid_is_remi_on_id_minus_remi_on_its_subset(seed: int, lost: dict[str, list[int]]) -> None:
    rows = all_rows(world(seed, lost))
    assert rows["remid"]
    for row in rows["remid"]:
        place = {"policy": row["policy"], "unit": row["unit"]}
        on_id = find(rows["remi"], shift="id", subset=None, **place)
        on_shift = find(rows["remi"], shift=row["shift"], subset=row["subset"], **place)
        assert row["value"] == on_id["value"] - on_shift["value"]
        assert (row["n_id"], row["n_ood"]) == (on_id["n"], on_shift["n"])
        assert row["n_missing"] == on_id["n_missing"] + on_shift["n_missing"]
        assert row["stderr"] == pytest.approx(math.hypot(on_id["stderr"], on_shift["stderr"]))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_pooled_row_counts_every_item_of_its_subsets_the_same(seed: int) -> None:
    rows = measure.remi_rows(world(seed, LOST), 0.95)
    for row in (row for row in rows if row["subset"] is None):
        parts = [r for r in rows if r["subset"] and all(r[k] == row[k] for k in ("shift", "policy", "unit"))]
        assert row["n"] == sum(r["n"] for r in parts)
        assert row["n_missing"] == sum(r["n_missing"] for r in parts)
        mean = sum(r["value"] * r["n"] for r in parts) / row["n"]
        assert row["value"] == pytest.approx(mean, rel=1e-9, abs=1e-12)


def test_each_row_stands_once_per_policy_cell_and_unit() -> None:
    rows = all_rows(world(0))
    cells = {(s, k) for s, k in [("a", "id"), ("b", "id"), ("de", "user"), ("es", "user"), ("Gaming", "character")]}
    pooled = {(None, shift) for shift in ("id", "user", "character")}
    policies = (*CONTROLS, "one", "two")

    def places(table: str) -> list[tuple[Any, ...]]:
        return [(row["policy"], row["unit"], row["subset"], row["shift"]) for row in rows[table]]

    for table, expected in (
        ("information", cells),
        ("remi", cells | pooled),
        ("remid", {cell for cell in cells | pooled if cell[1] != "id"}),
    ):
        wanted = {(policy, unit, *cell) for policy in policies for unit in UNITS for cell in expected}
        assert sorted(places(table), key=str) == sorted(wanted, key=str), table


def test_information_is_club_with_its_means() -> None:
    subsets = world(0, LOST)
    rows = measure.information_rows(subsets, 0.9)
    for s in subsets:
        for policy in ("reference", "one"):
            for unit in UNITS:
                row = find(rows, policy=policy, subset=s.subset, unit=unit)
                made = estimate(club(s.scores[policy], unit), confidence=0.9)
                assert (row["value"], row["ci_low"], row["n"]) == (made.value, made.ci_low, made.n)
                assert "p_value" not in row
                assert row["positive_mean"] - row["negative_mean"] == pytest.approx(row["value"])
        means = find(rows, policy="reference", subset=s.subset, unit="nats/response")
        assert means["positive_mean"] == pytest.approx(s.scores["reference"].positive_B.mean())
        assert means["negative_mean"] == pytest.approx(s.scores["reference"].negative_Bm.mean())


def test_holm_adjusts_models_and_controls_subsets_and_pooled_rows_and_units_each_by_themselves() -> None:
    rows = measure.remid_rows(_graded(), 0.95)
    families: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        families.setdefault((row["unit"], row["subset"] is None, row["policy"] in CONTROLS), []).append(row)
    # 2 models in 3 subsets and 2 pooled shifts; 3 controls, as the reference has nothing to test
    sizes = {(pooled, control): (2 if pooled else 3) * (3 if control else 2) for _, pooled, control in families}
    for (_, pooled, control), family in families.items():
        tested = [row for row in family if row["p_value"] is not None]
        assert len(tested) == sizes[pooled, control]
        expected = holm([row["p_value"] for row in tested])
        assert [row["p_adjusted"] for row in tested] == expected.tolist()
        assert min(expected) < 1  # or nothing could tell one family from another
        assert min(row["p_adjusted"] for row in tested) == pytest.approx(
            min(1, min(row["p_value"] for row in tested) * len(tested))
        )


def test_holm_adjusts_contrasts_of_each_unit_and_quantity_by_themselves() -> None:
    rows = measure.contrast_rows(_graded(), ["one", "two", "parrot"], 0.95)
    for unit in UNITS:
        for quantity, size in (("remi", 3 * 3), ("remid", 3 * 2)):
            family = [row for row in rows if (row["unit"], row["quantity"]) == (unit, quantity)]
            expected = holm([row["p_value"] for row in family])
            assert len(family) == size
            assert [row["p_adjusted"] for row in family] == expected.tolist()
            assert min(expected) < 1


def test_a_row_without_a_test_is_not_adjusted_and_not_significant() -> None:
    rows = [row for row in measure.remid_rows(world(3), 0.95) if row["policy"] == REFERENCE]
    assert {(row["p_adjusted"], row["significant"]) for row in rows} == {(None, False)}


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_significant_is_what_the_adjusted_p_says_at_the_runs_confidence(confidence: float) -> None:
    subsets = _graded()
    for rows in (measure.remid_rows(subsets, confidence), measure.contrast_rows(subsets, ["one", "two"], confidence)):
        tested = [row for row in rows if row["p_adjusted"] is not None]
        assert tested
        assert all(row["significant"] == (row["p_adjusted"] < 1 - confidence) for row in tested)
    graded = [row["p_adjusted"] for row in measure.remid_rows(subsets, confidence) if row["p_adjusted"] is not None]
    assert any(p < 0.05 for p in graded)
    assert any(0.05 < p < 0.2 for p in graded)
    assert any(p > 0.2 for p in graded)


def _graded() -> list[SubsetScores]:
    """A world in which losses range from none to certain, so that p-values do too."""
    subsets = world(3)
    for number, s in enumerate(subsets):
        for place, policy in enumerate(("one", "two", "generic", "parrot", "shuffled")):
            s.scores[policy].positive_B[:] -= 1.0 * number * (place + 1)
    return subsets


def test_confidence_widens_intervals_and_moves_no_value() -> None:
    narrow, wide = (measure.remid_rows(world(1), confidence) for confidence in (0.8, 0.99))
    for a, b in zip(narrow, wide, strict=True):
        assert a["value"] == b["value"]
        assert b["ci_high"] - b["ci_low"] > a["ci_high"] - a["ci_low"] or a["stderr"] == 0


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("lost", [{}, LOST])
def test_contrasts_are_antisymmetric(seed: int, lost: dict[str, list[int]]) -> None:
    subsets = world(seed, lost)
    there = measure.contrast_rows(subsets, ["one", "two"], 0.95)
    back = measure.contrast_rows(subsets, ["two", "one"], 0.95)
    assert len(there) == len(back) == (3 + 2) * 3
    for a, b in zip(there, back, strict=True):
        assert (a["policy"], a["versus"]) == (b["versus"], b["policy"]) == ("one", "two")
        assert a["value"] == pytest.approx(-b["value"], rel=1e-9, abs=1e-9)
        assert a["ci_low"] == pytest.approx(-b["ci_high"], rel=1e-9, abs=1e-9)
        for key in ("stderr", "p_value", "p_adjusted", "significant", "n", "subset", "shift", "quantity"):
            assert a[key] == (pytest.approx(b[key]) if isinstance(b[key], float) else b[key])


def test_contrasts_are_differences_of_the_policies_own_rows_where_nothing_is_missing() -> None:
    rows = all_rows(world(1))
    for row in rows["contrasts"]:
        place = {"unit": row["unit"], "shift": row["shift"], "subset": None}
        ours, theirs = (find(rows[row["quantity"]], policy=name, **place) for name in ("one", "two"))
        assert row["value"] == pytest.approx(ours["value"] - theirs["value"], abs=1e-9)


def test_every_pair_of_policies_is_contrasted_once() -> None:
    subsets = [subset(name, shift, 5, ["p", "q", "r"]) for name, shift in (("a", "id"), ("de", "user"))]
    rows = measure.contrast_rows(subsets, ["p", "q", "r"], 0.95)
    pairs = {(row["policy"], row["versus"]) for row in rows}
    assert pairs == {("p", "q"), ("p", "r"), ("q", "r")}
    assert measure.contrast_rows(subsets, ["p"], 0.95) == []


def _tiny() -> list[SubsetScores]:
    return [subset("a", "id", 1), subset("de", "user", 2), subset("es", "user", 1)]


def _silent() -> list[SubsetScores]:
    return world(0, {"one": list(range(12)), "two": list(range(1, 12))})


@pytest.mark.parametrize("make", [_tiny, _silent, lambda: world(0, LOST), lambda: [subset("de", "user", 4)]])
@pytest.mark.filterwarnings("error")
def test_what_cannot_be_estimated_is_null_and_nothing_is_nan(make: Callable[[], list[SubsetScores]]) -> None:
    for table, rows in all_rows(make()).items():
        assert all(map(math.isfinite, numbers(rows))), table


def test_a_policy_that_never_answered_has_null_and_its_items_are_counted() -> None:
    rows = all_rows(_silent())
    row = find(rows["remid"], policy="one", subset=None, shift="user", unit="nats/response")
    assert (row["value"], row["stderr"], row["ci_low"], row["p_value"], row["p_adjusted"]) == (None,) * 5
    assert (row["n_id"], row["n_ood"], row["n_missing"], row["significant"]) == (0, 0, 12 + 7 + 9 + 6, False)
    assert find(rows["worst_case"], policy="one")["by_remid"] is None


def test_without_id_there_is_remi_and_no_remid() -> None:
    rows = all_rows([subset("de", "user", 6), subset("Gaming", "character", 5)])
    assert rows["remi"]
    assert (rows["remid"], rows["worst_case"]) == ([], [])
    assert {row["quantity"] for row in rows["contrasts"]} == {"remi"}


def test_clusters_change_uncertainty_and_no_value() -> None:
    labels = [f"g{number // 3}" for number in range(12)]
    plain = [subset("a", "id", 12), subset("de", "user", 12)]
    grouped = [subset("a", "id", 12, clusters=labels), subset("de", "user", 12, clusters=labels)]
    for make in (measure.remi_rows, measure.remid_rows, measure.information_rows):
        for a, b in zip(make(plain, 0.95), make(grouped, 0.95), strict=True):
            assert a["value"] == b["value"]
            assert a["policy"] == REFERENCE or a["stderr"] != b["stderr"]
    row = find(measure.remi_rows(grouped, 0.95), policy="one", subset="a", unit="nats/response")
    mine = remi(grouped[0].scores["one"], grouped[0].scores[REFERENCE])
    assert row["stderr"] == estimate(mine, clusters=labels).stderr


def test_pooling_keeps_a_group_that_spans_subsets_together() -> None:
    parts = [subset("de", "user", 6, clusters=["x", "y"] * 3), subset("es", "user", 6, clusters=["x", "z"] * 3)]
    row = find(measure.remi_rows([subset("a", "id", 6, clusters=["u", "v"] * 3), *parts], 0.95),
               policy="one", subset=None, shift="user", unit="nats/response")  # fmt: skip
    cell = next(c for c in measure.cells(parts, lambda s: remi(s.scores["one"], s.scores[REFERENCE])) if not c.subset)
    assert cell.clusters == ("x", "y") * 3 + ("x", "z") * 3
    assert row["stderr"] == estimate(cell.influence, clusters=cell.clusters).stderr


def test_the_worst_case_is_the_subset_with_the_largest_loss_and_the_largest_bound() -> None:
    remid_list = measure.remid_rows(world(2), 0.95)
    bounds = [{"policy": "one", "subset": "de", "value": 3.0}, {"policy": "one", "subset": "es", "value": None}]
    row = find(measure.worst_rows(remid_list, bounds), policy="one")
    mine = [r for r in remid_list if r["policy"] == "one" and r["subset"] and r["unit"] == "nats/response"]
    worst = max(mine, key=lambda r: r["value"])
    assert row["by_remid"] == {k: worst[k] for k in ("subset", "value", "ci_low", "ci_high", "p_adjusted")}
    assert row["by_bound"] == {"subset": "de", "value": 3.0}
    assert find(measure.worst_rows(remid_list, bounds), policy="two")["by_bound"] is None
