"""The page as text: escaping, the policy that lets only our scripts run, and what must stand in it."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from factory import HOSTILE, make_details, make_result

from remid.errors import StoreError
from remid.report import render_page

TEMPLATES = Path(__file__).parents[2] / "src" / "remid" / "report" / "templates"
ODD: dict[str, dict[str, Any]] = {
    "no models": {"models": ()},
    "all null": {"all_null": True},
    "no ID": {"subsets": {"user": ("german",)}},
    "one subset": {"subsets": {"id": ("only",)}},
    "nothing": {"models": (), "controls": (), "subsets": {}},
    "40 subsets": {"subsets": {"id": ("a",), **{s: tuple(f"{s}{k}" for k in range(13)) for s in ("user", "x", "y")}}},
}


class Tags(HTMLParser):
    """Every tag with its attributes, every script with its content, as a parser sees them."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text: list[str] = []
        self._script = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._script = tag == "script"
        if self._script:
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self._script = False

    def handle_data(self, data: str) -> None:
        if self._script:
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        else:
            self.text.append(data)


@pytest.fixture(scope="module")
def hostile() -> str:
    # Names of 100 kB everywhere would make tens of megabytes; test_browser.py has them.
    small = make_result(n=1, models=("rp-base-8b",), subsets={"id": ("IDTest",), "user": ("german", "korean")})
    details = make_details(small, n=2, hostile=True)
    evil = make_result(
        n=1, models=("rp-base-8b",), subsets={"id": ("IDTest",), "user": ("german", "korean")}, hostile=True
    )
    return render_page(evil, details)


@pytest.fixture(scope="module")
def page() -> str:
    result = make_result(cost=2)
    return render_page(result, make_details(result))


def test_policy_names_exactly_our_scripts(page: str) -> None:
    tags = Tags(page)
    policy = next(a["content"] for t, a in tags.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    assert re.search(r"script-src[^;]*unsafe-inline", policy) is None
    code = [content for attrs, content in tags.scripts if attrs.get("type") != "application/json"]
    hashes = {f"'sha256-{base64.b64encode(hashlib.sha256(c.encode()).digest()).decode()}'" for c in code}
    assert set(re.findall(r"'sha256-[^']+'", policy)) == hashes
    assert len(code) == 3
    # It must stand before the first script to apply to it.
    assert page.index("Content-Security-Policy") < page.index("<script")


def test_page_needs_no_network(page: str) -> None:
    for tag, attrs in Tags(page).tags:
        assert tag not in {"link", "iframe", "object", "embed", "base", "img", "form"}
        assert "src" not in attrs
        assert (attrs.get("href") or "#").startswith("#")


def test_hostile_text_makes_no_markup(hostile: str) -> None:
    tags = Tags(hostile)
    bars = [attrs for tag, attrs in tags.tags if tag == "svg" and attrs.get("class") == "gapbar"]  # our own
    assert sum(tag == "svg" for tag, _ in tags.tags) == len(bars)
    assert {key for attrs in bars for key in attrs} == {"class", "viewbox", "role", "aria-label"}
    assert not {tag for tag, _ in tags.tags} & {"img", "xml", "iframe"}
    assert len(tags.scripts) == 6
    for _, attrs in tags.tags:
        assert not [key for key in attrs if key.startswith("on")]
        assert "javascript:" not in (attrs.get("href") or "")
    shown = "".join(tags.text)
    assert "<script>window.__pwned=1</script>" in shown
    assert "{{7*7}}{% raw %}" in shown
    assert "⟨U+202E⟩gnp.exe" in html.unescape(hostile)
    body = re.sub(r"<script.*?</script>", "", hostile, flags=re.DOTALL)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", body)


def test_data_blocks_are_whole_and_inert(hostile: str) -> None:
    blocks = [content for attrs, content in Tags(hostile).scripts if attrs.get("type") == "application/json"]
    assert len(blocks) == 3
    for block in blocks:
        assert not re.search("[<>&\u2028\u2029\ud800-\udfff\x00-\x1f]", block)
    result = json.loads(blocks[0])
    names = {row["policy"] for row in result["policies"]}
    assert names == {row["policy"] for row in make_result(n=1, models=("rp-base-8b",), hostile=True)["policies"]}
    text = json.dumps(json.loads(blocks[2]), ensure_ascii=False)
    assert sum(json.dumps(attack, ensure_ascii=False)[1:-1] in text for attack in HOSTILE) >= len(HOSTILE) // 2
    hostile.encode("utf-8")


def test_same_input_same_page() -> None:
    result = make_result()
    assert render_page(result, make_details(result)) == render_page(result, make_details(result))


def test_input_is_not_changed() -> None:
    result, details = make_result(), make_details(make_result())
    before = json.dumps([result, details])
    render_page(result, details)
    assert json.dumps([result, details]) == before


def test_verdict_and_every_warning_need_no_script(page: str) -> None:
    text = html.unescape(re.sub("<[^>]+>", "", page))
    assert "Loses most under the user shift" in text
    assert "A high R-EMI is not quality here" in text
    assert "Only 12 samples: intervals are wide" in text
    assert "31% of this policy's word trigrams are copied" in text
    assert "the file holds no response" in text
    assert "What not to conclude" in text
    assert "9f" * 32 in text


@pytest.mark.parametrize("kind", ODD.values(), ids=ODD.keys())
def test_odd_results_render(kind: dict[str, Any]) -> None:
    assert "</html>" in render_page(make_result(**kind), [])


def test_another_schema_is_refused_with_advice() -> None:
    with pytest.raises(StoreError, match=r"schema_version is 2.*Run `remid report` with the version"):
        render_page({**make_result(), "schema_version": 2}, [])


def test_a_number_that_is_not_finite_is_a_bug_and_raises() -> None:
    result = make_result()
    result["remi"][0]["value"] = float("nan")
    with pytest.raises(ValueError, match="JSON compliant"):
        render_page(result, [])


def test_our_scripts_never_set_markup() -> None:
    for path in TEMPLATES.glob("*.js"):
        code = path.read_text("utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", code), (
            path
        )
        assert len(code.splitlines()) < 400
