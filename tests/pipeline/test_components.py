"""Information by component: partners, prompts, rows and the rule by which a component is called ignored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline_fakes import sample, subset
from pipeline_tiny import POLICY, SETTINGS, Tiny, records, stored, trace, write
from result_schema import Result

import remid
from remid.estimate import balanced_design, estimate
from remid.estimate.components import mean_drop
from remid.pipeline.components import cell_rows, component_rows, component_units, draw_partners
from remid.pipeline.config import make_config
from remid.pipeline.measure import Cell, SubsetScores
from remid.pipeline.plan import Group
from remid.pipeline.score import text_key
from remid.types import COMPONENTS, Sample, Turn

Rows = list[dict[str, Any]]
#: What scores a text under a prompt given as one string; nats per response.
Law = Callable[[str, str], float]


def people(n: int, **fields: Any) -> tuple[Sample, ...]:
    """Samples whose every component has a word of its own."""
    return tuple(
        replace(
            sample(i, user=f"u{i}u", character=f"c{i}c", dialogue=(Turn("user", f"d{i}d"),), reference=f"ref {i}"),
            **fields,
        )
        for i in range(n)
    )


def measured(
    samples: Sequence[Sample], answers: dict[str, list[str | None]], law: Law, mode: str = "replace", m: int = 1
) -> Rows:
    """Rows of one subset whose scores follow a law."""
    n = len(samples)
    answers = {"reference": [s.reference for s in samples], **answers}
    group = Group("IDTest", "id", "IDTest", tuple(samples), balanced_design(n, 2, 0), (), answers)
    config = make_config(data=(Path("b.json"),), components=mode, component_partners=m)
    plan: Any = SimpleNamespace(config=config, groups=(group,))
    scored = {
        (unit.key, text_key(text)): (5, law(" ".join(x.content for x in unit.messages), text), None)
        for unit in component_units(plan)
        for text in unit.texts
    }
    part = subset("IDTest", "id", n, ())
    part = SubsetScores("IDTest", "id", tuple(samples), dict.fromkeys(answers, part.scores["reference"]), None)
    return component_rows(plan, [part], scored)


def found(rows: Rows, **where: Any) -> dict[str, Any]:
    (row,) = (row for row in rows if all(row[key] == value for key, value in where.items()))
    return row


def worth(prompt: str, text: str) -> float:
    """Each word of the response that the prompt holds spares 3 nats; the noise is the texts' own."""
    noise = int(text_key(prompt + text)[:6], 16) / 16**6 - 0.5
    return -40 + 3.0 * sum(word in prompt.split() for word in text.split()) + noise


def answers_of(samples: Sequence[Sample], parts: str) -> list[str | None]:
    return [" ".join(f"{p}{i}{p}" for p in parts) + f" say {i}" for i in range(len(samples))]


@pytest.mark.parametrize("mode", ["remove", "replace"])
def test_the_ignored_part_is_told_by_name_and_the_others_are_not(mode: str) -> None:
    samples = people(20)
    samples = tuple(replace(s, reference=str(t)) for s, t in zip(samples, answers_of(samples, "ucd"), strict=True))
    answers = {name: answers_of(samples, parts) for name, parts in [("all", "ucd"), ("blind", "ud"), ("dull", "")]}
    rows = measured(samples, answers, worth, mode)
    assert {row["quantity"] for row in rows} == {mode}
    told = {
        policy: [r["component"] for r in rows if r["policy"] == policy and r["subset"] is None and r["ignored"]]
        for policy in answers
    }
    assert told == {"all": [], "blind": ["character"], "dull": list(COMPONENTS)}
    row = found(rows, policy="blind", subset=None, component="user")
    assert row["value"] == pytest.approx(3, abs=0.4)
    assert row["kept"]["value"] == pytest.approx(1, abs=0.2)
    assert (row["n"], row["n_missing"], row["unit"]) == (20, 0, "nats/response")
    base = found(rows, policy="reference", subset=None, component="user")
    assert (base["over_reference"], base["kept"], base["ignored"], base["p_adjusted"]) == (None, None, None, None)


def test_shapley_shares_what_interacts_and_sums_to_the_whole() -> None:
    """The reference is worth 6 nats where user and character are both its own, and nothing else: 3 and 3."""
    samples = people(8)

    def both(prompt: str, text: str) -> float:
        number = text.split()[1]
        return 6.0 * (f"u{number}u" in prompt and f"c{number}c" in prompt) - 20

    rows = measured(samples, {}, both, "shapley", m=2)
    shares = [found(rows, quantity="shapley", subset=None, component=c)["value"] for c in (*COMPONENTS, "all")]
    assert shares == pytest.approx([3, 3, 0, 6])
    single = [found(rows, quantity="replace", subset=None, component=c)["value"] for c in COMPONENTS]
    assert single == pytest.approx([6, 6, 0])


def test_a_part_that_is_the_same_for_all_cannot_be_replaced_and_is_null() -> None:
    samples = people(6, user="the same for all")
    rows = measured(samples, {"all": answers_of(samples, "cd")}, worth, "shapley")
    row = found(rows, policy="all", subset=None, quantity="replace", component="user")
    assert (row["value"], row["n"], row["n_missing"], row["n_alike"], row["ignored"]) == (None, 0, 6, 6, None)
    assert found(rows, policy="all", subset=None, quantity="replace", component="dialogue")["n_alike"] == 0
    assert found(rows, policy="all", subset=None, quantity="shapley", component="all")["value"] is None


def test_a_part_that_is_empty_cannot_be_removed_and_is_null() -> None:
    samples = tuple(replace(s, user=" " if i < 2 else s.user) for i, s in enumerate(people(6)))
    rows = measured(samples, {"all": answers_of(samples, "ucd")}, worth, "remove")
    row = found(rows, policy="all", subset=None, component="user")
    assert (row["n"], row["n_missing"], row["n_alike"]) == (4, 2, 2)
    assert found(rows, policy="all", subset=None, component="dialogue")["n_alike"] == 0


def test_what_is_removed_is_gone_from_the_prompt_and_the_rest_stands() -> None:
    prompts: set[str] = set()

    def law(prompt: str, text: str) -> float:
        prompts.add(prompt)
        return -1.0

    measured(people(2), {}, law, "remove")
    held = {frozenset(word for word in ("u0u", "c0c", "d0d") if word in prompt) for prompt in prompts}
    every = frozenset({"u0u", "c0c", "d0d"})
    assert held == {frozenset(), every, *(every - {word} for word in every)}  # frozenset(): the other sample's
    assert len(prompts) == 2 * 4


def test_without_partners_samples_are_independent() -> None:
    """The plain variance of a mean, and 5% of intervals miss: nobody stands in, so nothing goes together."""
    rng = np.random.default_rng(2)
    drop_Bm = rng.normal(1, 2, (30, 1))
    drop_Bm[4] = np.nan
    made = estimate(mean_drop(drop_Bm, None))
    known_B = drop_Bm[np.isfinite(drop_Bm)]
    assert (made.n, made.n_missing) == (29, 1)
    assert made.value == pytest.approx(known_B.mean())
    assert made.stderr == pytest.approx(known_B.std(ddof=1) / np.sqrt(29))


def test_what_is_not_answered_is_missing_and_no_zero() -> None:
    samples = people(10)
    said = answers_of(samples, "ucd")
    said[3] = None
    rows = measured(samples, {"one": said}, worth)
    row = found(rows, policy="one", subset="IDTest", component="character")
    assert (row["n"], row["n_missing"], row["over_reference"]["n"]) == (9, 1, 9)
    assert row["value"] == pytest.approx(3, abs=0.4)


@given(
    st.lists(st.tuples(*(st.integers(0, k) for k in (1, 3, 9))), min_size=2, max_size=12),
    st.integers(1, 3),
    st.integers(0, 5),
)
@settings(max_examples=60)
def test_partners_always_bring_another_text_if_there_is_one(
    texts: list[tuple[int, int, int]], m: int, seed: int
) -> None:
    samples = tuple(
        sample(i, user=f"u{u}", character=f"c{c}", dialogue=(Turn("user", f"d{d}"),))
        for i, (u, c, d) in enumerate(texts)
    )
    single, together_Bm = draw_partners(samples, m, seed)
    for c in range(3):
        for i, row in enumerate(single[c]):
            others = {j for j in range(len(texts)) if texts[j][c] != texts[i][c]}
            chosen = [int(j) for j in row if j >= 0]
            assert set(chosen) <= others
            assert len(set(chosen)) == len(chosen) == min(len(row), len(others))
    for i, row in enumerate(together_Bm):
        assert all(all(a != b for a, b in zip(texts[i], texts[j], strict=True)) for j in row if j >= 0)
    again, _ = draw_partners(samples, m, seed)
    assert all(np.array_equal(single[c], again[c]) for c in range(3))


def test_partners_are_not_the_first_negatives() -> None:
    samples = people(40)
    single, _ = draw_partners(samples, 1, 0)
    negatives_B = balanced_design(40, 4, 0, [s.character for s in samples]).negatives_Bm[:, 0]
    assert np.mean(single[1][:, 0] == negatives_B) < 0.2


def test_partners_are_balanced_where_all_texts_differ() -> None:
    single, together_Bm = draw_partners(people(15), 2, 3)
    for partner_Bm in (*single.values(), together_Bm):
        assert np.bincount(partner_Bm.ravel()).tolist() == [2] * 15
        assert np.array_equal(partner_Bm, together_Bm)


def test_a_policy_that_does_as_the_reference_is_rarely_told_to_ignore_anything() -> None:
    """200 worlds in which both draw their worth from one law, with strong and weak items: at most 5% alarms."""
    samples, alarms = people(25), 0
    said = {"one": [f"one {i}" for i in range(25)]}
    for world in range(200):
        rng = np.random.default_rng(world)
        drawn: dict[tuple[str, str], float] = {}

        def law(prompt: str, text: str, drawn: Any = drawn, rng: Any = rng) -> float:
            own = [f"{p}{text.split()[1]}{p}" in prompt for p in "ucd"]
            drawn.setdefault((text, "size"), float(rng.exponential(2)))
            return -30 + drawn[text, "size"] * sum(own) + float(rng.normal(0, 2))

        rows = measured(samples, said, law)
        alarms += any(r["ignored"] for r in rows if r["policy"] == "one" and r["subset"] is None)
    assert alarms <= 18  # 10 are allowed on average, 18 are passed once in a hundred times


def test_parts_that_the_reference_hardly_uses_make_no_false_alarms() -> None:
    """Policy and reference of one law, every part worth 1.5 standard errors to both: at most 5% alarms."""
    rng, n, alarms = np.random.default_rng(0), 60, 0
    none_Bm = np.zeros((n, 1), dtype=np.int64)
    for _ in range(600):
        of_cell = []
        for _ in COMPONENTS:
            ours_Bm, theirs_Bm = (rng.normal(1.5 / np.sqrt(n), 1, (n, 1)) for _ in range(2))
            sides = (mean_drop(drop_Bm, none_Bm) for drop_Bm in (ours_Bm, theirs_Bm, ours_Bm - theirs_Bm))
            of_cell.append(tuple(Cell(None, "id", side, None) for side in sides))
        rows = cell_rows("one", "replace", COMPONENTS, of_cell, [], 0.95)  # type: ignore[arg-type]
        alarms += any(row["ignored"] for row in rows)
    assert alarms <= 44  # 30 are allowed on average, 44 are passed once in two hundred times; 58 without the others


def test_few_samples_whose_pairs_go_together_make_no_false_alarms() -> None:
    """Every sample's strength counts as its own and as a partner's, ten samples: 8% were told before."""
    rng, n, m, alarms = np.random.default_rng(1), 10, 2, 0
    partner_Bm = balanced_design(n, m, 0).negatives_Bm
    for _ in range(400):
        of_cell = []
        for _ in COMPONENTS:
            worth_2B, noise_2Bm = rng.normal(size=(2, n)), rng.normal(0, 0.5, (2, n, m))
            ours_Bm, theirs_Bm = 2 + worth_2B[:, :, None] + worth_2B[:, partner_Bm] + noise_2Bm
            sides = (mean_drop(drop_Bm, partner_Bm) for drop_Bm in (ours_Bm, theirs_Bm, ours_Bm - theirs_Bm))
            of_cell.append(tuple(Cell(None, "id", side, None) for side in sides))
        rows = cell_rows("one", "replace", COMPONENTS, of_cell, [], 0.95)  # type: ignore[arg-type]
        alarms += any(row["ignored"] for row in rows)
    assert alarms <= 30  # 20 are allowed on average, 30 are passed once in a hundred times


@pytest.mark.parametrize(
    ("kept", "told"), [(0.4, {"replace": True, "remove": False}), (0.1, {"replace": True, "remove": True})]
)
def test_how_little_is_ignored_depends_on_how_it_is_asked(kept: float, told: dict[str, bool]) -> None:
    rng, none_Bm = np.random.default_rng(0), np.zeros((200, 1), dtype=np.int64)
    for quantity, expected in told.items():
        of_cell = []
        for share in (kept, 1.0, 1.0):
            theirs_Bm = rng.normal(4, 1, (200, 1))
            ours_Bm = share * theirs_Bm + rng.normal(0, 0.3, (200, 1))
            sides = (mean_drop(drop_Bm, none_Bm) for drop_Bm in (ours_Bm, theirs_Bm, ours_Bm - theirs_Bm))
            of_cell.append(tuple(Cell(None, "id", side, None) for side in sides))
        rows = cell_rows("one", quantity, COMPONENTS, of_cell, [], 0.95)  # type: ignore[arg-type]
        assert [row["ignored"] for row in rows] == [expected, False, False]


def again(tiny: Tiny, folder: Path, data: Path | None = None, **more: Any) -> Any:
    return remid.evaluate(data or tiny.data, out=folder, progress=False, **{**SETTINGS, **more})


def test_a_run_scores_its_parts_once_and_says_so(tiny: Tiny, tmp_path: Path, models: None) -> None:
    assert tiny.run.result["components"] == []
    folder = tiny.copy(tmp_path / "run")
    run = again(tiny, folder, components="shapley", component_partners=1)
    Result.model_validate_json((folder / "result.json").read_text("utf-8"))
    rows = run.result["components"]
    assert len(rows) == 5 * (3 + 3) * (3 + 4)
    assert run.rows("remi") == tiny.run.result["remi"]
    row = found(rows, policy=POLICY, subset="Gaming", component="character", quantity="replace")
    assert (row["n"], row["n_missing"]) == (3, 1)
    assert run.result["scoring"]["n_prompts"] == 12 * 7  # with all three replaced it is the partner's own
    assert run.result["manifest"]["config"]["components"] == "shapley"
    before = stored(folder)
    text = (folder / "result.json").read_bytes()
    again(tiny, folder, components="shapley", component_partners=1)
    assert stored(folder) == before
    assert (folder / "result.json").read_bytes() == text
    assert 'id="components"' in (folder / "report.html").read_text("utf-8")


def test_prompts_of_parts_hold_no_trace(tiny: Tiny, tmp_path: Path, models: None) -> None:
    content = {split: records(split) for split in ("IDTest", "OOD2Test")}
    for rows in content.values():
        for row in rows:
            row["SThought"] = trace(row["sample_ID"])
    with_traces = again(tiny, tmp_path / "run", write(tmp_path / "traced.json", content), components="replace")
    plain = again(tiny, tiny.copy(tmp_path / "plain"), components="replace")
    for table in (with_traces.result, plain.result):
        assert found(table["components"], policy=POLICY, subset="Gaming", component="user")["value"] is not None
    first, second = (
        [r for r in run.rows("components", subset="IDTest") if r["policy"] == POLICY] for run in (with_traces, plain)
    )
    assert [r["value"] for r in first] == pytest.approx([r["value"] for r in second])
    assert with_traces.result["scoring"]["n_prompts"] == 8 + 8 * 4  # with the trace; own without, and three replaced


def test_a_run_that_removes_parts_asks_three_prompts_more(tiny: Tiny, tmp_path: Path, models: None) -> None:
    folder = tiny.copy(tmp_path / "run")
    run = again(tiny, folder, components="remove")
    Result.model_validate_json((folder / "result.json").read_text("utf-8"))
    assert len(run.result["components"]) == 5 * (3 + 3) * 3
    assert run.result["scoring"]["n_prompts"] == 12 * 4
    assert run.rows("remi") == tiny.run.result["remi"]
    assert "when one part of their input is removed, prompts" in (folder / "report.html").read_text("utf-8")


def test_parts_are_measured_on_what_the_rounds_scored(tiny: Tiny, tmp_path: Path, models: None) -> None:
    run = again(
        tiny, tiny.copy(tmp_path / "run"), components="replace", negatives=3, until_se=1000.0, cluster_by="town"
    )
    assert {row["n"] + row["n_missing"] for row in run.rows("components", subset="IDTest")} <= {3, 4}
    Result.model_validate(run.result)
