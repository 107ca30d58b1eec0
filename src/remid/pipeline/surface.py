"""What responses look like from outside, beside how informative they are: copying, length, repetition, language.

A copy is the most informative response there is, so R-EMI cannot be read without these. Every figure is a mean over the
samples of a subset, with the difference from the reference's own on the same samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from remid.data.language import UNKNOWN, language_of
from remid.data.overlap import Source, Words, copied_share, longest_run, repeated_share, words
from remid.estimate import Influence, share_interval
from remid.pipeline.measure import Row, SubsetScores, cells, estimate_of, mean_influence, numbers, place
from remid.pipeline.policies import REFERENCE, Texts
from remid.types import FloatArray, Sample

#: Where a response may have its words from; "input" is all of them.
SOURCES = ("last turn", "earlier turns", "character", "user", "input")
#: Unit of each measure; those in the second group are by source.
ALONE = {"words": "words", "brief": "share", "repeated": "share", "language": "share"}
BY_SOURCE = {"copied": "share", "run": "words"}
#: A response with a smaller share of its reference's words is brief. Means hide such responses behind long ones.
BRIEF = 0.2


@dataclass(frozen=True, slots=True)
class _Look:
    """One measure of a response to a sample: its name, its source (None: no source) and its unit."""

    measure: str
    source: str | None
    unit: str


_LOOKS = (
    *(_Look(measure, None, unit) for measure, unit in ALONE.items()),
    *(_Look(measure, source, unit) for measure, unit in BY_SOURCE.items() for source in SOURCES),
)


def surface_rows(
    subsets: Sequence[SubsetScores], answers: Mapping[str, Mapping[str, Texts]], confidence: float
) -> list[Row]:
    """Rows of `surface` (docs/result.md): every policy, per subset and pooled per shift.

    answers: per subset the policies' responses to its samples, in order. What has no value (no response, too short,
    a language that cannot be told) is left out of the mean and counted.
    """
    seen: dict[tuple[str, str], FloatArray] = {}
    for s in subsets:
        sources = [_sources(sample) for sample in s.samples]  # once for all policies
        for policy, texts in answers[s.subset].items():
            looked = [list(_looked(*row)) for row in zip(s.samples, sources, texts, strict=True)]
            seen[s.subset, policy] = np.array(looked, dtype=np.float64)
    rows: list[Row] = []
    for policy in subsets[0].scores:
        for number, look in enumerate(_LOOKS):
            for row_cell, apart in zip(
                cells(subsets, _of(seen, policy, number, look.unit)),
                cells(subsets, _of(seen, policy, number, look.unit, minus=REFERENCE)),
                strict=True,
            ):
                whole = estimate_of(row_cell, confidence)
                made = numbers(share_interval(whole, confidence) if look.unit == "share" else whole)
                del made["p_value"]  # nobody asks whether a length is 0
                over = numbers(estimate_of(apart, confidence))
                about = {"measure": look.measure, "source": look.source}
                kept = ("value", "ci_low", "ci_high", "p_value", "n")
                rows.append(
                    {
                        **place(policy, row_cell.subset, row_cell.shift),
                        **about,
                        **made,
                        "over_reference": None if policy == REFERENCE else {key: over[key] for key in kept},
                    }
                )
    return rows


def _looked(sample: Sample, sources: Mapping[str, Source], text: str | None) -> Iterator[float]:
    """The measures of one response in the order of _LOOKS, NaN where there is no value."""
    said = () if text is None else words(text)
    for look in _LOOKS:
        if text is None:
            value = None
        elif look.source is None:
            value = _ALONE[look.measure](sample, text, said)
        else:
            value = _BY_SOURCE[look.measure](said, sources[look.source])
        yield np.nan if value is None else float(value)


def _same_language(sample: Sample, text: str) -> float | None:
    """1 where response and reference are in one language, None where either's cannot be told."""
    own, wanted = language_of(text), language_of(sample.reference)
    return None if UNKNOWN in (own, wanted) else float(own == wanted)


_ALONE: dict[str, Callable[[Sample, str, Words], float | None]] = {
    "words": lambda sample, text, said: len(said),
    "brief": lambda sample, text, said: len(said) < BRIEF * len(words(sample.reference)),
    "repeated": lambda sample, text, said: repeated_share(said),
    "language": lambda sample, text, said: _same_language(sample, text),
}


_BY_SOURCE: dict[str, Callable[[Words, Source], float | None]] = {"copied": copied_share, "run": longest_run}


def _sources(sample: Sample) -> dict[str, Source]:
    parts = {
        "last turn": [sample.dialogue[-1].text],
        "earlier turns": [turn.text for turn in sample.dialogue[:-1]],
        "character": [sample.character],
        "user": [sample.user],
    }
    every = [text for texts in parts.values() for text in texts]
    return {name: Source.of(texts) for name, texts in parts.items()} | {"input": Source.of(every)}


Tables = Mapping[tuple[str, str], FloatArray]


def _of(
    seen: Tables, policy: str, number: int, unit: str, minus: str | None = None
) -> Callable[[SubsetScores], Influence]:
    """One measure of a policy by subset, less another policy's on the same samples."""

    def influence(s: SubsetScores) -> Influence:
        phi_B = seen[s.subset, policy][:, number]
        if minus is not None:
            phi_B = phi_B - seen[s.subset, minus][:, number]
        return mean_influence(phi_B, unit)

    return influence
