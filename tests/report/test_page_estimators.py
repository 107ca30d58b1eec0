"""What the page and the verdict say of other estimators."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest
from factory import make_details, make_result

from remid.report import render_page
from remid.report.agreement import disagreement_line, estimator_view
from remid.report.verdict import make_verdict


def _page(result: dict[str, Any]) -> str:
    return html.unescape(re.sub("<[^>]+>", "", render_page(result, make_details(result))))


def test_no_disagreement_is_no_line_in_the_verdict() -> None:
    result = make_result()
    assert disagreement_line(result) is None
    assert "estimators_disagree" not in [line.code for line in make_verdict(result).scale]
    assert "In 0 the other estimator's 95% interval lies on the other side of 0" in _page(result)


def test_a_disagreement_is_one_line_of_the_verdict_with_its_count_and_a_name() -> None:
    result = make_result(disagreements=3)
    (line,) = [line for line in make_verdict(result).scale if line.code == "estimators_disagree"]
    first = result["disagreements"][0]
    assert line.text.startswith("In 3 of 560 compared cells another estimator's interval lies on the other side of 0")
    assert "in 1 of them CLUB's own interval excludes 0 too" in line.text
    assert "up to 14 would do so by chance" in line.text
    assert f"leave-one-out, R-EMID of “{first['policy']}”" in line.text
    page = _page(result)
    assert "In 3 the other estimator's 95% interval" in page
    assert page.count("−3.0 nats/response (−5.0 to −1.0), CLUB +4.0 nats/response (+1.0 to +7.0)") == 3
    assert page.count("Both intervals exclude 0.") == 1


def test_what_chance_allows_follows_the_level_of_the_intervals() -> None:
    result = make_result(disagreements=3)
    result["manifest"]["config"]["confidence"] = 0.8
    line = disagreement_line(result)
    assert line is not None
    assert "up to 56 would do so by chance" in line.text
    assert "up to 10 in 100 comparisons look like this by chance" in _page(result)


def test_an_order_names_both_models() -> None:
    result = make_result(disagreements=1)
    result["disagreements"][0].update(about="order", versus="rp-sft-8b", subset=None, shift="id")
    line = disagreement_line(result)
    assert line is not None
    assert f"R-EMID of “{result['disagreements'][0]['policy']}” against “rp-sft-8b”, ID data." in line.text


def test_few_candidates_and_ceilings_are_said_plainly() -> None:
    result = make_result()
    view = estimator_view(result)
    assert view is not None
    rows = [row for row in result["estimators"] if row["estimator"] == "infonce" and row["quantity"] == "information"]
    near = sum(row["doubtful"] for row in rows if row["subset"])
    assert near > 0
    few, coarse, vacuous = view.limits
    assert "held against 2 other inputs, so InfoNCE cannot exceed 1.10 nats here" in few
    assert f"{near} of {sum(row['subset'] is not None for row in rows)} subsets and policies" in few
    assert "With fewer than 8 other inputs" in coarse
    assert "NWJ is below 0 in" in vacuous
    for row in result["estimators"]:
        if row["saturation"] is not None:
            row["saturation"] = 4.6
        if row["estimator"] == "nwj" and row["value"] is not None:
            row["value"] = 1.0
    view = estimator_view(result)
    assert view is not None
    assert len(view.limits) == 1
    assert "98.5 other inputs" in view.limits[0]


def test_every_number_stands_beside_clubs_and_is_marked_where_its_sign_differs() -> None:
    result = make_result(models=("m",))
    view = estimator_view(result)
    assert view is not None
    policies = len(result["policies"]) - 1
    assert len(view.rows) == policies * 4
    policy, quantity, shift, cells = next(row for row in view.rows if row[0] == "parrot" and row[1] == "R-EMI")
    assert (policy, quantity, shift) == ("parrot", "R-EMI", ("ID data",))
    by_name = dict(zip(view.names, cells, strict=True))
    club, nwj, nce = by_name["CLUB"], by_name["NWJ"], by_name["InfoNCE"]
    assert club is not None
    assert nwj is not None
    assert nce is not None
    assert (club.other_sign, nwj.other_sign, nce.doubtful) == (False, True, True)
    assert re.fullmatch(r"−\de8", nwj.value)  # and not a row of nine digits
    assert " to " in nwj.interval


@pytest.mark.parametrize("kind", [{"all_null": True}, {"models": ()}, {"subsets": {"user": ("german",)}}])
def test_odd_results(kind: dict[str, Any]) -> None:
    result = make_result(**kind)
    assert estimator_view(result) is not None
    assert "Other estimators" in _page(result)


def test_runs_without_these_tables_still_render() -> None:
    result = {
        key: rows for key, rows in make_result().items() if key not in {"estimators", "agreement", "disagreements"}
    }
    assert estimator_view(result) is None
    page = render_page(result, make_details(result))
    assert 'id="estimators"' not in page
    assert 'href="#estimators"' not in page


def test_the_section_is_folded_and_its_rows_are_not_sent_twice() -> None:
    result = make_result()
    page = render_page(result, make_details(result))
    section = page[page.index('<section id="estimators"') :]
    section = section[: section.index("</section>")]
    assert not re.search(r'="[^"<>]*<', section)  # no mark-up within an attribute
    assert section.index("<details") < section.index("<table")
    assert "<details open" not in section
    assert '"estimators":' not in page
