"""The page in a real browser: nothing of the data runs, nothing is loaded, and it can be read and used."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from devtools import Browser, find_chromium
from factory import make_details, make_result

from remid.report import render_page, text

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium on the PATH (apt-get install chromium)"),
]

READY = "!document.querySelector('#samples-app').textContent.startsWith('Loading')"
WIDTHS = [(1280, False), (1280, True), (360, False), (360, True)]
ODD: dict[str, dict[str, Any]] = {
    "no models": {"models": ()},
    "all null": {"all_null": True},
    "no ID": {"subsets": {"user": ("german",)}},
    "nothing": {"models": (), "controls": (), "subsets": {}},
    "40 subsets": {"subsets": {"id": ("a",), **{s: tuple(f"{s}{k}" for k in range(13)) for s in ("user", "x", "y")}}},
}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with Browser() as found:
        yield found


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """The one browser of this module, back at a clean slate; afterwards it must have had nothing to complain of."""
    chromium.js("try { localStorage.clear(); } catch {}")
    chromium.console.clear()
    chromium.requests.clear()
    yield chromium
    assert chromium.console == []
    assert [url for url in chromium.requests if not url.startswith(("file:", "data:image/"))] == []


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    result = make_result(cost=2)
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_page(result, make_details(result)), "utf-8")
    return path


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    details = make_details(make_result(n=2), n=8, hostile=True)
    path = tmp_path_factory.mktemp("hostile") / "report.html"
    path.write_text(render_page(make_result(n=2, hostile=True), details), "utf-8")
    return path


def _open(browser: Browser, path: Path, width: int = 1280, dark: bool = False) -> None:
    browser.view(width, 900, dark)
    browser.open(path)
    browser.js("document.querySelector('#samples').scrollIntoView({behavior: 'instant'})")
    browser.wait(READY)


def _text(browser: Browser, selector: str) -> str:
    return str(browser.js(f"document.querySelector({json.dumps(selector)}).innerText"))


@pytest.mark.parametrize(("width", "dark"), WIDTHS)
def test_hostile_data_only_shows(browser: Browser, hostile: Path, width: int, dark: bool) -> None:
    _open(browser, hostile, width, dark)
    count = browser.js("document.querySelectorAll('#sample-list button.item').length")
    assert count == 8
    for k in range(count):
        browser.js(f"document.querySelectorAll('#sample-list button.item')[{k}].click()")
        browser.js("document.querySelectorAll('#sample-panel details').forEach((d) => { d.open = true; })")
        browser.js("[...document.querySelectorAll('#sample-panel button.link')].filter("
                   "(b) => b.textContent.startsWith('show all')).forEach((b) => b.click())")  # fmt: skip
    # Tables, too, and every folded part.
    browser.js("document.querySelectorAll('.tools input[value=table]').forEach((i) => i.click())")
    browser.js("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert browser.js("window.__pwned") is None
    assert browser.js("document.querySelectorAll('main img, main a[href^=\"javascript\"]').length") == 0
    assert browser.js("document.documentElement.scrollWidth") <= width
    shown = _text(browser, "main")
    assert "<script>window.__pwned=1</script>" in shown
    assert "⟨U+202E⟩" in shown
    assert re.search("[\u202a-\u202e\u2066-\u2069]", shown) is None


def test_the_policy_stops_a_script_that_got_in(page: Path, tmp_path: Path) -> None:
    """The last line of defence, tried on its own: scripts planted in the file do not run."""
    planted = tmp_path / "planted.html"
    attack = (
        "<script>window.__pwned=1</script><b onclick='window.__pwned=2'>x</b><img src=x onerror='window.__pwned=3'>"
    )
    planted.write_text(page.read_text("utf-8").replace("<main>", f"<main>{attack}", 1), "utf-8")
    with Browser() as browser:
        browser.view(1280)
        browser.open(planted)
        browser.js("document.querySelector('main > b').click()")
        assert browser.js("window.__pwned") is None
        assert sum("Content Security Policy" in line for line in browser.console) >= 3


@pytest.mark.parametrize(("width", "dark"), WIDTHS)
def test_page_is_complete_and_fits(browser: Browser, page: Path, width: int, dark: bool) -> None:
    _open(browser, page, width, dark)
    assert browser.js("document.documentElement.scrollWidth") <= width
    for plot in ("remid", "remi", "bound", "calibration"):
        assert browser.js(f"document.querySelectorAll('#{plot}-plot .main-svg').length") > 0
    body = browser.js("getComputedStyle(document.body).backgroundColor")
    assert body == ("rgb(18, 20, 23)" if dark else "rgb(250, 249, 246)")
    labels = browser.js("getComputedStyle(document.querySelector('#remi-plot .ytick text')).fill")
    assert labels == ("rgb(232, 230, 225)" if dark else "rgb(28, 31, 36)")
    verdict = _text(browser, "#verdict")
    assert "Loses most under the user shift" in verdict
    assert "A high R-EMI is not quality here" in verdict
    cells = browser.js("document.querySelectorAll('#remid-plot .textpoint text').length")
    assert cells == 6 * 14


def test_theme_button_turns_the_figures_too(browser: Browser, page: Path) -> None:
    _open(browser, page)
    fill = "getComputedStyle(document.querySelector('#remi-plot .ytick text')).fill"
    assert browser.js(fill) == "rgb(28, 31, 36)"
    browser.js("document.querySelector('#theme-switch').click()")
    assert browser.js(fill) == "rgb(232, 230, 225)"
    browser.js("document.querySelector('#theme-switch').click()")
    assert browser.js(fill) == "rgb(28, 31, 36)"


def test_print_is_light(browser: Browser, page: Path) -> None:
    _open(browser, page, dark=True)
    fill = "getComputedStyle(document.querySelector('#remi-plot .ytick text')).fill"
    browser.js("window.dispatchEvent(new Event('beforeprint'))")
    assert browser.js(fill) == "rgb(28, 31, 36)"
    browser.js("window.dispatchEvent(new Event('afterprint'))")
    assert browser.js(fill) == "rgb(232, 230, 225)"


def test_unit_switch_reaches_every_part(browser: Browser, page: Path) -> None:
    result = make_result(cost=2)
    _open(browser, page)
    browser.js("document.querySelectorAll('.tools input[value=table]').forEach((i) => i.click())")
    for unit in ("nats/token", "nats/byte", "nats/response"):
        browser.js(f"document.querySelector('#unit-switch input[value=\"{unit}\"]').click()")
        row = next(r for r in result["remid"] if r["policy"] == "rp-base-8b" and r["unit"] == unit)
        table = _text(browser, "#remid-table")
        assert unit in table
        assert text.estimate(row) in table
        assert text.interval(row) in table
        assert unit in _text(browser, "#calibration-cards")
        assert unit in _text(browser, "#remi-table caption")
    assert "reference" not in _text(browser, "#remid-table")


def test_a_sample_opens_by_keyboard_alone(browser: Browser, page: Path) -> None:
    _open(browser, page)
    browser.js("document.querySelector('#sample-order').focus()")
    browser.press("Tab")
    assert browser.js("document.activeElement.className") == "item"
    name = browser.js("document.activeElement.querySelector('bdi').textContent")
    browser.press("Enter")
    assert browser.js("document.activeElement.textContent") == f"Sample {name}"
    panel = _text(browser, "#sample-panel")
    assert "nats/response" in panel
    assert "nats/token" in panel
    assert "Captain Aurelia Voss" in panel
    assert browser.js("document.querySelectorAll('.turn').length") >= 3
    assert browser.js("document.querySelectorAll('.response').length") == 7
    # On to a pair it was held against.
    other = browser.js(
        "(() => { const b = document.querySelector('.pulls button'); b.focus(); return b.textContent; })()"
    )
    browser.press("Enter")
    assert browser.js("document.activeElement.textContent") == f"Sample {other}"
    assert browser.js("document.querySelector('.item[aria-current] bdi').textContent") == other


def test_filter_search_and_order(browser: Browser, page: Path) -> None:
    details = make_details(make_result(cost=2))
    _open(browser, page)
    change = (
        "(() => {{ const s = document.querySelector('{0}'); s.value = '{1}'; s.dispatchEvent(new Event('{2}')); }})()"
    )
    browser.js(change.format("#sample-subset", "1", "change"))
    assert _text(browser, "#sample-count").startswith("12 of 144")
    browser.js(change.format("#sample-policy", "0", "change"))
    browser.js(change.format("#sample-order", "low", "change"))
    german = [sample for sample in details if sample["subset"] == "german"]
    values = [
        item["contribution"]
        for sample in german
        for item in sample["responses"]
        if item["policy"] == "rp-base-8b" and item["contribution"] is not None
    ]
    first = browser.js("document.querySelector('#sample-list .row span').textContent")
    assert first == text.number(min(values), 1)
    browser.js(change.format("#sample-subset", "", "change"))
    browser.js(change.format("#sample-search", "NIGHT NURSE", "input"))
    browser.wait("document.querySelector('#sample-count').textContent.startsWith('144 of 144')")
    browser.js(change.format("#sample-search", "no such words", "input"))
    browser.wait("document.querySelector('#sample-count').textContent.startsWith('0 of 144')")


def test_tables_sort(browser: Browser, page: Path) -> None:
    _open(browser, page)
    column = (
        "[...document.querySelectorAll('#contrasts-table tbody tr')].map((r) => r.children[4].textContent)"
        ".map((t) => Number(t.replace('−', '-').replace(' *', '')))"
    )
    button = "document.querySelectorAll('#contrasts-table th button')[4]"
    browser.js(f"{button}.click()")
    values = browser.js(column)
    assert values == sorted(values)
    assert browser.js("document.querySelectorAll('#contrasts-table th')[4].getAttribute('aria-sort')") == "ascending"
    browser.js(f"{button}.click()")
    values = browser.js(column)
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("kind", ODD.values(), ids=ODD.keys())
def test_odd_results(browser: Browser, tmp_path: Path, kind: dict[str, Any]) -> None:
    result = make_result(**kind)
    path = tmp_path / "report.html"
    path.write_text(render_page(result, make_details(result) if kind.get("all_null") else []), "utf-8")
    for width, dark in ((1280, False), (360, True)):
        _open(browser, path, width, dark)
        assert browser.js("document.documentElement.scrollWidth") <= width
    if kind.get("all_null"):
        table = "document.querySelector('#remid-table').textContent"
        assert "n/a (" in browser.js(table)
        assert browser.js(f"/[+−]?0\\.0/.test({table})") is False


def test_a_thousand_samples_stay_quick(browser: Browser, tmp_path: Path) -> None:
    models = tuple(f"model-{k}" for k in range(8))
    result = make_result(models=models, n=84)
    path = tmp_path / "report.html"
    path.write_text(render_page(result, make_details(result)), "utf-8")
    _open(browser, path)
    assert browser.js("document.querySelectorAll('#sample-list button.item').length") == 60
    spent = browser.js(
        "(() => { const t = performance.now(); document.querySelectorAll('#sample-list .item')[30].click();"
        "return performance.now() - t; })()"
    )
    assert spent < 1000  # milliseconds; about 20 on an idle machine


def test_python_and_javascript_write_numbers_alike(browser: Browser, page: Path) -> None:
    result = make_result(cost=2)
    _open(browser, page)
    browser.js("document.querySelectorAll('.tools input[value=table]').forEach((i) => i.click())")
    for _ in range(3):  # all rows of the table, in portions
        browser.js("document.querySelector('#remi-table .more-rows button')?.click()")
    shown = _text(browser, "#remi-table")
    for row in result["remi"]:
        if row["unit"] == "nats/response" and row["policy"] != "reference":
            assert f"{text.estimate(row)}\t{text.interval(row)}\t" in shown
