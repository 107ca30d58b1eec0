"""A world of text in which the trace matters: the answer hangs on facts that follow one from another, in three steps.

An input is a user's trade, a character's calling and a topic, independent of each other. Tables of the world give

    mood = A[user, character],   place = B[mood, topic],   gift = C[place, user],

and the author says gift, place and mood, each right with probability `skill`, else any of its eight words. The first of
the two that a fact follows from leaves a few words, the second decides; alone it says nothing. The deepest fact is said
first, so what was said before does not lead up to it. A trace names the facts in the order in which they follow, so
each is one step from what stands before it: p(y|x) is hard to learn directly and easy with a trace, though the trace
adds no information.

**The truth.** Write x for the three symbols, s for the surface of the input (names, towns, words), r for a trace, made
from x and randomness of its own, t for the opening of the response. s, t and the trace's randomness are independent of
each other and of all else given x, every symbol can be read off its words, and so

    log p(y text | input text, trace) = sum over the three slots of log [skill 1(right) + (1 - skill)/8] - log 2

whatever the trace. Pre-collected traces are imperfect: each fact is left open or wrong with known probability.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from types import MappingProxyType

import numpy as np

from remid.data.read import assemble
from remid.data.record import character_text
from remid.types import Benchmark, FloatArray, IntArray, Sample, Turn

#: Symbols of each part of the input, and words of each slot of the response.
SIZE = 8
#: Openings of a response, equally likely.
OPENINGS = ("So", "Oh")
#: Names of the facts in the order in which they follow, and their words.
FACTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "mood": ("calm", "glad", "bold", "warm", "keen", "sour", "wild", "kind"),
        "place": ("pier", "barn", "hill", "cave", "port", "moor", "glen", "dock"),
        "gift": ("lamp", "coin", "rope", "drum", "ring", "book", "kite", "bell"),
    }
)
#: What a trace says where it leaves a fact out.
OPEN = "open"
#: File split and shift of each law of the input; "train" and "id" are one law.
SPLITS: Mapping[str, str] = MappingProxyType(
    {"train": "IDTrain", "id": "IDTest", "user": "OOD1Test", "character": "OOD2Test", "dialogue": "OOD3Test"}
)

_NAMES = ("Mara", "Tom", "Iris", "Paul", "Anke", "Jonas", "Lena", "Karl", "Ruth", "Sven", "Nora", "Emil")
_TOWNS = ("Leeds", "Hull", "York", "Bath", "Ulm", "Mainz", "Bern", "Graz", "Oslo", "Cork", "Lund", "Gent")
_TRADES = (
    "baker",
    "nurse",
    "painter",
    "teacher",
    "farmer",
    "tailor",
    "sailor",
    "lawyer",
)
_CHARACTER_NAMES = ("Flint", "Merla", "Oswin", "Ember", "Juno", "Drax")
_CALLINGS = (
    "pirate",
    "wizard",
    "robot",
    "dragon",
    "ghost",
    "knight",
    "queen",
    "witch",
)
_SUBJECTS = (
    "sleep",
    "travel",
    "money",
    "love",
    "food",
    "weather",
    "music",
    "gardens",
)
_QUERIES = ("Tell me about {}", "What of {}")
_OPENERS = ("Good evening", "Hello there")
_REPLIES = ("Well met", "Speak freely")
#: Weight of each symbol relative to the one before it in the ID law. A shift turns the order round.
_RATIO = 0.8


@dataclass(frozen=True, slots=True)
class HopsWorld:
    """seed: of the tables. skill: probability with which the author means the right word of a slot. branches: words
    that a fact can be, given the first of the two that it follows from (1 to 8)."""

    seed: int = 0
    skill: float = 0.85
    branches: int = 4


@dataclass(frozen=True, slots=True)
class TraceLaw:
    """Probability that mood, place and gift are named right, and named wrong; else left open. All independent."""

    right: tuple[float, float, float]
    wrong: tuple[float, float, float] = (0.0, 0.0, 0.0)


PERFECT = TraceLaw((1.0, 1.0, 1.0))
#: Traces as someone careless would collect them. The later a fact, the likelier it is left open: whoever imitates the
#: commonest trace leaves the gift open.
NOISY = TraceLaw((0.75, 0.6, 0.36), (0.08, 0.08, 0.08))


@lru_cache(maxsize=8)
def tables(world: HopsWorld) -> tuple[IntArray, IntArray, IntArray]:
    """A[user, character], B[mood, topic], C[place, user]: (8, 8) tables in which a row holds `branches` words.

    A column holds every word once: what comes second decides which of a row's words it is, and alone says nothing.
    """
    rng = np.random.default_rng(np.random.SeedSequence([world.seed, 1]))
    made = []
    for _ in range(len(FACTS)):
        row_K, column_K, word_K = (rng.permutation(SIZE) for _ in range(3))
        made.append(word_K[(row_K[:, None] + column_K[None, :] % world.branches) % SIZE].astype(np.int64))
    return made[0], made[1], made[2]


def facts(world: HopsWorld, symbols_N3: IntArray) -> IntArray:
    """(N, 3) mood, place and gift of inputs (user, character, topic)."""
    mood_KK, place_KK, gift_KK = tables(world)
    user_N, character_N, topic_N = symbols_N3.T
    mood_N = mood_KK[user_N, character_N]
    place_N = place_KK[mood_N, topic_N]
    return np.stack([mood_N, place_N, gift_KK[place_N, user_N]], axis=-1)


def law(shift: str) -> FloatArray:
    """(3, 8) laws of user, character and topic: common symbols first, the other way round in the part that shifts."""
    base_K = _RATIO ** np.arange(SIZE, dtype=np.float64)
    base_K /= base_K.sum()
    return np.stack([base_K[::-1] if shift == part else base_K for part in ("user", "character", "dialogue")])


def log_p(world: HopsWorld, sample: Sample, text: str) -> float:
    """Exact log p(text | the sample's input), nats per response; -inf for a text that the author never says."""
    try:
        said_3 = read_response(text)
    except ValueError:
        return -float("inf")
    right_3 = facts(world, np.array([read_input(sample)]))[0]
    miss = (1 - world.skill) / SIZE
    p_3 = np.where(said_3 == right_3, world.skill + miss, miss)
    with np.errstate(divide="ignore"):
        return float(np.log(p_3).sum() - np.log(len(OPENINGS)))


def entropy(world: HopsWorld) -> float:
    """Entropy of the response given the input, nats per response; the same for every input."""
    miss = (1 - world.skill) / SIZE
    hit = world.skill + miss
    slot = -hit * np.log(hit) - ((SIZE - 1) * miss * np.log(miss) if miss > 0 else 0.0)
    return float(len(FACTS) * slot + np.log(len(OPENINGS)))


def make_samples(
    world: HopsWorld,
    n: int,
    seed: int,
    *,
    shift: str = "id",
    traces: TraceLaw | None = None,
    taken: set[str] | None = None,
) -> list[Sample]:
    """n independent dialogues with their references, and with traces of a law (None: without).

    shift: a key of SPLITS. taken: texts of inputs that are used up; new ones are added. An input whose text is taken
    gets another surface, so that no test input was trained on word by word; the surface carries no information.
    Raises KeyError for an unknown shift.
    """
    split, texts = SPLITS[shift], set() if taken is None else taken
    rng = np.random.default_rng(np.random.SeedSequence([seed, list(SPLITS).index(shift)]))
    symbols_N3 = np.stack([rng.choice(SIZE, size=n, p=law_K) for law_K in law(shift)], axis=-1).astype(np.int64)
    right_N3 = facts(world, symbols_N3)
    heard_N3 = rng.random((n, 3)) < world.skill
    said_N3 = np.where(heard_N3, right_N3, rng.integers(SIZE, size=(n, 3)))
    samples = []
    for i in range(n):
        user, character, dialogue = _input(symbols_N3[i], rng)
        while (text := "\n".join([user, *character.values(), *(turn.text for turn in dialogue)])) in texts:
            user, character, dialogue = _input(symbols_N3[i], rng)
        texts.add(text)
        samples.append(
            Sample(
                sample_id=f"hops-{shift}-{seed}-{i}",
                split=split,
                subset=split,
                shift=shift,
                user=user,
                character=character_text(character),
                dialogue=dialogue,
                reference=response_text(said_N3[i], int(rng.integers(len(OPENINGS)))),
                trace=None if traces is None else trace_text(draw_trace(traces, right_N3[i], rng)),
                meta={"agent_character": character},
                place=f"hops world: {shift} {i}",
            )
        )
    return samples


def make_benchmark(
    world: HopsWorld,
    seed: int,
    *,
    train: int,
    test: int,
    shifted: int,
    traces: TraceLaw | None = NOISY,
    test_seed: int = 0,
) -> Benchmark:
    """Training samples with traces, ID test samples and as many under each shift as `shifted` says, without traces.

    seed: of the training samples. test_seed: of the test samples, so that trainings can be compared on the same ones.
    """
    taken: set[str] = set()
    samples = make_samples(world, test, test_seed, shift="id", taken=taken)
    for shift in ("user", "character", "dialogue"):
        samples += make_samples(world, shifted, test_seed, shift=shift, taken=taken)
    first = make_samples(world, train, seed, shift="train", traces=traces, taken=taken)
    return assemble([*first, *samples], source=f"hops world {world.seed}")


def draw_trace(traces: TraceLaw, right_3: IntArray, rng: np.random.Generator) -> list[int | None]:
    """What a trace names for each fact: a word's index, None where it is left open."""
    named: list[int | None] = []
    for right, p_right, p_wrong in zip(right_3.tolist(), traces.right, traces.wrong, strict=True):
        drawn, other = rng.random(), int(rng.integers(1, SIZE))
        named.append(right if drawn < p_right else (right + other) % SIZE if drawn < p_right + p_wrong else None)
    return named


def trace_text(named: Sequence[int | None]) -> str:
    """A trace in the compact format that names these facts, OPEN for None."""
    said = [
        f"{fact} {OPEN if word is None else words[word]}"
        for (fact, words), word in zip(FACTS.items(), named, strict=True)
    ]
    return f"## Core Features\nContent: {', '.join(said)}\nStyle: brief"


def read_trace(text: str) -> list[int | None]:
    """What a trace, or its core features, names; the inverse of trace_text. Raises ValueError for any other text."""
    slots = ", ".join(rf"{fact} (\w+)" for fact in FACTS)
    found = re.search(rf"Content: {slots}\nStyle: brief$", text)
    if found is None:
        raise ValueError(f"no trace of this world: {text!r}")
    return [
        None if word == OPEN else _index(words, word)
        for words, word in zip(FACTS.values(), found.groups(), strict=True)
    ]


def response_text(words_3: IntArray | Sequence[int], opening: int) -> str:
    """A response that says these words for mood, place and gift; the gift comes first."""
    said = [words[int(word)] for words, word in zip(FACTS.values(), words_3, strict=True)]
    return f"{OPENINGS[opening]} {' '.join(reversed(said))}."


def read_response(text: str) -> IntArray:
    """(3,) mood, place and gift of a response, the inverse of response_text. Raises ValueError for any other text."""
    opening, *said = text.removesuffix(".").split(" ")
    if opening not in OPENINGS or len(said) != len(FACTS) or not text.endswith("."):
        raise ValueError(f"no response of this world: {text!r}")
    return np.array([_index(words, word) for words, word in zip(FACTS.values(), reversed(said), strict=True)])


def read_input(sample: Sample) -> tuple[int, int, int]:
    """(user, character, topic) symbols of a sample of this world. Raises ValueError for any other."""
    return (
        _symbol(_TRADES, sample.user),
        _symbol(_CALLINGS, sample.character),
        _symbol(_SUBJECTS, sample.dialogue[-1].text),
    )


def all_texts() -> Iterator[str]:
    """Texts that together hold every word of inputs, traces and responses, in every place where it can stand."""
    for name, trade, town in product(_NAMES[:1], _TRADES, _TOWNS):
        yield _persona(name, trade, town)
    yield from (_persona(name, _TRADES[0], _TOWNS[0]) for name in _NAMES)
    for name, calling in product(_CHARACTER_NAMES, _CALLINGS):
        yield character_text(_character(name, calling))
    yield from (query.format(word) for query in _QUERIES for word in _SUBJECTS)
    yield from (*_OPENERS, *_REPLIES, trace_text([None, None, None]))
    for word in range(SIZE):
        yield trace_text([word] * len(FACTS))
        yield from (response_text([word] * len(FACTS), opening) for opening in range(len(OPENINGS)))


def _input(symbols_3: IntArray, rng: np.random.Generator) -> tuple[str, dict[str, str], tuple[Turn, ...]]:
    """User, character and dialogue of an input, surface drawn from rng; the dialogue has one or three turns."""

    def pick(forms: Sequence[str]) -> str:
        return forms[int(rng.integers(len(forms)))]

    trade, calling, subject = (
        words[int(symbol)] for words, symbol in zip((_TRADES, _CALLINGS, _SUBJECTS), symbols_3, strict=True)
    )
    turns = [Turn("user", pick(_QUERIES).format(subject))]
    if rng.integers(2):
        turns = [Turn("user", pick(_OPENERS)), Turn("agent", pick(_REPLIES)), *turns]
    return _persona(pick(_NAMES), trade, pick(_TOWNS)), _character(pick(_CHARACTER_NAMES), calling), tuple(turns)


def _persona(name: str, trade: str, town: str) -> str:
    return f"{name}, {trade} from {town}"


def _character(name: str, calling: str) -> dict[str, str]:
    return {"name": name, "profile": f"old {calling}"}


def _symbol(words: Sequence[str], text: str) -> int:
    found = [word for word in re.findall(r"\w+", text) if word in words]
    if len(found) != 1:
        raise ValueError(f"{text!r} holds {len(found)} symbols where one was expected")
    return words.index(found[0])


def _index(words: Sequence[str], word: str) -> int:
    if word not in words:
        raise ValueError(f"{word!r} is not one of {', '.join(words)}")
    return words.index(word)
