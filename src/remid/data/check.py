"""What is in a benchmark, and what about it may spoil a measurement. Nothing here stops a run."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from remid.data.language import language_of
from remid.data.same import Part, twins
from remid.data.table import plain_table
from remid.data.text import counted, shown
from remid.types import ID, Benchmark, Sample

#: Fewer samples than this give no standard error of a difference between positive and negative pairs.
MIN_SAMPLES = 3

FindingKind = Literal[
    "no-id",
    "no-ood",
    "too-small",
    "no-responses",
    "silent-policy",
    "duplicate-sample",
    "duplicate-reference",
    "train-overlap-id",
    "train-overlap-input",
    "train-overlap-reference",
    "response-is-reference",
]


@dataclass(frozen=True, slots=True)
class Spread:
    """Minimum, median and maximum of a length."""

    low: float
    median: float
    high: float


@dataclass(frozen=True, slots=True)
class SubsetSummary:
    """One subset of one shift.

    turns: queries of the user, the last one open (RPGBench's "4 turns" are 7 utterances). input_chars: Unicode
    characters of user, character and dialogue together. reference_chars, reference_bytes: of the reference response;
    bytes are UTF-8. languages: (code, samples), most frequent first, judged by dialogue and reference (language.py says
    how roughly).
    """

    subset: str
    shift: str
    splits: tuple[str, ...]
    n: int
    turns: Spread
    input_chars: Spread
    reference_chars: Spread
    reference_bytes: Spread
    languages: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class PolicySummary:
    """One policy over the test samples: how many it answered, how many are missing, and missing per subset."""

    name: str
    answered: int
    missing: int
    missing_by_subset: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that may spoil a measurement. places: up to MAX_PLACES examples, "FILE: RECORD"."""

    kind: FindingKind
    message: str
    places: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """What `check` found. Training subsets stand among `subsets` with shift "train"."""

    source: str
    digest: str
    n_test: int
    n_train: int
    subsets: tuple[SubsetSummary, ...]
    policies: tuple[PolicySummary, ...]
    findings: tuple[Finding, ...]


MAX_PLACES = 3
_OVERLAPS: Mapping[Part, FindingKind] = {
    "id": "train-overlap-id",
    "input": "train-overlap-input",
    "reference": "train-overlap-reference",
}


def check(benchmark: Benchmark) -> Report:
    """The census of a benchmark and every finding about it. Pure; time is linear in the text."""
    test, train = benchmark.test, benchmark.train
    return Report(
        source=benchmark.source,
        digest=benchmark.digest,
        n_test=len(test),
        n_train=len(train),
        subsets=tuple(_summary(group) for group in groups(benchmark.samples)),
        policies=tuple(_policy(name, test) for name in benchmark.policies),
        findings=(
            *_coverage(test),
            *_silent(benchmark),
            *_duplicates(test),
            *_train_overlap(test, train),
            *_echoes(benchmark),
        ),
    )


def groups(samples: Iterable[Sample]) -> list[list[Sample]]:
    """Samples by (shift, subset), in order of first appearance."""
    return list(_group(samples, lambda sample: (sample.shift, sample.subset)).values())


def queries(sample: Sample) -> int:
    """How many turns a dialogue has: the user's queries, the last of which the response answers."""
    return sum(turn.role == "user" for turn in sample.dialogue)


def sample_text(sample: Sample) -> tuple[str, ...]:
    """All that a model reads and should answer: samples equal in it are the same sample whatever they are called."""
    return (sample.user, sample.character, *(turn.text for turn in sample.dialogue), sample.reference)


def _group(samples: Iterable[Sample], key: Callable[[Sample], Hashable]) -> dict[Hashable, list[Sample]]:
    grouped: dict[Hashable, list[Sample]] = {}
    for sample in samples:
        grouped.setdefault(key(sample), []).append(sample)
    return grouped


def _summary(group: Sequence[Sample]) -> SubsetSummary:
    languages = Counter(
        language_of(" ".join([sample.reference, *(turn.text for turn in reversed(sample.dialogue))]))
        for sample in group
    )
    return SubsetSummary(
        subset=group[0].subset,
        shift=group[0].shift,
        splits=tuple(dict.fromkeys(sample.split for sample in group)),
        n=len(group),
        turns=_spread(queries(sample) for sample in group),
        input_chars=_spread(sum(map(len, sample_text(sample))) - len(sample.reference) for sample in group),
        reference_chars=_spread(len(sample.reference) for sample in group),
        reference_bytes=_spread(len(sample.reference.encode("utf-8")) for sample in group),
        languages=tuple(languages.most_common()),
    )


def _spread(lengths: Iterable[int]) -> Spread:
    values = list(lengths)
    return Spread(min(values), statistics.median(values), max(values))


def _policy(name: str, test: Sequence[Sample]) -> PolicySummary:
    missing = Counter(sample.subset for sample in test if name not in sample.responses)
    return PolicySummary(name, len(test) - missing.total(), missing.total(), tuple(missing.items()))


def _finding(kind: FindingKind, message: str, samples: Sequence[Sample] = ()) -> Finding:
    return Finding(kind, message, tuple(sample.place for sample in samples[:MAX_PLACES]))


def _coverage(test: Sequence[Sample]) -> list[Finding]:
    findings = []
    if not any(sample.shift == ID for sample in test):
        message = "no in-distribution subset (shift id): information can be measured, its fall under shift cannot"
        findings.append(_finding("no-id", message))
    if not any(sample.shift != ID for sample in test):
        message = "no shifted subset (user, character, dialogue): there is no shift to measure a fall under"
        findings.append(_finding("no-ood", message))
    for group in groups(test):
        if len(group) < MIN_SAMPLES:
            name = f'subset "{group[0].subset}" ({group[0].shift})'
            message = f"{name} holds {counted(len(group), 'sample')}; nothing can be estimated from under {MIN_SAMPLES}"
            findings.append(_finding("too-small", message, group))
    if test and not any(sample.responses for sample in test):
        message = "no policy's responses: generate them with a model, or give response files"
        findings.append(_finding("no-responses", message))
    return findings


def _silent(benchmark: Benchmark) -> list[Finding]:
    message = 'policy "{}" says nothing: every response of it is null or blank'
    return [_finding("silent-policy", message.format(shown(name))) for name in benchmark.silent]


def _duplicates(test: Sequence[Sample]) -> list[Finding]:
    findings = []
    repeated = [group for group in _group(test, sample_text).values() if len(group) > 1]
    if repeated:
        extra = sum(len(group) - 1 for group in repeated)
        message = f"{counted(extra, 'test sample')} with another's input and reference: they count one thing twice"
        findings.append(_finding("duplicate-sample", message, [sample for group in repeated for sample in group]))
    for group in groups(test):
        same = [twins for twins in _group(group, lambda sample: sample.reference).values() if len(twins) > 1]
        # Twins in everything were reported above.
        same = [twins for twins in same if len({sample_text(sample) for sample in twins}) > 1]
        if same:
            message = (
                f'{counted(sum(map(len, same)), "sample")} of subset "{group[0].subset}" share a reference: '
                "as negatives for each other they are positives, which lowers the information"
            )
            findings.append(_finding("duplicate-reference", message, [sample for twins in same for sample in twins]))
    return findings


def _train_overlap(test: Sequence[Sample], train: Sequence[Sample]) -> list[Finding]:
    """What `remid train` refuses too."""
    found: dict[Part, list[Sample]] = {}
    for sample, part, _ in twins(test, train):
        found.setdefault(part, []).append(sample)
    return [
        _finding(kind, f"{counted(len(found[part]), 'test sample')} with the {part} of a training sample", found[part])
        for part, kind in _OVERLAPS.items()
        if part in found
    ]


def _echoes(benchmark: Benchmark) -> list[Finding]:
    findings = []
    for policy in benchmark.policies:
        same = [
            sample for sample in benchmark.test if sample.responses.get(policy, "").strip() == sample.reference.strip()
        ]
        if same:
            message = f'policy "{policy}" answers {counted(len(same), "sample")} with the reference itself'
            findings.append(_finding("response-is-reference", message, same))
    return findings


def render(report: Report) -> str:
    """The report as plain text for a terminal, without colours. Names from the data are made safe to print."""
    head = [
        f"{shown(report.source, 200)}",
        f"{counted(report.n_test, 'test sample')}, {counted(report.n_train, 'training sample')}, "
        f"{counted(len(report.policies), 'policy')}, digest {report.digest[:12]}",
    ]
    header = ["shift", "subset", "split", "n", "turns", "input chars", "ref. chars", "ref. bytes", "languages"]
    rows = [_subset_cells(summary) for summary in report.subsets]
    parts = ["\n".join(head), "Subsets (lengths: min/median/max)\n" + plain_table([header, *rows])]
    if report.policies:
        cells = [
            [policy.name, str(policy.answered), str(policy.missing), _missing(policy)] for policy in report.policies
        ]
        parts.append("Policies\n" + plain_table([["policy", "answered", "missing", "missing in"], *cells]))
    lines = [line for finding in report.findings for line in _finding_lines(finding)]
    parts.append("\n".join(["Findings", *lines]) if lines else "Findings: none")
    return "\n\n".join(parts) + "\n"


def _subset_cells(summary: SubsetSummary) -> list[str]:
    shown_languages = summary.languages[:4]
    rest = sum(count for _, count in summary.languages[4:])
    languages = [f"{code} {count}" for code, count in shown_languages] + ([f"other {rest}"] if rest else [])
    spreads = (summary.turns, summary.input_chars, summary.reference_chars, summary.reference_bytes)
    lengths = [f"{spread.low:g}/{spread.median:g}/{spread.high:g}" for spread in spreads]
    return [summary.shift, summary.subset, ", ".join(summary.splits), str(summary.n), *lengths, ", ".join(languages)]


def _missing(policy: PolicySummary) -> str:
    return ", ".join(f"{shown(subset, 30)} {count}" for subset, count in policy.missing_by_subset)


def _finding_lines(finding: Finding) -> list[str]:
    lines = [f"- {shown(finding.message, 400)} [{finding.kind}]"]
    return lines + [f"    e.g. {shown(place, 200)}" for place in finding.places]
