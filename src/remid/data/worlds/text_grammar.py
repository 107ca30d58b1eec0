"""The words of the text world: how input and response symbols become text, and how text is read back.

Every symbol has several surface forms. Which one is used is drawn independently of everything else, and the symbol can
be read off any of them: distinct symbols never share a word. Users write English or German, by their symbol.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations, product
from typing import Literal

import numpy as np

from remid.types import Sample, Turn

#: Symbols of user, character and topic; a dialogue symbol is topic * PHRASINGS + phrasing (how the query is put).
USERS = CHARACTERS = TOPICS = 4
PHRASINGS = 3
DIALOGUES = TOPICS * PHRASINGS
LANGUAGES = ("en", "de")
#: How much a trace says of what a good answer does: no trace, each feature with probability 1/2, every feature.
Reveals = Literal["none", "partial", "full"]

_SLOT_SHAPE = (len(LANGUAGES), USERS, CHARACTERS, TOPICS)
#: Response symbols: slot responses (language, user word, character word, topic word), then the generic sentence, then
#: the query that the parrot repeats (language, dialogue symbol).
SLOT_RESPONSES = int(np.prod(_SLOT_SHAPE))
GENERIC = SLOT_RESPONSES
RESPONSES = SLOT_RESPONSES + 1 + len(LANGUAGES) * DIALOGUES
#: Surface forms of a slot response: two orders, two words for each of three slots, all equally likely.
SURFACES = 16

GENERIC_SENTENCE = "That is very interesting, thank you for telling me. Please go on, I would like to hear more."
_HEADS = (("consider", "remember"), ("bedenke", "erinnere"))

_TRADES = (("baker", "breadmaker"), ("nurse", "carer"), ("Malerin", "Künstlerin"), ("Lehrer", "Schulmeister"))
_NAMES = (("Mara", "Tom", "Iris", "Paul"), ("Anke", "Jonas", "Lena", "Karl"))
_TOWNS = (("Leeds", "Hull", "York", "Bath"), ("Bremen", "Kassel", "Ulm", "Mainz"))
_PERSONAS = (("{n} is a {t} from {p}", "a {t} called {n} , living in {p}"), ("{n} ist {t} aus {p}", "{t} {n} aus {p}"))

_CHARACTER_NAMES = (("Flint", "Morgan"), ("Merla", "Oswin"), ("Unit-7", "Bolt"), ("Ember", "Ashwing"))
_CALLINGS = (("pirate", "buccaneer"), ("wizard", "sorcerer"), ("robot", "machine"), ("dragon", "wyrm"))
_PROFILES = ("an old {c} , dry and exact", "{c} of few words")

_QUERIES = (
    (
        ("How can I sleep?", "I lie awake every night.", "Any advice for the sleepless?"),
        ("Where should I travel?", "I long to see the world.", "Any advice for a journey?"),
        ("How do I save money?", "My pockets are always empty.", "Any advice for the poor?"),
        ("How do I find love?", "I am lonely these days.", "Any advice for a suitor?"),
    ),
    (
        ("Wie kann ich schlafen?", "Ich liege jede Nacht wach.", "Ein Rat für Schlaflose?"),
        ("Wohin soll ich reisen?", "Ich will die Welt sehen.", "Ein Rat für eine Reise?"),
        ("Wie spare ich Geld?", "Meine Taschen sind immer leer.", "Ein Rat für Arme?"),
        ("Wie finde ich Liebe?", "Ich bin so einsam.", "Ein Rat für Verliebte?"),
    ),
)
_OPENERS = (("Good evening.", "Hello there."), ("Guten Abend.", "Hallo zusammen."))
_REPLIES = (("Well met.", "Speak freely."), ("Sei gegrüßt.", "Sprich nur."))

#: Words of the three slots of a response: language, slot (user, character, topic), symbol, synonym.
_SLOT_WORDS = (
    (
        (("loaf", "crust"), ("ward", "bandage"), ("paint", "brush"), ("school", "chalk")),
        (("sail", "anchor"), ("spell", "wand"), ("gear", "circuit"), ("flame", "scales")),
        (("rest", "pillow"), ("road", "map"), ("coin", "purse"), ("heart", "rose")),
    ),
    (
        (("Laib", "Kruste"), ("Station", "Verband"), ("Farbe", "Pinsel"), ("Schule", "Kreide")),
        (("Segel", "Anker"), ("Zauber", "Stab"), ("Zahnrad", "Schaltkreis"), ("Glut", "Schuppen")),
        (("Ruhe", "Kissen"), ("Weg", "Karte"), ("Münze", "Beutel"), ("Herz", "Rosen")),
    ),
)
_TRACE_LABELS = (("audience", "listener"), ("voice", "manner"), ("subject", "matter"))


@dataclass(frozen=True, slots=True)
class InputText:
    """One input as text. character: the object that RPGBench files hold; dialogue ends with the user's query."""

    user: str
    character: Mapping[str, str]
    dialogue: tuple[Turn, ...]


def language_of(user: int) -> int:
    """Index into LANGUAGES of the language in which a user writes."""
    return user * len(LANGUAGES) // USERS


def input_text(user: int, character: int, dialogue: int, rng: np.random.Generator) -> InputText:
    """An input symbol as text, surface forms drawn from rng; the dialogue has one or three turns."""

    def pick(forms: Sequence[str]) -> str:
        return forms[int(rng.integers(len(forms)))]

    language = language_of(user)
    persona = pick(_PERSONAS[language]).format(
        n=pick(_NAMES[language]), t=pick(_TRADES[user]), p=pick(_TOWNS[language])
    )
    profile = pick(_PROFILES).format(c=pick(_CALLINGS[character]))
    turns = [Turn("user", query_text(language, dialogue))]
    if rng.integers(2):
        turns = [Turn("user", pick(_OPENERS[language])), Turn("agent", pick(_REPLIES[language])), *turns]
    return InputText(persona, {"name": pick(_CHARACTER_NAMES[character]), "profile": profile}, tuple(turns))


def query_text(language: int, dialogue: int) -> str:
    """The user's query: one fixed text for each language and dialogue symbol."""
    return _QUERIES[language][dialogue // PHRASINGS][dialogue % PHRASINGS]


def trace_text(user: int, character: int, dialogue: int, reveals: Reveals, rng: np.random.Generator) -> str | None:
    """A trace in the compact format, made from the input alone; None where it reveals nothing.

    It names the core features (user, character, topic; "full" also the language) in random order and words.
    """
    if reveals == "none":
        return None
    symbols = (user, character, dialogue // PHRASINGS)
    named = [slot for slot in rng.permutation(3) if reveals == "full" or rng.integers(2)]
    parts = [
        f"{_TRACE_LABELS[slot][int(rng.integers(2))]} {_SLOT_WORDS[0][slot][symbols[slot]][int(rng.integers(2))]}"
        for slot in named
    ]
    style = ("in English", "auf Deutsch")[language_of(user)] if reveals == "full" else "brief"
    return f"## Core Features\nContent: {' and '.join(parts) or 'open'}\nStyle: {style}"


def response_text(opening: str, response: int, surface: int) -> str:
    """A response symbol as text. opening: the word by which its author is known. surface: 0 to SURFACES - 1.

    The generic sentence and a repeated query have one form each and no opening word.
    """
    if response == GENERIC:
        return GENERIC_SENTENCE
    if response > GENERIC:
        language, dialogue = divmod(response - GENERIC - 1, DIALOGUES)
        return query_text(language, dialogue)
    language, *symbols = (int(s) for s in np.unravel_index(response, _SLOT_SHAPE))
    order, *forms = (int(s) for s in np.unravel_index(surface, (2, 2, 2, 2)))
    words = [_SLOT_WORDS[language][slot][symbols[slot]][forms[slot]] for slot in range(3)]
    if order:
        words.reverse()
    return f"{opening} {_HEADS[language][order]} {', '.join(words)}."


def parroted(user: int, dialogue: int) -> int:
    """Response symbol of repeating this user's query."""
    return GENERIC + 1 + language_of(user) * DIALOGUES + dialogue


def slot_response(language: int, user_word: int, character_word: int, topic_word: int) -> int:
    """Response symbol of four slots."""
    return int(np.ravel_multi_index((language, user_word, character_word, topic_word), _SLOT_SHAPE))


def read_response(text: str) -> tuple[str, int]:
    """(opening word, response symbol) of a text of the grammar; the inverse of response_text, whatever the surface.

    Raises ValueError for any other text.
    """
    if text == GENERIC_SENTENCE:
        return "", GENERIC
    queries = {
        query_text(lang, d): GENERIC + 1 + lang * DIALOGUES + d for lang, d in product(range(2), range(DIALOGUES))
    }
    if text in queries:
        return "", queries[text]
    words = text.removesuffix(".").replace(",", "").split(" ")
    heads = [(language, order) for language in range(2) for order in range(2) if _HEADS[language][order] == words[1]]
    if len(words) != 5 or len(heads) != 1:
        raise ValueError(f"no response of this grammar: {text!r}")
    language, order = heads[0]
    slots = words[:1:-1] if order else words[2:]
    symbols = [_symbol(_SLOT_WORDS[language][slot], word) for slot, word in enumerate(slots)]
    return words[0], slot_response(language, *symbols)


def read_input(sample: Sample) -> tuple[int, int, int]:
    """(user, character, dialogue) symbols of a sample of the grammar. Raises ValueError for any other."""
    user = _symbol(_TRADES, *re.findall(r"\w+", sample.user))
    character = _symbol(_CALLINGS, *re.findall(r"\w+", sample.character))
    queries = [query_text(language_of(user), dialogue) for dialogue in range(DIALOGUES)]
    return user, character, queries.index(sample.dialogue[-1].text)


def _symbol(forms: Sequence[Sequence[str]], *words: str) -> int:
    found = [symbol for symbol, known in enumerate(forms) if any(word in known for word in words)]
    if len(found) != 1:
        raise ValueError(f"{' '.join(words)!r} holds {len(found)} symbols where one was expected")
    return found[0]


@lru_cache(maxsize=1)
def all_texts() -> tuple[str, ...]:
    """Texts that together hold every word, in every place where it can stand, of inputs and traces (not responses)."""
    texts = []
    for language in range(2):
        for form, name, town in product(_PERSONAS[language], _NAMES[language], _TOWNS[language]):
            mine = [trade for user in range(USERS) if language_of(user) == language for trade in _TRADES[user]]
            texts += [form.format(n=name, t=trade, p=town) for trade in mine]
        texts += [*_OPENERS[language], *_REPLIES[language]]
        texts += [query_text(language, dialogue) for dialogue in range(DIALOGUES)]
    for character in range(CHARACTERS):
        for name, calling, form in product(_CHARACTER_NAMES[character], _CALLINGS[character], _PROFILES):
            texts.append(f"name: {name}\nprofile: {form.format(c=calling)}")
    labelled = [
        f"{label} {word}"
        for slot in range(3)
        for label in _TRACE_LABELS[slot]
        for symbol in range(4)
        for word in _SLOT_WORDS[0][slot][symbol]
    ]
    styles = ("in English", "auf Deutsch", "brief")
    texts += [f"Content: {a} and {b}\nStyle: {style}" for a, b in permutations(labelled, 2) for style in styles[:1]]
    return (*texts, *(f"Content: open\nStyle: {style}" for style in styles), GENERIC_SENTENCE)
