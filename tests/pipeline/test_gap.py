"""The gap's rows: parts, readings, changes and contrasts out of what responses tell."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pipeline_fakes import subset

from remid.estimate import Told
from remid.pipeline.gap import change_rows, gap_cells, gap_contrast_rows, gap_rows
from remid.pipeline.measure import SubsetScores
from remid.pipeline.told import AllTold

N = 40
#: (earned nats/response, repeated nats/token, surprise nats/token) of each policy's responses.
KINDS = {
    "reference": (16.0, 0.1, 4.2),
    "shuffled": (0.0, 0.0, 4.2),
    "generic": (0.3, 0.0, 2.7),
    "parrot": (0.0, 3.0, 3.8),
    "one": (30.0, 0.05, 3.5),
    "two": (9.0, 0.1, 4.0),
}


def told(name: str, *, shifted: bool = False) -> dict[str, Told]:
    rng = np.random.default_rng(list(name.encode()))
    made = {}
    for policy, (earned, repeated, blind) in KINDS.items():
        rate = repeated + (1.0 if shifted and policy == "one" else 0.0)
        tokens_B = rng.integers(20, 60, N).astype(float)
        rate_B = rng.normal(rate, 0.05, N)
        made[policy] = Told(rng.normal(earned, 3, N), rate_B * tokens_B, rng.normal(blind, 0.3, N) * tokens_B, tokens_B)
    return made


def parts() -> tuple[list[SubsetScores], dict[str, dict[str, Told]], dict[str, dict[str, list[str | None]]]]:
    subsets = [subset(name, shift, N) for name, shift in (("a", "id"), ("b", "id"), ("french", "user"))]
    made = {s.subset: told(s.subset, shifted=s.shift != "id") for s in subsets}
    answers = {
        s.subset: {p: [("same" if p == "generic" else f"{p}{s.subset}{i}") for i in range(N)] for p in KINDS}
        for s in subsets
    }
    return subsets, made, answers  # type: ignore[return-value]


def rows_of(made: AllTold | None = None) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    subsets, mine, answers = parts()
    found = gap_cells(subsets, made or mine, 0.95, 0)
    bounds = [
        {"policy": p, "subset": s, "shift": "user", "ingredients": {"t": 0.5}} for p in KINDS for s in (None, "french")
    ]
    return (
        gap_rows(found, subsets, made or mine, answers, 0.95),
        change_rows(found, bounds, 0.95),
        gap_contrast_rows(found, ["one", "two"], 0.95),
    )


def test_parts_and_readings() -> None:
    rows, _, _ = rows_of()
    on_id = {row["policy"]: row for row in rows if (row["subset"], row["shift"]) == (None, "id")}
    assert {policy: row["reading"] for policy, row in on_id.items()} == {
        "shuffled": "elsewhere",
        "generic": "generic",
        "parrot": "repeats",
        "one": "like-reference",
        "two": "misses",
    }
    assert on_id["two"]["value"] == pytest.approx(7 / 40, abs=0.03)
    assert on_id["two"]["excess"]["value"] == pytest.approx(0, abs=0.03)
    assert on_id["one"]["value"] == 0
    assert on_id["one"]["missing"]["value"] < 0
    assert on_id["parrot"]["value"] == pytest.approx(16 / 40 + 2.9, abs=0.1)
    assert on_id["two"]["earned"]["reference"] == pytest.approx(16, abs=1)
    assert on_id["generic"]["n_distinct"] == 1
    assert on_id["two"]["n"] == 2 * N
    assert {row["subset"] for row in rows} == {"a", "b", "french", None}
    assert "reference" not in on_id


def test_nothing_is_said_to_fit_any_input_where_the_references_themselves_earn_nothing() -> None:
    subsets, made, answers = parts()
    low = {
        name: policies | {"reference": replace(policies["reference"], earned_B=policies["reference"].earned_B - 21)}
        | {"two": replace(policies["two"], earned_B=policies["two"].earned_B - 21)}
        for name, policies in made.items()
    }  # fmt: skip
    rows = gap_rows(gap_cells(subsets, low, 0.95, 0), subsets, low, answers, 0.95)
    two = next(row for row in rows if (row["policy"], row["subset"], row["shift"]) == ("two", None, "id"))
    assert two["earned"]["reference"] < 0
    assert two["earned"]["value"] < 0.25 * two["earned"]["reference"]
    assert two["reading"] == "misses"


def test_a_policy_that_copies_under_a_shift_loses_there_and_the_bound_holds() -> None:
    _, changes, contrasts = rows_of()
    pooled = {row["policy"]: row for row in changes if row["subset"] is None}
    assert pooled["one"]["value"] == pytest.approx(0.95, abs=0.1)
    assert pooled["one"]["significant"]
    assert pooled["one"]["p_adjusted"] < 0.01
    assert not pooled["two"]["significant"]
    assert (pooled["one"]["n_id"], pooled["one"]["n_ood"]) == (2 * N, N)
    assert pooled["two"]["bound"] > abs(pooled["two"]["value"])
    by_shift = {row["shift"]: row for row in contrasts}
    assert by_shift["id"]["value"] == pytest.approx(-7 / 40, abs=0.03)
    assert by_shift["id"]["significant"]
    assert by_shift["user"]["value"] > 0


def test_what_is_missing_is_left_out_counted_and_never_zero() -> None:
    _, made, _ = parts()
    nan = np.full(N, np.nan)
    some = made["a"]["two"]
    holes = Told(np.where(np.arange(N) < 5, np.nan, some.earned_B), some.repeated_B, some.blind_B, some.tokens_B)
    rows, changes, _ = rows_of(
        {
            "a": made["a"] | {"two": holes, "one": Told(nan, nan, nan, nan)},
            "b": made["b"] | {"one": Told(nan, nan, nan, nan)},
            "french": made["french"],
        }
    )
    on_id = {row["policy"]: row for row in rows if (row["subset"], row["shift"]) == (None, "id")}
    assert (on_id["two"]["n"], on_id["two"]["n_missing"]) == (2 * N - 5, 5)
    assert on_id["one"]["value"] is None
    assert on_id["one"]["reading"] is None
    assert on_id["one"]["earned"]["value"] is None
    change = next(row for row in changes if row["policy"] == "one" and row["subset"] is None)
    assert change["value"] is None
    assert not change["significant"]


def test_policies_are_held_against_each_other_where_both_answered() -> None:
    """One answers only where it earns much, two where it earns little; where both do they are the same."""
    _, made, _ = parts()
    some, earned_B = made["french"]["two"], np.arange(N) + 0.0
    high, low = (
        Told(np.where(keep_B, earned_B, np.nan), some.repeated_B, some.blind_B, some.tokens_B)
        for keep_B in (np.arange(N) >= 5, np.arange(N) < N - 5)
    )
    _, _, contrasts = rows_of({**made, "french": made["french"] | {"one": high, "two": low}})
    row = next(row for row in contrasts if row["shift"] == "user")
    assert (row["value"], row["n"], row["p_value"]) == (0, N - 10, 1)


def test_the_same_data_give_the_same_bytes() -> None:
    assert rows_of() == rows_of()
