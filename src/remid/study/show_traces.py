"""The trace study's result as sections for the page and the terminal."""

from __future__ import annotations

from typing import Any

from remid.report.sheet import Figure, Row, Section, Table, bars, label, line, plain, value_with_interval
from remid.report.text import percent

TITLE = "Does R-EMID move with the reasoning trace?"
LEDE = (
    "A trace is made from the input alone, so the true R-EMI and R-EMID are the same with any trace or none. What "
    "moves between the rows is the estimator: how well the model's q(y|x,r) fits, and what it takes the trace for."
)
_WORDS = {
    "full": "own trace, whole",
    "length-0": "no trace",
    "length-25": "own trace, 25%",
    "length-50": "own trace, 50%",
    "length-75": "own trace, 75%",
    "same-subset": "trace of another sample, same subset",
    "other-shift": "trace of a sample of another shift",
    "masked": "own trace without the reference's words",
}


def traces_sections(result: dict[str, Any]) -> list[Section]:
    """Sections of a result of traces_study."""
    return [_contrasts(result), _levels(result), _held(result), _ranks(result), _settings(result)]


def _shifts(result: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(row["shift"] for row in result["remid"]))


def _policies(result: dict[str, Any]) -> list[str]:
    """Models first; the reference is the origin of the scale and has no rows."""
    kinds = {row["policy"]: row["kind"] for row in result["policies"]}
    names = dict.fromkeys(row["policy"] for row in result["remid"])
    return sorted(names, key=lambda name: kinds[name] != "model")


def _names(result: dict[str, Any]) -> list[str]:
    return [row["setting"] for row in result["settings"]]


def _find(rows: list[Row], **where: Any) -> Row | None:
    return next((row for row in rows if all(row[key] == value for key, value in where.items())), None)


def _contrasts(result: dict[str, Any]) -> Section:
    shifts, names, level = _shifts(result), _names(result), percent(result["config"]["confidence"])
    rows = []
    for policy in _policies(result):
        for name in (n for n in names if n != "full"):
            found = [_find(result["contrasts"], quantity="remi", policy=policy, setting=name, shift="id")]
            found += [
                _find(result["contrasts"], quantity="remid", policy=policy, setting=name, shift=s) for s in shifts
            ]
            rows.append((policy, _WORDS[name], *map(value_with_interval, found)))
    table = Table(
        f"Setting minus full own trace, nats/response, paired over items, {level} intervals; *: significant after "
        "Holm's correction over settings, policies and shifts (controls apart)",
        ("Policy", "Setting", "R-EMI, ID", *(f"R-EMID, {shift}" for shift in shifts)),
        tuple(rows),
        2,
    )
    figures = []
    for shift in shifts:
        traces = []
        for k, policy in enumerate(_policies(result)):
            mine = [
                r for n in names if (r := _find(result["remid"], policy=policy, setting=n, shift=shift)) is not None
            ]
            x = [_WORDS[row["setting"]] for row in mine]
            y = [row["value"] for row in mine]
            traces.append(line(policy, x, y, k, error_y=bars(mine, "ci_low", "value", "ci_high"), mode="markers"))
        layout = {
            "yaxis": {"title": {"text": f"R-EMID, {label(shift)} shift, nats/response"}, "zeroline": True},
            "scattermode": "group",
        }
        figures.append(Figure(tuple(traces), layout, f"R-EMID under the {shift} shift by trace setting; table below"))
    text = (
        "How far each setting's R-EMID lies from that with the full own trace. An item is its own control: the "
        "difference is taken pair by pair and has an error of its own. Figures: R-EMID itself."
    )
    return Section("What the trace moves", text, tuple(figures), (table,))


def _levels(result: dict[str, Any]) -> Section:
    shifts = _shifts(result)
    rows = []
    for policy in _policies(result):
        for name in _names(result):
            found = [_find(result["remi"], policy=policy, setting=name)]
            found += [_find(result["remid"], policy=policy, setting=name, shift=shift) for shift in shifts]
            rows.append((policy, _WORDS[name], *map(value_with_interval, found)))
    caption = "nats/response; *: significant after Holm's correction within the setting"
    columns = ("Policy", "Setting", "R-EMI, ID", *(f"R-EMID, {shift}" for shift in shifts))
    text = "R-EMI on ID data and R-EMID under each shift, as a run with that trace would report them."
    return Section("R-EMI and R-EMID under each setting", text, tables=(Table(caption, columns, tuple(rows), 2),))


def _held(result: dict[str, Any]) -> Section:
    shifts = list(dict.fromkeys(row["shift"] for row in result["held"]))
    rows = []
    for name in _names(result):
        cells = []
        for shift in shifts:
            row = _find(result["held"], setting=name, shift=shift)
            change = {k: row[f"change_{k}"] for k in ("value", "ci_low", "ci_high")} if row else None
            cells += [plain(row["value"] if row else None, 3, sign=True)]
            cells += ["" if name == "full" else value_with_interval(change)]
        rows.append((_WORDS[name], *cells))
    columns = ("Setting", *(text for shift in shifts for text in (f"log q, {shift}", "change from full")))
    text = (
        "Mean log-probability of the reference response under its own input. The trace earns its place where log q "
        "falls without it, and it is read as this sample's where log q falls with another sample's trace."
    )
    return Section("How well q fits the reference", text, tables=(Table("nats/token", columns, tuple(rows)),))


def _ranks(result: dict[str, Any]) -> Section:
    rows = []
    for name in (n for n in _names(result) if n != "full"):
        mine = [row for row in result["ranks"] if row["setting"] == name]
        cells = [f"{plain(r['tau'], 2, sign=True)} ({plain(r['tau_models'], 2, sign=True)})" for r in mine]
        rows.append((_WORDS[name], *cells))
    shown = [row for row in result["ranks"] if row["setting"] == "full"]
    columns = ("Setting", *(f"{'R-EMI' if r['quantity'] == 'remi' else 'R-EMID'}, {r['shift']}" for r in shown))
    counts = shown[0] if shown else {"n_policies": 0, "n_models": 0}
    caption = (
        f"Kendall's tau with the order under the full own trace, over {counts['n_policies']} policies with controls; "
        f"in brackets over {counts['n_models']} models alone (n/a below 3)"
    )
    text = "Whether the policies keep their order. A measurement whose order depends on the trace does not rank."
    return Section("Do the policies keep their order?", text, tables=(Table(caption, columns, tuple(rows)),))


def _settings(result: dict[str, Any]) -> Section:
    rows = [
        (row["setting"], _WORDS[row["setting"]], plain(row["kept"], 2), str(row["n_without"]))
        for row in result["settings"]
    ]
    columns = ("Setting", "Trace in the prompt", "words, own = 1", "samples without")
    return Section(
        "The settings",
        "Samples whose own trace does not parse are left out of every setting; a lent trace may be missing too.",
        tables=(Table("Words outside labels, relative to the own traces", columns, tuple(rows), 2),),
    )
