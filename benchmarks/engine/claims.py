"""What the issue asks for, against what was measured. Claims about time say nothing in a quick run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .spread import Row

#: By which the peak may be larger with the most policies than with the fewest: results, and how the heap fell.
_STILL = 1.05
#: Largest distance from a straight line, as a share of the largest value.
_STRAIGHT = 0.1
_KILL_COUNTS = ("lost", "changed", "again", "too_many", "too_few", "lines_lost", "files_differ")


def checks(found: Row) -> list[Row]:
    """name, claim, measured, passed (None: not judged) for every section that has a result."""
    rows: list[Row] = []
    for name, judge in _JUDGES.items():
        section = found["sections"].get(name)
        if section is None:
            continue
        if "failed" in section:
            rows.append({"name": name, "claim": "is measured", "measured": section["failed"][:300], "passed": None})
            continue
        for claim, measured, passed, timed in judge(section["result"]):
            judged = None if timed and section["quick"] else passed
            rows.append({"name": name, "claim": claim, "measured": measured, "passed": judged})
    return rows


def times(row: Row) -> str:
    """A ratio with its interval over blocks, or its range."""
    inside = (
        f"{row['low']:.1f} to {row['high']:.1f}" if row["low"] is not None else f"{row['min']:.1f} to {row['max']:.1f}"
    )
    return f"{row['of_sums']:.1f} times [{inside}], {row['n']} blocks"


Judged = list[tuple[str, str, bool, bool]]


def _speed(result: Row) -> Judged:
    ratios, error = result["ratios"], result["equal_error"]
    made: Judged = []
    for arm, least, what in (
        ("one", 10, "One policy, the paper's design"),
        ("eleven", 20, f"{result['policies']} policies, the paper's design"),
        ("balanced", 60, "At no larger standard error, one policy"),
    ):
        # As the release's layout runs: in padded batches, whose padding is part of the seconds that were measured.
        row, bare = ratios[arm]["padded"], ratios[arm]["unpadded"]
        told = f"{times(row)}; {bare['of_sums']:.1f} if its padding were free"
        made.append((f"{what}: at least {least} times faster than pair by pair", told, row["of_sums"] >= least, True))
    if error is not None:
        balanced, random = error["se_m"][0], error["se_random"]
        told = f"{balanced:.2f} against {random:.2f} nats, {error['n']} contexts"
        made.append(
            ("The balanced design with one negative is no noisier than the random one", told, balanced <= random, True)
        )
    return made


def _exact(result: Row) -> Judged:
    made: Judged = []
    for row in result["against"]:
        if "float64" not in row["way"]:
            told = (
                f"largest {row['largest_per_token']:.1e}, mean {row['mean_per_token']:.1e} nats, {row['tokens']} tokens"
            )
            passed = row["largest_per_token"] <= 1e-4
            made.append((f"Every token within 1e-4 nats of scoring {row['way']}", told, passed, False))
    different = [row["way"] for row in result["same"] if row["tokens_same_bits"] != row["tokens"]]
    told = f"{len(result['same'])} ways" + (f"; not: {', '.join(different)}" if different else ", all the same bits")
    made.append(("The same bits whatever the packing, sharing, order or threads", told, not different, False))
    same = result["same_bytes_in_another_process"]
    made.append(("Two processes give the same bytes", "yes" if same else "no", same, False))
    return made


def _harness(result: Row) -> Judged:
    gap = result["largest_difference_nats_per_response"]
    row = result["ratio"]
    return [
        ("At least 6 times faster than lm-evaluation-harness", times(row), row["of_sums"] >= 6, True),
        ("Same numbers to 1e-3 nats per response", f"{gap:.1e}, {result['pairs']} pairs", gap <= 1e-3, False),
    ]


def _stage(result: Row) -> Judged:
    row = result["runs"][0]
    share = row["share"]
    told = f"{100 * share['median']:.0f}% [{100 * share['min']:.0f} to {100 * share['max']:.0f}%], {share['n']} repeats"
    return [(f"At least 70% of the products' rate, {row['threads']} threads", told, share["median"] >= 0.7, True)]


def _growth(result: Row) -> Judged:
    made: Judged = []
    for axis in ("prompts", "continuations", "policies"):
        off = result["axes"][axis]["time"]["largest_off"]
        told = f"at most {100 * off:.0f}% off the line"
        made.append((f"Time grows linearly in {axis}", told, off <= _STRAIGHT, True))
        rows = result["axes"][axis]["rows"]
        sizes, peaks = [row["size"] for row in rows], [row["bytes_peak"] for row in rows]
        told = f"{peaks[0] / 1e6:.0f} MB at {sizes[0]}, {peaks[-1] / 1e6:.0f} MB at {sizes[-1]}"
        if axis == "policies":
            made.append(("Peak memory does not grow with policies (5%)", told, peaks[-1] <= _STILL * peaks[0], True))
        else:
            line = peaks[0] + (peaks[1] - peaks[0]) / (sizes[1] - sizes[0]) * (sizes[-1] - sizes[0])
            made.append((f"Peak memory grows no faster than a line in {axis}", told, peaks[-1] <= _STILL * line, True))
    return made


def _ray(result: Row) -> Judged:
    row = result["two_over_one"]
    return [
        ("Two workers of one thread at least 1.6 times faster than one", f"{row:.2f} times", row >= 1.6, True),
        ("Workers give the same bytes", "yes" if result["same_bytes"] else "no", result["same_bytes"], False),
    ]


def _kills(result: Row) -> Judged:
    bad = {name: result[name] for name in _KILL_COUNTS if result[name]}
    told = f"{result['kills']} kills over {result['runs']} runs: " + (str(bad) if bad else "none")
    return [("After every kill the same end, no row lost, changed or doubled", told, not bad, False)]


_JUDGES: dict[str, Callable[[Any], Judged]] = {
    "speed": _speed,
    "exact": _exact,
    "harness": _harness,
    "stage": _stage,
    "growth": _growth,
    "ray": _ray,
    "kills": _kills,
}
