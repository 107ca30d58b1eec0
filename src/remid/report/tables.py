"""The rows of result.json as CSV and Parquet, and a summary for the terminal.

CSV is for spreadsheets, which run a text that looks like a formula: such texts get a leading apostrophe there, and only
there. Parquet holds every text as it is.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remid.report.bounds import BOUND_COLUMNS, BOUND_FLAGS, BOUND_TEXT
from remid.report.gap import gap_view
from remid.report.sentence import Line, Name
from remid.report.text import MAIN_UNIT, Row, estimate, half_width, interval, short, visible
from remid.report.verdict import confidence, id_row, make_verdict, pooled_rows

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

_TEXT = {"policy", "kind", "subset", "shift", "split", "unit", "versus", "quantity", "component", "code", "text"}
_TEXT |= {"what", "reason", "examples", "by_remid.subset", "by_bound.subset"}
_WHOLE = {"n", "n_id", "n_ood", "n_distinct_id", "n_distinct_ood", "n_missing", "n_responses", "n_unscorable"}
_TEXT |= {"estimator", "about", "level"}
_WHOLE |= {"n_cells", "n_point", "n_interval", "n_opposed"}
_TEXT |= {"measure", "source"}
_WHOLE |= {"over_reference.n", "n_alike", "n_distinct"}
_TEXT |= {"reading", *(f"{name}.unit" for name in ("earned", "repeated", "blind"))}
_FLAG = {"significant", "doubtful", "ignored"} | BOUND_FLAGS
_TEXT |= BOUND_TEXT

_ESTIMATE = ("value", "stderr", "ci_low", "ci_high")
_ENDS = ("value", "ci_low", "ci_high")
_COMPARED = (*_ENDS, "reference", *(f"over_reference.{key}" for key in _ENDS), "unit")
_PARTS = ("user", "character", "dialogue")
#: Columns of each table, in order, so that an empty list leaves the same columns as a full one.
TABLES: dict[str, tuple[str, ...]] = {
    "policies": ("policy", "kind", "n_responses", "n_missing"),
    "subsets": ("subset", "shift", "split", "n", "n_unscorable"),
    "gap": (
        *("policy", "subset", "shift", *_ESTIMATE, "n", "n_missing", "n_distinct", "unit", "reading"),
        *(f"{part}.{key}" for part in ("missing", "excess") for key in _ENDS),
        *(f"{name}.{key}" for name in ("earned", "repeated", "blind") for key in _COMPARED),
    ),
    "gap_change": (
        *("policy", "subset", "shift", *_ESTIMATE, "p_value", "p_adjusted", "significant"),
        *("n_id", "n_ood", "n_missing", "unit", "t", "bound"),
    ),
    "gap_contrasts": (
        *("policy", "versus", "subset", "shift", *_ESTIMATE, "p_value", "p_adjusted", "significant", "n", "unit"),
    ),
    "information": (
        *("policy", "subset", "shift", *_ESTIMATE, "n", "n_missing", "unit"),
        *("positive_mean", "negative_mean"),
    ),
    "remi": ("policy", "subset", "shift", *_ESTIMATE, "n", "n_missing", "p_value", "unit"),
    "remid": (
        *("policy", "subset", "shift", *_ESTIMATE, "p_value", "p_adjusted", "significant"),
        *("n_id", "n_ood", "n_missing", "unit"),
    ),
    "contrasts": (
        *("policy", "versus", "quantity", "subset", "shift", *_ESTIMATE, "p_value", "p_adjusted", "significant"),
        *("n", "unit"),
    ),
    "estimators": (
        *("estimator", "quantity", "policy", "subset", "shift", *_ESTIMATE, "n", "n_missing", "unit"),
        *("saturation", "doubtful"),
    ),
    "agreement": ("estimator", "about", "quantity", "n_cells", "n_point", "n_interval", "n_opposed"),
    "disagreements": (
        *("estimator", "about", "quantity", "policy", "subset", "shift", "versus", "level"),
        *("value", "ci_low", "ci_high", "n", "unit", "club_value", "club_ci_low", "club_ci_high"),
    ),
    "surface": (
        *("policy", "subset", "shift", "measure", "source", *_ESTIMATE, "n", "n_missing", "unit"),
        *(f"over_reference.{key}" for key in ("value", "ci_low", "ci_high", "p_value", "n")),
    ),
    "components": (
        *("policy", "subset", "shift", "component", "quantity", *_ESTIMATE, "p_value", "n", "n_missing", "n_alike"),
        *("unit", *(f"over_reference.{key}" for key in ("value", "ci_low", "ci_high", "p_value", "n"))),
        *("kept.value", "kept.ci_low", "kept.ci_high", "p_adjusted", "ignored"),
    ),
    "bound": (
        *("policy", "subset", "shift", "value", "h_hat", "delta", "input_term", "reference_term"),
        *(f"{key}.{part}" for key in ("js", "share") for part in _PARTS),
        *("remid", "n_id", "n_ood", "n_missing", "unit"),
        *BOUND_COLUMNS,
    ),
    "divergence": (
        *("subset", "shift", "component", "rjsd", "rjsd_raw", "null_mean", "p_value", "ci_low", "ci_high"),
        *("classifier", "n_id", "n_ood", "n_distinct_id", "n_distinct_ood", "unit"),
    ),
    "worst_case": (
        *("policy", *(f"by_remid.{key}" for key in ("subset", "value", "ci_low", "ci_high", "p_adjusted"))),
        *("by_bound.subset", "by_bound.value", "unit"),
    ),
    "warnings": ("code", "policy", "subset", "text"),
    "missing": ("what", "reason", "policy", "subset", "n", "examples"),
}


def write_tables(result: dict[str, Any], folder: Path) -> list[Path]:
    """Writes every list of the result as NAME.csv and NAME.parquet and returns the paths. The folder may be new.

    Nested dicts become columns such as js.user; `examples` is one JSON text; null is an empty cell, never 0.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for name, known in TABLES.items():
        rows = [flatten(row) for row in result.get(name, [])]  # older runs lack some
        extra = dict.fromkeys(key for row in rows for key in row if key not in known and key not in _emptied(known))
        columns = [*known, *extra]
        path = folder / f"{name}.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            # As RFC 4180 has it; with "\n" alone Python 3.11 would not quote a cell that holds a carriage return.
            writer = csv.writer(file, lineterminator="\r\n")
            writer.writerow([csv_cell(column) for column in columns])
            writer.writerows([csv_cell(row.get(column)) for column in columns] for row in rows)
        arrays = {column: pa.array([row.get(column) for row in rows], _type(pa, column)) for column in known}
        arrays |= {column: pa.array([_as_text(row.get(column)) for row in rows], pa.string()) for column in extra}
        pq.write_table(pa.table(arrays), folder / f"{name}.parquet")
        written += [path, folder / f"{name}.parquet"]
    return written


def _emptied(known: tuple[str, ...]) -> set[str]:
    """Keys that stand for flattened columns, seen in a row only where the whole dict is null ("share")."""
    return {column[:k] for column in known for k, letter in enumerate(column) if letter == "."}


def _type(pa: Any, column: str) -> Any:
    if column in _TEXT:
        return pa.string()
    if column in _FLAG:
        return pa.bool_()
    return pa.int64() if column in _WHOLE else pa.float64()


def _as_text(value: Any) -> str | None:
    """Columns that this version does not know keep their values as text."""
    return None if value is None else str(value)


def flatten(row: Row, path: str = "") -> dict[str, Any]:
    """One level of dotted keys; lists as JSON text; lone surrogates, which no file can hold, written out."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        name = _storable(f"{path}{key}")
        if isinstance(value, dict):
            flat |= flatten(value, f"{name}.")
        elif isinstance(value, list):
            flat[name] = _storable(json.dumps(value, ensure_ascii=False))
        else:
            flat[name] = _storable(value) if isinstance(value, str) else value
    return flat


def _storable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def csv_cell(value: Any) -> str:
    """The value as a CSV cell. Numbers as they are; a text that a spreadsheet would run is led by an apostrophe."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    text = str(value)
    # Leading white space does not keep every spreadsheet from reading a formula; the wide forms count as well.
    return f"'{text}" if (text[:1] in "\t\r\n" and text) or text.lstrip()[:1] in tuple("=+-@＝＋－＠") else text


def console_summary(result: dict[str, Any]) -> Group:
    """For the terminal: R-EMI on ID data and pooled R-EMID per policy and shift (nats/response), then the verdict.

    All foreign text goes through rich.text.Text, never through markup, and shows its control characters.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    shifts = list(dict.fromkeys(row["shift"] for row in result["remid"] if row["subset"] is None))
    table = Table(title=f"R-EMI on ID data and R-EMID per shift, {MAIN_UNIT}, {confidence(result)} intervals")
    table.title_justify = "left"
    table.add_column("policy", overflow="fold")
    on_id = [row for item in result["policies"] if (row := id_row(result, item["policy"])) is not None]
    table.add_column(Text(f"R-EMI on ID\n{_range(on_id, 'n')}"), justify="right")
    for shift in shifts:
        rows = [row for row in result["remid"] if row["shift"] == shift and row["subset"] is None]
        table.add_column(Text(f"R-EMID {short(visible(shift), 24)}\n{_range(rows, 'n_ood')}"), justify="right")
    ordered = sorted(result["policies"], key=lambda row: row["kind"] != "model")
    for row in ordered:
        policy, control = row["policy"], row["kind"] != "model"
        if control and policy == "reference":
            continue  # the origin of the scale: 0 everywhere
        lost = {item["shift"]: item for item in pooled_rows(result, policy)}
        cells = [_cell(id_row(result, policy)), *(_cell(lost.get(shift)) for shift in shifts)]
        name = Text(short(visible(policy), 32) + (" (control)" if control else ""))
        table.add_row(name, *cells, style="dim" if control else None)
    verdict = make_verdict(result)
    note = Text("* significant after correction. Positive R-EMID: the model loses. reference: 0 by definition.", "dim")
    lines = [_sentence(verdict.headline, "bold"), *(_sentence(line, "yellow", "! ") for line in verdict.scale)]
    for finding in verdict.models:
        lines.append(Text(f"\n{short(visible(finding.policy), 60)}", "bold"))
        lines += [_sentence(line, "yellow" if line.tone == "warning" else "", "  ") for line in finding.lines]
    if result["warnings"]:
        count = len(result["warnings"])
        noun = "warning" if count == 1 else "warnings"
        lines.append(Text(f"\n{count} {noun}: see the report, “Before you believe a number”.", "yellow"))
    return Group(gap_table(result) or Text(), Text(), table, note, Text(), *lines)


def gap_table(result: dict[str, Any]) -> Table | None:
    """The gap on ID data for the terminal, models by gap, then controls; None if the run has none."""
    from rich.table import Table
    from rich.text import Text

    view = gap_view(result)
    if view is None:
        return None
    table = Table(
        title=f"Gap to the reference on ID data, {confidence(result)} intervals, of {view.n} samples; 0 is as good"
    )
    table.title_justify = "left"
    for name in ("policy", "gap\nnats/token", "earned\nnats/response", "repeated\nnats/token", "in a word"):
        table.add_column(name, overflow="fold", justify="left" if name in ("policy", "in a word") else "right")
    for row in view.rows:
        control = row.kind != "model"
        who = Text(short(visible(row.policy), 32) + (" (control)" if control else ""))
        gap = Text(f"{row.gap}\n[{row.around}]" + (f"\n{row.counted}" if row.counted else ""))
        told = (Text(f"{own}\n(theirs {theirs})") for own, _, theirs in (row.earned, row.repeated))
        table.add_row(who, gap, *told, Text(row.reading), style="dim" if control else None)
    return table


def _range(rows: list[Row], key: str) -> str:
    counts = [row[key] for row in rows]
    if not counts:
        return "n = 0"
    return f"n = {min(counts)}" + ("" if min(counts) == max(counts) else f" to {max(counts)}")


def _cell(row: Row | None) -> Text:
    from rich.text import Text

    if row is None or row["value"] is None:
        return Text("n/a", "dim")
    star = "*" if row.get("significant") else ""
    around = "" if half_width(row) is None else f"\n[{interval(row)}]"
    return Text(f"{estimate(row)}{star}{around}", "bold" if star else "")


def _sentence(line: Line, style: str, lead: str = "") -> Text:
    from rich.text import Text

    text = Text(lead, style)
    for part in line.parts:
        text.append(part if isinstance(part, str) else short(visible(part.text), 80 if isinstance(part, Name) else 400))
    return text
