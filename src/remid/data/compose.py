"""Dialogue shifts made out of any benchmark: longer dialogues, and dialogues with their words recombined.

Both operators leave the samples they are given untouched, depend on nothing but their arguments, and drop responses and
traces, which belong to the old context. Training samples are left out: a test sample made from one would have been
seen in training. Pass in-distribution samples alone if the dialogue is to be the only thing that shifts.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from remid.data.language import language_of
from remid.errors import ConfigError
from remid.types import TRAIN, Sample, Turn

SPLIT = "OOD3Test"
SHIFT = "dialogue"
TURNS = "TurnLevelComposition"
WORDS = "WordLevelComposition"

#: Scripts written without spaces between words: Thai to Khmer, CJK, kana, and their extensions. Korean uses spaces.
_UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    r"\uff66-\uff9f\U00020000-\U0003ffff]"
)
_JOINER = "\u200d"


def compose_turns(samples: Sequence[Sample], *, turns: int = 8, seed: int = 0) -> list[Sample]:
    """Each sample with other samples' dialogues before its own, so that it comes to `turns` queries of the user.

    A donor gives its dialogue and its reference as the agent's last reply, which joins it to what follows; donors are
    those with the same user and character, then with the same character, then in the same language, then any, each in
    seeded random order and used once per dialogue. The oldest exchanges are cut to reach exactly `turns`. Left out:
    training samples, samples that have `turns` queries already, and those for which there are too few donors. The
    sample's reference is never in what a donor gives (the context would give the answer away), and no donor is the
    sample's own conversation, as long as the sample's or longer.

    meta["composed"] records operator, sample id, donor ids (in order of the dialogue) and seed. ConfigError where
    `turns` is under 2.
    """
    if turns < 2:
        raise ConfigError(f"a composed dialogue needs at least 2 turns, not {turns}")
    pool = [sample for sample in samples if sample.shift != TRAIN]
    by_pair: dict[tuple[str, str], list[Sample]] = {}
    by_character: dict[str, list[Sample]] = {}
    by_language: dict[str, list[Sample]] = {}
    languages = [language_of(" ".join(turn.text for turn in sample.dialogue)) for sample in pool]
    for sample, language in zip(pool, languages, strict=True):
        by_pair.setdefault((sample.user, sample.character), []).append(sample)
        by_character.setdefault(sample.character, []).append(sample)
        by_language.setdefault(language, []).append(sample)
    composed = []
    for sample, language in zip(pool, languages, strict=True):
        rng = _rng(seed, TURNS, sample)
        tiers = (by_pair[sample.user, sample.character], by_character[sample.character], by_language[language], pool)
        if _queries(sample.dialogue) >= turns:
            continue
        donors = _donors(sample, tiers, turns, rng)
        dialogue = [turn for donor in donors for turn in (*donor.dialogue, Turn("agent", donor.reference))]
        dialogue += sample.dialogue
        if _queries(dialogue) >= turns:
            kept = tuple(dialogue[-(2 * turns - 1) :])
            composed.append(_composed(sample, TURNS, kept, seed, donors=[donor.sample_id for donor in donors]))
    return composed


def recombine_words(samples: Sequence[Sample], *, seed: int = 0) -> list[Sample]:
    """Each sample with the words of every utterance of its dialogue in random order; the speakers keep their words.

    Words are what whitespace separates; in a text that is mostly in a script without spaces (Chinese, Japanese, Thai),
    characters with their marks, while Latin words and numbers in it stay whole. No character is lost or added, the
    whitespace stays where it is, and an utterance with two different words always changes. Training samples are left
    out. meta["composed"] records operator, sample id and seed.
    """
    recombined = []
    for sample in samples:
        if sample.shift != TRAIN:
            rng = _rng(seed, WORDS, sample)
            dialogue = tuple(replace(turn, text=shuffle_words(turn.text, rng)) for turn in sample.dialogue)
            recombined.append(_composed(sample, WORDS, dialogue, seed))
    return recombined


def shuffle_words(text: str, rng: random.Random) -> str:
    """`text` with its words (or characters, see recombine_words) in an order drawn from `rng`."""
    units = _units(text)
    places = [index for index, unit in enumerate(units) if not unit.isspace()]
    words = [units[index] for index in places]
    if len(set(words)) < 2:
        return text
    order = list(words)
    while order == words:
        rng.shuffle(order)
    for index, word in zip(places, order, strict=True):
        units[index] = word
    return "".join(units)


def _units(text: str) -> list[str]:
    """The pieces of `text` in order, runs of whitespace among them."""
    unspaced = len(_UNSPACED.findall(text))
    if 2 * unspaced <= sum(char.isalpha() for char in text):
        return re.findall(r"\s+|\S+", text)
    units: list[str] = []
    for char in text:
        if units and _belongs(char, units[-1]):
            units[-1] += char
        else:
            units.append(char)
    return units


def _belongs(char: str, unit: str) -> bool:
    """Whether `char` continues `unit`: a mark on it, the next letter of a Latin word or number, more whitespace."""
    last = unit[-1]
    if unicodedata.category(char).startswith("M") or _JOINER in (char, last):
        return not unit.isspace()
    if char.isspace() or last.isspace():
        return char.isspace() and last.isspace()
    whole = char.isalnum() and not _UNSPACED.match(char)
    return whole and last.isalnum() and not _UNSPACED.match(last)


def _donors(sample: Sample, tiers: Sequence[Sequence[Sample]], turns: int, rng: random.Random) -> list[Sample]:
    """Donors in the order of the dialogue: the best stands last, next to the sample's own turns."""
    donors: list[Sample] = []
    used = {id(sample)}
    queries = _queries(sample.dialogue)
    for tier in tiers:
        for donor in _in_random_order(tier, rng):
            if queries >= turns:
                return donors
            if id(donor) not in used and not _gives_away(donor, sample):
                used.add(id(donor))
                donors.insert(0, donor)
                queries += _queries(donor.dialogue)
    return donors


def _gives_away(donor: Sample, sample: Sample) -> bool:
    """Whether the donor says the sample's reference, or goes over the sample's own conversation.

    Logs exported one record per reply hold later cuts of one conversation, where the reference is a turn.
    """
    said = [donor.reference, *(turn.text for turn in donor.dialogue if turn.role == "agent")]
    goes_on = donor.dialogue[: len(sample.dialogue)] == sample.dialogue
    return goes_on or sample.reference.strip() in {text.strip() for text in said}


def _in_random_order(items: Sequence[Sample], rng: random.Random) -> Iterator[Sample]:
    """A seeded shuffle that costs only as much as is taken from it: of thousands, one or two are."""
    moved: dict[int, int] = {}
    for index in range(len(items)):
        chosen = rng.randrange(index, len(items))
        yield items[moved.get(chosen, chosen)]
        moved[chosen] = moved.get(index, index)


def _queries(dialogue: Sequence[Turn]) -> int:
    return sum(turn.role == "user" for turn in dialogue)


def _rng(seed: int, operator: str, sample: Sample) -> random.Random:
    # A stream per sample: leaving one out does not change what happens to the others.
    return random.Random(f"{seed}/{operator}/{sample.sample_id}")


def _composed(sample: Sample, operator: str, dialogue: tuple[Turn, ...], seed: int, **more: Any) -> Sample:
    # "subset_tag" in meta is the tag of the file that the sample came from, which this one does not.
    meta = {key: value for key, value in sample.meta.items() if key != "subset_tag"}
    return replace(
        sample,
        sample_id=f"{operator}-{seed}/{sample.sample_id}",
        split=SPLIT,
        subset=operator,
        shift=SHIFT,
        dialogue=dialogue,
        trace=None,
        responses={},
        meta=meta | {"composed": {"operator": operator, "sample_ID": sample.sample_id, "seed": seed, **more}},
    )
