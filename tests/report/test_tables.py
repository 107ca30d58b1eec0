"""CSV, Parquet and the terminal summary."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from factory import make_result
from rich.console import Console

from remid.report import console_summary, write_tables
from remid.report.tables import TABLES, csv_cell, flatten


def _read(path: Path) -> list[dict[str, str]]:
    csv.field_size_limit(1 << 30)
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _print(result: dict[str, Any], width: int = 110) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(console_summary(result))
    return console.export_text()


def test_every_list_is_written(tmp_path: Path) -> None:
    result = make_result()
    lists = {key for key, value in result.items() if isinstance(value, list)}
    assert lists == set(TABLES)
    paths = write_tables(result, tmp_path / "new" / "tables")
    assert sorted(path.name for path in paths) == sorted(
        f"{name}.{end}" for name in lists for end in ("csv", "parquet")
    )
    for name in lists:
        rows = _read(tmp_path / "new" / "tables" / f"{name}.csv")
        table = pq.read_table(tmp_path / "new" / "tables" / f"{name}.parquet")
        assert len(rows) == table.num_rows == len(result[name])
        assert tuple(table.column_names) == TABLES[name]


def test_values_survive(tmp_path: Path) -> None:
    result = make_result()
    write_tables(result, tmp_path)
    source = [flatten(row) for row in result["bound"]]
    assert pq.read_table(tmp_path / "bound.parquet").to_pylist() == source
    for row, written in zip(source, _read(tmp_path / "bound.csv"), strict=True):
        assert float(written["js.user"]) == row["js.user"]
        assert written["subset"] == (row["subset"] or "")


def test_negative_numbers_are_untouched_and_null_is_empty(tmp_path: Path) -> None:
    assert csv_cell(-1.5) == "-1.5"
    result = make_result(all_null=True)
    write_tables(result, tmp_path)
    assert {row["value"] for row in _read(tmp_path / "remid.csv")} == {""}
    assert pq.read_table(tmp_path / "remid.parquet")["value"].null_count == len(result["remid"])
    assert pq.read_table(tmp_path / "bound.parquet").column_names == list(TABLES["bound"])


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "  =1", "＝1", "-"])
def test_formulas_are_neutralised(text: str, tmp_path: Path) -> None:
    result = make_result(models=(text,))
    write_tables(result, tmp_path)
    names = {row["policy"] for row in _read(tmp_path / "policies.csv")}
    assert f"'{text}" in names
    assert text not in names
    assert text in pq.read_table(tmp_path / "policies.parquet")["policy"].to_pylist()


def test_hostile_and_empty_results_are_written(tmp_path: Path) -> None:
    write_tables(make_result(hostile=True, n=1), tmp_path / "a")
    for row in _read(tmp_path / "a" / "warnings.csv"):
        assert not any(cell.lstrip()[:1] in tuple("=+-@") for cell in row.values())
    write_tables(make_result(models=(), controls=(), subsets={}), tmp_path / "b")
    assert (tmp_path / "b" / "remid.csv").read_bytes() == ",".join(TABLES["remid"]).encode() + b"\r\n"


def test_same_result_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_tables(make_result(), tmp_path / folder)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_a_column_of_a_later_version_is_kept_as_text(tmp_path: Path) -> None:
    result = make_result()
    result["policies"][0]["novel"] = -3
    write_tables(result, tmp_path)
    assert _read(tmp_path / "policies.csv")[0]["novel"] == "-3"
    assert pq.read_table(tmp_path / "policies.parquet")["novel"][0].as_py() == "-3"


def test_summary_holds_table_and_verdict() -> None:
    text = _print(make_result(cost=3))
    assert "R-EMI on ID" in text
    assert "n = 60" in text
    assert "nats/response, 95% intervals" in text
    assert "rp-sft-8b" in text
    assert "Loses most under the user shift" in text
    assert "parrot (control)" in text
    assert "│ reference  " not in text  # a row of its own


def test_summary_cannot_be_taken_over() -> None:
    result = make_result(models=("[red]x[/red]\x1b[31m\x07\u202e",))
    text = _print(result)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[red]x[/red]⟨U+001B⟩[31m⟨U+0007⟩⟨U+202E⟩" in text
    assert len(_print(make_result(hostile=True, n=1))) < 60_000  # no 100 kB names in a terminal


@pytest.mark.parametrize("kind", [{"models": ()}, {"all_null": True}, {"subsets": {"user": ("a",)}}, {"subsets": {}}])
def test_summary_of_odd_results(kind: dict[str, Any]) -> None:
    assert "n/a" in _print(make_result(**kind)) or kind == {"models": ()}
