"""A page of sections, each a paragraph with figures and tables: what studies and `remid verify` leave, and print.

The page keeps report/page.py's rules: jinja2 escapes every text, data reach the browser in a JSON block without <, > or
&, and a Content-Security-Policy names by hash the three scripts that may run.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from remid.report.html import TEMPLATES, block, environment, flat, frame
from remid.report.text import decimals, estimate, half_width, interval, number, short, visible

if TYPE_CHECKING:
    from rich.console import Group

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Table:
    """Cells are text already; the first `names` columns hold names, the others numbers. prose: our own sentences in the
    place of names, never shortened."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    names: int = 1
    prose: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """Plotly traces and layout as plain dicts. describe: what a screen reader hears. A trace's `k` picks its colour."""

    traces: tuple[Row, ...]
    layout: Row
    describe: str


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, a paragraph, and below it figures and tables."""

    title: str
    text: str
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()


def label(text: str, limit: int = 40) -> str:
    """A name from the data for a figure: plotly reads a small HTML of its own, which data must not speak."""
    return html.escape(short(visible(text).replace("\n", " "), limit), quote=False)


def value_with_interval(row: Row | None) -> str:
    """ "+3.1 [+1.0 to +5.2]", with * where significant; "n/a" where there is none."""
    if row is None or row.get("value") is None:
        return "n/a"
    text = f"{estimate(row)} [{interval(row)}]" if half_width(row) is not None else f"{estimate(row)} [no interval]"
    return text + ("*" if row.get("significant") else "")


def plain(value: float | None, places: int | None = None, *, sign: bool = False) -> str:
    """A number, by default with as many places as show two of its digits."""
    return number(value, decimals(value) if places is None else places, sign)


def line(name: str, x: Sequence[Any], y: Sequence[float | None], k: int, **more: Any) -> Row:
    """A line with markers. more: error bars, dashes, whatever plotly takes."""
    return {"type": "scatter", "mode": "lines+markers", "name": label(name), "x": list(x), "y": list(y), "k": k, **more}


def bars(rows: Sequence[Row], low: str, value: str, high: str) -> Row:
    """Error bars from interval ends; no bar where there is no interval."""
    ends = [(row[low], row[value], row[high]) for row in rows]
    known = [None not in end for end in ends]
    return {
        "type": "data",
        "symmetric": False,
        "array": [end[2] - end[1] if ok else 0 for end, ok in zip(ends, known, strict=True)],
        "arrayminus": [end[1] - end[0] if ok else 0 for end, ok in zip(ends, known, strict=True)],
        "thickness": 1,
    }


def render_sheet(title: str, lede: str, sections: Sequence[Section], manifest: dict[str, Any]) -> str:
    """The page. title, lede: our own words. sections: in order. manifest: what the study was made from, shown last."""
    figures = [asdict(figure) for section in sections for figure in section.figures]
    return (
        environment()
        .get_template("sheet.html")
        .render(
            title=title,
            lede=lede,
            sections=sections,
            manifest=list(flat(manifest)),
            **frame((TEMPLATES / "sheet.js").read_text("utf-8")),
            figures=block(figures),
        )
    )


def console_tables(sections: Sequence[Section]) -> Group:
    """Every table for the terminal. Text goes through rich.text.Text, never through markup."""
    from rich.console import Group
    from rich.table import Table as RichTable
    from rich.text import Text

    parts: list[Any] = []
    for section in sections:
        if section.tables:
            parts += ["", Text(section.title, style="bold")]
        for table in section.tables:
            made = RichTable(pad_edge=False)
            for index, column in enumerate(table.columns):
                made.add_column(
                    Text(visible(column)), justify="left" if index < table.names else "right", overflow="fold"
                )
            for row in table.rows:
                made.add_row(*(Text(visible(cell)) for cell in row))
            parts += [made, Text(visible(table.caption), style="dim")]
    return Group(*parts)
