"""What the page says of the parts of the input that a policy uses."""

from __future__ import annotations

import html
import re

import pytest
from factory import make_details, make_result

from remid.report import render_page
from remid.report.components import components_view


def words(page: str) -> str:
    return re.sub(r"\s+", " ", html.unescape(re.sub("<[^>]+>", " ", page)))


def test_the_ignored_part_is_named_and_nobody_else_is_blamed() -> None:
    view = components_view(make_result())
    assert view is not None
    on_id = view.tables[0]
    assert on_id.shift == "id"
    assert [line.code for line in on_id.lines] == ["ignored", *["uses"] * (len(on_id.lines) - 1)]
    assert " ignores the character: it keeps 2.5% (95% interval −18% to 23%, n 12) of what" in on_id.lines[0].text
    assert on_id.lines[1].text.endswith(" is not found to ignore the user, the character or the dialogue.")
    assert "under the user shift" in next(t for t in view.tables if t.shift == "user").lines[0].text
    assert (view.chance, view.partners) == ("5%", 1)


def test_the_page_has_it_and_an_older_result_has_not() -> None:
    result = make_result(hostile=True)
    page = render_page(result, make_details(result))
    section = page[page.index('<section id="components"') :]
    section = section[: section.index("</section>")]
    assert "<script" not in section
    assert "0.1 ✕" in words(section).replace("+", "")
    for gone in (None, []):
        older = make_result()
        older["components"] = gone
        if gone is None:
            del older["components"]
        assert 'id="components"' not in render_page(older, make_details(older))


def test_nothing_known_is_said_so() -> None:
    view = components_view(make_result(all_null=True))
    assert view is not None
    assert {cell for table in view.tables for *_, made in table.rows for cell in made} == {None}
    assert {line.code for table in view.tables for line in table.lines} == {"untold"}


@pytest.mark.parametrize("part", ["user", "dialogue"])
def test_a_part_that_the_reference_does_not_use_is_named_as_untold(part: str) -> None:
    result = make_result()
    for row in result["components"]:
        if row["component"] == part:
            row["ignored"] = row["p_adjusted"] = None
    view = components_view(result)
    assert view is not None
    assert f"of the {part} nothing can be told" in view.tables[0].lines[1].text
