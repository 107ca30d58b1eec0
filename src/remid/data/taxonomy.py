"""The shift taxonomy: which kind of shift a split or a subset stands for. It is data (taxonomy.json), not code.

A user's own file has the same shape, {"shifts": {"SHIFT": {"splits": [...], "subsets": [...]}}}. Its entries add to
the built-in ones and win over them where both name the same split or subset; new shift names are welcome.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from pydantic import Field, ValidationError

from remid.data import strict_json
from remid.data.outside import Outside, problems_of
from remid.data.text import shown
from remid.errors import DataError, Problem
from remid.types import TRAIN


@dataclass(frozen=True, slots=True)
class Taxonomy:
    """splits, subsets: name -> shift."""

    splits: Mapping[str, str]
    subsets: Mapping[str, str]

    def shift_of(self, split: str, subset: str) -> str | None:
        """The shift of a sample, or None where nothing maps it. A subset's name wins over its split's.

        One exception: a split of training data stays training data whatever its subsets are called, because scoring
        what a model may have been trained on is the mistake that nobody would notice.
        """
        by_split = self.splits.get(split)
        return TRAIN if by_split == TRAIN else self.subsets.get(subset, by_split)

    def split_of(self, subset: str) -> str | None:
        """The split in which records of `subset` belong where their file names none: its shift's first, or the split
        of that very name."""
        shift = self.subsets.get(subset)
        if shift is None:
            return subset if subset in self.splits else None
        return next((split for split, of in self.splits.items() if of == shift), None)


class _Names(Outside):
    splits: list[str] = Field(default_factory=list)
    subsets: list[str] = Field(default_factory=list)


class _File(Outside):
    shifts: dict[str, _Names] = Field(min_length=1)


def read_taxonomy(path: Path | None = None) -> Taxonomy:
    """The built-in taxonomy, extended by a user's file. DataError names file and field of each fault."""
    builtin = _File.model_validate(
        json.loads(resources.files("remid.data").joinpath("taxonomy.json").read_text("utf-8"))
    )
    splits, subsets = _tables(builtin)
    if path is not None:
        file = shown(str(path), 400)
        try:
            own = _File.model_validate(strict_json.read_checked_json(path))
        except ValidationError as error:
            raise DataError(problems_of(error, file)) from None
        if problems := _contradictions(own, file):
            raise DataError(problems)
        own_splits, own_subsets = _tables(own)
        # The user's names come first, so that split_of answers with a user's split where there is one.
        splits = own_splits | {name: shift for name, shift in splits.items() if name not in own_splits}
        subsets = subsets | own_subsets
    return Taxonomy(splits, subsets)


def _tables(file: _File) -> tuple[dict[str, str], dict[str, str]]:
    splits = {name: shift for shift, names in file.shifts.items() for name in names.splits}
    subsets = {name: shift for shift, names in file.shifts.items() for name in names.subsets}
    return splits, subsets


def _contradictions(own: _File, file: str) -> list[Problem]:
    """Blank names, shifts that name nothing, and names that stand under two shifts."""
    problems = []
    seen: dict[tuple[str, str], str] = {}
    for shift, names in own.shifts.items():
        field = f"shifts.{shown(shift)}"
        if not shift.strip():
            problems.append(Problem(file, "", field, "is a blank name for a shift"))
        if not names.splits and not names.subsets:
            problems.append(Problem(file, "", field, 'names nothing; give it "splits" or "subsets"'))
        for part, name in [("splits", name) for name in names.splits] + [("subsets", name) for name in names.subsets]:
            if not name.strip():
                problems.append(Problem(file, "", f"{field}.{part}", "holds a blank name"))
            other = seen.setdefault((part, name), shift)
            if other != shift:
                message = f'"{shown(name)}" already stands under "{shown(other)}"; a name has one shift'
                problems.append(Problem(file, "", f"{field}.{part}", message))
    return problems


def unmapped(file: str, record: str, split: str, subset: str) -> Problem:
    """The problem of a (split, subset) that nothing maps, with the file that would map it."""
    names = {"splits": [split]} if subset == split else {"subsets": [subset]}
    example = json.dumps({"shifts": {"user": names}}, ensure_ascii=False)
    message = (
        f'nothing says which kind of shift subset "{shown(subset)}" of split "{shown(split)}" is. Write a taxonomy '
        f"file such as {shown(example, 200)}, with train, id, user, character, dialogue or a name of your own as the "
        "shift, and give it with --taxonomy"
    )
    return Problem(file, record, "subset_tag", message)
