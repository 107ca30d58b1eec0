"""verify.json as sections for the page and the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from remid.report.sheet import Figure, Section, Table, line, plain

Row = dict[str, Any]

TITLE = "Does remid measure what it says?"
LEDE = (
    "Everything here was computed on worlds whose information, R-EMID and bounds are known exactly, and held against "
    "what the measurement makes of draws from them."
)


def verify_sections(found: Row) -> list[Section]:
    """The checks first, then what they rest on."""
    return [
        _checks(found),
        _meaning(found["meaning"]),
        _bounds(found),
        _attacks(found),
        _shares(found),
        _sides(found),
        _coverage(found),
        _stopping(found),
        _power(found),
        _null(found),
        _text(found),
    ]


def _table(caption: str, rows: Sequence[Row], columns: Sequence[tuple[str, Callable[[Row], str]]], names: int) -> Table:
    cells = tuple(tuple(cell(row) for _, cell in columns) for row in rows)
    return Table(caption, tuple(title for title, _ in columns), cells, names=names)


def _text_of(key: str) -> Callable[[Row], str]:
    return lambda row: str(row[key])


def _number(key: str, places: int | None = None) -> Callable[[Row], str]:
    return lambda row: plain(row[key], places)


def _percent(key: str, places: int = 1) -> Callable[[Row], str]:
    return lambda row: "n/a" if row[key] is None else f"{100 * row[key]:.{places}f}%"


def _checks(found: Row) -> Section:
    verdict = {True: "holds", False: "FAILS", None: "shown"}
    columns = (
        ("check", _text_of("name")),
        ("claim", _text_of("claim")),
        ("measured", _text_of("measured")),
        ("", lambda row: verdict[row["passed"]]),
    )
    claimed = [check for check in found["checks"] if check["passed"] is not None]
    held = sum(check["passed"] for check in claimed)
    size = "the full sizes" if found["full"] else "the quick sizes; `remid verify --full` takes longer and sees more"
    text = f"{held} of {len(claimed)} claims hold. These are {size}."
    table = replace(_table("Claims and what was measured", found["checks"], columns, 4), prose=True)
    return Section("Checks", text, tables=(table,))


def _meaning(found: Row) -> Section:
    ranks = (
        ("policy", _text_of("policy")),
        ("median gap, nats/token", _number("median", 3)),
        ("least gap", lambda row: f"{row['least']:.1e}"),
        ("right by the gap", _percent("right", 2)),
        ("median EMI, nats", _number("emi_median", 3)),
        ("right by signed EMI", _percent("emi_right")),
        ("first by signed EMI", _percent("emi_first")),
        ("right without a copier", _percent("cross_right")),
    )
    copiers = (
        ("how often the copier repeats", _number("begin", 2)),
        ("worlds", _number("n", 0)),
        ("order wholly right", _number("right", 0)),
        ("parrot right", _number("parrot_right", 0)),
    )
    halves = (
        ("ignores in part", _text_of("part")),
        ("kind", _text_of("kind")),
        ("worlds", _number("n", 0)),
        ("in order", _number("right", 0)),
    )
    growth = (
        ("policy", _text_of("policy")),
        ("q(y) of", lambda row: "the shifted inputs" if row["fresh"] else "ID"),
        ("worlds", _number("n", 0)),
        ("violations", _number("violations", 0)),
        ("largest growth - bound", lambda row: f"{row['worst']:.1e}"),
        ("median bound / growth", _number("ratio_median", 1)),
        ("90th percentile", _number("ratio_p90", 1)),
        ("worlds behind ratios", _number("n_ratio", 0)),
    )
    copying = found["copying"]
    text = (
        "Random worlds of 2 to 4 users, characters and dialogues and 4 to 11 answers; q is the reference's own law. "
        "Right: above the reference, noise above the next weaker noise; 'longer' and 'sharper' are only shown, and "
        "right where they are not above it. Without a copier all information counts as earned. A policy that echoes "
        f"half of the dialogues, in the {copying['n']:,} worlds where a shift makes these commoner: the gap grows in "
        f"{_percent('gap_grows')(copying)}, and signed EMI grows too in {_percent('emi_grows')(copying)}, as if the "
        "policy had improved. Half-informed: shares of 0, 1/4, 1/2, 3/4 and 1 of the reference; the bound is on how "
        "much the gap grows under a shift, and is claimed where q(y) stays that of ID."
    )
    tables = (
        _table("Where each policy comes out", found["rows"], ranks, 1),
        _table("By copier", found["copiers"], copiers, 1),
        _table("Half-informed policies", found["halves"], halves, 2),
        _table("The gap's growth under a shift against its bound", found["growth"], growth, 2),
    )
    return Section("The gap", text, tables=tables)


def _bounds(found: Row) -> Section:
    columns = (
        ("bound", _text_of("bound")),
        ("family of worlds", _text_of("family")),
        ("worlds", _number("n", 0)),
        ("violations", _number("violations", 0)),
        ("median bound / EMID", _number("ratio_median", 2)),
        ("90th percentile", _number("ratio_p90", 1)),
        ("worlds behind ratios", _number("n_ratio", 0)),
    )
    text = (
        "Random worlds of 2 to 8 inputs in all splits over user, character and dialogue, 2 to 6 responses, from nearly "
        "deterministic to nearly uniform. Ratios where EMID exceeds 0.001 nats. 'least' is the smallest proven bound; "
        "'least without cross' leaves out those that need the density of one model at another's responses."
    )
    by_inputs = _table("The least of them by the number of inputs, 4 responses", found["input_rows"], columns, 2)
    every = _table("Every bound", found["bound_rows"], columns, 2)
    more = (
        " With two inputs T6 is EMID itself, since nothing it drops is left; with many inputs random EMIDs are small "
        "and what it drops weighs more."
    )
    return Section("Bounds on random worlds", text + more, tables=(every, by_inputs))


def _attacks(found: Row) -> Section:
    columns = (
        ("bound", _text_of("bound")),
        ("reference", lambda row: "shared" if row["shared"] else "changes"),
        ("worlds tried", _number("n", 0)),
        ("largest EMID - bound, nats", lambda row: f"{row['worst']:.1e}"),
        ("largest EMID / bound", _number("tightest", 3)),
    )
    cases = (
        ("world", _text_of("name")),
        ("EMID, nats", _number("emid", 3)),
        ("paper's form, nats", _number("paper", 3)),
        ("violated", lambda row: "yes" if row["violated"] else "no"),
        ("within the theorem's assumption", lambda row: "yes" if row["within_assumption"] else "no"),
    )
    text = (
        "An evolution strategy climbs towards EMID above the bound, in the logits of all laws and channels. A largest "
        "ratio near 1 means that it found worlds in which the bound is met with equality. Below, worlds in which the "
        "paper's form (Theorem 3.4) fails."
    )
    tables = (
        _table("Search for counterexamples", found["attack_rows"], columns, 2),
        _table("Where the paper's form fails", found["paper_cases"], cases, 1),
    )
    return Section("Attempts to break the bounds", text, tables=tables)


def _shares(found: Row) -> Section:
    columns = (
        ("shifted", lambda row: row["shifted"] + (", conditional" if row["conditional"] else ", marginal")),
        ("method", _text_of("method")),
        ("attributed to it", _percent("attributed")),
        ("worlds where it gets at least 90%", _percent("named")),
        ("worlds", _number("n", 0)),
    )
    text = (
        "One mechanism shifts: the marginal of a component (the others given it stay) or its conditional (the law of "
        "the others stays). The components depend on each other."
    )
    return Section("Shares", text, tables=(_table("Which component is named", found["share_rows"], columns, 2),))


def _sides(found: Row) -> Section:
    columns = (
        ("world", _text_of("world")),
        ("estimator", _text_of("estimator")),
        ("n", _number("n", 0)),
        ("information, nats", _number("truth", 3)),
        ("mean estimate, nats", _number("mean", 3)),
        ("Monte-Carlo error", _number("mc_error", 4)),
        ("should be", _text_of("side")),
    )
    text = (
        "The exact conditional takes the place of the model, on full n x n matrices. CLUB estimates the information "
        "plus a reverse divergence, which here is as large as the information itself."
    )
    return Section("Estimators with the exact q", text, tables=(_table("Sides", found["side_rows"], columns, 2),))


def _coverage(found: Row) -> Section:
    columns = (
        ("world", _text_of("world")),
        ("quantity", lambda row: row["quantity"] + (", clustered" if row["clustered"] else "")),
        ("n", _number("n", 0)),
        ("negatives", _number("m", 0)),
        ("coverage", _percent("coverage")),
        ("Monte-Carlo error", _percent("mc_error")),
        ("SE / true", _number("se_ratio", 2)),
        ("median width, nats", _number("width", 2)),
        ("replications", _number("replications", 0)),
    )
    text = "Share of replications whose nominal 95% interval holds the truth."
    return Section("Intervals", text, tables=(_table("Coverage", found["coverage_rows"], columns, 2),))


def _stopping(found: Row) -> Section:
    columns = (
        ("world", lambda row: row["world"] + (", clustered" if row["clustered"] else "")),
        ("wished standard error", _text_of("wish")),
        ("quantity", _text_of("quantity")),
        ("coverage", _percent("coverage")),
        ("as if nobody had looked", _percent("naive")),
        ("Monte-Carlo error", _percent("mc_error")),
        ("SE / true", _number("se_ratio", 2)),
        ("looks", _number("looks", 1)),
        ("items of 320", _number("items", 0)),
        ("negatives", _number("negatives", 1)),
    )
    text = (
        "Scoring goes on in rounds until R-EMID of both policies has the wished standard error: what the first round "
        "has in the median, or 0.7 of it. A run stops where its standard error happens to look small, so intervals "
        "take Student's t with the first round's degrees of freedom."
    )
    table = _table("Coverage where scoring stopped", found["stopping_rows"], columns, 3)
    return Section("Intervals after stopping", text, tables=(table,))


def _power(found: Row) -> Section:
    rows = found["power_rows"]
    columns = (
        ("world", _text_of("world")),
        ("n on each side", _number("n", 0)),
        ("negatives", _number("m", 0)),
        ("smallest R-EMID found in 80% of runs, nats", _number("detectable", 2)),
        ("standard error of R-EMID, nats", _number("stderr", 2)),
        ("SD of a contribution, nats", _number("spread", 2)),
    )
    worlds = list(dict.fromkeys(row["world"] for row in rows))
    traces = [
        line(
            world,
            [row["n"] for row in rows if row["world"] == world],
            [row["detectable"] for row in rows if row["world"] == world],
            k,
        )
        for k, world in enumerate(worlds)
    ]
    layout = {
        "xaxis": {"type": "log", "title": {"text": "n on each side"}},
        "yaxis": {"type": "log", "title": {"text": "smallest R-EMID found, nats"}},
    }
    text = "The smallest R-EMID that a test at the 5% level finds in 80% of runs, before any correction for many cells."
    figure = Figure(
        tuple(traces), layout, "Smallest detectable R-EMID against n, per world; the table has the numbers."
    )
    return Section("Power", text, figures=(figure,), tables=(_table("Power", rows, columns, 1),))


def _null(found: Row) -> Section:
    columns = (
        ("world", _text_of("world")),
        ("items in each half", _number("n", 0)),
        ("splits", _number("splits", 0)),
        ("cells called significant", _percent("significant")),
        ("Monte-Carlo error", _percent("mc_error")),
        ("after Holm", _percent("significant_holm")),
        ("any in a split, after Holm", _percent("any_holm")),
    )
    text = "One ID set against another from the same law. Whatever is called significant is a false alarm."
    return Section("Null runs", text, tables=(_table("False alarms", found["null_rows"], columns, 1),))


def _text(found: Row) -> Section:
    summary = (
        ("q", _text_of("source")),
        ("trace", _text_of("reveals")),
        ("estimator", _text_of("estimator")),
        ("combinations", _number("combinations", 0)),
        ("policies", _text_of("policies")),
        ("bias, RMS, % of range", _percent("bias_rms")),
        ("the same, less noise", _percent("bias_rms_less_noise")),
        ("error of one estimate, % of range", _percent("error_rms")),
        ("right sign, truth beyond 2 SE", lambda row: f"{row['n_large_right']} of {row['n_large']}"),
        ("right sign, estimate beyond 2 SE", _percent("right", 2)),
        ("range of the truth, nats", _number("span", 2)),
        ("coverage", _percent("covered")),
    )
    fits = (
        ("author", _text_of("author")),
        ("trace", _text_of("reveals")),
        ("excess cross-entropy, nats", _number("excess", 3)),
        ("information, nats", _number("information", 3)),
        ("reached by q, nats", _number("reached", 3)),
    )
    traces = (
        ("trace", _text_of("reveals")),
        ("estimator", _text_of("estimator")),
        ("RMS difference, nats", _number("rms_difference", 3)),
        ("in standard errors", _number("share_of_error", 2)),
        ("within 2 standard errors", _percent("agree")),
    )
    text = (
        "Dialogues written by a grammar whose information is known; a small causal model is trained on them and scores "
        "them as in a real run. Policies fall short of the reference in different ways, shifts are of every kind."
    )
    rows = found["text"]
    tables = (
        _table("R-EMID against the truth", rows["summaries"], summary, 3),
        _table("How near-exact the trained q is", rows["fits"], fits, 2),
        _table("With against without a trace, same draws", rows["traces"], traces, 2),
    )
    return Section("R-EMID through a trained model", text, tables=tables)
