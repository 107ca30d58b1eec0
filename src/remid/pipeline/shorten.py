"""Shorter traces: of each field of the core features the first words. Texts in, texts out."""

from __future__ import annotations

import re

from remid.data.compose import _units
from remid.pipeline.traces import COMPACT_HEADING, parse_trace

#: A field of the core features: "Content: ...", "- Fits the user: ...". What stands before the words is never cut.
_LABEL = re.compile(r"\s*(?:-\s*)?[^\W\d_][\w' ]{0,40}:(?:\s+|$)")
_SENTENCE_END = re.compile(r"[.!?。！？…]['\"”’»」』)]*$")
#: A cut ends at a sentence's end if one lies this near (share of the field's words).
_NEAR = 0.1


def shorten(trace: str, share: float) -> str:
    """A trace in either format whose core features are cut; what would not parse any more, or never did, as it was."""
    features = parse_trace(trace).features
    if features is None:
        return trace
    less = cut(features, share)
    if trace.lstrip().startswith(COMPACT_HEADING):
        short = f"{COMPACT_HEADING}\n{less}"
    else:
        before, _, behind = trace.replace("\r\n", "\n").rpartition(features)
        short = f"{before}{less}{behind}"
    return trace if parse_trace(short).features is None else short


def cut(features: str, share: float) -> str:
    """The first `share` of each field's words; labels and lines stay, so that every field loses alike.

    Words are what whitespace separates; in a text mostly in a script without spaces, characters with their marks. The
    number is rounded, at least 1; where a sentence ends within a tenth of the field's words of it, the cut is there.
    A comma or the like left at the end is taken off.
    """
    fields = map(split_label, features.split("\n"))
    return "\n".join((label + _cut_field(text, share)).rstrip() for label, text in fields)


def split_label(line: str) -> tuple[str, str]:
    """A field's label, with what stands before and behind it ("" where there is none), and its text."""
    label = found[0] if (found := _LABEL.match(line)) else ""
    return label, line[len(label) :]


def _cut_field(text: str, share: float) -> str:
    units = _units(text)
    places = [index for index, unit in enumerate(units) if not unit.isspace()]
    if not places:
        return text
    wanted = max(1, round(share * len(places)))
    if wanted >= len(places):
        return text
    reach = int(_NEAR * len(places))
    near = sorted(
        range(max(1, wanted - reach), min(len(places), wanted + reach) + 1), key=lambda k: (abs(k - wanted), k)
    )
    end = next((k for k in near if _SENTENCE_END.search(units[places[k - 1]])), wanted)
    kept = "".join(units[: places[end - 1] + 1])
    return kept.rstrip(",;:、，；：–—- ")
