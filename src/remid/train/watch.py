"""Signs that training collapses, named from a run's journal while it runs.

A signature is named on evidence of at least two windows of steps: the stage's last steps against the first ones of the
same adapter, where both the size of the change and its distance from noise count; and on absolute floors, for runs that
were bad from the start. What healthy training does (entropy and spread that fall slowly, lengths that drift) is below
all of them. docs/collapse.md says what each means, and what was measured.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from remid.train.journal import adapter_of
from remid.train.signals import Mean, slope

Row = Mapping[str, Any]

#: Steps behind a figure: the last so many against the first so many.
WINDOW = 4
#: Standard errors that a change must exceed, the noise taken from how much neighbouring steps differ.
MIN_Z = 4.0
#: Of the step-to-step noise only recent history is used.
_NOISE_STEPS = 40

# Trivial traces. Relative: what is left of the first steps' value. Floors: named whatever the first steps were. Traces
# of one prompt become alike in healthy training too, as q1 settles on the best one: there is no relative rule for that,
# and none for n-grams counted over all completions.
_LEFT = 0.5
_ENTROPY_LEFT = 0.2
_ENTROPY_FLOOR = 0.02  # nats per token
_UNIQUE_FLOOR = 0.1
_OWN_DISTINCT_FLOOR = 0.3
_LENGTH_FLOOR = {"q1": 8.0, "q2": 3.0}  # tokens, end of turn included
_OVERLAP_CEILING = 0.9
# Uninformative responses.
_IDENTICAL_CEILING = 0.3
_CROSS_OVERLAP_CEILING = 0.6
# Format and signal, as shares.
_FAILURES_RISE = 0.25
_FAILURES_CEILING = 0.95
_FAILURES_GAIN = 0.02  # so little less than at first is not learning it
_NO_SPREAD_CEILING = 0.9
# Held out, nats per token.
_GAP_FLOOR = 0.02
_GAP_TELLS = 0.1  # an error bar so wide that a gap of this size could hide is no evidence
_GAP_PROBES = 3
_MIN_PAIRS = 8
_RISE_Z = 2.5  # of the reward; the fall of what is held out carries the proof
_FALL = 0.05
_FALL_PROBES = 4
_FALL_Z = 4.0


@dataclass(frozen=True, slots=True)
class CollapseWarning:
    """A signature that was met. step: of the stage, None at its end. seen: the figures; advice: what to do."""

    signature: str
    stage: str
    step: int | None
    seen: str
    meaning: str
    advice: str

    def record(self) -> dict[str, Any]:
        """As the journal holds it."""
        names = ("signature", "stage", "step", "seen", "meaning", "advice")
        return {"kind": "warning", **{name: getattr(self, name) for name in names}}


@dataclass(frozen=True, slots=True)
class Change:
    """Means of the first and of the last WINDOW steps, and their difference in standard errors of step-to-step noise.

    first and z are None where there are fewer than two windows.
    """

    first: float | None
    last: float
    z: float | None

    def fell_to(self, share: float) -> bool:
        """The last steps have at most this share of the first, beyond noise."""
        return self.first is not None and self.z is not None and self.last <= share * self.first and self.z <= -MIN_Z

    def rose_by(self, amount: float) -> bool:
        return self.first is not None and self.z is not None and self.last >= self.first + amount and self.z >= MIN_Z


@dataclass
class _Seen:
    """What the watch knows of one adapter's training by reinforcement: all its steps, the stage in hand, its probes."""

    adapter: str
    stage: str = ""
    steps: list[Row] = field(default_factory=list)
    in_stage: int = 0
    probes: list[Row] = field(default_factory=list)

    def add(self, record: Row, stage: str) -> None:
        if self.stage != stage:
            self.stage, self.in_stage, self.probes = stage, 0, []
        # A run that goes on behind its last checkpoint repeats steps.
        if record["kind"] == "held_out":
            self.probes = [row for row in self.probes if row["step"] < record["step"]] + [record]
            return
        while self.in_stage and self.steps[-1]["step"] >= record["step"]:
            self.steps.pop()
            self.in_stage -= 1
        self.steps.append(record)
        self.in_stage += 1

    def change(self, name: str) -> Change | None:
        """Of a signal; None before the stage has a window of steps that have it."""
        recent = [row["signals"].get(name) for row in self.steps[-self.in_stage :]] if self.in_stage else []
        if sum(value is not None for value in recent) < WINDOW:
            return None
        return change([row["signals"].get(name) for row in self.steps])

    def rise(self, name: str) -> float | None:
        """The slope of a signal over the stage's steps in standard errors; None before two windows of steps."""
        mine = self.steps[-self.in_stage :] if self.in_stage else []
        found = slope([row["step"] for row in mine], [row["signals"].get(name) for row in mine])
        if found.n < 2 * WINDOW or found.value is None or found.se is None:
            return None
        return found.value / found.se if found.se > 0 else math.copysign(math.inf, found.value) if found.value else 0.0


def change(values: Sequence[float | None]) -> Change | None:
    """The change in a series; missing values are passed over. None with fewer than WINDOW known values."""
    known = [value for value in values if value is not None]
    if len(known) < WINDOW:
        return None
    last = sum(known[-WINDOW:]) / WINDOW
    if len(known) < 2 * WINDOW:
        return Change(None, last, None)
    first = sum(known[:WINDOW]) / WINDOW
    near = known[-_NOISE_STEPS:]
    # Von Neumann's estimate: half the mean squared difference of neighbours, which a slow drift hardly moves.
    variance = sum((b - a) ** 2 for a, b in itertools.pairwise(near)) / (2 * (len(near) - 1))
    error = math.sqrt(2 * variance / WINDOW)
    difference = last - first
    z = difference / error if error > 0 else math.copysign(math.inf, difference) if difference else 0.0
    return Change(first, last, z)


def watch(records: Iterable[Row]) -> list[CollapseWarning]:
    """Every signature that the records show, in the order in which they were met, once for each stage."""
    watcher = Watcher()
    return [warning for record in records for warning in watcher.add(record)]


class Watcher:
    """Takes the records of a journal one by one and says what each brought to light."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}
        self._named: set[tuple[str, str]] = set()

    def add(self, record: Row) -> list[CollapseWarning]:
        """The signatures that are met with this record and were not met before in its stage."""
        stage = str(record.get("stage"))
        adapter = adapter_of(stage)
        if adapter is None or record["kind"] not in {"step", "held_out"}:
            return []
        if record["kind"] == "held_out" and record.get("step") is None:
            return self._new(_at_the_end(record), stage, None)
        if not stage.startswith("grpo"):
            return []  # supervised: nothing is sampled, and what is held out is judged at the end
        seen = self._seen.setdefault(adapter, _Seen(adapter))
        seen.add(record, stage)
        found = {name: text for name, check in _CHECKS if (text := check(seen))}
        return self._new(found, stage, int(record["step"]))

    def _new(self, found: Mapping[str, str], stage: str, step: int | None) -> list[CollapseWarning]:
        fresh = [(name, text) for name, text in found.items() if (name, stage) not in self._named]
        self._named |= {(name, stage) for name, _ in fresh}
        return [CollapseWarning(name, stage, step, text, *_WORDS[name]) for name, text in fresh]


def _trace_ignored(seen: _Seen) -> str | None:
    probes = [row for row in seen.probes if row.get("gap") is not None and row.get("gap_se") is not None]
    recent = probes[-_GAP_PROBES:]
    if len(recent) < _GAP_PROBES or min(int(row["gap_n"]) for row in recent) < _MIN_PAIRS:
        return None
    # The probes share their samples, so their mean is no more certain than one of them.
    gap, error = _average(recent, "gap"), _average(recent, "gap_se")
    text = (
        f"trace gap {gap:+.3f} nats/token (standard error {error:.3f}, n = {recent[-1]['gap_n']} held-out samples, "
        f"last {len(recent)} evaluations)"
    )
    if gap + 2 * error < _GAP_FLOOR:
        return f"{text}: below {_GAP_FLOOR} within two errors"
    first = float(probes[0]["gap"])
    if gap > error or 2 * error > max(first, _GAP_TELLS):
        return None
    if first - gap > max(first / 2, 2 * error):
        return f"{text}: not above 0 by one error, and {first:+.3f} at the stage's beginning"
    z = seen.rise("reward") if seen.adapter == "q1" else None
    if z is not None and z < 2:
        return f"{text}: not above 0 by one error, and the reward has not risen ({z:+.1f} errors)"
    return None


def _at_the_end(record: Row) -> dict[str, str]:
    """At a stage's end only what is certain is named: the gap is small, and the error would have shown a larger one."""
    gap, error = record.get("gap"), record.get("gap_se")
    if adapter_of(str(record["stage"])) != "q2" or gap is None or error is None or record["gap_n"] < _MIN_PAIRS:
        return {}
    if gap + 2 * error >= _GAP_FLOOR:
        return {}
    text = f"trace gap {gap:+.3f} nats/token (standard error {error:.3f}, n = {record['gap_n']} held-out samples)"
    return {"trace ignored": f"{text} at the stage's end: below {_GAP_FLOOR} within two errors"}


def _trivial_traces(seen: _Seen) -> str | None:
    if seen.adapter != "q1":
        return None
    rules = (
        ("length", "length {:.1f} tokens", _LEFT, _LENGTH_FLOOR["q1"]),
        ("unique", "different traces per prompt {:.2f} (0: all the same)", None, _UNIQUE_FLOOR),
        ("own_distinct_2", "different bigrams within a trace {:.2f}", _LEFT, _OWN_DISTINCT_FLOOR),
        ("entropy", "entropy {:.3f} nats/token", _ENTROPY_LEFT, _ENTROPY_FLOOR),
    )
    found = [_low(seen, *rule) for rule in rules]
    return _joined([*found, _alike(seen, "bigrams shared by traces of different prompts {:.2f}", _OVERLAP_CEILING)])


def _uninformative_responses(seen: _Seen) -> str | None:
    if seen.adapter != "q2":
        return None
    return _joined(
        [
            _high(seen, "cross_identical", "responses to different prompts alike {:.2f}", _IDENTICAL_CEILING),
            _alike(seen, "bigrams shared across prompts {:.2f}", _CROSS_OVERLAP_CEILING),
            _low(seen, "cross_distinct_2", "different bigrams across prompts {:.2f}", _LEFT, None),
            _low(seen, "length", "length {:.1f} tokens", 0.25, _LENGTH_FLOOR["q2"]),
        ]
    )


def _running_ahead(seen: _Seen) -> str | None:
    rise = seen.rise("reward")
    points = [row for row in seen.probes if row.get("log_q") is not None]
    if rise is None or rise < _RISE_Z or len(points) < _FALL_PROBES:
        return None
    steps = [float(row["step"]) for row in points]
    found: Mean = slope(steps, [float(row["log_q"]) for row in points])
    if found.value is None or found.se is None:
        return None
    fall = found.value * (steps[-1] - steps[0])
    if fall > -_FALL or found.value > -_FALL_Z * found.se:
        return None
    other = "q2" if seen.adapter == "q1" else "q1"
    return (
        f"{seen.adapter}'s reward rose by {rise:.1f} errors while log q2 of held-out references fell by {-fall:.3f} "
        f"nats/token over {steps[-1] - steps[0]:.0f} steps (n = {len(points)} evaluations): {seen.adapter} gains what "
        f"{other} does not follow"
    )


def _no_signal(seen: _Seen) -> str | None:
    return _joined(
        [
            _high(seen, "no_spread", "groups whose rewards are all the same {:.2f}", _NO_SPREAD_CEILING, steady=True),
            _high(seen, "missing", "completions without a reward {:.2f}", _NO_SPREAD_CEILING, steady=True),
        ]
    )


def _format_lost(seen: _Seen) -> str | None:
    found = seen.change("failures")
    if found is None:
        return None
    text = f"{found.last:.2f} of the completions do not follow the format (mean of {WINDOW} steps"
    if found.rose_by(_FAILURES_RISE):
        return f"{text}; {found.first:.2f} in the first {WINDOW}, {found.z:.1f} errors)"
    if found.last >= _FAILURES_CEILING and found.first is not None and found.last >= found.first - _FAILURES_GAIN:
        return f"{text}; named from {_FAILURES_CEILING})"
    return None


def _low(seen: _Seen, name: str, text: str, left: float | None, floor: float | None) -> str | None:
    """left: named at this share of the first steps; floor: and below this, whatever they were."""
    found = seen.change(name)
    if found is None:
        return None
    shown = f"{text.format(found.last)} (mean of {WINDOW} steps"
    if left is not None and found.fell_to(left):
        return f"{shown}; {found.first:.3g} in the first {WINDOW}, named at {left:.0%} of that)"
    return f"{shown}; named below {floor:g})" if floor is not None and found.last < floor else None


def _alike(seen: _Seen, text: str, ceiling: float) -> str | None:
    """Different prompts share too many bigrams, or of what differed at first half is left.

    A form that all completions have in common is shared from the start; what is left of the rest is the same measure in
    any form.
    """
    found = seen.change("cross_overlap")
    if found is None:
        return None
    shown = f"{text.format(found.last)} (mean of {WINDOW} steps"
    if found.first is not None and found.rose_by((1 - _LEFT) * (1 - found.first)):
        return f"{shown}; {found.first:.2f} in the first {WINDOW}: {_LEFT:.0%} or less of what differed is left)"
    return f"{shown}; named from {ceiling:g})" if found.last >= ceiling else None


def _high(seen: _Seen, name: str, text: str, ceiling: float, *, steady: bool = False) -> str | None:
    """steady: only with a second window, since first steps may be so in any run."""
    found = seen.change(name)
    if found is None or found.last < ceiling or (steady and found.first is None):
        return None
    return f"{text.format(found.last)} (mean of {WINDOW} steps; named from {ceiling:g})"


def _joined(found: Sequence[str | None]) -> str | None:
    return "; ".join(text for text in found if text) or None


def _average(rows: Sequence[Row], name: str) -> float:
    return sum(float(row[name]) for row in rows) / len(rows)


_CHECKS: tuple[tuple[str, Callable[[_Seen], str | None]], ...] = (
    ("trace ignored", _trace_ignored),
    ("trivial traces", _trivial_traces),
    ("uninformative responses", _uninformative_responses),
    ("one module running ahead", _running_ahead),
    ("no signal", _no_signal),
    ("format lost", _format_lost),
)

#: What each signature means, and what to do.
_WORDS: dict[str, tuple[str, str]] = {
    "trace ignored": (
        "q2 finds a reference as likely with another sample's trace as with its own: it does not read traces, or these "
        "say nothing of their samples. So q1's reward is noise, or at best tells it to say less.",
        "Train q2 longer on better traces (more sft.epochs, traces from the data or a larger model), or reward q1 by "
        "what its trace adds (grpo.reward advantage); compare with an estimator without reasoning before going on.",
    ),
    "trivial traces": (
        "q1 writes short or always the same traces: what they say no longer depends on the input.",
        "Lower grpo.rate, set grpo.beta to 0.02 or more, or raise grpo.length and grpo.temperature; go back to the "
        "adapter of the stage before.",
    ),
    "uninformative responses": (
        "q2 says much the same whatever the prompt: typical responses are rewarded, and these fit everywhere.",
        "Lower grpo.rate, set grpo.response_beta to 3, use grpo.ratio sum, or keep the supervised q2 of the stage "
        "before.",
    ),
    "one module running ahead": (
        "The module that is trained improves its reward on the training prompts while references that were held out "
        "become less likely: the two modules no longer improve the same thing.",
        "Fewer grpo.samples per round and more rounds, a lower grpo.rate, grpo.temperature 1, or grpo.beta 0.02 and "
        "more (q1) or grpo.response_beta 3 (q2); check what share of the reward is format and length.",
    ),
    "no signal": (
        "Within nearly every group all completions earn the same, or cannot be scored: advantages are 0 and nothing is "
        "learned.",
        "Raise grpo.temperature or grpo.generations; if rewards are missing, raise max_tokens or shorten the prompts.",
    ),
    "format lost": (
        "Completions no longer parse, so q2 gets no features from them.",
        "Raise grpo.format and the cold start's sft.epochs, lower grpo.rate; if traces are cut off, raise "
        "grpo.trace_tokens.",
    ),
}

SIGNATURES = tuple(_WORDS)
