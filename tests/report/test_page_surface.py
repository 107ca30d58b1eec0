"""What the page says of copying, length and language."""

from __future__ import annotations

import html
import re

from factory import make_details, make_result

from remid.report import render_page
from remid.report.surface import COLUMNS, percent_of, surface_view


def test_the_section_marks_what_copies_more_than_the_references() -> None:
    view = surface_view(make_result())
    assert view is not None
    on_id = view.tables[0]
    assert on_id.shift == "id"
    assert on_id.rows[0][0] == "reference"
    place = list(COLUMNS).index(("copied", "input"))
    cells = {policy: made[place] for policy, _, _, made in on_id.rows}
    assert cells["parrot"] is not None
    assert (cells["parrot"].value, cells["parrot"].apart) == ("100%", "more")
    assert cells["reference"] is not None
    assert cells["reference"].apart == ""
    assert all(made[list(COLUMNS).index(("language", None))] is None for *_, made in on_id.rows)


def test_the_page_has_it_and_an_older_result_has_not() -> None:
    hostile = make_result(hostile=True)
    assert 'id="surface"' in render_page(hostile, make_details(hostile))
    result = make_result()
    page = render_page(result, make_details(result))
    assert "100% ▲" in html.unescape(re.sub("<[^>]+>", " ", page))
    del result["surface"]
    assert 'id="surface"' not in render_page(result, make_details(result))


def test_nothing_known_is_said_so() -> None:
    view = surface_view(make_result(all_null=True))
    assert view is not None
    assert {cell for table in view.tables for *_, made in table.rows for cell in made} == {None}


def test_shares_are_written_with_the_digits_they_have() -> None:
    assert [percent_of(x) for x in (0.0, 0.0034, 0.021, 0.2134, 1.0)] == ["0%", "0.3%", "2.1%", "21%", "100%"]
