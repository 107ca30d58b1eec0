"""What may be trained on: the training split and its held-out part, leaks refused, samples as token ids.

Training data is judged by what a model would see of it, not by what it is called: a test item that stands in the
training split under another id is a leak all the same. All lengths are in tokens.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from remid.data.same import Part, marks, normal, twins
from remid.data.text import shown
from remid.errors import ConfigError, DataError, Problem, RenderError
from remid.lm.chat import ChatRenderer, Message
from remid.pipeline.prompts import PROMPT_VERSION, role_play_messages
from remid.pipeline.reason import trace_messages
from remid.pipeline.traces import COMPACT_HEADING, parse_trace
from remid.types import Benchmark, Sample

#: With one there would be nothing to train on or nothing to compare stages by.
_MIN_SAMPLES = 2
#: Fields of a record that a sample may share with another, and how that is said.
_SHARED: Mapping[Part, tuple[str, str]] = {
    "id": ("sample_ID", "is the id"),
    "input": ("user_persona, agent_character, dialogue_context", "are the input"),
    "reference": ("agent_golden_response", "is the reference"),
}


@dataclass(frozen=True, slots=True)
class Split:
    """Training samples and those that stages are compared by, each in file order; no sample is in both.

    digest: SHA-256 (hex) over the texts of both, which is what a stage's data are known by.
    """

    train: tuple[Sample, ...]
    held_out: tuple[Sample, ...]
    digest: str

    @property
    def marks(self) -> tuple[str, ...]:
        """By what an estimator knows again what it was trained on, or chosen by (remid.data.same)."""
        return tuple(mark for sample in (*self.train, *self.held_out) for mark in marks(sample))


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and the completion to learn, as token ids; the completion ends with the end-of-turn token."""

    sample_id: str
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]


def split_training(benchmark: Benchmark, limit: int | None, holdout: float, seed: int) -> Split:
    """At most `limit` training samples (None: all), a share `holdout` of them (at least one) set aside.

    Samples with the same user and character stay on one side, unless one such group is so large that nothing or most
    would be set aside. Depends on nothing but its arguments. Raises ConfigError where there is too little to train on,
    DataError where training samples share an id.
    """
    samples = benchmark.train
    if len(samples) < _MIN_SAMPLES:
        raise ConfigError(
            f"{shown(benchmark.source, 200)}: holds {len(samples)} training samples, and training needs at least "
            f"{_MIN_SAMPLES}: put them in the split IDTrain, or give a taxonomy file that has your split's name under "
            '"train" (--taxonomy)'
        )
    _refuse_repeats(samples)
    groups: dict[tuple[str, str], list[int]] = {}
    for place, sample in enumerate(samples):
        groups.setdefault((normal(sample.user), normal(sample.character)), []).append(place)
    rng = np.random.default_rng(seed)
    members = list(groups.values())
    shuffled = [members[k] for k in rng.permutation(len(members))]
    kept = _first(shuffled, limit if limit is not None else len(samples))
    total = sum(map(len, kept))
    if total < _MIN_SAMPLES:
        raise ConfigError(f"limit: {limit} leaves {total} training samples, and training needs {_MIN_SAMPLES}")
    aside = _set_aside(kept, min(max(1, round(holdout * total)), total - 1))
    train = tuple(samples[k] for k in sorted(k for group in kept for k in group if k not in aside))
    held_out = tuple(samples[k] for k in sorted(aside))
    return Split(train, held_out, _digest(train, held_out))


def _first(groups: Sequence[list[int]], limit: int) -> list[list[int]]:
    """Groups until there are `limit` members; the last one may be cut."""
    kept, room = [], limit
    for group in groups:
        if room <= 0:
            break
        kept.append(group[:room])
        room -= len(group)
    return kept


def _set_aside(groups: Sequence[list[int]], target: int) -> set[int]:
    """About `target` members by whole groups; where these are too large for it, members of one group."""
    aside: set[int] = set()
    rest = []
    for group in groups:
        if len(aside) + len(group) <= target:
            aside.update(group)
        else:
            rest.append(group)
    if 2 * len(aside) >= target:
        return aside
    smallest = min(rest, key=len)
    if 2 * (len(aside) + len(smallest)) <= sum(map(len, groups)):
        return aside | set(smallest)
    return aside | set(smallest[: target - len(aside)])


def _refuse_repeats(samples: Sequence[Sample]) -> None:
    counts = Counter(sample.sample_id for sample in samples)
    problems = [
        _problem(sample, "sample_ID", f'"{shown(sample.sample_id)}" is the id of {n} training samples; an id has one')
        for sample in samples
        if (n := counts[sample.sample_id]) > 1
    ]
    if problems:
        raise DataError(problems)


def refuse_leaks(train: Iterable[Sample], tests: Iterable[Sample]) -> None:
    """Raise DataError that names every training sample that is a test sample too (find_leaks)."""
    if found := find_leaks(train, tests):
        raise DataError([problem for _, problem in found])


def find_leaks(train: Iterable[Sample], tests: Iterable[Sample]) -> list[tuple[Sample, Problem]]:
    """Training samples that are test samples too, by id, by input or by reference, with what is wrong with them.

    Texts are compared without regard to case, width and spacing; references of at least 20 characters only.
    """
    leaks = []
    for sample, part, match in twins(train, tests):
        field, what = _SHARED[part]
        place = shown(match.place or match.sample_id, 200)
        mend = "take it out of the training data or of the test, or use --drop-leaks"
        leaks.append((sample, _problem(sample, field, f"{what} of a test sample ({place}); {mend}")))
    return leaks


def without_leaks(benchmark: Benchmark) -> tuple[Benchmark, int]:
    """The benchmark without training samples that are test samples too, and how many they were."""
    leaked = {id(sample) for sample, _ in find_leaks(benchmark.train, benchmark.test)}
    kept = tuple(sample for sample in benchmark.samples if id(sample) not in leaked)
    return replace(benchmark, samples=kept), len(leaked)


def q1_example(sample: Sample, trace: str, form: str, renderer: ChatRenderer, limit: int) -> Example | str:
    """The trace as an answer to the question for one, or the reason why it is left out. limit: tokens in all."""
    if parse_trace(trace).features is None:
        return "the trace does not parse"
    if (form == "compact") != trace.lstrip().startswith(COMPACT_HEADING):
        return f"the trace is not in the {form} format"
    return _example(sample, trace_messages(sample, form), trace, renderer, limit)


def q2_example(
    sample: Sample, features: str | None, renderer: ChatRenderer, limit: int, *, version: int = PROMPT_VERSION
) -> Example | str:
    """The reference as an answer to the prompt with these core features (None: without), or why it is left out."""
    return _example(sample, role_play_messages(sample, features, version=version), sample.reference, renderer, limit)


def _example(
    sample: Sample, messages: Sequence[Message], completion: str, renderer: ChatRenderer, limit: int
) -> Example | str:
    try:
        prompt, answer = renderer.prompt_ids(messages), renderer.response_ids(completion)
    except RenderError:
        return "the chat template or the tokenizer cannot express it"
    if len(prompt) + len(answer) > limit:
        return f"longer than {limit} tokens"
    return Example(sample.sample_id, tuple(prompt), tuple(answer))


def _problem(sample: Sample, field: str, message: str) -> Problem:
    file, _, record = sample.place.rpartition(": ")
    return Problem(shown(file, 400), shown(record or sample.sample_id, 200), field, message)


def _digest(*parts: Sequence[Sample]) -> str:
    rows = [
        [[s.sample_id, s.user, s.character, [[t.role, t.text] for t in s.dialogue], s.reference, s.trace] for s in part]
        for part in parts
    ]
    return hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()
