"""A training run as a page and for the terminal: what the collapse watch says, curves, stages, samples.

Made from the records of train.jsonl and a summary of the run (train/summary.py) as plain dicts. Intervals are 95%,
1.96 standard errors over held-out samples on either side; spreads are standard deviations and say so.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from remid.report.sheet import Figure, Section, Table, bars, line, plain, render_sheet, value_with_interval
from remid.report.training_curves import curve_sections, is_rl, last_signals
from remid.report.training_times import times_section

Row = dict[str, Any]

_LEDE = (
    "Two modules train each other: q1 writes a trace of what a good response must hold, q2 says how likely a response "
    "is given that trace. Held-out references were never trained on; of them log q2 should rise and should need the "
    "trace. Everything is in nats per token of the reference unless a line says otherwise."
)
#: Samples of what was written, spread over the run.
_SAMPLES = 24
_Z = 1.959964


def render_training(records: Sequence[Row], run: Row) -> str:
    """The page as one file of HTML. records: of train.jsonl; run: of train.summary.train_summary."""
    title = f"Training: {headline(records, run)}"
    about = {name: run.get(name) for name in ("folder", "data", "base", "best", "config")}
    digests = {row["stage"]: row["digest"] for row in run["stages"] if row["digest"]}
    return render_sheet(title, _LEDE, training_sections(records, run), about | {"adapters": digests})


def training_sections(records: Sequence[Row], run: Row) -> list[Section]:
    """The verdict first, then what it rests on; parts of which there is nothing yet are left out."""
    found = [
        _verdict(records, run),
        _held_out(records, run),
        *curve_sections(records),
        _speeds(run),
        _stages(run),
        times_section(run["times"]),
        _samples(records),
        _notes(records),
    ]
    return [section for section in found if section.figures or section.tables or section.title == "Verdict"]


def status_sections(records: Sequence[Row], run: Row) -> list[Section]:
    """For the terminal: stages, the last steps' signals, what the watch named."""
    signals = last_signals(records)
    found = [_stages(run), times_section(run["times"]), signals, _verdict(records, run)]
    return [section for section in found if section is not None]


def headline(records: Sequence[Row], run: Row) -> str:
    """The verdict in one sentence."""
    counts = Counter(row["stage"] for row in records if is_rl(row))
    steps = counts.total()
    if run["warnings"]:
        named = list(dict.fromkeys(row["signature"] for row in run["warnings"]))
        return f"{len(named)} {'sign' if len(named) == 1 else 'signs'} of collapse: {', '.join(named)}"
    if steps == 0:
        return f"no step of reinforcement learning{'' if run['finished'] else ' yet'}, no sign of collapse so far"
    if max(counts.values()) < run["window"]:
        few = f"{steps} {'step' if steps == 1 else 'steps'} of reinforcement learning"
        early = "too few steps" if run["finished"] else "too early"
        return f"{early} to tell: {few}, and the watch needs {run['window']} in one stage"
    return f"healthy, no sign of collapse in {steps} steps of reinforcement learning"


def time_text(seconds: float | None) -> str:
    """Seconds as "1 h 02 min", "2 min 03 s" or "4 s"."""
    if seconds is None:
        return "n/a"
    minutes, left = divmod(round(seconds), 60)
    hours, rest = divmod(minutes, 60)
    if hours:
        return f"{hours} h {rest:02d} min"
    return f"{minutes} min {left:02d} s" if minutes else f"{left} s"


def _verdict(records: Sequence[Row], run: Row) -> Section:
    text = (
        "The watch looks for six signatures at every step: trace ignored, trivial traces, uninformative responses, one "
        "module running ahead, no signal, format lost. It compares the last four steps of a stage with the first four "
        "of the same module, so a stage of fewer than eight steps shows floors only."
    )
    if not run["warnings"]:
        return Section("Verdict", f"{headline(records, run).capitalize()}. {text}")
    columns = ("Signature", "Stage", "Step", "What was seen", "What it means", "What to do")
    rows = tuple(
        (
            str(row["signature"]),
            str(row["stage"]),
            "end" if row["step"] is None else str(row["step"]),
            *(str(row[name]) for name in ("seen", "meaning", "advice")),
        )
        for row in run["warnings"]
    )
    # Every cell is a sentence of ours or a stage's name; prose is escaped like all else.
    table = Table("Signatures met, first time in each stage", columns, rows, names=len(columns), prose=True)
    return Section("Verdict", text, tables=(table,))


def interval_row(record: Row | None, name: str) -> Row | None:
    """A held-out figure with its 95% interval, None where it is missing."""
    if record is None or record.get(name) is None:
        return None
    value, error = record[name], record.get(f"{name}_se")
    low, high = (None, None) if error is None else (value - _Z * error, value + _Z * error)
    return {"value": value, "ci_low": low, "ci_high": high, "n": record.get(f"{name}_n")}


def _held_out(records: Sequence[Row], run: Row) -> Section:
    done = [row for row in run["stages"] if row["held_out"] is not None]
    names = [row["stage"] for row in done]
    likelihood = [
        ("log_q", "with its own trace where that parses"),
        ("log_q_without", "without a trace"),
    ]
    differences = [
        ("gap", "own trace minus another sample's (trace gap)"),
        ("advantage", "own trace minus none"),
    ]
    figures = [
        _by_stage(names, done, likelihood, "log q2 of references, nats/token"),
        _by_stage(names, done, differences, "difference in log q2, nats/token"),
    ]
    rows = tuple(
        (
            row["stage"],
            *(
                value_with_interval(interval_row(row["held_out"], key))
                for key in ("log_q", "over_best", "log_q_without", "gap", "advantage")
            ),
            _parsed(row["held_out"]),
            plain(row["held_out"].get("perplexity"), 3),
            _count(row["held_out"].get("log_q_n")),
        )
        for row in done
    )
    columns = (
        "After stage",
        "log q2",
        "over the best before",
        "without a trace",
        "trace gap",
        "over no trace",
        "traces that parse",
        "perplexity",
        "n",
    )
    caption = "Nats/token, mean over held-out samples with 95% interval; perplexity per token over all; n: samples"
    text = (
        "The references that were held out, scored after each stage. Two intervals that overlap may still differ: the "
        "samples are the same. So a stage is compared sample by sample with the best one before it, and is kept where "
        "it is better; an interval about 0 there says that this was chance as much as choice. A trace gap of about 0 "
        f"means that q2 does not read the trace.{_kept(run)}"
    )
    return Section(
        "How likely held-out references are",
        text + _untraced(run),
        tuple(figure for figure in figures if figure is not None),
        (Table(caption, columns, rows),) if rows else (),
    )


def _kept(run: Row) -> str:
    """A sentence about the stage whose estimator is kept; empty where there is none yet."""
    return f" Kept is the estimator after {run['best']['name']}." if run["best"] else ""


def _no_trace(record: Row) -> bool:
    """Whether no trace parsed, or none was written: log q2 is then that without a trace."""
    share = record.get("parse_failures", 0)
    return share is None or share == 1


def _with_trace(record: Row) -> Row:
    """A held-out record without what is called after traces but was found without any."""
    return {**record, "log_q": None, "advantage": None} if _no_trace(record) else record


def _untraced(run: Row) -> str:
    """A sentence about the stages after which no trace parsed; empty where there are none."""
    stages = [row["stage"] for row in run["stages"] if row["held_out"] is not None and _no_trace(row["held_out"])]
    if not stages:
        return ""
    return f" After {', '.join(stages)} no trace that parses was written: log q2 there is that without a trace."


def _parsed(record: Row) -> str:
    share = record.get("parse_failures", math.nan)
    return "none written" if share is None else "n/a" if math.isnan(share) else f"{1 - share:.0%}"


def _by_stage(names: list[str], done: list[Row], keys: list[tuple[str, str]], title: str) -> Figure | None:
    traces = []
    for k, (key, word) in enumerate(keys):
        found = [interval_row(_with_trace(row["held_out"]), key) for row in done]
        rows = [row or {"value": None, "ci_low": None, "ci_high": None} for row in found]
        if any(row["value"] is not None for row in rows):
            y = [row["value"] for row in rows]
            traces.append(line(word, names, y, k, error_y=bars(rows, "ci_low", "value", "ci_high")))
    if not traces:
        return None
    layout = {"yaxis": {"title": {"text": title}}, "xaxis": {"type": "category"}}
    return Figure(tuple(traces), layout, f"{title} after each stage, with 95% intervals; table below")


def _speeds(run: Row) -> Section:
    rows = tuple(
        (
            row["stage"],
            value_with_interval(
                interval_row({"speed": row["per_step"], "speed_se": row["se"]}, "speed"),
            ),
            _count(row["n"]),
            plain(row["relative"], 2, sign=True),
        )
        for row in run["speeds"]
        if row["per_step"] is not None
    )
    columns = ("Stage", "nats/token per step", "n", "over the other module's")
    caption = (
        "Slope of held-out log q2 over the steps of the stage, with 95% interval from the scatter about the line; n: "
        "evaluations; last: ratio to the other module's slope of the same round"
    )
    text = (
        "How fast each module moves what both are for. A negative ratio: one module undoes what the other gains. The "
        "ratio of two slopes near 0 says nothing."
    )
    return Section("Speed of each module", text, tables=(Table(caption, columns, rows),) if rows else ())


def _stages(run: Row) -> Section:
    rows = tuple(
        (
            row["stage"],
            row["state"],
            _count(row["step"]),
            _count(row["steps"]),
            time_text(row["seconds"]),
            time_text(row["seconds_left"]) if row["state"] == "in hand" else "",
            value_with_interval(interval_row(row["held_out"], "log_q")),
            (row["digest"] or "n/a")[:12],
        )
        for row in run["stages"]
    )
    columns = ("Stage", "State", "step", "of", "time", "left", "held-out log q2", "adapter")
    caption = "Time without pauses; log q2 in nats/token with 95% interval; adapter: first digits of its digest"
    caption += f".{_kept(run)}"
    known = [row["seconds"] for row in run["stages"] if row["seconds"] is not None]
    text = f"The stages in order. So far they took {time_text(sum(known))}."
    return Section("Stages", text, tables=(Table(f"{caption.rstrip('.')}.{_untraced(run)}", columns, rows, names=2),))


def _samples(records: Sequence[Row]) -> Section:
    """Texts from models and data: the sheet escapes them and shows what would not be seen."""
    found: list[tuple[str, ...]] = []
    numbers = list(dict.fromkeys(name for row in records for e in _examples(row) for name in _numbers(e)))
    for row in records:
        for example in _examples(row):
            step = "end" if row.get("step") is None else str(row["step"])
            text = example.get("text", example.get("trace"))
            values = _numbers(example)
            cells = (plain(values.get(name), 3) for name in numbers)
            parsed = "n/a" if example.get("parsed") is None else "yes" if example["parsed"] else "no"
            found.append((str(row["stage"]), step, str(example.get("sample_ID", "")), str(text), parsed, *cells))
    if len(found) > _SAMPLES:
        found = [found[round(k * (len(found) - 1) / (_SAMPLES - 1))] for k in range(_SAMPLES)]
    columns = ("Stage", "Step", "Sample", "What was written", "Parses", *numbers)
    caption = "Some of what was written, oldest first, with rewards before weighting or log q2 in nats/token"
    table = Table(caption, columns, tuple(found), names=5)
    return Section("What is written", "Read a few: figures do not see nonsense.", tables=(table,) if found else ())


def _examples(row: Row) -> list[Row]:
    return list(row.get("examples") or ()) if row["kind"] in {"samples", "held_out"} else []


def _numbers(example: Row) -> dict[str, float | None]:
    flat = {**example, **(example.get("rewards") or {})}
    return {
        str(name): value
        for name, value in flat.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and name != "sample_ID"
    }


def _notes(records: Sequence[Row]) -> Section:
    rows = tuple((str(row.get("stage")), str(row.get("text"))) for row in records if row["kind"] == "note")
    table = Table("Notes of the run, oldest first", ("Stage", "Note"), rows, names=2)
    return Section("Notes", "What was left out, and what else happened.", tables=(table,) if rows else ())


def _count(value: Any) -> str:
    return "n/a" if value is None else f"{int(value)}"
