"""The gap to the reference in words, for the page's head and the terminal: who is close, who is not, and in what way.

Nothing here is a virtue above the reference: a policy that earns more gets no credit for it, one that repeats more is
farther away. Runs made before the gap existed have no such section.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from remid.report.sentence import Line, Name, Part, Stat, Tone, shift_name
from remid.report.text import Row, half_width, interval, number

#: A policy's reading (docs/result.md, `gap`) in two or three words.
READINGS = {
    "like-reference": "cannot be told from the reference",
    "misses": "tells less of its input",
    "repeats": "repeats its input",
    "generic": "would fit any input",
    "elsewhere": "is about something else",
}
_TONES: dict[str | None, Tone] = {"like-reference": "calm", None: "unknown"}


@dataclass(frozen=True, slots=True)
class Bar:
    """A gap on the common scale of its table, 100 the end. whisker: ends of the interval, None without one.

    beyond: the bar ends outside and is cut.
    """

    missing: float
    excess: float
    whisker: tuple[float, ...] | None
    beyond: bool


@dataclass(frozen=True, slots=True)
class PolicyRow:
    """One policy on ID data: its numbers as text, its sentence, and its change under each shift.

    earned, repeated, blind: its own, the interval of that, and the references'. counted: its responses that have a gap
    ("n 5"), where others have more; else "".
    """

    policy: str
    kind: str
    reading: str
    gap: str
    around: str
    counted: str
    bar: Bar | None
    earned: tuple[str, str, str]
    repeated: tuple[str, str, str]
    blind: tuple[str, str, str]
    line: Line
    changes: tuple[tuple[str, str, bool, str], ...]


@dataclass(frozen=True, slots=True)
class View:
    """headline: the answer in a sentence. rows: models by gap, then controls. shifts: of the changes, in order.

    subsets: name, shift and one cell per policy of `policies`, for the fold. closer: pairs told apart.
    """

    headline: Line
    n: int
    reference: str
    shifts: tuple[tuple[Part, ...], ...]
    rows: tuple[PolicyRow, ...]
    policies: tuple[str, ...]
    subsets: tuple[tuple[str, tuple[Part, ...], tuple[str, ...]], ...]
    closer: tuple[Line, ...]


def gap_view(result: Row) -> View | None:
    """The section's content; None if the run has none or nothing on ID data."""
    kinds = {row["policy"]: row["kind"] for row in result["policies"]}
    on_id = {row["policy"]: row for row in result.get("gap", []) if row["shift"] == "id" and row["subset"] is None}
    if not on_id:
        return None
    changes = [row for row in result["gap_change"] if row["subset"] is None]
    shifts = list(dict.fromkeys(row["shift"] for row in changes))
    far = {policy: row["value"] if row["value"] is not None else float("inf") for policy, row in on_id.items()}
    order = sorted(on_id, key=lambda policy: (kinds[policy] != "model", far[policy]))
    shown = [row for policy, row in on_id.items() if policy != "parrot"] or list(on_id.values())
    most = max(row["ci_high"] or row["value"] or 0 for row in shown)  # a parrot would press all others to nothing
    by_shift = {(row["policy"], row["shift"]): row for row in changes}
    n = max(row["n"] + row["n_missing"] for row in on_id.values())
    rows = tuple(
        _row(on_id[policy], kinds[policy], [by_shift.get((policy, shift)) for shift in shifts], most, n)
        for policy in order
    )
    references = [row["earned"]["reference"] for row in on_id.values() if row["earned"]["reference"] is not None]
    return View(
        _headline([on_id[policy] for policy in order if kinds[policy] == "model"]),
        n,
        number(max(references, default=None), 1, False),
        tuple(shift_name(shift) for shift in shifts),
        rows,
        tuple(order),
        _subsets(result, order),
        tuple(_closer(row) for row in result["gap_contrasts"] if row["significant"]),
    )


def gap_line(row: Row) -> Line:
    """One policy on one cell in words."""
    reading = row["reading"]
    if reading is None:
        text = "Its gap could not be measured: too few responses have scores token by token."
        return Line("unknown", "gap_unknown", (text,))
    told = {
        "repeats": _repeats,
        "generic": _generic,
        "elsewhere": _elsewhere,
        "misses": _misses,
        "like-reference": _alike,
    }[reading](row)
    return Line(_TONES.get(reading, "loss"), f"gap_{reading}", tuple(told))


def _gap_of(row: Row) -> Stat:
    return Stat(f"gap {_plain(row)} nats/token, {_around(row)}, n = {row['n']}")


def _repeats(row: Row) -> list[Part]:
    own, theirs = row["repeated"]["value"], row["repeated"]["reference"]
    parts: list[Part] = ["Repeats its input: copies make up "]
    parts.append(f"{_two(own)} nats/token of what it tells, the references' {_two(theirs)}.")
    if row["missing"]["ci_low"] > 0:
        parts.append(f" What is not copied tells less than the references do ({_share(row)}).")
    return parts


def _generic(row: Row) -> list[Part]:
    own, theirs = row["blind"]["value"], row["blind"]["reference"]
    texts, n = row["n_distinct"], row["n"]
    same = "" if texts >= n else f" It gave {'one response' if texts == 1 else f'{texts} responses'} to {n} inputs."
    return [
        f"Would fit any input: it tells next to nothing of it ({_share(row)}), in words to be expected of anyone: "
        f"without the input they cost {_two(own)} nats/token, the references' {_two(theirs)}.{same}"
    ]


def _elsewhere(row: Row) -> list[Part]:
    own, theirs = row["blind"]["value"], row["blind"]["reference"]
    return [
        "Is about something else: its words are no commonplaces (without the input they cost "
        f"{_two(own)} nats/token, the references' {_two(theirs)}), yet this input makes them no likelier than others "
        f"do ({_share(row)}).",
    ]


def _misses(row: Row) -> list[Part]:
    return [f"Tells less of its input than the references: {_share(row)}."]


def _alike(row: Row) -> list[Part]:
    parts: list[Part] = ["Cannot be told from the reference here."]
    if row["ci_high"]:
        parts.append(f" A gap above {_two(row['ci_high'])} would have been seen.")
    if row["missing"]["ci_high"] < 0:
        parts.append(f" It earns more than the references ({_share(row)}), for which there is no credit.")
    return parts


def _share(row: Row) -> str:
    own, theirs = row["earned"]["value"], row["earned"]["reference"]
    return f"{number(own, 1, False)} nats/response earned, the references {number(theirs, 1, False)}"


def _row(row: Row, kind: str, changes: Sequence[Row | None], most: float, n: int) -> PolicyRow:
    bar = None
    if row["value"] is not None and most > 0:
        missing, excess = (100 * max(row[part]["value"], 0) / most for part in ("missing", "excess"))
        beyond = missing + excess > 100
        shrink = 100 / (missing + excess) if beyond else 1.0
        ends = None if beyond or row["ci_low"] is None else tuple(100 * row[k] / most for k in ("ci_low", "ci_high"))
        bar = Bar(missing * shrink, excess * shrink, ends, beyond)
    return PolicyRow(
        row["policy"],
        kind,
        "n/a" if row["reading"] is None else READINGS[row["reading"]],
        _plain(row),
        "no interval" if half_width(row) is None else _around(row),
        "" if row["n"] == n else f"n {row['n']}",
        bar,
        _compared(row["earned"], 1),
        _compared(row["repeated"], 2),
        _compared(row["blind"], 2),
        gap_line(row),
        tuple(_change(change) for change in changes),
    )


def _compared(row: Row, places: int) -> tuple[str, str, str]:
    own, low, high, theirs = (number(row[key], places, False) for key in ("value", "ci_low", "ci_high", "reference"))
    return own, "no interval" if half_width(row) is None else f"{low} to {high}", theirs


def _change(row: Row | None) -> tuple[str, str, bool, str]:
    """(value, interval, whether significant, n of the shift and bound) of a change."""
    if row is None or row["value"] is None:
        return "n/a", "", False, ""
    value = number(row["value"], 2)
    ends = "no interval" if half_width(row) is None else f"{number(row['ci_low'], 2)} to {number(row['ci_high'], 2)}"
    return value, ends, row["significant"], f"n {row['n_ood']}{_bound(row)}"


def _bound(row: Row) -> str:
    """The plug-in bound of a change, or that it does not hold: it was estimated too low."""
    if row["bound"] is None:
        return ""
    broken = row["ci_low"] is not None and row["ci_low"] > row["bound"]
    return f", {'beyond' if broken else 'at most'} {_two(row['bound'])}"


def _subsets(result: Row, policies: Sequence[str]) -> tuple[tuple[str, tuple[Part, ...], tuple[str, ...]], ...]:
    rows = [row for row in result["gap"] if row["subset"] is not None]
    made = []
    for subset, shift in dict.fromkeys((row["subset"], row["shift"]) for row in rows):
        found = {row["policy"]: row for row in rows if (row["subset"], row["shift"]) == (subset, shift)}
        cells = tuple("n/a" if policy not in found else _in_subset(found[policy]) for policy in policies)
        made.append((subset, ("ID data",) if shift == "id" else shift_name(shift), cells))
    return tuple(made)


def _in_subset(row: Row) -> str:
    reading = row["reading"]
    word = "" if reading in (None, "like-reference") else f" {READINGS[reading]}"
    return f"{_plain(row)} [{_around(row)}], n {row['n']}{word}"


def _closer(row: Row) -> Line:
    near, far = (row["policy"], row["versus"]) if row["value"] < 0 else (row["versus"], row["policy"])
    size = {**row, "value": abs(row["value"])}
    if row["value"] < 0:
        size |= {"ci_low": -row["ci_high"], "ci_high": -row["ci_low"]}
    where: tuple[Part, ...] = ("ID data",) if row["shift"] == "id" else shift_name(row["shift"])
    stat = Stat(f"{_plain(size)} nats/token ({interval(size)}, n = {row['n']})")
    return Line("calm", "gap_closer", (Name(near), " is closer than ", Name(far), " by ", stat, " on ", *where, "."))


def _headline(models: Sequence[Row]) -> Line:
    known = [row for row in models if row["reading"] is not None]
    if not known:
        return Line("unknown", "gap_none", ("No model's gap to the reference could be measured.",))
    if len(known) == 1:
        (one,) = known
        tone = _TONES.get(one["reading"], "loss")
        return Line(tone, "gap_one", (Name(one["policy"]), f" {READINGS[one['reading']]}: ", _gap_of(one), "."))
    told = [row for row in known if row["reading"] != "like-reference"]
    alike = len(known) - len(told)
    if not told:
        whom = "Neither model" if alike == 2 else f"None of the {alike} models"
        return Line("calm", "gap_all_alike", (f"{whom} can be told from the reference, at this n.",))
    others = f"{alike} of {len(known)} models cannot be told from the reference. " if alike else ""
    far = told[-1]  # the largest gap of all may be one whose interval is too wide to tell
    parts = (others, "Farthest from it: ", Name(far["policy"]), f", which {READINGS[far['reading']]}.")
    return Line("loss", "gap_far", parts)


def _plain(row: Row) -> str:
    """A gap, which has no sign."""
    return number(row["value"], 2, False)


def _around(row: Row) -> str:
    if half_width(row) is None:
        return "no interval"
    return f"{_two(row['ci_low'])} to {_two(row['ci_high'])}"


def _two(value: float | None) -> str:
    return number(value, 2, False)
