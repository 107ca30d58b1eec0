"""The records that every room shares. They are frozen, hold no behaviour beyond lookups, and import nothing of remid.

Notation (docs/theory.md): X = (user, character, dialogue) is the input, Y the reference response, Y_theta a policy's
response, R a reasoning trace made from X alone. P is the in-distribution (ID) law, Q a shifted (OOD) one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

Role = Literal["user", "agent"]

#: What a subset is to the measurement. "train" is never scored; "id" is the law P; the others are kinds of shift.
#: A user's own taxonomy may add further kinds of shift, so a shift is a plain string everywhere.
TRAIN = "train"
ID = "id"
SHIFTS = ("user", "character", "dialogue")

#: The parts of an input, in the order in which docs and tables name them.
COMPONENTS = ("user", "character", "dialogue")


@dataclass(frozen=True, slots=True)
class Turn:
    """One utterance of a dialogue."""

    role: Role
    text: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One record of a benchmark: an input X, its reference response Y, and what came with it.

    sample_id: unique over the test subsets of a benchmark. split: as the file names it ("IDTest", "OOD1Test").
    subset: the record's subset_tag. shift: TRAIN, ID, or a kind of shift (data/taxonomy.py decides).
    user, character: text as it stands in the prompt. dialogue: alternating turns that end with the user's.
    reference: the golden response. trace: a pre-collected reasoning trace, unparsed, or None.
    responses: policy name -> response; a policy without an entry has not answered (missing, never empty).
    meta: every other field of the record, untouched ("agent_character" in its original form among them).
    place: "FILE: RECORD", for messages.
    """

    sample_id: str
    split: str
    subset: str
    shift: str
    user: str
    character: str
    dialogue: tuple[Turn, ...]
    reference: str
    trace: str | None = None
    responses: Mapping[str, str] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)
    place: str = ""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Samples in file order, where they came from, and the SHA-256 (hex) over all that scores depend on.

    silent: policies that are named, and whose responses are all null or blank.
    """

    samples: tuple[Sample, ...]
    source: str
    digest: str
    silent: tuple[str, ...] = ()

    @property
    def test(self) -> tuple[Sample, ...]:
        """The samples that are measured: everything that is not training data."""
        return tuple(sample for sample in self.samples if sample.shift != TRAIN)

    @property
    def train(self) -> tuple[Sample, ...]:
        """The samples that may be trained on or shown as examples, and are never measured."""
        return tuple(sample for sample in self.samples if sample.shift == TRAIN)

    @property
    def policies(self) -> tuple[str, ...]:
        """Names of all policies that answered a test sample, in order of first appearance, then the silent ones: all
        of theirs is missing, which is to be seen."""
        return tuple(dict.fromkeys((*(name for sample in self.test for name in sample.responses), *self.silent)))


@dataclass(frozen=True, slots=True)
class PairDesign:
    """Which responses serve as negatives for which inputs, within one subset of B samples.

    negatives_Bm[i, k] = j means that y_j is scored under x_i; never j = i, and within a row all j differ.
    Balanced: every j occurs exactly m times in all (docs/theory.md, "Negatives"). Shared by reference and policies.
    """

    negatives_Bm: IntArray
    seed: int


@dataclass(frozen=True, slots=True)
class PairScores:
    """Log-likelihoods of one policy's responses (or the reference's) within one subset, in nats per response.

    positive_B[i] = log q(y_i | x_i, r_i). negative_Bm[i, k] = log q(y_j | x_i, r_i), j = design.negatives_Bm[i, k].
    NaN where a pair could not be scored. tokens_B and bytes_B: length of each y_j (tokens include the end-of-turn
    token; bytes are UTF-8 of the text alone), NaN where y_j is missing.
    """

    positive_B: FloatArray
    negative_Bm: FloatArray
    tokens_B: FloatArray
    bytes_B: FloatArray
    design: PairDesign


@dataclass(frozen=True, slots=True)
class Estimate:
    """One number shown to a user: its value, uncertainty, and what it was made from.

    stderr, ci_low, ci_high are NaN where n is too small to tell. n: items used; n_missing: items left out.
    df: degrees of freedom of the t interval. unit: such as "nats/response". p_value: two-sided, against zero.
    """

    value: float
    stderr: float
    ci_low: float
    ci_high: float
    n: int
    n_missing: int
    df: float
    unit: str
    p_value: float
