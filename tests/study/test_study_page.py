"""What the studies show: escaped, self-contained, and the same in page and terminal."""

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
from pipeline_fakes import world
from rich.console import Console
from test_study_sample_size import parts_and_vectors, rows

from remid.data.worlds.discrete import random_worlds
from remid.pipeline.config import make_config
from remid.report.sheet import Figure, Section, Table, console_tables, label, render_sheet, value_with_interval
from remid.study.exact_sizes import bound_against_n_exact
from remid.study.show_sample_size import sample_size_sections
from remid.study.show_traces import traces_sections
from remid.study.traces import _rows

ATTACK = "<script>window.__pwned=1</script><img src=x onerror=alert(1)>\u202e[red]{{7*7}}"


@pytest.fixture(scope="module")
def sample_size() -> list[Section]:
    parts, vectors = parts_and_vectors()
    sizes, cells = rows(parts, vectors)
    run = {"sizes": sizes, "cells": cells, "settings": {"confidence": 0.95}}
    return sample_size_sections(
        {"run": run, "worlds": bound_against_n_exact(random_worlds(9, (2, 2, 2, 2), 0), sizes=(5, 50))}
    )


@pytest.fixture(scope="module")
def traces() -> list[Section]:
    """Of made-up scores whose policy has a hostile name."""
    scored = {name: world(k) for k, name in enumerate(("full", "length-0", "masked"))}
    for subsets in scored.values():
        for s in subsets:
            s.scores[ATTACK] = s.scores.pop("two")
    names = list(scored["full"][0].scores)
    result: dict[str, Any] = {
        **_rows(scored, make_config(data=(Path("x"),))),
        "settings": [{"setting": name, "kept": 0.5, "n_without": 1} for name in scored],
        "policies": [{"policy": n, "kind": "model" if n in {"one", ATTACK} else "control"} for n in names],
        "config": {"confidence": 0.95},
    }
    return traces_sections(result)


def page(sections: list[Section]) -> str:
    return render_sheet("A title", "What R-EMID does", sections, {"a": {"b": ATTACK, "c": None}})


def test_the_page_is_one_inert_file(traces: list[Section]) -> None:
    text = page(traces)
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", text, flags=re.DOTALL)
    code = [body for attributes, body in scripts if "json" not in attributes]
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]+)"', text)[1])  # type: ignore[index]
    hashes = {f"'sha256-{base64.b64encode(hashlib.sha256(c.encode()).digest()).decode()}'" for c in code}
    assert len(code) == 3
    assert set(re.findall(r"'sha256-[^']+'", policy)) == hashes
    body = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert "<img" not in body
    assert "\u202e" not in body
    assert "{{7*7}}" in html.unescape(body)
    assert not re.findall(r'(?:src|href)="(?!#)', body)
    (block,) = [b for attributes, b in scripts if "json" in attributes]
    assert not re.search("[<>&\u2028\u2029]", block)
    figures = json.loads(block)
    assert len(figures) == sum(len(s.figures) for s in traces) == text.count('class="plot"')
    assert not any("<" in trace["name"] for figure in figures for trace in figure["traces"])
    assert page(traces) == text


def test_the_terminal_shows_the_same_tables(traces: list[Section], sample_size: list[Section]) -> None:
    for sections in (traces, sample_size):
        console = Console(width=400, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
        console.print(console_tables(sections))
        shown = console.export_text()
        assert "\u202e" not in shown
        for table in (t for section in sections for t in section.tables):
            assert table.caption in shown
            assert all(len(row) == len(table.columns) for row in table.rows)
            assert all(cell in shown for cell in table.rows[-1] if ATTACK not in cell)


def test_every_section_says_something(sample_size: list[Section], traces: list[Section]) -> None:
    for section in (*sample_size, *traces):
        assert section.text
        assert section.figures or section.tables
        for figure in section.figures:
            assert figure.describe
            assert any(y is not None for trace in figure.traces for y in trace["y"])
    assert [row[0] for row in sample_size[0].tables[0].rows] == ["4", "8", "12 (all)"]
    assert [row[0] for row in sample_size[-1].tables[0].rows] == ["5", "50", "exact"]


def test_cells_say_what_is_missing_and_what_is_significant() -> None:
    row = {"value": 1.0, "ci_low": 0.5, "ci_high": 1.5, "significant": True}
    assert value_with_interval(row) == "+1.00 [+0.50 to +1.50]*"
    assert value_with_interval({**row, "ci_low": None, "significant": False}) == "+1.0 [no interval]"
    assert value_with_interval({"value": None}) == value_with_interval(None) == "n/a"
    assert label("<b>&\n") == "&lt;b&gt;&amp; "


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with Browser() as found:
        yield found


@pytest.mark.browser
@pytest.mark.skipif(find_chromium() is None, reason="no Chromium on the PATH (apt-get install chromium)")
def test_a_browser_draws_every_figure_and_runs_nothing_else(
    chromium: Browser, tmp_path: Path, traces: list[Section], sample_size: list[Section]
) -> None:
    odd = Figure(({"y": [1], "name": label(ATTACK), "k": 9},), {}, ATTACK)
    hostile = Section("x", "x", (odd,), (Table(ATTACK, (ATTACK,), ((ATTACK,),)),))
    sections = [*traces, *sample_size, hostile]
    (tmp_path / "study.html").write_text(page(sections), "utf-8")
    for width in (1200, 380):
        chromium.view(width)
        chromium.open(tmp_path / "study.html")
        drawn = chromium.js("document.querySelectorAll('.plot > .plot-container').length")
        assert drawn == sum(len(s.figures) for s in sections)
        assert chromium.js("document.documentElement.scrollWidth") <= width
        assert chromium.js("window.__pwned") is None
    assert chromium.console == []
    assert [url for url in chromium.requests if not url.startswith(("file:", "data:image/"))] == []
