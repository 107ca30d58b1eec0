"""The curves of a training run, step by step: rewards, held-out likelihood, what is written, the optimizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from remid.report.sheet import Figure, Section, Table, line, plain

Row = dict[str, Any]

_Z = 1.959964
#: Points of a line at most; a run of thousands of steps would make a page of tens of megabytes.
_POINTS = 400
_BARS = "bars: SD within groups"


@dataclass(frozen=True, slots=True)
class _Curve:
    """A signal: its name in the journal, what to call it with its unit, what to see in it."""

    name: str
    title: str
    note: str


_WRITTEN = (
    _Curve("entropy", "entropy, nats/token", "falls slowly; near 0 nothing is tried any more"),
    _Curve("kl", "KL from the reference model, nats/token", "only where grpo.beta or grpo.response_beta is not 0"),
    _Curve("length", "length, tokens", "mean over completions"),
    _Curve("distinct_1", "different tokens, share", "of the first 64 tokens of each completion"),
    _Curve("distinct_2", "different bigrams, share", "of the first 64 tokens of each completion"),
    _Curve("own_distinct_2", "different bigrams within a completion, share", "low: it repeats itself"),
    _Curve("unique", "different completions per prompt, share", "0: all the same; 1: none twice"),
    _Curve("failures", "do not follow the format, share", "of completions"),
    _Curve("unfinished", "cut off, share", "of completions"),
    _Curve("cross_overlap", "bigrams shared by completions of different prompts, share", "1: the same for all"),
    _Curve("cross_identical", "same text for different prompts, share", "of pairs"),
    _Curve("cross_distinct_2", "different bigrams over prompts, share", "one completion of each prompt"),
)
_SPREAD = (
    _Curve("no_spread", "groups whose rewards are all the same, share", "nothing is learned from them"),
    _Curve("missing", "completions without a reward, share", "could not be scored"),
)
_OPTIMIZER = (
    ("loss", "loss"),
    ("grad_norm", "gradient norm"),
    ("learning_rate", "learning rate"),
    ("step_time", "time per step, s"),
)


def is_rl(record: Row) -> bool:
    """Whether this is a step of reinforcement learning, the only ones with rewards."""
    return record["kind"] == "step" and bool(record.get("rewards"))


def curve_sections(records: Sequence[Row]) -> list[Section]:
    """Sections with figures; empty ones hold neither figure nor table."""
    return [_rewards(records), _probes(records), _written(records), _optimizer(records)]


def last_signals(records: Sequence[Row]) -> Section | None:
    """The newest step of each stage in reinforcement learning, as a table; None where there is none."""
    newest = {row["stage"]: row for row in records if is_rl(row)}
    if not newest:
        return None
    curves = (_Curve("reward", "reward", ""), _Curve("spread", "spread of rewards within groups (SD)", ""))
    rows = tuple(
        (curve.title, *(plain(row["signals"].get(curve.name), 3) for row in newest.values()))
        for curve in (*curves, *_SPREAD, *_WRITTEN)
        if any(row["signals"].get(curve.name) is not None for row in newest.values())
    )
    sizes = ", ".join(f"{plain(row['signals'].get('n'), 0)} in {stage}" for stage, row in newest.items())
    columns = ("Signal", *(f"{stage}, step {row['step']}" for stage, row in newest.items()))
    return Section("Last signals", "", tables=(Table(f"Of one step each; completions: {sizes}", columns, rows),))


def _rewards(records: Sequence[Row]) -> Section:
    steps = [row for row in records if is_rl(row)]
    figures = [_figure(steps, _at("signals", "reward"), f"reward, weighted sum; {_BARS}", _at("signals", "spread"))]
    for name in dict.fromkeys(name for row in steps for name in row["rewards"]):
        title = f"reward part: {_plain_name(name)}; {_BARS}"
        figures.append(_figure(steps, _at("rewards", name, "mean"), title, _at("rewards", name, "spread")))
    figures += [_signal(steps, curve) for curve in _SPREAD]
    text = (
        f"Means over the completions of a step{_sizes(steps)}, parts before weighting. Bars are the standard deviation "
        "among the completions of one prompt, averaged over prompts: what advantages are made of, and no intervals."
    )
    return Section("Rewards", text, _known(figures))


def _probes(records: Sequence[Row]) -> Section:
    probes = [row for row in records if row["kind"] == "held_out" and row.get("step") is not None]
    keys = (
        ("log_q", "log q2 of held-out references, nats/token"),
        ("gap", "trace gap, nats/token"),
        ("advantage", "own trace minus none, nats/token"),
    )
    figures = [_figure(probes, _at(key), f"{title}; bars: 95% interval", _at(f"{key}_se"), _Z) for key, title in keys]
    n = sorted({int(row["log_q_n"]) for row in probes if row.get("log_q_n")})
    size = f" (n = {', '.join(map(str, n))} samples)" if n else ""
    text = (
        f"Evaluated within the stages on held-out samples{size}. The samples are the same each time, so the curve "
        "moves less by chance than its bars say."
    )
    return Section("Held-out references within stages", text, _known(figures))


def _written(records: Sequence[Row]) -> Section:
    steps = [row for row in records if is_rl(row)]
    text = f"What the modules write while they train{_sizes(steps)}: q1 traces, q2 responses."
    return Section("What the samples look like", text, _known([_signal(steps, curve) for curve in _WRITTEN]))


def _optimizer(records: Sequence[Row]) -> Section:
    steps = [row for row in records if row["kind"] == "step"]
    figures = [_figure(steps, _at("learning", key), title) for key, title in _OPTIMIZER]
    return Section("The optimizer", "All stages, supervised ones included.", _known(figures))


def _signal(steps: Sequence[Row], curve: _Curve) -> Figure | None:
    return _figure(steps, _at("signals", curve.name), f"{curve.title} ({curve.note})")


def _at(*path: str) -> Callable[[Row], float | None]:
    """Reads a number at this path of a record; None where there is none."""

    def read(row: Row) -> float | None:
        found: Any = row
        for key in path:
            found = (found or {}).get(key)
        return None if found is None else float(found)

    return read


def _figure(
    rows: Sequence[Row],
    value: Callable[[Row], float | None],
    title: str,
    error: Callable[[Row], float | None] | None = None,
    times: float = 1.0,
) -> Figure | None:
    """One line per stage over its steps, with bars of `times` the error; None where no value is known."""
    traces = []
    for k, stage in enumerate(dict.fromkeys(str(row["stage"]) for row in rows)):
        mine = _thinned([row for row in rows if row["stage"] == stage])
        y = [value(row) for row in mine]
        if all(one is None for one in y):
            continue
        more: Row = {}
        if error is not None and any(error(row) is not None for row in mine):
            more["error_y"] = {"type": "data", "array": [times * (error(row) or 0) for row in mine], "thickness": 1}
        traces.append(line(stage, [row["step"] for row in mine], y, k, marker={"size": 4}, **more))
    if not traces:
        return None
    layout = {
        "height": 300,
        "title": {"text": title, "font": {"size": 13}, "x": 0, "xanchor": "left", "y": 0.98, "yanchor": "top"},
        "margin": {"l": 60, "r": 16, "t": 64, "b": 46},
        "xaxis": {"title": {"text": "step of the stage"}},
    }
    return Figure(tuple(traces), layout, f"{title}, by step of each stage")


def _thinned(rows: list[Row]) -> list[Row]:
    """At most _POINTS of them, evenly spaced, the last one kept."""
    every = -(-len(rows) // _POINTS)
    return rows[::-1][:: max(1, every)][::-1]


def _sizes(steps: Sequence[Row]) -> str:
    n = sorted({int(row["signals"]["n"]) for row in steps if row["signals"].get("n")})
    return f" (n = {' to '.join(map(str, dict.fromkeys((n[0], n[-1]))))} per step)" if n else ""


def _plain_name(name: str) -> str:
    """A reward's name for a figure's title, where plotly reads a small HTML."""
    return "".join(letter for letter in name if letter.isalnum() or letter in " _-")


def _known(figures: Sequence[Figure | None]) -> tuple[Figure, ...]:
    return tuple(figure for figure in figures if figure is not None)
