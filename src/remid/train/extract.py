"""Traces without a language model: what the reference takes up from its input, and how it sounds.

A reasoning trace costs a call to a large model per sample. This one costs a millisecond: the sentences of user,
character and dialogue that share rare words with the reference are quoted, and the reference's style is told in fixed
phrases (style.py). It gives away nothing else: quotations come from the input, and a trace that would spell four words
in a row that only the reference has is cut until it does not. So q1 can learn to write it from the input, and what
q2 learns to rely on is something that q1 can give it.

Words are compared by their first letters, so that "teacher" finds "teaching"; scripts without spaces, and Korean, by
pairs of characters. A word counts by how rare it is among the texts of its language in the data; common ones do not.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from remid.data.language import language_of
from remid.data.text import UNSPACED, word_pattern
from remid.pipeline.traces import COMPACT_HEADING, CONTENT_FEATURES, FULL_HEADINGS, STYLE_FEATURES, TRIAL_LABELS
from remid.train.style import say, size_of, traits, typical
from remid.types import Sample

Component = Literal["dialogue", "character", "user"]
#: In this order components take up words: a fact that the talk has brought up already is not quoted from a profile too.
_ORDER: tuple[Component, ...] = ("dialogue", "character", "user")
_LABELS: Mapping[Component, str] = {"user": "User", "character": "Character", "dialogue": "Dialogue"}

_STEM = 5  # letters of a word that are compared: a stemmer for any language that has endings
_COMMON = 0.05  # words in a larger share of a language's texts do not count
_LONGEST = 14.0  # words of one snippet
_SHORTEST = 10  # letters
_SNIPPETS = 2  # of one component
_PER_WORD = 0.1  # nats of rarity that each word of a snippet must be worth
_TOPICAL = 0.2  # texts above chance, per sample with a word, from which on a word counts in full
_LEAK = 4  # words in a row

_PIECES = re.compile(rf"[{UNSPACED}\uac00-\ud7af]+|(?:(?![{UNSPACED}\uac00-\ud7af])[^\W_])+")
_DENSE = re.compile(rf"[{UNSPACED}\uac00-\ud7af]")
_SENTENCE = re.compile(
    r"(?<!\b[A-Z]\.)(?<!\bM[rs]\.)(?<!\bMrs\.)(?<!\bDr\.)(?<=[.!?…])[\"'”’»)]*\s+|(?<=[。！？；;])|\n+"
)
_CLAUSE = re.compile(r"(?<=[,;，、）)])\s*|\s+(?=[-–—(])|(?=（)")
_KEY = re.compile(r"^[a-z][a-z_ ]{0,24}: (?:\S+(?: \S+)?$)?")  # a character object's lines (data/record.py), with names
_MARKUP = " \t*-–—>•“”'‘’"
_QUOTES = str.maketrans('"`', "''")


@dataclass(frozen=True, slots=True)
class Rarity:
    """What words are worth in nats, per language. texts: how many were counted."""

    worth: Mapping[str, Mapping[str, float]]
    texts: Mapping[str, int]

    def weight(self, term: str, language: str) -> float:
        """Nats; 0 for what is common, or says nothing of what a talk is about; 0 in a language that was not seen."""
        return self.worth.get(language, {}).get(term, self.most(language))

    def most(self, language: str) -> float:
        """Nats of a word that one text alone has."""
        return math.log(self.texts.get(language, 0) + 1)


def rarity(samples: Iterable[Sample], *, references: bool = True) -> Rarity:
    """Counted over the different texts (user, character, turns, reference) of samples, by the samples' language.

    references: False leaves them out, for traces that are to come from the input alone.
    A word is worth the log of all texts over those that have it, less if it does not keep to samples: "dogs" come up
    again in a talk that has them, "really" comes up anywhere.
    """
    groups: dict[str, list[set[str]]] = {}
    for sample in samples:
        texts = {sample.user, sample.character, *(turn.text for turn in sample.dialogue)}
        if references:
            texts.add(sample.reference)
        groups.setdefault(_language(sample, with_reference=references), []).append(texts)
    worth, counts = {}, {}
    for language, talks in groups.items():
        different = set().union(*talks)
        counts[language] = n = len(different)
        holding = Counter(term for text in different for term in _terms(text))
        topical = _topical(talks)
        worth[language] = {
            term: 0.0 if held > max(_COMMON * n, 2) else topical[term] * math.log((n + 1) / held)
            for term, held in holding.items()
        }
    return Rarity(worth, counts)


def _topical(talks: Sequence[set[str]]) -> dict[str, float]:
    """Per term 0 where it strikes texts at random, 1 where texts of a sample that has it have it more than once.

    That is the texts per sample that has the term, less what they would be if it fell on texts at random.
    """
    texts: Counter[str] = Counter()
    samples: Counter[str] = Counter()
    for talk in talks:
        each = [_terms(text) for text in talk]
        texts.update(term for terms in each for term in terms)
        samples.update(set().union(*each))
    size = sum(map(len, talks)) / len(talks)
    found = {}
    for term, seen in texts.items():
        share = min(seen / (size * len(talks)), 1.0)
        by_chance = size * share / (1 - (1 - share) ** size)
        # Counted as if five more samples had shown it to be topical: a few samples say little.
        excess = (seen - samples[term] * by_chance + 5 * _TOPICAL) / (samples[term] + 5)
        found[term] = min(1.0, max(0.0, excess / _TOPICAL))
    return found


@dataclass(frozen=True, slots=True)
class Snippets:
    """What is quoted of each component, most telling first. fresh: share of the sought words' rarity that no part of
    the input has, None where nothing rare was sought."""

    dialogue: tuple[str, ...] = ()
    character: tuple[str, ...] = ()
    user: tuple[str, ...] = ()
    fresh: float | None = None

    def of(self, component: Component) -> tuple[str, ...]:
        """A component's snippets."""
        return {"dialogue": self.dialogue, "character": self.character, "user": self.user}[component]


def extract(sample: Sample, rare: Rarity, form: str = "compact") -> str:
    """The trace that a sample's reference stands for, in the compact or the full format. Deterministic, always parses.

    Holds no four words in a row of the reference that are not in the input (for scripts without spaces: eight
    characters).
    """
    language = _language(sample, with_reference=True)
    snippets = take_up(sample, sample.reference, rare, language)
    style = traits(sample.reference, language)
    while quotes_reference(trace := _compose(snippets, style, form), sample) and (less := _fewer(snippets)):
        snippets = less
    return trace


def extract_blind(sample: Sample, rare: Rarity, form: str = "compact") -> str:
    """The same from the input alone: what bears on the user's last turn, and how the character spoke before.

    What a rule can know without the reference: a target that q1 can learn to the letter, and a baseline without q1.
    """
    language = _language(sample, with_reference=False)
    snippets = take_up(sample, sample.dialogue[-1].text, rare, language, again=1.0)
    said = [turn.text for turn in sample.dialogue if turn.role == "agent"]
    told = Snippets(snippets.dialogue, snippets.character, snippets.user)
    return _compose(told, typical(said, language), form)


def take_up(sample: Sample, sought: str, rare: Rarity, language: str, again: float = 0.5) -> Snippets:
    """The segments of each component that share the rarest words with `sought`, at most two of each.

    again: what a word counts that an earlier component's snippets have already (order: dialogue, character, user).
    """
    weights = {term: weight for term in _terms(sought) if (weight := rare.weight(term, language)) > 0}
    texts: dict[Component, list[str]] = {
        "dialogue": [turn.text for turn in reversed(sample.dialogue)],
        "character": [sample.character],
        "user": [sample.user],
    }
    taken: set[str] = set()
    chosen: dict[Component, tuple[str, ...]] = {}
    for component in _ORDER:
        segments = [segment for text in texts[component] for segment in _segments(text)]
        worth = {term: weight * (again if term in taken else 1) for term, weight in weights.items()}
        # The best of many segments shares more by chance; of few texts none is so rare that it could pass much.
        enough = min(math.log(len(segments) + 1), 0.5 * rare.most(language))
        chosen[component] = tuple(_best(segments, worth, enough))
        taken |= {term for segment in chosen[component] for term in _terms(segment)}
    there = {term for parts in texts.values() for text in parts for term in _terms(text)}
    total = math.fsum(weights.values())
    new = math.fsum(weight for term, weight in weights.items() if term not in there)
    return Snippets(chosen["dialogue"], chosen["character"], chosen["user"], new / total if total else None)


def _best(segments: Sequence[str], worth: Mapping[str, float], enough: float) -> Iterable[str]:
    """Segments whose words are worth the most, the earlier of equals; a word counts once."""
    left = dict(worth)
    for _ in range(_SNIPPETS):
        # fsum: a plain sum's last digit depends on the order of a set, which differs from process to process.
        gains = [math.fsum(left.get(t, 0.0) for t in _terms(s)) - _PER_WORD * size_of(s) for s in segments]
        if not gains or max(gains) < enough:
            return
        best = segments[gains.index(max(gains))]
        left = {term: weight for term, weight in left.items() if term not in _terms(best)}
        yield best


def quotes_reference(text: str, sample: Sample, words: int = _LEAK) -> bool:
    """Whether a text holds so many words in a row of the reference that are nowhere in the input."""
    inputs = [_tokens(part) for part in (sample.user, sample.character, *(turn.text for turn in sample.dialogue))]
    said, reference = _tokens(text), _tokens(sample.reference)
    return any(run in said and not any(run in part for part in inputs) for run in _runs(reference, words))


def _runs(tokens: str, words: int) -> Iterable[str]:
    """Every run of so many words, marked off at both ends; a character of a script without spaces is half a word."""
    units = tokens.split()
    sizes = [size_of(unit) for unit in units]
    for start in range(len(units)):
        size, end = 0.0, start
        while end < len(units) and size < words:
            size, end = size + sizes[end], end + 1
        if size >= words:
            yield f" {' '.join(units[start:end])} "


@lru_cache(maxsize=1 << 15)
def _tokens(text: str) -> str:
    return f" {' '.join(word_pattern().findall(_fold(text)))} "


@lru_cache(maxsize=1 << 17)
def _terms(text: str) -> frozenset[str]:
    """What texts are compared by: beginnings of words, pairs of characters."""
    found = set()
    for piece in _PIECES.findall(_fold(text)):
        if _DENSE.match(piece):
            found |= {piece[k : k + 2] for k in range(max(1, len(piece) - 1))}
        elif len(piece) > 1:
            found.add(piece[:_STEM])
    return frozenset(found)


@lru_cache(maxsize=1 << 15)
def _segments(text: str) -> tuple[str, ...]:
    """Sentences on one line each; a long one by its clauses, and a long clause in pieces. No headings or bare names."""
    found: list[str] = []
    for line in text.splitlines():
        if not line.lstrip().startswith("#"):
            for sentence in _SENTENCE.split(_KEY.sub("", line)):
                found += [sentence] if size_of(sentence) <= _LONGEST else _clauses(sentence)
    # What could pass for a trace's own marks is taken out: emphasis, headings, fences, the quotation's end.
    plain = (segment.replace("**", "").replace("#", "").translate(_QUOTES) for segment in found)
    tidy = (" ".join(segment.split()).strip(_MARKUP) for segment in plain)
    return tuple(
        dict.fromkeys(segment for segment in tidy if not segment.endswith(":") and _letters(segment) >= _SHORTEST)
    )


def _letters(text: str) -> int:
    """Letters of an alphabet that say about as much."""
    pieces = _PIECES.findall(text)
    return sum(len(piece) * (3 if _DENSE.match(piece) else 1) for piece in pieces)


def _clauses(sentence: str) -> list[str]:
    """Clauses, joined to their neighbours where both together are short enough."""
    found: list[str] = []
    place = 0
    for cut in [*(m.end() for m in _CLAUSE.finditer(sentence)), len(sentence)]:
        clause = sentence[place:cut]
        place = cut
        if found and size_of(found[-1]) + size_of(clause) <= _LONGEST:
            found[-1] += clause
        else:
            found += _pieces(clause)
    return found


def _pieces(clause: str) -> list[str]:
    """Parts of about equal size, none too long."""
    whole = size_of(clause)
    room = whole / math.ceil(max(whole, 1) / _LONGEST)
    found, start, size = [], 0, 0.0
    for token in word_pattern().finditer(clause):
        more = size_of(token[0])
        if size >= room or size + more > _LONGEST:
            found.append(clause[start : token.start()])
            start, size = token.start(), 0.0
        size += more
    return [*found, clause[start:]]


def _fold(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold().replace("’", "'")


def _language(sample: Sample, *, with_reference: bool) -> str:
    texts = [turn.text for turn in reversed(sample.dialogue)]
    return language_of(" ".join([sample.reference, *texts] if with_reference else texts))


def _fewer(snippets: Snippets) -> Snippets | None:
    """Without the last snippet of the last component that has one; None where there is none left."""
    for component in reversed(_ORDER):
        if snippets.of(component):
            kept = {name: snippets.of(name)[: -1 if name == component else None] for name in _ORDER}
            return Snippets(kept["dialogue"], kept["character"], kept["user"], snippets.fresh)
    return None


def _compose(snippets: Snippets, style: dict[str, str], form: str) -> str:
    if form == "full":
        return _full(snippets, style)
    parts = [f"{_LABELS[name]}: {_quoted(snippets.of(name))}" for name in ("user", "character", "dialogue") if
             snippets.of(name)]  # fmt: skip
    content = "; ".join([*(parts or ["Takes up nothing particular"]), *_fresh(snippets)])
    return f"{COMPACT_HEADING}\nContent: {content}.\nStyle: {say(style)}."


def _quoted(snippets: Sequence[str]) -> str:
    return " / ".join(f'"{snippet}"' for snippet in snippets) or "nothing particular"


def _fresh(snippets: Snippets) -> list[str]:
    if snippets.fresh is None:
        return []
    levels = ((0.2, "little"), (0.5, "some"), (0.8, "much"), (1.01, "nearly all"))
    return [f"new matter: {next(word for level, word in levels if snippets.fresh < level)}"]


def _full(snippets: Snippets, style: dict[str, str]) -> str:
    """The paper's three parts. Each trial takes up one component more, and the last all there is to take up."""
    user, character, talk = (_quoted(snippets.of(name)) for name in ("user", "character", "dialogue"))
    drafts = (
        (f"It takes up from the dialogue {talk}.", "Says nothing of the character.", "Bring in the character."),
        (f"It brings in of the character {character}.", "Says nothing of the user.", "Bring in the user."),
        (f"It brings in of the user {user}.", "Takes up what there is.", "Keep to this."),
    )
    trials = [
        line
        for number, texts in enumerate(drafts, 1)
        for line in (
            f"### Trial {number}",
            *(f"{label}: {text}" for label, text in zip(TRIAL_LABELS, texts, strict=True)),
        )
    ]
    content = (user, character, "; ".join([talk, *_fresh(snippets)]))
    tone = say(style, ("user", "register")) or "nothing particular"
    voice = say(style, ("self", "exclamation", "mark", "case")) or "nothing particular"
    flow = say(style, ("language", "length", "question"))
    h = FULL_HEADINGS
    return "\n".join(
        [
            *(h[0], h[1], user, h[2], character, h[3], talk, h[4], *trials, h[8], "```", "Content:"),
            *(f"- {name}: {text}" for name, text in zip(CONTENT_FEATURES, content, strict=True)),
            "Style:",
            *(f"- {name}: {text}" for name, text in zip(STYLE_FEATURES, (tone, voice, flow), strict=True)),
            "```",
        ]
    )
