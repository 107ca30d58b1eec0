"""A training run's page and status: whole, escaped, self-contained, and right about where the run stands."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from devtools import Browser, find_chromium
from journal_series import Healthy, run_records

from remid.cli.train_status import train_status
from remid.errors import StoreError
from remid.report.training import headline, interval_row, render_training, status_sections, time_text, training_sections
from remid.train.journal import JOURNAL
from remid.train.summary import module_speeds, train_summary

ATTACK = "<script>window.__pwned=1</script><img src=x onerror=alert(1)>\u202e[red]{{7*7}}\ud800"
CONFIG = {"model": "builtin", "rounds": 2, "reasoning": True, "evil": ATTACK}
Row = dict[str, Any]


def written(folder: Path, records: list[Row], config: Row | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / JOURNAL).write_text("".join(json.dumps(row) + "\n" for row in records))
    (folder / "train.json").write_text(json.dumps({"config": config or CONFIG, "data": "d" * 64, "base": "b" * 64}))
    chain = folder / "stages" / "01-sft-q1" / "adapter"
    chain.mkdir(parents=True)
    (chain / "chain.json").write_text(json.dumps({"digest": "c0ffee" * 8}))
    return folder


def short(records: list[Row]) -> list[Row]:
    """The run as it stands at the 12th step of its first GRPO stage."""
    stop = next(k for k, row in enumerate(records) if row["stage"] == "grpo-q1-1" and row.get("step") == 12)
    return records[: stop + 1]


def falling_traces(row: Row, t: float) -> None:
    if row["kind"] == "step":
        row["signals"]["length"] *= 1 - 0.9 * min(1, 2 * t)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Row], Row]:
    records = run_records(0, Healthy(rounds=2))
    for row in records:
        for example in row.get("examples", []):
            example |= {"text": ATTACK, "sample_ID": ATTACK}
    records.append({"kind": "note", "stage": "traces", "text": ATTACK, "time": 1.0})
    return train_summary(written(tmp_path_factory.mktemp("run"), records))


def test_the_page_is_one_inert_file(run: tuple[list[Row], Row]) -> None:
    page = render_training(*run)
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", page, flags=re.DOTALL)
    code = [body for attributes, body in scripts if "json" not in attributes]
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]+)"', page)[1])  # type: ignore[index]
    hashes = {f"'sha256-{base64.b64encode(hashlib.sha256(c.encode()).digest()).decode()}'" for c in code}
    assert len(code) == 3
    assert set(re.findall(r"'sha256-[^']+'", policy)) == hashes
    body = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert "<img" not in body
    assert not re.search("[\u202e\ud800]", body)
    assert "{{7*7}}" in html.unescape(body)
    assert not re.findall(r'(?:src|href)="(?!#)', body)
    page.encode("utf-8")
    assert render_training(*run) == page


def test_the_page_holds_every_curve(run: tuple[list[Row], Row]) -> None:
    sections = training_sections(*run)
    assert [s.title for s in sections] == [
        "Verdict",
        "How likely held-out references are",
        "Rewards",
        "Held-out references within stages",
        "What the samples look like",
        "The optimizer",
        "Speed of each module",
        "Stages",
        "Where the time went",
        "What is written",
        "Notes",
    ]
    figures = [figure for section in sections for figure in section.figures]
    titles = " ".join(figure.describe for figure in figures)
    for word in ("reward", "likelihood", "log q2", "trace gap", "entropy", "length", "bigrams", "per prompt", "format"):
        assert word in titles
    for figure in figures:
        assert any(y is not None for trace in figure.traces for y in trace["y"])
    assert all(len(row) == len(t.columns) for s in sections for t in s.tables for row in t.rows)
    (held,) = sections[1].tables
    assert [row[0] for row in held.rows][:3] == ["sft-q1", "sft-q2", "grpo-q1-1"]
    assert re.fullmatch(r"−2\.\d+ \[−2\.\d+ to −2\.\d+\]", held.rows[0][1])
    assert held.rows[0][-1] == "40"


def test_healthy_and_not(tmp_path: Path) -> None:
    records, summary = train_summary(written(tmp_path / "a", run_records(0)))
    assert headline(records, summary) == "healthy, no sign of collapse in 40 steps of reinforcement learning"
    records, summary = train_summary(written(tmp_path / "b", run_records(0, spoil={"q1": falling_traces})))
    assert headline(records, summary) == "1 sign of collapse: trivial traces"
    (table,) = training_sections(records, summary)[0].tables
    assert table.rows[0][:2] == ("trivial traces", "grpo-q1-1")
    assert "tokens (mean of 4 steps" in table.rows[0][3]
    page = html.unescape(re.sub("<[^>]+>", "", render_training(records, summary)))
    assert "Training: 1 sign of collapse: trivial traces" in page
    assert table.rows[0][5] in page


@pytest.mark.parametrize(
    ("steps", "finished", "said"),
    [
        (0, False, "no step of reinforcement learning yet, no sign of collapse so far"),
        (1, False, "too early to tell: 1 step of reinforcement learning, and the watch needs 4 in one stage"),
        (3, True, "too few steps to tell: 3 steps of reinforcement learning, and the watch needs 4 in one stage"),
        (4, False, "healthy, no sign of collapse in 4 steps of reinforcement learning"),
    ],
)
def test_a_verdict_needs_as_many_steps_as_the_watch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], steps: int, finished: bool, said: str
) -> None:
    records = [row for row in run_records(0) if "grpo" not in row["stage"]]
    records += [row for row in run_records(0) if row["stage"] == "grpo-q1-1" and row["kind"] == "step"][:steps]
    folder = written(tmp_path / "run", records + [{"kind": "end", "stage": "", "time": 9e9}] * finished)
    assert headline(*train_summary(folder)) == said
    train_status(folder)
    assert said in " ".join(capsys.readouterr().out.split())


def test_log_q_without_a_trace_that_parses_is_not_called_after_its_trace(tmp_path: Path) -> None:
    made = run_records(0)
    ends = [row for row in made if row["kind"] == "held_out" and row.get("step") is None]
    for row in ends[:2]:
        row["parse_failures"] = 1.0
    records, summary = train_summary(written(tmp_path / "run", made))
    section = next(s for s in training_sections(records, summary) if s.title.startswith("How likely"))
    assert "After sft-q1, sft-q2 no trace that parses was written: log q2 there is that without" in section.text
    own, without = section.figures[0].traces
    assert own["name"] == "with its own trace where that parses"
    assert [y is None for y in own["y"]][:3] == [True, True, False]
    assert None not in without["y"]
    (table,) = section.tables
    assert [row[table.columns.index("traces that parse")] for row in table.rows][:3] == ["0%", "0%", "90%"]
    status = next(s for s in status_sections(records, summary) if s.title == "Stages")
    assert "After sft-q1, sft-q2 no trace" in status.tables[0].caption
    for row in ends:
        row["parse_failures"] = 0.1
    records, summary = train_summary(written(tmp_path / "fine", made))
    assert not any("no trace that parses" in s.text for s in training_sections(records, summary))


def test_a_run_in_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = short(run_records(0, Healthy(rounds=2)))
    folder = written(tmp_path / "run", records)
    _, summary = train_summary(folder, now=records[-1]["time"] + 90)
    stages = {row["stage"]: row for row in summary["stages"]}
    assert list(stages) == [
        "sft-q1",
        "sft-q2",
        *(f"{name}-{k}" for k in (1, 2) for name in ("grpo-q1", "sft-q2", "grpo-q2")),
    ]
    assert [row["state"] for row in stages.values()] == ["done", "done", "in hand", *["to come"] * 5]
    now = stages["grpo-q1-1"]
    assert (now["step"], now["steps"]) == (12, 20)
    assert now["seconds_left"] == 8 * 7  # 7 s between records
    assert stages["sft-q1"]["seconds"] == 6 * 7
    assert stages["sft-q1"]["digest"] == "c0ffee" * 8
    assert stages["sft-q2"]["digest"] is None
    assert summary["seconds_since_last"] == 90
    train_status(folder)
    shown = " ".join(capsys.readouterr().out.split())
    assert "grpo-q1-1: step 12 of 20, 56 s left in this stage; last record" in shown
    assert "in hand" in shown
    assert (folder / "training.html").read_text("utf-8").startswith("<!doctype html>")
    assert not list(folder.glob(".training*"))


def test_time_does_not_count_a_pause(tmp_path: Path) -> None:
    records = short(run_records(0))
    begin = records[-1]["time"] + 5000
    more = [{"kind": "stage", "stage": "grpo-q1-1"}, {**records[-1], "step": 13}]
    records += [{**row, "time": begin + 7 * k} for k, row in enumerate(more)]
    _, summary = train_summary(written(tmp_path / "run", records))
    (stage,) = [row for row in summary["stages"] if row["stage"] == "grpo-q1-1"]
    assert stage["seconds"] < 200
    assert stage["seconds_left"] == 7 * 7


def test_speeds_are_relative_to_the_other_module() -> None:
    rows = [
        {"kind": "held_out", "stage": f"grpo-{q}-1", "step": step, "log_q": -2 + speed * step}
        for q, speed in (("q1", 0.02), ("q2", -0.01))
        for step in (0, 4, 8)
    ]
    first, second = module_speeds(rows)
    assert first["per_step"] == pytest.approx(0.02)
    assert first["relative"] == pytest.approx(-2)
    assert second["relative"] == pytest.approx(-0.5)
    assert module_speeds(rows[:1])[0]["per_step"] is None


@pytest.mark.parametrize("cut", [0, 1, 2, 8, 16, 17, 18])
def test_a_page_at_any_moment(tmp_path: Path, cut: int) -> None:
    records, summary = train_summary(written(tmp_path / "run", run_records(0)[:cut]))
    assert "</html>" in render_training(records, summary)
    assert status_sections(records, summary)


def test_missing_numbers_are_said_to_be_missing() -> None:
    assert interval_row({"gap": None}, "gap") is None
    assert interval_row({"gap": 1.0}, "gap") == {"value": 1.0, "ci_low": None, "ci_high": None, "n": None}
    assert [time_text(s) for s in (None, 4.4, 123, 3720)] == ["n/a", "4 s", "2 min 03 s", "1 h 02 min"]


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no training run"):
        train_status(tmp_path)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with Browser() as found:
        yield found


@pytest.mark.browser
@pytest.mark.skipif(find_chromium() is None, reason="no Chromium on the PATH (apt-get install chromium)")
def test_a_browser_draws_every_figure_and_runs_nothing_else(
    chromium: Browser, tmp_path: Path, run: tuple[list[Row], Row]
) -> None:
    (tmp_path / "training.html").write_text(render_training(*run), "utf-8")
    for width in (1200, 380):
        chromium.view(width)
        chromium.open(tmp_path / "training.html")
        drawn = chromium.js("document.querySelectorAll('.plot > .plot-container').length")
        assert drawn == sum(len(section.figures) for section in training_sections(*run))
        assert chromium.js("document.documentElement.scrollWidth") <= width
        assert chromium.js("window.__pwned") is None
    assert chromium.console == []
    assert [url for url in chromium.requests if not url.startswith(("file:", "data:image/"))] == []


def test_the_stage_that_is_kept_is_named_with_what_it_gained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = run_records(0)
    end = next(row for row in records if row["stage"] == "sft-q2-1" and row["kind"] == "held_out")
    end |= {"over_best": 0.05, "over_best_se": 0.01, "over_best_n": 40, "best_before": "sft-q2"}
    folder = written(tmp_path / "run", records)
    (folder / "best.json").write_text(json.dumps({"name": "sft-q2-1", "log_q": -2.4}))
    sections = {section.title: section for section in training_sections(*train_summary(folder))}
    held = sections["How likely held-out references are"]
    column = held.tables[0].columns.index("over the best before")
    shown = {row[0]: row[column] for row in held.tables[0].rows}
    assert shown["sft-q2-1"] == "+0.050 [+0.030 to +0.070]"
    assert shown["sft-q2"] == "n/a"
    assert "Kept is the estimator after sft-q2-1." in held.text
    train_status(folder)
    assert "Kept is the estimator after sft-q2-1." in " ".join(capsys.readouterr().out.split())
