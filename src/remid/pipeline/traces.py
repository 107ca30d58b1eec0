"""The format of reasoning traces: written, parsed strictly, and the part of them that the estimator sees.

A full trace follows the paper: Part 1 restates key information, Part 2 makes three trials, Part 3 lists the core
features of a good response in a fenced block. Only Part 3 reaches q2. A compact trace has the core features alone, in
two lines, short enough for a small model. A trace that does not follow its format is a counted failure; the whole text
is never used in its place (the public release does that).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

TraceFormat = Literal["full", "compact"]

FULL_HEADINGS = (
    "## Part 1: Key Information",
    "### User Persona",
    "### Agent Character",
    "### Dialogue",
    "## Part 2: Trials",
    "### Trial 1",
    "### Trial 2",
    "### Trial 3",
    "## Part 3: Core Features",
)
TRIAL_LABELS = ("Draft", "Verification", "Revision hint")
CONTENT_FEATURES = ("Fits the user", "Embodies the character", "Continues the dialogue")
STYLE_FEATURES = ("Tone for the user", "Character's voice", "Natural flow")
COMPACT_HEADING = "## Core Features"

_FENCE = re.compile(r"\s*```[a-z]*\n(.*?)\n```\s*", re.DOTALL)
_COMPACT = re.compile(r"\s*## Core Features\nContent: (\S[^\n]*)\nStyle: (\S[^\n]*)\s*")


@dataclass(frozen=True, slots=True)
class ParsedTrace:
    """A trace's core features as they go into the prompt, or why there are none. Exactly one of the two is set."""

    features: str | None
    failure: str | None


def parse_trace(text: str) -> ParsedTrace:
    """The core features of a trace in either format, the format told by its headings."""
    text = text.replace("\r\n", "\n")  # line endings of another system are no fault of the trace
    if not text.strip():
        return _failed("empty")
    if FULL_HEADINGS[-1] in text or FULL_HEADINGS[0] in text:
        return _parse_full(text)
    match = _COMPACT.fullmatch(text)
    if match is None:
        return _failed("no heading of either format" if COMPACT_HEADING not in text else "not in the compact format")
    return ParsedTrace(f"Content: {match[1].strip()}\nStyle: {match[2].strip()}", None)


def _parse_full(text: str) -> ParsedTrace:
    lines = [line.strip() for line in text.splitlines()]
    place = -1
    for heading in FULL_HEADINGS:
        if lines.count(heading) != 1:
            return _failed(f'heading "{heading}" {"missing" if heading not in lines else "repeated"}')
        if lines.index(heading) < place:
            return _failed(f'heading "{heading}" out of order')
        place = lines.index(heading)
    match = _FENCE.fullmatch(text.partition(FULL_HEADINGS[-1])[2])
    if match is None:
        return _failed("core features not in one fenced block")
    features = match[1].strip()
    if "```" in features or not features:
        return _failed("core features empty or fenced twice")
    missing = [
        name for name in (*CONTENT_FEATURES, *STYLE_FEATURES) if not re.search(rf"^- {name}: \S", features, re.M)
    ]
    return _failed(f'feature "{missing[0]}" missing') if missing else ParsedTrace(features, None)


def _failed(reason: str) -> ParsedTrace:
    return ParsedTrace(None, reason)


def trimmed(text: str, form: TraceFormat) -> str:
    """A trace as a model wrote it, without what follows the two lines of a compact one: small models ramble on."""
    if form == "full":
        return text
    return "\n".join([line for line in text.splitlines() if line.strip()][:3])


def compact_from_full(text: str) -> str | None:
    """A full trace's core features in the compact format (content and style in a line each), or None if unparsable."""
    features = parse_trace(text).features
    if features is None or not re.match(r"Content:?[ \t]*\n", features):
        return None
    found = {name: _feature(features, name) for name in (*CONTENT_FEATURES, *STYLE_FEATURES)}
    content = " ".join(_sentence(found[name]) for name in CONTENT_FEATURES)
    style = "; ".join(found[name].rstrip(".;") for name in STYLE_FEATURES)
    return f"{COMPACT_HEADING}\nContent: {content}\nStyle: {style}."


def _feature(features: str, name: str) -> str:
    match = re.search(rf"^- {name}: (.*)$", features, re.M)
    return match[1].strip() if match else ""


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else text + "."
