"""Worlds of text with exactly known information: dialogues in the RPGBench layout, made by a grammar.

A `DiscreteWorld` gives the laws of the symbols (user, character, dialogue) and the channels of the response symbol;
text_grammar.py says them in words. Every author opens a response with a word of his own, so that one density q can be
exact for all of them at once; the anonymous voice hides who speaks.

**Text information is symbol information.** Write x for the input symbols, s for the surface forms of the input, r for a
trace made from x and randomness of its own, y for the response symbol, t for the response's surface form. s, t and the
trace's randomness are independent of each other and of all else, and

1. y is a function of the response's text (`read_response`), x of the input's text (`read_input`);
2. p(y text | input text, trace) = p(y | x) p(t | y): the author sees the symbols alone.

Then I(X text, R; Y text) = E log [p(y|x) p(t|y) / (p(y) p(t|y))] = I(x; y): by 1 a text determines its symbols, so
that no two symbols' probabilities add up in one text, and the factor p(t|y) stands in numerator and denominator. An
author's opening word is a constant within his channel and drops out in the same way. The parrot is no exception to 2:
how the query is put (the phrasing) is part of the dialogue symbol, and so is what it repeats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

import numpy as np

from remid.data.read import assemble
from remid.data.record import character_text
from remid.data.worlds import text_grammar as grammar
from remid.data.worlds.discrete import DiscreteWorld
from remid.types import Benchmark, FloatArray, IntArray, Sample

#: What changes from ID to OOD. "several": user, character and topic. "pairing": the marginals stay. "reference": the
#: law stays, and the reference responses come from another author (the editor).
TextShift = Literal["user", "character", "dialogue", "several", "pairing", "reference"]
INPUT_SHAPE = (grammar.USERS, grammar.CHARACTERS, grammar.DIALOGUES)

#: File split of each shift. The last three need a taxonomy file: {"shifts": {"several": {"splits": [...]}, ...}}.
SPLITS: Mapping[str, str] = MappingProxyType(
    {
        "id": "IDTest",
        "user": "OOD1Test",
        "character": "OOD2Test",
        "dialogue": "OOD3Test",
        "several": "OOD4Test",
        "pairing": "OOD5Test",
        "reference": "OOD6Test",
    }
)
ANONYMOUS = "anonymous"
#: The word with which each author opens a slot response.
OPENINGS: Mapping[str, str] = MappingProxyType(
    {
        "reference": "Ah,",
        "editor": "Oh,",
        "blur-25": "Well,",
        "blur-60": "So,",
        "blind-user": "Now,",
        "blind-character": "Yes,",
        "blind-dialogue": "Aye,",
        "frail-user": "Look,",
        "frail-character": "Hey,",
        "frail-dialogue": "Eh,",
        "sharp": "Hark,",
        ANONYMOUS: "Hm,",
    }
)
#: Authors who answer in four slots, and the policies that can be measured.
SLOT_AUTHORS = tuple(name for name in OPENINGS if name != ANONYMOUS)
POLICIES = (*SLOT_AUTHORS[2:], "generic", "parrot")

_BASE = np.array([8.0, 4.0, 2.0, 1.0]) / 15.0


@dataclass(frozen=True, slots=True)
class _Skill:
    """How well an author's slots follow the input.

    language: probability of the user's language (0.5: ignored). user, character, topic: probability of meaning the
    right symbol, else any at random. frail: the part of the input for whose two rarer symbols the author says anything.
    """

    language: float
    user: float
    character: float
    topic: float
    frail: Literal["user", "character", "dialogue"] | None = None


_SKILLS: Mapping[str, _Skill] = MappingProxyType(
    {
        "reference": _Skill(0.92, 0.7, 0.7, 0.7),
        "editor": _Skill(0.97, 0.4, 0.8, 0.55),
        "blur-25": _Skill(0.81, 0.525, 0.525, 0.525),
        "blur-60": _Skill(0.67, 0.28, 0.28, 0.28),
        "blind-user": _Skill(0.5, 0.0, 0.7, 0.7),
        "blind-character": _Skill(0.92, 0.7, 0.0, 0.7),
        "blind-dialogue": _Skill(0.92, 0.7, 0.7, 0.0),
        "frail-user": _Skill(0.92, 0.7, 0.7, 0.7, "user"),
        "frail-character": _Skill(0.92, 0.7, 0.7, 0.7, "character"),
        "frail-dialogue": _Skill(0.92, 0.7, 0.7, 0.7, "dialogue"),
        "sharp": _Skill(0.97, 0.85, 0.85, 0.85),
    }
)


def channel(author: str) -> FloatArray:
    """(U, A, D, Y) law of an author's response symbol given the input; "anonymous" is any slot author, equally likely.

    Raises KeyError for an unknown author.
    """
    if author == ANONYMOUS:
        return np.asarray(np.mean([channel(name) for name in SLOT_AUTHORS], axis=0))
    law_UADY = np.zeros((*INPUT_SHAPE, grammar.RESPONSES))
    if author == "generic":
        law_UADY[..., grammar.GENERIC] = 1.0
    elif author == "parrot":
        for user in range(grammar.USERS):
            for dialogue in range(grammar.DIALOGUES):
                law_UADY[user, :, dialogue, grammar.parroted(user, dialogue)] = 1.0
    else:
        law_UADY[..., : grammar.SLOT_RESPONSES] = _slot_channel(_SKILLS[author])
    return law_UADY


def _slot_channel(skill: _Skill) -> FloatArray:
    """Four slots, independent given the input. The character's word also depends on the topic: for half of the topics
    each character speaks of the next one's things."""
    user_U, character_A = np.arange(grammar.USERS), np.arange(grammar.CHARACTERS)
    topic_D = np.arange(grammar.DIALOGUES) // grammar.PHRASINGS
    language_U = np.array([grammar.language_of(int(user)) for user in user_U])
    language_UL = skill.language * np.eye(2)[language_U] + (1 - skill.language) * np.eye(2)[1 - language_U]
    meant_AD = (character_A[:, None] + (topic_D >= grammar.TOPICS // 2)) % grammar.CHARACTERS
    slots = [
        language_UL[:, None, None, :, None, None, None],
        _noisy(skill.user, user_U)[:, None, None, None, :, None, None],
        _noisy(skill.character, meant_AD)[None, :, :, None, None, :, None],
        _noisy(skill.topic, topic_D)[None, None, :, None, None, None, :],
    ]
    product = slots[0] * slots[1] * slots[2] * slots[3]
    law_UADY: FloatArray = product.reshape(*INPUT_SHAPE, grammar.SLOT_RESPONSES)
    if skill.frail == "user":
        law_UADY[grammar.USERS // 2 :] = 1.0 / grammar.SLOT_RESPONSES
    elif skill.frail == "character":
        law_UADY[:, grammar.CHARACTERS // 2 :] = 1.0 / grammar.SLOT_RESPONSES
    elif skill.frail == "dialogue":
        law_UADY[:, :, grammar.DIALOGUES // 2 :] = 1.0 / grammar.SLOT_RESPONSES
    return law_UADY


def _noisy(skill: float, meant: IntArray) -> FloatArray:
    """(..., 4): the symbol that is meant with probability `skill`, else any of the four."""
    return np.asarray(skill * np.eye(4)[meant] + (1 - skill) / 4)


def law(shift: TextShift | None = None, strength: float = 0.0) -> FloatArray:
    """(U, A, D) law of the input; without a shift the ID law: independent parts, one symbol of each common, one rare.

    user, character, dialogue, several: the marginals b are tilted to b^(1 - strength): below 0 more concentrated, 1
    uniform, 2 turned round (the rare become common). pairing: strength in [0, 1] is the share of inputs whose user,
    character and topic all have the same index. reference: the law stays. Phrasings are equally likely throughout.
    """
    tilted_K = _BASE ** (1.0 - strength)
    tilted_K = tilted_K / tilted_K.sum()
    parts = [tilted_K if shift in (name, "several") else _BASE for name in ("user", "character", "dialogue")]
    joint_UAT = np.einsum("u,a,t->uat", *parts)
    if shift == "pairing":
        together_UAT = np.zeros_like(joint_UAT)
        index_K = np.arange(_BASE.size)
        together_UAT[index_K, index_K, index_K] = _BASE
        joint_UAT = (1 - strength) * joint_UAT + strength * together_UAT
    return np.repeat(joint_UAT / grammar.PHRASINGS, grammar.PHRASINGS, axis=-1)


def text_world(policy: str, shift: TextShift, strength: float) -> DiscreteWorld:
    """The symbols' laws and channels: a policy of POLICIES against the reference, under a shift of a given strength."""
    reference = channel("reference")
    changed = (1 - strength) * reference + strength * channel("editor") if shift == "reference" else reference
    return DiscreteWorld(law(), law(shift, strength), channel(policy), reference, changed)


def draw_symbols(law_UAD: FloatArray, n: int, rng: np.random.Generator) -> IntArray:
    """(n, 3) user, character and dialogue symbols of n independent inputs."""
    flat = rng.choice(law_UAD.size, size=n, p=law_UAD.reshape(-1))
    return np.stack(np.unravel_index(flat, law_UAD.shape), axis=-1).astype(np.int64)


def draw_responses(channel_UADY: FloatArray, symbols_N3: IntArray, rng: np.random.Generator) -> IntArray:
    """(n,) response symbols, one for each input."""
    below_NY = np.cumsum(channel_UADY[tuple(symbols_N3.T)], axis=-1)
    drawn_N = np.sum(below_NY < rng.random((symbols_N3.shape[0], 1)) * below_NY[:, -1:], axis=-1)
    return np.asarray(drawn_N, dtype=np.int64)


def log_p_text(channel_UADY: FloatArray, symbols_N3: IntArray, text: str) -> FloatArray:
    """(n,) exact log p(y text | x) of one response text under n inputs, nats; -inf where it cannot be said.

    The author's opening word is taken as given. Averaging p over the law of the inputs gives p(y text).
    """
    _, response = grammar.read_response(text)
    surfaces = grammar.SURFACES if response < grammar.GENERIC else 1
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(channel_UADY[(*symbols_N3.T, response)]) - np.log(surfaces))


def make_samples(
    law_UAD: FloatArray,
    n: int,
    seed: int,
    *,
    shift: str = "id",
    reference: str = "reference",
    policies: Sequence[str] = SLOT_AUTHORS[2:],
    reveals: grammar.Reveals = "none",
    anonymous: bool = False,
) -> list[Sample]:
    """n independent dialogues with a reference response (by the author `reference`) and every policy's.

    policies: generic and parrot are left to the pipeline, whose controls of these names say the same and whose reader
    takes no policy so named. anonymous: every slot response opens with the same word, so that a reader cannot tell who
    speaks. shift: a key of SPLITS, and the subset's name. Raises KeyError for an unknown shift or author.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    symbols_N3 = draw_symbols(law_UAD, n, rng)
    authors = list(dict.fromkeys((reference, *policies)))
    answers = {name: draw_responses(channel(name), symbols_N3, rng) for name in authors}
    samples = []
    for i, (user, character, dialogue) in enumerate(symbols_N3.tolist()):
        said = {name: say(name, int(answers[name][i]), rng, anonymous=anonymous) for name in authors}
        bare = sample_of(user, character, dialogue, reveals, rng)
        placed = replace(bare, sample_id=f"{shift}-{seed}-{i}", split=SPLITS[shift], subset=SPLITS[shift], shift=shift)
        answered = {name: said[name] for name in policies}
        samples.append(replace(placed, reference=said[reference], responses=answered, place=f"text world: {i}"))
    return samples


def sample_of(user: int, character: int, dialogue: int, reveals: grammar.Reveals, rng: np.random.Generator) -> Sample:
    """An input symbol as a sample of the ID split with its trace and no responses yet; surface forms drawn from rng."""
    text = grammar.input_text(user, character, dialogue, rng)
    return Sample(
        sample_id="",
        split=SPLITS["id"],
        subset=SPLITS["id"],
        shift="id",
        user=text.user,
        character=character_text(text.character),
        dialogue=text.dialogue,
        reference="",
        trace=grammar.trace_text(user, character, dialogue, reveals, rng),
        meta={"agent_character": dict(text.character)},
    )


def say(author: str, response: int, rng: np.random.Generator, *, anonymous: bool = False) -> str:
    """A response symbol in its author's words, surface form drawn from rng."""
    opening = OPENINGS[ANONYMOUS if anonymous else author] if response < grammar.GENERIC else ""
    return grammar.response_text(opening, response, int(rng.integers(grammar.SURFACES)))


def make_benchmark(samples: Sequence[Sample]) -> Benchmark:
    """Samples as a benchmark that `write_benchmark` can write. Several shifts may stand in one."""
    return assemble(samples, source="text world")
