"""The ablation's result as sections for the page and the terminal."""

from __future__ import annotations

from typing import Any

from remid.report.sheet import Figure, Row, Section, Table, bars, label, line, plain
from remid.report.text import percent
from remid.study.arms import arm_words

TITLE = "What do reasoning and CoRL give the estimator?"
LEDE = (
    "The same references, scored by estimators that were trained in different ways. Lower perplexity: a better "
    "density, and R-EMID is as good as that density. All arms see the same training samples; none saw a test sample."
)


def ablation_sections(result: dict[str, Any]) -> list[Section]:
    """Sections of a result of ablation_study."""
    sections = [_levels(result), _pairs(result)]
    if result["readings"]:
        sections.append(_readings(result))
    if result["gaps"]:
        sections.append(_gaps(result))
    return [*sections, _runs(result)]


def _shifts(result: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(row["shift"] for row in result["levels"]))


def _arms(result: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(row["arm"] for row in result["levels"]))


def _find(rows: list[Row], **where: Any) -> Row:
    return next(row for row in rows if all(row[key] == value for key, value in where.items()))


def _with_interval(row: Row, name: str, places: int = 3, *, sign: bool = False) -> str:
    if row[name] is None:
        return "n/a"
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    ends = "no interval" if low is None or high is None else f"{low:.{places}f} to {high:.{places}f}"
    return f"{plain(row[name], places, sign=sign)} [{ends}]"


def _levels(result: dict[str, Any]) -> Section:
    shifts, arms, level = _shifts(result), _arms(result), percent(result["confidence"])
    rows = []
    for arm in arms:
        mine = [_find(result["levels"], arm=arm, shift=shift) for shift in shifts]
        failed = mine[-1]["parse_failures"]
        rows.append(
            (
                arm_words(arm),
                *(_with_interval(row, "perplexity") for row in mine),
                plain(mine[-1]["trace_tokens"], 1),
                "n/a" if failed is None else percent(failed),
            )
        )
    counts = [_find(result["levels"], arm=arms[0], shift=shift) for shift in shifts]
    lost = sum(row["n_missing"] for row in counts[:-1])
    caption = (
        f"Perplexity per token, end of turn included, {level} intervals over items and seeds; items: "
        + ", ".join(f"{row['shift']} {row['n']}" for row in counts)
        + f"; left out of all arms because one could not score them: {lost}"
    )
    table = Table(caption, ("Arm", *shifts, "tokens of a trace", "traces that failed"), tuple(rows))
    traces = []
    for k, arm in enumerate(arms):
        mine = [_find(result["levels"], arm=arm, shift=shift) for shift in shifts]
        y = [row["perplexity"] for row in mine]
        error = bars(mine, "perplexity_low", "perplexity", "perplexity_high")
        traces.append(line(arm_words(arm), [label(s) for s in shifts], y, k, error_y=error, mode="markers"))
    layout = {"yaxis": {"title": {"text": "perplexity of references"}}, "scattermode": "group"}
    figure = Figure(tuple(traces), layout, "Perplexity of references by arm and shift; the table below has the numbers")
    text = (
        f"Each arm was trained with {result['n_seeds']} seed(s). An interval holds both what another draw of test "
        "items and what another training would change; with one seed only the former."
    )
    if result["draws"]["count"] > 1:
        count, temperature = result["draws"]["count"], result["draws"]["temperature"]
        text += (
            f" Mean over drawn traces: q1 draws {count} for each reference at temperature {temperature:g}, and q "
            "is q2's mean over them; the arm itself has one greedy trace."
        )
    return Section("Perplexity of references", text, (figure,), (table,))


def _pairs(result: dict[str, Any]) -> Section:
    shifts = _shifts(result)
    rows = []
    for one, other in dict.fromkeys((row["arm"], row["against"]) for row in result["pairs"]):
        cells = []
        for shift in shifts:
            row = _find(result["pairs"], arm=one, against=other, shift=shift)
            cells.append(_with_interval(row, "ratio") + ("*" if row["significant"] else ""))
        rows.append((arm_words(one), arm_words(other), *cells))
    table = Table(
        "Perplexity of the first arm over that of the second, paired over items and seeds; *: differs from 1 after "
        "Holm's correction over all pairs and shifts (those with a mean over draws are a family of their own)",
        ("Arm", "against", *shifts),
        tuple(rows),
        2,
    )
    said = [
        (row["shift"], " < ".join(row["order"]), "yes" if row["holds"] else "no", _p(row["p_value"]))
        for row in result["orderings"]
    ]
    order = Table(
        "Whether every step holds, and the largest one-sided p-value of its steps (not corrected: one claim per shift)",
        ("Shift", "Perplexity", "holds", "p"),
        tuple(said),
        2,
    )
    text = "Every item is its own control: what makes one reference harder than another drops out."
    return Section("Arm against arm", text, tables=(table, order) if said else (table,))


def _readings(result: dict[str, Any]) -> Section:
    shifts = _shifts(result)
    arms = list(dict.fromkeys(row["arm"] for row in result["readings"]))

    def table(name: str, caption: str) -> Table:
        rows = []
        for arm in arms:
            mine = [_find(result["readings"], arm=arm, shift=shift) for shift in shifts]
            rows.append((arm_words(arm), *(_with_interval(row, name, 2, sign=True) for row in mine)))
        counts = [_find(result["readings"], arm=arms[0], shift=shift) for shift in shifts]
        items = ", ".join(f"{row['shift']} {row[f'n_{name}']}" for row in counts)
        return Table(f"{caption}, nats/response; items: {items}", ("Arm", *shifts), tuple(rows))

    text = (
        "The same q2, with a trace and without one. What a trace from where training had its own gives (an author, or "
        "a rule that sees the reference) says whether q2 reads at all; what q1's gives, whether q1 has anything to say."
    )
    own = table("own", "log q with q1's own trace minus log q without a trace")
    hindsight = table("hindsight", "log q with a trace like those of training minus log q without a trace")
    return Section(
        "Does q2 read, and does q1 write what is worth reading?", text, tables=(hindsight, own, *_better_q1(result))
    )


def _better_q1(result: dict[str, Any]) -> tuple[Table, ...]:
    """The arms with training's own traces against the one without reasoning; nothing where there is none."""
    shifts, rows = _shifts(result), []
    for arm in dict.fromkeys(row["arm"] for row in result["readings"]):
        found = [_find(result["readings"], arm=arm, shift=shift).get("against_none") for shift in shifts]
        mine = [row for row in found if row is not None]
        if len(mine) == len(shifts):
            cells = (f"{_with_interval(row, 'ratio')} (p {_p(row['p_value'])})" for row in mine)
            rows.append((arm_words(arm), *cells))
    caption = (
        "Perplexity with a trace like those of training over that of the arm without reasoning, paired, two-sided p "
        "(not corrected): what a q1 could give that writes such traces (no estimator where their rule sees the "
        "reference)"
    )
    return (Table(caption, ("Arm", *shifts), tuple(rows), 1),) if rows else ()


def _p(value: float | None) -> str:
    if value is None:
        return "n/a"
    return f"{value:.1e}" if value < 0.001 else f"{value:.3f}"


def _gaps(result: dict[str, Any]) -> Section:
    shifts = _shifts(result)
    rows = []
    for arm in _arms(result):
        mine = [_find(result["gaps"], arm=arm, shift=shift) for shift in shifts]
        rows.append((arm_words(arm), *(_with_interval(row, "gap") for row in mine)))
    share = [
        (arm_words(arm), *(_with_interval(_find(result["gaps"], arm=arm, shift=shift), "share") for shift in shifts))
        for arm in _arms(result)
        if any(row["share"] is not None for row in result["gaps"] if row["arm"] == arm)
    ]
    found = [Table("log p - log q of the reference, nats/response", ("Arm", *shifts), tuple(rows))]
    if share:
        found.append(Table("Gap as a share of the gap without reasoning", ("Arm", *shifts), tuple(share)))
    text = (
        "Here the true log p(y|x) is known. Its mean distance from log q is the Kullback-Leibler divergence of the "
        "estimator from the truth: 0 is perfect."
    )
    return Section("How far from the truth", text, tables=tuple(found))


def _runs(result: dict[str, Any]) -> Section:
    rows = []
    for row in result["runs"]:
        level = _find(result["levels"], arm=row["arm"], shift=_shifts(result)[-1])
        trace = row["examples"][0][1].replace("\n", " / ") if row["examples"] else ""
        found = plain(level["perplexity_per_seed"][row["seed"]], 3)
        start = row["cold_start"] or "its own"
        cost = f"{row['seconds']:.0f}"
        rows.append((arm_words(row["arm"]), str(row["seed"]), row["best"], found, start, cost, trace[:160]))
    columns = ("Arm", "Seed", "kept", "perplexity, all", "cold start of", "seconds", "first trace of a test sample")
    text = (
        "What each training kept by its held-out likelihood (the cold start among it), and what it cost. Where the "
        "cold start is another run's, to the bit what this one would have made, its seconds are counted there."
    )
    return Section("The trainings", text, tables=(Table("One row per arm and seed", columns, tuple(rows)),))
