"""Copying, length, repetition and language by policy and subset, each beside the reference's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pipeline_fakes import sample, subset

from remid.data import read_benchmark
from remid.pipeline.policies import Texts, subset_texts
from remid.pipeline.surface import SOURCES, surface_rows
from remid.types import Turn

SCORED = Path(__file__).parents[3] / "shared" / "data" / "mmrole_scored.json"


def found(rows: list[dict[str, Any]], **where: Any) -> dict[str, Any]:
    (row,) = (row for row in rows if all(row[key] == value for key, value in where.items()))
    return row


def made() -> list[dict[str, Any]]:
    """Ten samples; `one` copies the character, `two` does not answer the first and is short for the second."""
    part = subset("IDTest", "id", 10)
    samples = tuple(
        sample(
            i,
            character=f"an old sailor from harbour number {i}",
            user="a clerk",
            dialogue=(
                Turn("user", "hello there"),
                Turn("agent", "good day to you"),
                Turn("user", f"what is {i} plus {i}"),
            ),
            reference=f"that makes twice {i} and the answer is all that you wanted",
        )
        for i in range(10)
    )
    part = replace(part, samples=samples)
    texts: dict[str, Texts] = subset_texts(samples, (), part.scores["reference"].design)
    texts["one"] = [f"an old sailor from harbour number {i} is what I am" for i in range(10)]
    texts["two"] = [None, "no", *("das ist nicht meine Sache und ich weiß es nicht" for _ in range(8))]
    return surface_rows([part], {"IDTest": texts}, 0.95)


def test_every_policy_and_source_has_its_row_per_subset_and_pooled() -> None:
    rows = made()
    assert len(rows) == 6 * 2 * (4 + 2 * len(SOURCES))
    copied = found(rows, policy="one", subset=None, measure="copied", source="character")
    assert copied["value"] == pytest.approx(5 / 9)
    assert copied["unit"] == "share"
    assert copied["over_reference"]["value"] == pytest.approx(5 / 9)
    assert found(rows, policy="one", subset=None, measure="run", source="character")["value"] == 7
    assert found(rows, policy="one", subset=None, measure="copied", source="user")["value"] == 0
    assert found(rows, policy="parrot", subset="IDTest", measure="copied", source="last turn")["value"] == 1
    assert found(rows, policy="reference", subset=None, measure="words", source=None)["over_reference"] is None


def test_what_has_no_value_is_missing_and_never_zero() -> None:
    rows = made()
    two = found(rows, policy="two", subset=None, measure="copied", source="input")
    assert (two["n"], two["n_missing"]) == (8, 2)  # no response; too short for three words
    length = found(rows, policy="two", subset=None, measure="words", source=None)
    assert (length["n"], length["n_missing"]) == (9, 1)
    language = found(rows, policy="two", subset=None, measure="language", source=None)
    assert (language["n"], language["value"]) == (8, 0.0)
    assert language["over_reference"]["ci_high"] is None or language["over_reference"]["ci_high"] < 0


def test_a_response_of_a_fifth_of_the_reference_is_brief() -> None:
    rows = made()  # references have eleven words; "no" is one, no response is none
    two = found(rows, policy="two", subset=None, measure="brief", source=None)
    assert (two["n"], two["n_missing"], two["value"]) == (9, 1, pytest.approx(1 / 9))
    assert two["ci_low"] > 0
    assert two["over_reference"]["ci_low"] < 0  # which is what the warning goes by
    assert found(rows, policy="reference", subset=None, measure="brief", source=None)["value"] == 0


@pytest.mark.skipif(not SCORED.exists(), reason="the scored dialogues are not here")
def test_the_worst_models_are_seen_to_copy() -> None:
    samples = [s for s in read_benchmark([SCORED]).test if s.shift == "id"]
    part = replace(subset("IDTest", "id", len(samples), ()), samples=tuple(samples))
    policies = sorted({name for s in samples for name in s.responses})
    texts = subset_texts(samples, policies, part.scores["reference"].design)
    part = replace(part, scores=dict.fromkeys(texts, part.scores["reference"]))
    rows = surface_rows([part], {"IDTest": texts}, 0.95)
    copied = {p: found(rows, policy=p, subset=None, measure="copied", source="input") for p in texts}
    assert copied["reference"]["value"] < 0.04
    assert copied["qwen-vl-chat"]["over_reference"]["ci_low"] > 0.2
    judged = {p: np.mean([v[0] for s in samples for v in s.meta["judge_scores"].get(p, {}).values()]) for p in policies}
    worst = sorted(policies, key=lambda p: judged[p])[:2]
    assert {"qwen-vl-chat"} <= set(worst)
    assert min(copied[p]["value"] for p in worst) > copied["gpt-4-turbo"]["value"]
