"""What the page's head and the terminal say of the gap to the reference."""

from __future__ import annotations

import html
import re
from io import StringIO

from factory import make_details, make_result
from rich.console import Console

from remid.report import render_page
from remid.report.gap import gap_view
from remid.report.tables import console_summary, gap_table


def said(page: str) -> str:
    return re.sub(r"\s+", " ", html.unescape(re.sub("<[^>]+>", " ", page)))


def test_controls_and_models_are_told_apart_in_words() -> None:
    view = gap_view(make_result())
    assert view is not None
    words = {row.policy: row.line.text for row in view.rows}
    assert words["parrot"].startswith("Repeats its input: copies make up 3.21 nats/token")
    assert words["generic"].startswith("Would fit any input")
    assert words["generic"].endswith("It gave one response to 12 inputs.")
    assert words["shuffled"].startswith("Is about something else")
    assert words["rp-base-8b"] == (
        "Tells less of its input than the references: 8.1 nats/response earned, the references 16.5."
    )
    assert words["rp-grpo-8b"].startswith("Cannot be told from the reference here.")
    assert "no credit" in words["rp-grpo-8b"]
    assert [row.policy for row in view.rows[:3]] == ["rp-grpo-8b", "rp-base-8b", "rp-sft-8b"]
    assert view.headline.text == (
        "1 of 3 models cannot be told from the reference. Farthest from it: rp-sft-8b, which repeats its input."
    )


def test_who_cannot_be_told_from_the_reference_is_not_called_farthest() -> None:
    result = make_result()
    for row in result["gap"]:
        if row["policy"] == "rp-sft-8b":
            row["reading"] = "like-reference"
    view = gap_view(result)
    assert view is not None
    assert view.headline.text == (
        "2 of 3 models cannot be told from the reference. Farthest from it: rp-base-8b, which tells less of its input."
    )


def test_a_parrot_does_not_press_the_models_bars_to_nothing() -> None:
    view = gap_view(make_result())
    assert view is not None
    bars = {row.policy: row.bar for row in view.rows}
    assert bars["rp-sft-8b"] is not None
    assert bars["rp-sft-8b"].excess > 80
    assert not bars["generic"].beyond  # type: ignore[union-attr]
    assert bars["parrot"] is not None
    assert bars["parrot"].beyond
    assert bars["parrot"].missing + bars["parrot"].excess == 100


def test_the_gap_heads_the_page_and_r_emid_stands_next_to_it() -> None:
    result = make_result(cost=3)
    page = render_page(result, make_details(result))
    text = said(page)
    head = text.index("Farthest from it: rp-sft-8b")
    assert head < text.index("All 3 models lose measurably") < text.index("Gap to the reference: how close")
    assert page.index('id="gap"') < page.index('id="verdict"')
    assert "Change under the user shift, nats/token" in text
    assert "0.06 0.01 to 0.11 theirs 0.11" in text
    assert "+0.02 −0.04 to +0.08 n 60, at most 2.00" in text
    for row in result["gap_change"]:
        row["bound"] = -0.05
    assert "n 60, beyond −0.05" in said(render_page(result, make_details(result)))
    for result in (make_result(hostile=True), make_result(all_null=True)):
        assert 'id="gap"' in render_page(result, make_details(result))


def test_an_older_result_has_no_gap_and_one_without_scores_says_so() -> None:
    result = make_result()
    for name in ("gap", "gap_change", "gap_contrasts"):
        del result[name]
    assert gap_view(result) is None
    assert 'id="gap"' not in render_page(result, make_details(result))
    view = gap_view(make_result(all_null=True))
    assert view is not None
    assert {row.line.code for row in view.rows} == {"gap_unknown"}
    assert {row.gap for row in view.rows} == {"n/a"}
    assert view.headline.code == "gap_none"
    blank = make_result(all_null=True)
    page = render_page(blank, make_details(blank))
    assert page.index("<h1>") < page.index("No change under shift could be estimated.") < page.index("</h1>")


def test_the_terminal_has_it_first() -> None:

    console = Console(width=150, record=True, file=StringIO())
    console.print(console_summary(make_result()))
    text = re.sub(r"[\s│]+", " ", console.export_text())
    assert text.index("Gap to the reference on ID data") < text.index("R-EMI on ID data and R-EMID per shift")
    assert "8.1" in text
    assert "(theirs 16.5)" in text
    assert "would fit any input" in text


def test_a_policy_that_answered_little_says_so_beside_its_gap() -> None:
    result = make_result()
    whole = gap_view(result)
    assert whole is not None
    assert {row.counted for row in whole.rows} == {""}
    for row in result["gap"]:
        if row["policy"] == "rp-base-8b":
            row["n_missing"] += row["n"] - 5
            row["n"] = 5
    view = gap_view(result)
    assert view is not None
    assert [row.counted for row in view.rows if row.counted] == ["n 5"]
    page = said(render_page(result, make_details(result)))
    assert f"n 5 of {view.n}" in page
    assert "], n 5" in page
    out = StringIO()
    Console(file=out, width=120).print(gap_table(result))
    assert "n 5" in out.getvalue()
