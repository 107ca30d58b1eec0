"""What a response takes over word by word, from its input and from itself. Any language, no model.

Words are compared without case. Scripts without spaces count each sign as a word, so shares of such texts are higher by
nature: compare them with the reference's of the same samples, not with another language's.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from remid.data.text import word_pattern

#: Words in a row that count as taken over. Two happen by chance all the time, four miss most of short turns.
GRAM = 3

Words = tuple[str, ...]


def words(text: str) -> Words:
    """Words in lower case; of scripts without spaces, signs."""
    # One spelling: an accent may be part of its letter or a sign behind it.
    return tuple(word_pattern().findall(unicodedata.normalize("NFC", text.casefold())))


def grams(text: Words, n: int = GRAM) -> Iterator[Words]:
    """Every n words in a row, from left to right."""
    return (text[i : i + n] for i in range(len(text) - n + 1))


@dataclass(frozen=True, slots=True)
class Source:
    """Texts that might be copied from. A stretch that runs from one text into the next is none.

    places: where each three words in a row stand, as (text, first word).
    """

    texts: tuple[Words, ...]
    places: Mapping[Words, Sequence[tuple[int, int]]]

    @classmethod
    def of(cls, texts: Iterable[str]) -> Source:
        """From texts as they are."""
        made = tuple(words(text) for text in texts)
        places: dict[Words, list[tuple[int, int]]] = {}
        for number, text in enumerate(made):
            for start, gram in enumerate(grams(text)):
                places.setdefault(gram, []).append((number, start))
        return cls(made, places)


def copied_share(response: Words, source: Source) -> float | None:
    """Share of the response's words in threes that the source has too; None for a response of fewer words."""
    said = list(grams(response))
    return sum(gram in source.places for gram in said) / len(said) if said else None


def longest_run(response: Words, source: Source) -> int:
    """Words of the longest stretch of the response that stands in the source; 0 where no three words in a row do."""
    best = 0
    for first, gram in enumerate(grams(response)):
        for number, start in source.places.get(gram, ()):
            text = source.texts[number]
            if first and start and response[first - 1] == text[start - 1]:
                continue  # the middle of a stretch that was followed before
            length = GRAM
            while first + length < len(response) and start + length < len(text):
                if response[first + length] != text[start + length]:
                    break
                length += 1
            best = max(best, length)
    return best


def repeated_share(response: Words) -> float | None:
    """Share of the response's words in threes that it has said before; None for fewer than three words."""
    said = list(grams(response))
    return 1 - len(set(said)) / len(said) if said else None
