"""Reading a benchmark: files in, one Benchmark out, or one DataError that names every fault."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from remid.data.mapping import FieldMapping, look_up, read_mapping
from remid.data.record import Reading, to_sample
from remid.data.responses import add_responses
from remid.data.rows import read_rows
from remid.data.taxonomy import Taxonomy, read_taxonomy
from remid.data.text import kind, shown
from remid.errors import ConfigError, DataError, Problem
from remid.types import TRAIN, Benchmark, Sample


def read_benchmark(
    paths: Sequence[Path],
    *,
    mapping: Path | None = None,
    taxonomy: Path | None = None,
    responses: Sequence[Path] = (),
    group_by: str | None = None,
) -> Benchmark:
    """The benchmark that the files hold together.

    paths: RPGBench JSON (object of split -> list, or a bare list), JSONL, Parquet, or folders that Hugging Face
    `datasets` saved to disk. mapping: other column names onto ours (mapping.py). taxonomy: further splits, subsets and
    shifts (taxonomy.py). responses: JSONL files with policies' answers (responses.py). group_by: a field of the records
    (dotted path, "agent_character.script") whose value takes the place of the subset of every test sample; the shift
    stays that of the original split and subset, which meta["subset_tag"] keeps. A subset's name stands for one shift:
    where test samples of several shifts share a name, it becomes "NAME [SHIFT]".

    A split that a flat file does not name comes from the subset through the taxonomy, else from the mapping's defaults,
    else from the file's name. Raises DataError with every Problem found, and ConfigError where no file is given.
    """
    if not paths:
        raise ConfigError("no benchmark file is given")
    problems: list[Problem] = []
    reading = _settings(mapping, taxonomy, problems)
    samples = []
    for path in paths:
        for row in read_rows(Path(path), problems):
            if (sample := to_sample(row, reading)) is not None:
                samples.append(sample)
    _find_repeated_ids(samples, problems)
    # With benchmark records missing, "no such sample" would be said of answers that are right.
    if responses and not problems:
        samples, silent = add_responses(samples, [Path(path) for path in responses], problems)
        reading.silent |= silent
    if group_by is not None:
        samples = [_regrouped(sample, group_by, problems) for sample in samples]
    if problems:
        raise DataError(problems)
    samples = _one_shift_per_subset(samples)
    found = assemble(samples, source=", ".join(str(path) for path in paths))
    # A table of all records names whoever answered one of them, with null in the others: training records count too.
    answered = {name for sample in found.samples for name in sample.responses}
    return replace(found, silent=tuple(name for name in reading.silent if name not in answered))


def assemble(samples: Sequence[Sample], source: str) -> Benchmark:
    """A Benchmark of samples, ordered by split (first come, first served) and as given within a split.

    That order is the one that survives writing, so a benchmark means the same however its file interleaves splits.
    The digest covers all that a run depends on: ids, splits, subsets, shifts, inputs, references, traces and responses
    of test and training samples, in order. It leaves out meta and place: a note added to a record changes no score.
    """
    by_split: dict[str, list[Sample]] = {}
    for sample in samples:
        by_split.setdefault(sample.split, []).append(sample)
    ordered = tuple(sample for group in by_split.values() for sample in group)
    digest = hashlib.sha256()
    for sample in ordered:
        line = json.dumps(_content(sample), ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
        digest.update(line.encode("utf-8") + b"\n")
    return Benchmark(ordered, source, digest.hexdigest())


def _content(sample: Sample) -> dict[str, Any]:
    return {
        "sample_id": sample.sample_id,
        "split": sample.split,
        "subset": sample.subset,
        "shift": sample.shift,
        "user": sample.user,
        "character": sample.character,
        "dialogue": [[turn.role, turn.text] for turn in sample.dialogue],
        "reference": sample.reference,
        "trace": sample.trace,
        "responses": dict(sample.responses),
    }


def _settings(mapping: Path | None, taxonomy: Path | None, problems: list[Problem]) -> Reading:
    """Mapping and taxonomy. Their faults are raised at once: every record would seem wrong because of them."""
    reading = Reading(FieldMapping(), Taxonomy({}, {}), problems)
    try:
        reading.mapping = read_mapping(Path(mapping) if mapping is not None else None)
    except DataError as error:
        problems += error.problems
    try:
        reading.taxonomy = read_taxonomy(Path(taxonomy) if taxonomy is not None else None)
    except DataError as error:
        problems += error.problems
    if problems:
        raise DataError(problems)
    return reading


def _find_repeated_ids(samples: Sequence[Sample], problems: list[Problem]) -> None:
    first: dict[str, str] = {}
    for sample in samples:
        if sample.shift == TRAIN:
            continue
        if (other := first.get(sample.sample_id)) is not None:
            file, _, record = sample.place.rpartition(": ")
            message = f'"{shown(sample.sample_id)}" is also the id of {other}; ids of test samples must be unique'
            problems.append(Problem(file, record, "sample_ID", message))
        first.setdefault(sample.sample_id, sample.place)


def _one_shift_per_subset(samples: list[Sample]) -> list[Sample]:
    """The samples with "NAME [SHIFT]" for each subset name that test samples of several shifts share.

    Negatives are drawn within a subset, and a subset is compared as a whole: one name for two laws would mix them.
    """
    shifts: dict[str, set[str]] = {}
    for sample in samples:
        if sample.shift != TRAIN:
            shifts.setdefault(sample.subset, set()).add(sample.shift)
    return [
        replace(
            sample,
            subset=f"{sample.subset} [{sample.shift}]",
            meta={**sample.meta, "subset_tag": sample.meta.get("subset_tag", sample.subset)},
        )
        if sample.shift != TRAIN and len(shifts[sample.subset]) > 1
        else sample
        for sample in samples
    ]


def sample_fields(sample: Sample) -> dict[str, Any]:
    """The sample's record as look_up sees it, for groups and clusters by any field of the user's."""
    return {
        "sample_ID": sample.sample_id,
        "split": sample.split,
        "subset_tag": sample.subset,
        "user_persona": sample.user,
        **sample.meta,
    }


def _regrouped(sample: Sample, group_by: str, problems: list[Problem]) -> Sample:
    """The sample with the value at `group_by` as its subset. Training data is not measured and stays as it is."""
    if sample.shift == TRAIN:
        return sample
    there, value = look_up(sample_fields(sample), group_by)
    if isinstance(value, str | int | float) and str(value).strip():
        return replace(sample, subset=str(value), meta={**sample.meta, "subset_tag": sample.subset})
    file, _, record = sample.place.rpartition(": ")
    fault = f"cannot name a group: it is {kind(value) if value != '' else 'blank'}" if there else "is missing"
    problems.append(Problem(file, record, shown(group_by), f"{fault}; samples are to be grouped by this field"))
    return sample
