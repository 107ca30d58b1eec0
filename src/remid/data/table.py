"""A plain table for terminals, without colours, that lines up with East Asian text in it too."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from remid.data.text import shown


def plain_table(rows: Sequence[Sequence[str]], limit: int = 40) -> str:
    """Rows of cells, the first row as header; cells are made safe to print and cut to `limit` characters."""
    cells = [[shown(cell, limit) for cell in row] for row in rows]
    widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(_pad(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    rule = "  ".join("-" * width for width in widths)
    return "\n".join([lines[0], rule, *lines[1:]])


def _pad(cell: str, width: int) -> str:
    return cell + " " * (width - _width(cell))


def _width(text: str) -> int:
    """Columns that a terminal gives `text`: two for a wide character, none for a mark that sits on another."""
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    marks = sum(unicodedata.category(char) in ("Mn", "Me") for char in text)
    return len(text) + wide - marks
