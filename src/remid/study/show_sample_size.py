"""The sample-size study's result as sections for the page and the terminal."""

from __future__ import annotations

from typing import Any

from remid.report.sheet import Figure, Row, Section, Table, bars, line, plain
from remid.report.text import percent

TITLE = "Does the bound follow R-EMID as the sample grows?"
LEDE = (
    "The paper's Figure 5a says that its bound follows the empirical R-EMID more closely with more samples. Here: how "
    "closely at each n, how wide the gap is, and which ingredient of the bound moves with n."
)
_PARTS = ("user", "character", "dialogue")


def sample_size_sections(result: dict[str, Any]) -> list[Section]:
    """Sections of the study's result: of a run ("run"), of the exact worlds ("worlds"), or of both."""
    made = []
    if result["run"] is not None:
        made += [_followed(result["run"]), _levels(result["run"]), _ingredients(result["run"])]
    return [*made, *_worlds(result["worlds"])]


def _n(row: Row) -> str:
    if row["n"] is None:
        return "exact"
    return f"{row['n']} (all)" if row.get("whole") else str(row["n"])


def _with_interval(row: Row, name: str) -> str:
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    ends = "no interval" if low is None else f"{plain(low, 2, sign=True)} to {plain(high, 2, sign=True)}"
    return f"{plain(value, 2, sign=True)} [{ends}]"


def _x(rows: list[Row], title: str = "items per subset") -> Row:
    ticks = [row["n"] for row in rows]
    return {
        "type": "log",
        "tickvals": ticks,
        "ticktext": [_n(row) for row in rows],
        "title": {"text": title},
    }


def _followed(run: dict[str, Any]) -> Section:
    rows = run["sizes"]
    x = [row["n"] for row in rows]
    traces = []
    columns = (
        ("bound against R-EMID, Pearson", "follows", "pearson"),
        ("bound against R-EMID, Kendall", "follows", "kendall"),
        ("within policies, Pearson", "follows_within", "pearson"),
        ("bound against final R-EMID, Pearson", "follows_final", "pearson"),
        ("bound against final bound, Pearson", "bound_final", "pearson"),
    )
    for k, (name, key, statistic) in enumerate(columns):
        found = [row[key] for row in rows]
        errors = bars(found, f"{statistic}_low", statistic, f"{statistic}_high")
        traces.append(line(name, x, [one[statistic] for one in found], k, error_y=errors))
    layout = {"xaxis": _x(rows), "yaxis": {"range": [-1.05, 1.05], "title": {"text": "correlation over cells"}}}
    table = Table(
        f"Correlation over cells (policy x subset), {percent(run['settings']['confidence'])} intervals over "
        "subsets, averaged over draws",
        (
            "n",
            "Pearson",
            "Kendall",
            "Pearson, within policies",
            "Kendall, within policies",
            "Pearson, raw RJSD",
            "cells",
        ),
        tuple(
            (
                _n(row),
                _with_interval(row["follows"], "pearson"),
                _with_interval(row["follows"], "kendall"),
                _with_interval(row["follows_within"], "pearson"),
                _with_interval(row["follows_within"], "kendall"),
                _with_interval(row["follows_raw"], "pearson"),
                plain(row["follows"]["n_cells"], 0),
            )
            for row in rows
        ),
    )
    text = (
        "A cell is one policy under one shifted subset. Within policies: each policy's mean is taken off both sides, "
        "so that only differences between shifts count. Final: of the whole run. Subsamples are arcs of a circle."
    )
    figure = Figure(tuple(traces), layout, "Correlation of the bound with R-EMID by items per subset; table below")
    return Section("How closely the bound follows R-EMID", text, (figure,), (table,))


def _levels(run: dict[str, Any]) -> Section:
    rows = run["sizes"]
    x = [row["n"] for row in rows]
    names = (
        ("bound", "bound"),
        ("bound, raw RJSD", "bound_raw"),
        ("R-EMID", "remid"),
        ("SE of R-EMID", "remid_stderr"),
    )
    traces = [line(name, x, [row[key] for row in rows], k) for k, (name, key) in enumerate(names)]
    layout = {
        "xaxis": _x(rows),
        "yaxis": {"title": {"text": "nats/response, mean over cells and draws"}, "zeroline": True},
    }
    table = Table(
        "Means over cells and draws, nats/response; in brackets the spread between draws",
        ("n", "bound", "bound, raw RJSD", "R-EMID", "SE of R-EMID", "gap", "R-EMID above bound", "pairs kept", "draws"),
        tuple(
            (
                _n(row),
                *(_spread(row, key) for key in ("bound", "bound_raw", "remid", "remid_stderr")),
                plain(row["gap"], 1),
                f"{row['exceeded']} of {row['n_cells']}",
                plain(row["pairs_kept"], 2),
                str(row["draws"]),
            )
            for row in rows
        ),
    )
    figure = Figure(tuple(traces), layout, "Mean bound and mean R-EMID by items per subset; table below")
    text = "Draws of one run overlap, more the larger n: their spread is no standard error near the whole run."
    return Section("Bound, R-EMID and the gap", text, (figure,), (table,))


def _spread(row: Row, key: str) -> str:
    sd = row[f"{key}_sd"]
    return plain(row[key], 1) + ("" if sd is None else f" ({plain(sd, 1)})")


_RUN_PARTS = (
    *(("h_hat", "h_hat"), ("largest surprise", "surprise_max"), ("cross-entropy", "cross_entropy")),
    *((f"RJSD {z}", f"js_{z}") for z in _PARTS),
    *((f"raw RJSD {z}", f"js_{z}_raw") for z in _PARTS),
    *(("Delta", "delta"), ("raw Delta", "delta_raw")),
)


def _ingredients(run: dict[str, Any]) -> Section:
    rows = run["sizes"]
    figure = _relative(rows, rows[-1], _RUN_PARTS, "relative to the whole run")
    text = (
        "h_hat holds the largest surprise of a subset: a maximum, which grows with n and has no limit that a sample "
        "could show. Raw RJSD is biased upward, most at small n; the permutation null takes that off."
    )
    return Section("What moves with n", text, (figure,), (_parts_table(rows, _RUN_PARTS), _shares_table(rows)))


def _relative(rows: list[Row], last: Row, parts: tuple[tuple[str, str], ...], axis: str) -> Figure:
    rows = [row for row in rows if row["n"] is not None]
    traces = []
    for k, (name, key) in enumerate(parts):
        base = last[key]
        y = [None if row[key] is None or not base else row[key] / base for row in rows]
        traces.append(line(name, [row["n"] for row in rows], y, k, line={"dash": "dot" if k >= 8 else "solid"}))
    title = "draws per side" if last["n"] is None else "items per subset"
    layout = {"xaxis": _x(rows, title), "yaxis": {"title": {"text": axis}, "type": "log"}, "height": 480}
    return Figure(tuple(traces), layout, f"Ingredients of the bound {axis}, by n; table below")


def _parts_table(rows: list[Row], parts: tuple[tuple[str, str], ...]) -> Table:
    return Table(
        "Ingredients, means over cells and draws; nats",
        ("n", *(name for name, _ in parts)),
        tuple((_n(row), *(plain(row[key], 3) for _, key in parts)) for row in rows),
    )


def _shares_table(rows: list[Row]) -> Table:
    ends = [end for end in ("", "_raw") if f"share_user{end}" in rows[0]]
    return Table(
        "Shares of the input term, mean over cells and draws",
        ("n", *(f"{z}{', raw RJSD' if end else ''}" for end in ends for z in _PARTS)),
        tuple((_n(row), *(plain(row[f"share_{z}{end}"], 2) for end in ends for z in _PARTS)) for row in rows),
    )


_WORLD_PARTS = (
    *(("h_hat", "h_hat"), ("largest H(Y|x)", "conditional_max"), ("H(P_Y_theta)", "output_entropy")),
    *((f"JS {z}", f"js_{z}") for z in _PARTS),
    *(("Delta", "delta"), ("bound", "bound")),
)


def _worlds(rows: list[Row]) -> list[Section]:
    sampled = [row for row in rows if row["n"] is not None]
    x = [row["n"] for row in sampled]
    columns = (
        ("against the plug-in EMID", "follows"),
        ("against its size", "follows_size"),
        ("against the exact EMID", "follows_truth"),
        ("against the exact bound", "follows_bound"),
    )
    traces = [line(name, x, [row[key]["pearson"] for row in sampled], k) for k, (name, key) in enumerate(columns)]
    layout = {
        "xaxis": _x(sampled, "draws per side"),
        "yaxis": {"range": [-1.05, 1.05], "title": {"text": "Pearson's r over worlds"}},
    }
    figure = Figure(tuple(traces), layout, "Correlation of the plug-in bound by n, over exact worlds; table below")
    table = Table(
        f"Plug-in bound of n draws, over {rows[0]['n_worlds']} worlds: Pearson (Kendall)",
        ("n", *(name for name, _ in columns), "bound", "EMID", "RMSE of EMID", "gap", "truth above bound"),
        tuple(
            (
                _n(row),
                *(
                    f"{plain(row[k]['pearson'], 2, sign=True)} ({plain(row[k]['kendall'], 2, sign=True)})"
                    for _, k in columns
                ),
                *(plain(row[k], 3, sign=k == "emid") for k in ("bound", "emid", "emid_rmse", "gap")),
                percent(row["truth_exceeds"]),
            )
            for row in rows
        ),
    )
    text = (
        "Small worlds with exactly known laws; of each, n inputs and responses per side are drawn and the empirical "
        "tables put in the paper's form. The last row is exact: where it is low, no sample will make the bound follow."
    )
    moving = _relative(rows, rows[-1], _WORLD_PARTS, "relative to the exact value")
    return [
        Section("Where the truth is known", text, (figure,), (table,)),
        Section(
            "Ingredients against their exact values",
            "Empirical entropies are biased down and empirical divergences up, both most at small n.",
            (moving,),
            (_parts_table(rows, _WORLD_PARTS), _shares_table(rows)),
        ),
    ]
