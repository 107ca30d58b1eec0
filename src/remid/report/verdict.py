"""The result in plain words: which model loses where, how sure that is, and what must not be read into it.

Three rules. A loss is named only if its corrected p-value is significant. Where nothing is found, the half-width of the
interval says what could have been found. A high R-EMI is never praised: repeating the user's words gives the highest of
all (docs/result.md; the parrot control shows it for the data at hand).
"""

from __future__ import annotations

from dataclasses import dataclass

from remid.report.agreement import disagreement_line
from remid.report.sentence import Line, Name, Part, Stat, Tone, shift_name
from remid.report.text import (
    MAIN_UNIT,
    UNITS,
    Row,
    decimals,
    estimate,
    half_width,
    interval,
    level_of,
    number,
    p_text,
    percent,
)


@dataclass(frozen=True, slots=True)
class Finding:
    """What can be said about one model: lines[0] is the answer, the others qualify it."""

    policy: str
    lines: tuple[Line, ...]

    @property
    def tone(self) -> Tone:
        """The tone of the answer."""
        return self.lines[0].tone


@dataclass(frozen=True, slots=True)
class Verdict:
    """headline: the answer in one sentence. scale: what the controls say about believing it. models: one by one."""

    headline: Line
    scale: tuple[Line, ...]
    models: tuple[Finding, ...]


def make_verdict(result: Row) -> Verdict:
    """The verdict on a result (docs/result.md), in nats per response unless a line says otherwise."""
    models = [row["policy"] for row in result["policies"] if row["kind"] == "model"]
    findings = tuple(_finding(result, policy) for policy in models)
    return Verdict(_headline(result, findings), _scale(result, models), findings)


def confidence(result: Row) -> str:
    """The level of the intervals, "95%" unless the configuration says otherwise."""
    return percent(level_of(result))


def id_row(result: Row, policy: str, unit: str = MAIN_UNIT) -> Row | None:
    """The policy's R-EMI row on ID data: the pooled one, or the only subset's. None if there is neither."""
    rows: list[Row] = [
        row for row in result["remi"] if row["policy"] == policy and row["shift"] == "id" and row.get("unit") == unit
    ]
    pooled = [row for row in rows if row["subset"] is None]
    if pooled:
        return pooled[0]
    return rows[0] if len(rows) == 1 else None


def pooled_rows(result: Row, policy: str, unit: str = MAIN_UNIT) -> list[Row]:
    """The policy's R-EMID rows that pool a whole shift, in the result's order."""
    return [
        row
        for row in result["remid"]
        if row["policy"] == policy and row["subset"] is None and row["unit"] == unit and row["shift"] != "id"
    ]


def why_missing(result: Row, policy: str | None, subset: str | None) -> str | None:
    """What the result records as left out for this policy and subset; None if nothing.

    It is the likely reason of a null, not a proven one, so texts say "recorded as missing" and no more.
    """
    rows = [
        row
        for row in result["missing"]
        if row["policy"] in {None, policy} and (subset is None or row["subset"] in {None, subset})
    ]
    own = [row for row in rows if row["policy"] is not None or (subset is not None and row["subset"] is not None)]
    return "; ".join(f"{row['n']} × {row['what']}: {row['reason']}" for row in (own or rows)[:3]) or None


def _counts(row: Row) -> str:
    return f"n = {row['n_id']} ID, {row['n_ood']} shifted"


def _measured(result: Row, row: Row) -> Stat:
    return Stat(
        f"R-EMID {estimate(row)} {row['unit']} ({confidence(result)} interval {interval(row)}, "
        f"{p_text(row['p_adjusted'], 'adjusted p')}, {_counts(row)})"
    )


def _finding(result: Row, policy: str) -> Finding:
    rows = pooled_rows(result, policy)
    known = [row for row in rows if row["value"] is not None]
    lost = sorted((row for row in known if row["significant"] and row["value"] > 0), key=lambda row: -row["value"])
    rose = [row for row in known if row["significant"] and row["value"] < 0]
    open_ = [row for row in known if row not in lost and row not in rose]
    lines: list[Line] = []
    for row, word in zip(lost, ["Loses most under ", *["It also loses under "] * len(lost)], strict=False):
        lines.append(Line("loss", "loss", (word, *shift_name(row["shift"]), ": ", _measured(result, row), ".")))
    if not known:
        lines.append(_unknown(result, policy, bool(rows)))
    elif not lost and not rose:
        lines.append(_nothing(result, open_))
    for row in rose:
        tail = ". More information is not better role-play: copying more does the same."
        where = shift_name(row["shift"])
        lines.append(Line("gain", "rise", ("R-EMI rises under ", *where, ": ", _measured(result, row), tail)))
    if lost or rose:
        lines.extend(_undetected(result, row) for row in open_)
    lines.extend(_one_subset(result, policy, lost))
    lines.extend(_other_units(result, policy, lost, rose))
    lines.extend(_on_id(result, policy))
    return Finding(policy, tuple(lines))


def _unknown(result: Row, policy: str, tried: bool) -> Line:
    reason = why_missing(result, policy, None)
    text = "R-EMID could not be estimated for any shift" if tried else "No shift was compared with ID data"
    tail: tuple[Part, ...] = (". Recorded as missing: ", Name(reason)) if reason else (".",)
    return Line("unknown", "unknown", (text, *tail))


def _nothing(result: Row, rows: list[Row]) -> Line:
    """No change found: the largest estimate, and what could have been found."""
    top = max(rows, key=lambda row: row["value"])
    head = "No change is detectable at this n" + (". The largest estimate is for " if len(rows) > 1 else " under ")
    tail = "."
    if _excludes_zero(top):
        tail = ". Its own interval excludes 0, yet after correction for the number of comparisons it may be chance."
    seen = [half for row in rows if (half := half_width(row)) is not None]
    if seen:
        low, high = (number(half, decimals(half), False) for half in (min(seen), max(seen)))
        size = f"{low} {MAIN_UNIT}" if low == high else f"{low} to {high} {MAIN_UNIT}, depending on the shift"
        tail += (
            f" This is no proof of stability: a loss below about {size} (the half-width of the interval, before "
            "correction) could not have been seen."
        )
    return Line("calm", "nothing", (head, *shift_name(top["shift"]), ": ", _measured(result, top), tail))


def _excludes_zero(row: Row) -> bool:
    low, high = row["ci_low"], row["ci_high"]
    return low is not None and high is not None and (low > 0 or high < 0)


def _undetected(result: Row, row: Row) -> Line:
    half = half_width(row)
    tail = " Its own interval excludes 0, but not after correction." if _excludes_zero(row) else ""
    if half:
        tail += f" A loss below about {number(half, decimals(half), False)} {MAIN_UNIT} could not have been seen."
    parts = ("No change is detectable under ", *shift_name(row["shift"]), ": ", _measured(result, row), f".{tail}")
    return Line("calm", "undetected", parts)


def _one_subset(result: Row, policy: str, lost: list[Row]) -> list[Line]:
    """Subsets that lose significantly although their shift as a whole does not: easily overlooked."""
    shifts = {row["shift"] for row in lost}
    rows = [
        row
        for row in result["remid"]
        if row["policy"] == policy and row["subset"] is not None and row["unit"] == MAIN_UNIT
        if row["value"] is not None and row["value"] > 0 and row["significant"] and row["shift"] not in shifts
    ]
    return [
        Line("loss", "subset", ("Loses on the subset “", Name(row["subset"]), "”: ", _measured(result, row), "."))
        for row in sorted(rows, key=lambda row: -row["value"])[:3]
    ]


def _other_units(result: Row, policy: str, lost: list[Row], rose: list[Row]) -> list[Line]:
    """Units in which other shifts come out significant: then length, not information, may be what changed."""
    here = {row["shift"]: 1 for row in lost} | {row["shift"]: -1 for row in rose}
    found: dict[tuple[tuple[str, int], ...], list[str]] = {}
    for unit in UNITS[1:]:
        rows = [row for row in pooled_rows(result, policy, unit) if row["value"] is not None]
        there = {row["shift"]: 1 if row["value"] > 0 else -1 for row in rows if row["significant"]}
        if rows and here != there:
            found.setdefault(tuple(there.items()), []).append(unit)
    lines: list[Line] = []
    for shifts, units in found.items():
        listed: list[Part] = []
        for shift, sign in shifts:
            listed += [", " if listed else "", *shift_name(shift), " (a loss)" if sign > 0 else " (a rise)"]
        head = f"It depends on the unit: in {' and '.join(units)}, what is significant is "
        tail = ". Responses that grow longer or shorter under a shift can do this."
        lines.append(Line("warning", "unit", (head, *(listed or ["nothing"]), tail)))
    return lines


def _on_id(result: Row, policy: str) -> list[Line]:
    """Where the model stands on ID data. Above the reference is a warning, never a virtue."""
    row = id_row(result, policy)
    if row is None or row["value"] is None:
        return [Line("unknown", "id_unknown", ("Its R-EMI on ID data could not be estimated.",))]
    size = f"{estimate(row)} {row['unit']} ({confidence(result)} interval {interval(row)}, n = {row['n']})"
    if row["ci_low"] is not None and row["ci_low"] > 0:
        text = (
            f"Its R-EMI on ID data is {size}, above the reference's. That is a warning, not a virtue: its responses "
            "are more predictable from their input than the references, as copied words are."
        )
        return [Line("warning", "above_reference", (text,))]
    if row["ci_high"] is not None and row["ci_high"] < 0:
        text = f"On ID data its responses carry less information about their input than the references: R-EMI {size}."
        return [Line("calm", "below_reference", (text,))]
    text = f"On ID data its information cannot be told from the references': R-EMI {size}."
    return [Line("calm", "at_reference", (text,))]


def _scale(result: Row, models: list[str]) -> tuple[Line, ...]:
    """What the controls, and other estimators, say about the scale itself."""
    controls = {row["policy"] for row in result["policies"] if row["kind"] == "control"}
    values = {name: row for name in [*controls, *models] if (row := id_row(result, name)) and row["value"] is not None}
    best = max((values[name]["value"] for name in models if name in values), default=None)
    lines: list[Line] = []

    def add(code: str, *parts: Part) -> None:
        lines.append(Line("warning", code, parts))

    parrot = values.get("parrot") if "parrot" in controls else None
    if parrot is None:
        add(
            "no_parrot",
            "The parrot control has no score on ID data, so nothing here shows what mere repetition would be worth.",
        )
    elif best is not None and parrot["value"] >= best:
        add(
            "parrot_on_top",
            "A high R-EMI is not quality here. The parrot control, which only repeats the user's words, has an R-EMI "
            f"of {estimate(parrot)} {parrot['unit']} (interval {interval(parrot)}, n = {parrot['n']}) on ID data, at "
            "or above every model's. Do not rank models by R-EMI; the gap takes repetition off.",
        )
    elif parrot["value"] > 0:
        add(
            "parrot_above",
            "The parrot control scores above the reference: R-EMI ",
            f"{estimate(parrot)} {parrot['unit']} (interval {interval(parrot)}, n = {parrot['n']}). Above 0, “higher "
            "is better” does not hold on this data.",
        )
    for name, what in (("shuffled", "answers to other inputs"), ("generic", "answers that would fit any input")):
        row = values.get(name) if name in controls else None
        if row is None:
            continue
        if row["ci_high"] is None or row["ci_high"] >= 0:
            add(
                "control_not_below",
                f"The {name} control ({what}) is not clearly below the reference: R-EMI {estimate(row)} {row['unit']} "
                f"(interval {interval(row)}, n = {row['n']}). At this n the estimator hardly sees whether a response "
                "belongs to its input; no loss of a model can be trusted.",
            )
        for policy in models:
            if policy in values and values[policy]["value"] <= row["value"]:
                text = f" lies at or below the {name} control on ID data: its responses tell no more of their input."
                add("model_below_control", "The model “", Name(policy), "”", text)
    other = disagreement_line(result)
    return (*lines, other) if other else tuple(lines)


def _headline(result: Row, findings: tuple[Finding, ...]) -> Line:
    total = len(findings)
    if not total:
        return Line("unknown", "no_models", ("No model was measured: only the controls are here.",))
    lost = [finding for finding in findings if finding.lines[0].code == "loss"]
    if not lost and all(finding.tone == "unknown" for finding in findings):
        return Line("unknown", "all_unknown", ("No change under shift could be estimated.",))
    whom = "The model" if total == 1 else f"None of the {total} models"
    if not lost:
        verb = "shows no detectable loss" if total == 1 else "shows a detectable loss"
        return Line("calm", "no_loss", (f"{whom} {verb} under any shift as a whole, at this n.",))
    names = {finding.policy for finding in lost}
    rows = [row for name in names for row in pooled_rows(result, name) if row["significant"] and row["value"] > 0]
    worst = max(rows, key=lambda row: row["value"])
    if total == 1:
        return Line("loss", "some_loss", ("The model loses measurably, most under ", *shift_name(worst["shift"]), "."))
    everyone = "Both models lose" if total == 2 else f"All {total} models lose"
    who = everyone if len(lost) == total else f"{len(lost)} of {total} models lose"
    who = who.replace("1 of", "One of").replace("models lose", "models loses") if len(lost) == 1 else who
    head = f"{who} measurably under shift. The largest loss is under "
    return Line("loss", "some_loss", (head, *shift_name(worst["shift"]), "."))
