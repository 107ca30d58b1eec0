"""When texts are the same to a model, whatever they are called: how leaks from training into a test are found."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Literal

from remid.types import Sample

#: In which of these two samples may be the same.
Part = Literal["id", "input", "reference"]

#: Below so many characters a reference ("Yes, I do.") may well occur twice by chance.
LEAST_CHARACTERS = 20


def normal(text: str) -> str:
    """Equal for texts that differ in case, width (full, half), composition and spacing alone."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def input_text(sample: Sample) -> str:
    """User, character and dialogue, normal."""
    turns = [f"{turn.role}: {turn.text}" for turn in sample.dialogue]
    return "\x1f".join(normal(part) for part in (sample.user, sample.character, *turns))


def marks(sample: Sample) -> tuple[str, ...]:
    """By what a sample is known again where its text may not be kept: 64 bits (hex) of its input, and of its reference
    if that is long enough."""
    texts = [f"{part} {text}" for part, text in _parts(sample) if part != "id"]
    return tuple(hashlib.sha256(text.encode()).hexdigest()[:16] for text in texts)


def twins(samples: Iterable[Sample], others: Iterable[Sample]) -> Iterator[tuple[Sample, Part, Sample]]:
    """Each sample with what it shares with another, and the first of others that has it.

    Texts are compared without regard to case, width and spacing; references of at least 20 characters only.
    """
    known: dict[tuple[Part, str], Sample] = {}
    for other in others:
        for part, text in _parts(other):
            known.setdefault((part, text), other)
    for sample in samples:
        for part, text in _parts(sample):
            if (match := known.get((part, text))) is not None:
                yield sample, part, match


def _parts(sample: Sample) -> Iterator[tuple[Part, str]]:
    yield "id", sample.sample_id
    yield "input", input_text(sample)
    if len(reference := normal(sample.reference)) >= LEAST_CHARACTERS:
        yield "reference", reference
