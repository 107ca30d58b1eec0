"""The settings of the trace study: what stands in the place of each sample's core features. Texts in, texts out."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from remid.data.compose import _units
from remid.errors import ConfigError
from remid.pipeline.plan import Group
from remid.pipeline.shorten import cut, split_label

FULL = "full"
#: Setting -> share of each field's words that is kept, in percent.
LENGTHS = {"length-0": 0, "length-25": 25, "length-50": 50, "length-75": 75}
SAME_SUBSET, OTHER_SHIFT, MASKED = "same-subset", "other-shift", "masked"
SETTINGS = (FULL, *LENGTHS, SAME_SUBSET, OTHER_SHIFT, MASKED)
#: What a run of masked words leaves behind.
GAP = "…"
#: A shared word of at least so many letters is masked alone; shorter ones only in a shared pair.
TELLING_LETTERS = 5

_GAPS = re.compile(rf"{GAP}(?:\s*{GAP})+")

Features = dict[str, str | None]


@dataclass(frozen=True, slots=True)
class Dose:
    """What a setting left of the own traces' words (1: all), and samples that have no trace under it."""

    kept: float
    n_without: int


def chosen_settings(wanted: Sequence[str] | None) -> tuple[str, ...]:
    """The settings to score, in our order, `full` always among them. Raises ConfigError for an unknown one."""
    unknown = [name for name in wanted or () if name not in SETTINGS]
    if unknown:
        raise ConfigError(f"settings: no {', '.join(unknown)}; there are {', '.join(SETTINGS)}")
    return tuple(name for name in SETTINGS if not wanted or name == FULL or name in wanted)


def setting_features(
    setting: str, groups: Sequence[Group], own: Mapping[str, str | None], seed: int
) -> Features | None:
    """Core features by sample id under a setting; None as a whole: prompts without the trace section (length-0).

    own: each sample's own features, None where its trace does not parse. A sample whose own or lent trace is missing
    has None, and no prompt.
    """
    if setting == "length-0":
        return None
    samples = [sample for group in groups for sample in group.samples]
    if setting in LENGTHS:
        share = LENGTHS[setting] / 100
        return {s.sample_id: _each(own[s.sample_id], lambda text: cut(text, share)) for s in samples}
    if setting == MASKED:
        return {
            s.sample_id: _each(own[s.sample_id], lambda text, reference=s.reference: mask(text, reference))  # type: ignore[misc]
            for s in samples
        }
    if setting == FULL:
        return {s.sample_id: own[s.sample_id] for s in samples}
    donors = same_subset_donors(groups) if setting == SAME_SUBSET else other_shift_donors(groups, seed)
    return {s.sample_id: None if (d := donors[s.sample_id]) is None else own[d] for s in samples}


def _each(text: str | None, change: Callable[[str], str]) -> str | None:
    return None if text is None else change(text)


def mask(features: str, reference: str) -> str:
    """The features without the reference's words: shared pairs of neighbours, and shared words of 5 letters or more.

    Compared without case and without punctuation at a word's ends. In a text mostly in a script without spaces the
    units are characters, and only pairs count. A run of masked words becomes one "…". Labels stay.
    """
    theirs = [word for unit in _units(reference) if (word := _bare(unit))]
    pairs, single = set(pairwise(theirs)), {w for w in theirs if len(w) >= TELLING_LETTERS}
    fields = map(split_label, features.split("\n"))
    return "\n".join(label + _mask_field(text, pairs, single) for label, text in fields)


def _mask_field(text: str, pairs: set[tuple[str, str]], single: set[str]) -> str:
    units = _units(text)
    places = [index for index, unit in enumerate(units) if _bare(unit)]
    words = [_bare(units[index]) for index in places]
    gone = {index for index, word in zip(places, words, strict=True) if word in single}
    for k in range(len(words) - 1):
        if (words[k], words[k + 1]) in pairs:
            gone |= set(range(places[k], places[k + 1] + 1))
    if not gone:
        return text
    return _GAPS.sub(GAP, "".join(GAP if index in gone else unit for index, unit in enumerate(units)))


def _bare(unit: str) -> str:
    """A word as it is compared: without case and without punctuation or symbols at its ends; "" if nothing is left."""
    ends = "".join(char for char in set(unit) if unicodedata.category(char)[0] in "PSZC")
    return unit.strip(ends).casefold() if ends else unit.casefold()


def same_subset_donors(groups: Sequence[Group]) -> dict[str, str | None]:
    """Whose trace each sample gets: the item after its last negative on the circle of the design.

    So no response that is scored under x_i belongs to the donor: with one of the negatives as donor, that negative
    would have its own trace in the prompt, and CLUB would be pulled towards 0 by it. None where the subset is so small
    that every other item is a negative.
    """
    donors: dict[str, str | None] = {}
    for group in groups:
        n, m = group.design.negatives_Bm.shape
        for i, sample in enumerate(group.samples):
            far = m > 0 and n > m + 1
            # The first negative of the last negative is the next on the circle.
            j = int(group.design.negatives_Bm[group.design.negatives_Bm[i, m - 1], 0]) if far else i
            donors[sample.sample_id] = group.samples[j].sample_id if far else None
    return donors


def other_shift_donors(groups: Sequence[Group], seed: int) -> dict[str, str | None]:
    """Whose trace each sample gets: seeded, a sample of another kind of shift (ID counts as one), all used alike."""
    donors: dict[str, str | None] = {}
    for shift in dict.fromkeys(group.shift for group in groups):
        takers = [s.sample_id for g in groups if g.shift == shift for s in g.samples]
        givers = [s.sample_id for g in groups if g.shift != shift for s in g.samples]
        rng = np.random.default_rng([seed, *shift.encode()])
        order = rng.permutation(len(givers))
        for k, taker in enumerate(takers):
            donors[taker] = givers[int(order[k % len(givers)])] if givers else None
    return donors


def dose(features: Features | None, own: Mapping[str, str | None]) -> Dose:
    """How much a setting left of the own traces, in words (or characters), and how many samples it left without."""
    whole = sum(_count(text) for text in own.values())
    if features is None:
        return Dose(0.0, sum(text is None for text in own.values()))
    kept = sum(_count(text) for text in features.values())
    return Dose(kept / whole if whole else float("nan"), sum(text is None for text in features.values()))


def _count(text: str | None) -> int:
    """Words outside labels."""
    fields = map(split_label, (text or "").split("\n"))
    return sum(bool(_bare(unit)) for _, field in fields for unit in _units(field))
