"""The ablation's arithmetic against slow twins, its base model's words, and the whole command on a tiny training."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hops_small import QUICK, small

from remid import cli
from remid.data.worlds import hops
from remid.errors import ConfigError, StoreError
from remid.lm.chat import ChatRenderer
from remid.pipeline.progress import Progress
from remid.pipeline.prompts import role_play_messages
from remid.pipeline.reason import trace_messages
from remid.pipeline.traces import parse_trace
from remid.study import ablation as study
from remid.study.ablation import drawn_evenly
from remid.study.ablation_tables import Row, Scores, tables
from remid.study.arms import ARMS, arm_settings, chosen_arms
from remid.study.crossed import crossed_mean, crossed_ratio
from remid.study.hops_base import BaseTraining, _draw, _rows, make_tokenizer
from remid.study.show_ablation import ablation_sections
from remid.train.config import make_train_config
from remid.train.journal import read_journal
from remid.types import Sample


def test_one_seed_is_the_t_interval_over_items() -> None:
    from scipy import stats

    values_I = np.random.default_rng(0).normal(0.3, 1.0, 40)
    found = crossed_mean(values_I[None])
    twin = stats.ttest_1samp(values_I, 0.0)
    assert found.p_value == pytest.approx(twin.pvalue)
    assert found.interval(0.9) == pytest.approx(tuple(twin.confidence_interval(0.9)))


@pytest.mark.parametrize(("item_sd", "seed_sd"), [(1.0, 0.0), (1.0, 0.3), (0.1, 1.0), (0.0, 0.0)])
def test_crossed_intervals_cover(item_sd: float, seed_sd: float) -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(600):
        values_SI = rng.normal(0, item_sd, (1, 30)) + rng.normal(0, seed_sd, (3, 1)) + rng.normal(0, 0.5, (3, 30))
        low, high = crossed_mean(2.0 + values_SI).interval(0.95)
        held += low <= 2.0 <= high
    # Never too short; with few seeds it may be too long.
    assert held / 600 > 0.93


@pytest.mark.parametrize(
    ("seeds", "item_sd", "seed_sd", "rest_sd"),
    [(2, 1.0, 0.2, 0.3), (2, 0.3, 0.1, 1.0), (2, 1.0, 1.0, 1.0), (3, 1.0, 0.2, 0.3), (3, 0.3, 0.1, 1.0)],
)
def test_few_seeds_do_not_pass_for_many_items(seeds: int, item_sd: float, seed_sd: float, rest_sd: float) -> None:
    """Where seeds matter and agree by chance: Satterthwaite's degrees of freedom covered too little there."""
    rng = np.random.default_rng(6)
    held, sure, rounds = 0, 0, 1200
    for _ in range(rounds):
        values_SI = rng.normal(0, item_sd, (1, 300)) + rng.normal(0, seed_sd, (seeds, 1))
        found = crossed_mean(values_SI + rng.normal(0, rest_sd, (seeds, 300)))
        low, high = found.interval(0.95)
        held += low <= 0.0 <= high
        low, high = found.interval(0.98)
        sure += low > 0.0  # one-sided p below 0.01
    assert held / rounds > 0.935  # 0.95 less two and a half standard errors
    assert sure / rounds < 0.018


@pytest.mark.parametrize("shape", [(1, 30), (2, 2), (2, 30), (3, 16), (3, 300), (5, 3)])
def test_the_p_value_is_where_the_interval_touches_zero(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(7)
    seen = []
    for scale in 10.0 ** rng.uniform(-2, 1, (40, 4)):
        centre, item_sd, seed_sd, rest_sd = scale
        values_SI = rng.normal(0, item_sd, (1, shape[1])) + rng.normal(0, seed_sd, (shape[0], 1))
        found = crossed_mean(centre + values_SI + rng.normal(0, rest_sd, shape))
        seen.append(found.p_value)
        if found.p_value > 1e-8:  # below, 1 - p is rounded
            ends = found.interval(1 - found.p_value)
            assert min(np.abs(ends)) == pytest.approx(0, abs=1e-5 * abs(found.value))
    assert min(seen) < 0.05 < max(seen)


def test_items_and_seeds_together_are_never_surer_than_either() -> None:
    rng = np.random.default_rng(8)
    for seed_sd, rest_sd in ((0.0, 1.0), (1.0, 0.1), (0.1, 0.1)):
        for _ in range(30):
            values_SI = 1 + rng.normal(0, 1, 12) + rng.normal(0, seed_sd, (3, 1)) + rng.normal(0, rest_sd, (3, 12))
            found = crossed_mean(values_SI)
            for alone in (crossed_mean(values_SI.mean(axis=0)[None]), crossed_mean(values_SI.mean(axis=1)[None])):
                assert found.interval(0.95)[0] <= alone.interval(0.95)[0] + 1e-9
                assert found.p_value >= alone.p_value * (1 - 1e-9)


def test_a_ratio_over_a_constant_is_a_mean() -> None:
    values_SI = np.random.default_rng(2).normal(1, 1, (3, 20))
    ratio, mean = crossed_ratio(values_SI, np.full((3, 20), 4.0)), crossed_mean(values_SI / 4)
    assert (ratio.value, ratio.stderr, ratio.p_value) == pytest.approx((mean.value, mean.stderr, mean.p_value))
    assert np.isnan(crossed_ratio(np.zeros((2, 0)), np.zeros((2, 0))).value)
    assert np.isnan(crossed_mean(np.ones((3, 1))).stderr)


def scores(nats: list[float | None], tokens: list[int | None], traced: bool) -> Scores:
    ids = tuple(str(i) for i in range(len(nats)))
    examples = (("0", "a trace"),) if traced else ()
    parsed = (True,) * len(nats) if traced else None
    return Scores(ids, tuple(nats), tuple(tokens), parsed, 9.0 if traced else None, "round 1", 1.0, examples)


def made(n: int = 60) -> tuple[dict[str, list[Scores]], list[str], np.ndarray]:
    """Three arms, three seeds; q is worse than p by 0.1, 0.5 and 1 nats per response on average."""
    rng = np.random.default_rng(3)
    truth_I, tokens = rng.normal(-5, 1, n), rng.integers(4, 9, n).tolist()
    scored = {
        arm: [scores((truth_I - gap + rng.normal(0, 0.05, n)).tolist(), tokens, arm != "none") for _ in range(3)]
        for arm, gap in (("full", 0.1), ("sft", 0.5), ("none", 1.0))
    }
    return scored, ["id"] * (n // 2) + ["user"] * (n - n // 2), truth_I


def find(rows: list[Row], **where: object) -> Row:
    (row,) = (row for row in rows if all(row[key] == value for key, value in where.items()))
    return row


def test_tables_say_what_was_put_in() -> None:
    scored, shifts, truth_I = made()
    found = tables(scored, shifts, truth_I, 0.95)
    level = find(found["levels"], arm="sft", shift="id")
    half = len(shifts) // 2
    nats = [-one.nats[i] for one in scored["sft"] for i in range(half)]  # type: ignore[operator]
    tokens = [one.tokens[i] for one in scored["sft"] for i in range(half)]
    assert level["perplexity"] == pytest.approx(np.exp(sum(nats) / sum(tokens)))  # type: ignore[arg-type]
    assert level["perplexity_low"] < level["perplexity"] < level["perplexity_high"]
    assert (level["n"], level["n_missing"]) == (half, 0)
    pair = find(found["pairs"], arm="full", against="none", shift="all")
    assert pair["nats"] == pytest.approx(0.9, abs=0.03)
    assert pair["ratio_high"] < 1
    assert pair["significant"]
    gap = find(found["gaps"], arm="full", shift="all")
    assert gap["gap"] == pytest.approx(0.1, abs=0.03)
    assert gap["share"] == pytest.approx(0.1, abs=0.03)
    assert gap["share_low"] < gap["share"] < gap["share_high"]
    assert find(found["gaps"], arm="none", shift="all")["share"] is None
    order = find(found["orderings"], shift="user")
    assert order["holds"]
    assert order["p_value"] < 1e-3  # three seeds have two degrees of freedom, however many the items


def test_arms_that_were_mixed_are_arms_of_their_own_with_an_order_of_their_own() -> None:
    scored, shifts, truth_I = made()
    better = {
        arm: [replace(one, mixed=tuple(nats and nats + 0.05 for nats in one.nats)) for one in many]
        if arm != "none"
        else many
        for arm, many in scored.items()
    }
    found = tables(better | study._mixed(better), shifts, truth_I, 0.95)
    assert list(dict.fromkeys(row["arm"] for row in found["levels"])) == [
        "full",
        "sft",
        "none",
        "full-mixed",
        "sft-mixed",
    ]
    assert find(found["gaps"], arm="full-mixed", shift="all")["gap"] == pytest.approx(0.05, abs=0.03)
    assert find(found["levels"], arm="full-mixed", shift="all")["parse_failures"] is None
    chains = {tuple(row["order"]): row for row in found["orderings"] if row["shift"] == "all"}
    assert set(chains) == {("full", "sft", "none"), ("full-mixed", "sft-mixed", "none")}
    assert all(row["holds"] and row["p_value"] < 1e-3 for row in chains.values())
    # The step to `none`, which stands before the mixed arms in the table, is turned round.
    worse = {
        arm: [replace(one, mixed=tuple(n and n - 9 for n in one.nats)) for one in many] for arm, many in scored.items()
    }
    del worse["none"]
    found = tables(scored | study._mixed(worse), shifts, truth_I, 0.95)
    (row,) = (r for r in found["orderings"] if r["shift"] == "all" and r["order"][0] == "full-mixed")
    assert not row["holds"]
    assert row["p_value"] > 0.999
    assert {row["arm"] for row in found["readings"]} == set()


def test_readings_tell_a_q2_that_does_not_read_from_a_q1_that_has_nothing_to_say() -> None:
    rng = np.random.default_rng(4)
    scored, shifts, _ = made()

    def read(one: Scores, own: float, hindsight: float) -> Scores:
        without_I = np.array(one.nats, dtype=float) - own + rng.normal(0, 0.05, len(shifts))
        told: list[float | None] = (without_I + rng.normal(hindsight, 0.2, len(shifts))).tolist()
        return replace(one, without=tuple(without_I.tolist()), hindsight=(None, *told[1:]))

    scored["full"] = [read(one, 0.0, 2.0) for one in scored["full"]]
    scored["sft"] = [read(one, 0.0, 0.0) for one in scored["sft"]]
    rows = tables(scored, shifts, None, 0.95)["readings"]
    assert {row["arm"] for row in rows} == {"full", "sft"}
    full, sft = (find(rows, arm=arm, shift="all") for arm in ("full", "sft"))
    assert (full["n_own"], full["n_hindsight"]) == (60, 59)
    assert full["hindsight"] == pytest.approx(2.0, abs=0.03)
    assert full["hindsight_low"] < 2.0 < full["hindsight_high"]
    assert full["own"] == pytest.approx(0.0, abs=0.03)
    assert sft["hindsight"] == pytest.approx(0.0, abs=0.03)
    pair = find(tables(scored, shifts, None, 0.95)["pairs"], arm="full", against="none", shift="all")
    assert full["against_none"]["nats"] == pytest.approx(pair["nats"] + 2.0, abs=0.05)
    assert full["against_none"]["ratio"] < pair["ratio"] < 1
    assert full["against_none"]["p_value"] < 1e-4
    bare = tables({arm: scored[arm] for arm in ("full", "sft")}, shifts, None, 0.95)["readings"]
    assert all(row["against_none"] is None for row in bare)


def test_an_item_that_one_arm_cannot_score_is_left_out_of_all() -> None:
    scored, shifts, truth_I = made()
    bad = scored["full"][1]
    scored["full"][1] = scores([None, *bad.nats[1:]], [None, *bad.tokens[1:]], True)
    rows = tables(scored, shifts, truth_I, 0.95)["levels"]
    assert {(row["n"], row["n_missing"]) for row in rows if row["shift"] == "id"} == {(29, 1)}
    assert {(row["n"], row["n_missing"]) for row in rows if row["shift"] == "user"} == {(30, 0)}
    scored["sft"][0] = scores([1.0], [1], True)
    with pytest.raises(StoreError, match="different test samples"):
        tables(scored, shifts, truth_I, 0.95)


def test_a_wrong_order_is_no_order() -> None:
    scored, shifts, _ = made()
    scored["full"], scored["sft"] = scored["sft"], scored["full"]
    found = tables(scored, shifts, None, 0.95)
    order = find(found["orderings"], shift="all")
    assert not order["holds"]
    assert order["p_value"] > 0.99
    assert found["gaps"] == []


def test_the_page_shows_any_table() -> None:
    scored, shifts, truth_I = made(8)
    mixed = {
        arm: [replace(one, mixed=one.nats) if arm != "none" else one for one in many] for arm, many in scored.items()
    }
    for truth, draws in ((truth_I, 1), (None, 1), (truth_I, 4)):
        runs = [
            {"arm": arm, "seed": k, "best": "round 1", "seconds": 1.0, "cold_start": None, "examples": []}
            for arm in scored
            for k in range(3)
        ]
        shown = scored if draws == 1 else scored | study._mixed(mixed)
        result = {**tables(shown, shifts, truth, 0.95), "runs": runs, "confidence": 0.95, "n_seeds": 3}
        result |= {"draws": {"count": draws, "temperature": 1.0}}
        sections = ablation_sections(result)
        assert ("draws 4 for" in sections[0].text) == (draws == 4)
        assert len(sections) == (4 if truth is not None else 3)
        assert all(len(row) == len(t.columns) for section in sections for t in section.tables for row in t.rows)


def test_arms() -> None:
    config = make_train_config(data=("x.json",), rounds=2, sft={"epochs": 3})
    assert chosen_arms(["none", "full"]) == ("full", "none")
    with pytest.raises(ConfigError, match="no best"):
        chosen_arms(["best", "full"])
    with pytest.raises(ConfigError, match="at least two"):
        chosen_arms(["full"])
    for name in ARMS:
        made_of = arm_settings(config, name)
        assert made_of.rounds == (2 if name in {"full", "extractive", "input", "model"} else 0)
        assert made_of.trace_share == {"quarter-sft": 0.25, "half-sft": 0.5}.get(name, 1.0)
        assert made_of.grpo.trace_tokens == (640 if name == "long-sft" else 160)
        assert made_of.reasoning == (not name.startswith("none"))
        assert made_of.sft.epochs == (6 if name.endswith("longer") else 3)


def test_few_items_are_drawn_evenly_over_subsets() -> None:
    sizes = {("id", "IDTest"): 30, ("user", "a"): 40, ("user", "b"): 40, ("user", "c"): 3}
    many = [
        Sample(f"{subset}-{k}", "", subset, shift, "", "", (), "")
        for (shift, subset), n in sizes.items()
        for k in range(n)
    ]

    def counts(samples: tuple[Sample, ...]) -> Counter[str]:
        return Counter(sample.subset for sample in samples)

    kept = drawn_evenly(many, 12, 0)
    assert {name: counts(kept)[name] for name in ("IDTest", "c")} == {"IDTest": 12, "c": 3}
    assert sorted(counts(kept)[name] for name in "ab") == [4, 5]
    assert [many.index(sample) for sample in kept] == sorted(many.index(sample) for sample in kept)
    assert drawn_evenly(many, 12, 0) == kept != drawn_evenly(many, 12, 1)
    assert all(sample in drawn_evenly(many, 20, 0) for sample in kept)
    assert drawn_evenly(many, None, 0) == tuple(many)
    # A shift's items are the same whatever else is in the file, and not the first of it.
    assert drawn_evenly(many[30:], 12, 0) == kept[12:]
    assert kept[:12] != tuple(many[:12])


def test_the_tokenizer_knows_every_word_of_the_world() -> None:
    tokenizer = make_tokenizer()
    renderer = ChatRenderer(tokenizer)
    unknown = tokenizer.convert_tokens_to_ids("<unk>")
    for sample in hops.make_samples(hops.HopsWorld(), 100, 0, traces=hops.NOISY):
        trace = sample.trace or ""
        prompts = [trace_messages(sample, "compact"), role_play_messages(sample)]
        prompts.append(role_play_messages(sample, parse_trace(trace).features))
        for text in (trace, sample.reference):
            ids = renderer.response_ids(text)
            assert unknown not in ids
            assert renderer.decode(ids[:-1]) == text
        assert all(unknown not in renderer.prompt_ids(prompt) for prompt in prompts)


def test_the_base_is_taught_formats_and_not_the_tables() -> None:
    tokenizer = make_tokenizer()
    rng = np.random.default_rng(0)
    rows, words_3W = _rows(tokenizer, BaseTraining(inputs=40))
    ids_BL, labels_BL, mask_BL = _draw(rows, words_3W, np.arange(120), rng)
    followed = 0
    for kind, ids, labels, mask in zip(np.arange(120) % 3, ids_BL, labels_BL, mask_BL, strict=True):
        said = tokenizer.decode(ids[labels >= 0][:-1], clean_up_tokenization_spaces=False)
        prompt = tokenizer.decode(ids[(labels < 0) & (mask == 1)], clean_up_tokenization_spaces=False)
        assert (labels[labels >= 0] == ids[labels >= 0]).all()
        assert ("Content: mood" in prompt) == (kind == 1)
        if kind == 0:
            assert len(hops.read_trace(said)) == 3
            continue
        words = hops.read_response(said)
        if kind == 1:
            named = hops.read_trace(
                prompt[prompt.index("Content:") : prompt.index("Style: brief") + len("Style: brief")]
            )
            followed += sum(a == b for a, b in zip(named, words.tolist(), strict=True))
    assert 40 < followed < 90  # of 120 facts a third is open, the others are taken up with probability 0.7


@pytest.mark.slow
def test_the_command_trains_scores_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    material = small(tmp_path / "world", monkeypatch)
    (tmp_path / "quick.json").write_text(json.dumps(QUICK))
    words = ["study", "ablation", "--world", "hops", "--out", tmp_path, "--config", tmp_path / "quick.json", "--quiet"]
    words += ["--seeds", "2", "--limit", "5"]
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.setattr(sys, "argv", ["remid", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0
    assert "How far from the truth" in capsys.readouterr().out
    result = json.loads((tmp_path / "result.json").read_text("utf-8"))
    assert {row["n"] for row in result["levels"]} == {5, 20}
    assert result["items"] == {shift: {split: 5} for shift, split in hops.SPLITS.items() if shift != "train"}
    assert {row["cold_start"] for row in result["runs"]} == {None, "full-0", "full-1"}
    assert all(row["gap"] is not None for row in result["gaps"])
    assert "Perplexity of references" in (tmp_path / "study.html").read_text("utf-8")
    assert {"step", "held_out"} <= {row["kind"] for row in read_journal(tmp_path / "runs" / "full-0")}

    def refuse(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("remid.train.watched.train_corl", refuse)
    again = study.ablation_study(material, ["full", "sft", "none"], 2, tmp_path, Progress(False), limit=5)
    assert json.loads(json.dumps(again)) == result
    with pytest.raises(StoreError, match="other settings"):
        study.ablation_study(material, ["full", "sft", "none"], 2, tmp_path, Progress(False), limit=4)


def test_the_command_refuses_what_does_not_go_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for more, why in (
        (("--world", "moon"), "there is hops"),
        (("x.json", "--world", "hops"), "its own data"),
        ((), "data"),
        (("x.json", "--arms", "full"), "at least two"),
    ):
        monkeypatch.setattr(sys, "argv", ["remid", "study", "ablation", "--out", str(tmp_path), "--quiet", *more])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code == 2
        assert why in capsys.readouterr().err
