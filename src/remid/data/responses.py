"""Response files: JSONL of {"policy", "sample_ID", "response"} lines that add policies' answers to a benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from remid.data.outside import problems_of
from remid.data.record import policy_fault
from remid.data.rows import read_lines
from remid.data.strict_json import find_faults
from remid.data.text import kind, shown
from remid.errors import DataError, Problem
from remid.types import TRAIN, Sample

_HINTS = {
    "policy": "text",
    "sample_ID": "text or a whole number",
    "response": "text or null",
    "subset_tag": "text or null",
}


class _Line(BaseModel):
    # Other keys are allowed: tools that make responses write down how they made them.
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    policy: str
    sample_id: str | int = Field(alias="sample_ID")
    response: str | None
    subset_tag: str | None = None


def add_responses(
    samples: Sequence[Sample], paths: Sequence[Path], problems: list[Problem]
) -> tuple[list[Sample], dict[str, None]]:
    """The samples with the answers of all response files, and whose lines hold no text; what is wrong with a line goes
    to `problems`.

    A line means the test sample of its sample_ID, or else the training sample, of its subset_tag if it has one.
    Blank and null responses are missing. A second answer of a policy to a sample is a problem wherever it stands.
    """
    answers = _Answers(samples)
    for path in paths:
        file = shown(str(path), 400)
        before, lines = len(problems), 0
        try:
            for record, value in read_lines(path, problems):
                lines += 1
                problems += answers.take(file, record, value)
        except DataError as error:
            problems += error.problems
        if not lines and len(problems) == before:
            problems.append(Problem(file, "", "", "holds no responses"))
    whole = [
        replace(sample, responses={**sample.responses, **given}) if given else sample
        for sample, given in zip(samples, answers.given, strict=True)
    ]
    return whole, answers.silent


class _Answers:
    """The answers read so far: given[i] is policy -> text for sample i, silent who has lines without a text."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.given: list[dict[str, str]] = [{} for _ in samples]
        self.silent: dict[str, None] = {}
        self._place = {
            (policy, number): sample.place for number, sample in enumerate(samples) for policy in sample.responses
        }
        self._by_id: dict[str, list[tuple[int, Sample]]] = {}
        # Training samples are looked at last: their ids may repeat a test sample's.
        for number, sample in sorted(enumerate(samples), key=lambda pair: pair[1].shift == TRAIN):
            self._by_id.setdefault(sample.sample_id, []).append((number, sample))

    def take(self, file: str, record: str, value: object) -> list[Problem]:
        """Enters one line, or says what is wrong with it."""
        line = _line(file, record, value)
        if isinstance(line, list):
            return line
        number = self._find(line)
        if isinstance(number, Problem):
            return [replace(number, file=file, record=record)]
        if (earlier := self._place.get((line.policy, number))) is not None:
            message = f'"{shown(line.policy)}" already answered this sample ({earlier}); keep one answer'
            return [Problem(file, record, "policy", message)]
        self._place[line.policy, number] = f"{file}: {record}"
        if line.response is not None and line.response.strip():
            self.given[number][line.policy] = line.response
        else:
            self.silent[line.policy] = None
        return []

    def _find(self, line: _Line) -> int | Problem:
        """The number of the sample that a line means, or why there is none."""
        sample_id = shown(str(line.sample_id))
        candidates = self._by_id.get(str(line.sample_id), [])
        if not candidates:
            return Problem("", "", "sample_ID", f'no sample of the benchmark has the sample_ID "{sample_id}"')
        for number, sample in candidates:
            if line.subset_tag is None or line.subset_tag == sample.subset:
                return number
        message = f'the sample "{sample_id}" is not in subset "{shown(str(line.subset_tag))}"'
        return Problem("", "", "subset_tag", message)


def _line(file: str, record: str, value: object) -> _Line | list[Problem]:
    """The line that a value stands for, or what is wrong with it."""
    if not isinstance(value, dict):
        return [Problem(file, record, "", f"must be an object (one response), not {kind(value)}")]
    if faults := find_faults(value):
        return [Problem(file, record, name, message) for name, message in faults]
    try:
        line = _Line.model_validate(value)
    except ValidationError as error:
        return problems_of(error, file, record, _HINTS)
    fault = policy_fault(line.policy)
    return [Problem(file, record, "policy", fault)] if fault else line
