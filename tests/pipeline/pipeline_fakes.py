"""Made-up samples and scores for tests of the pipeline's pure parts. Seeded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from remid.estimate import balanced_design
from remid.pipeline.measure import SubsetScores
from remid.pipeline.policies import CONTROLS, REFERENCE
from remid.types import PairDesign, PairScores, Sample, Turn


def sample(number: int, subset: str = "IDTest", shift: str = "id", **fields: Any) -> Sample:
    """A sample with texts of its own."""
    values: dict[str, Any] = {
        "sample_id": f"{subset}-{number}",
        "split": "IDTest",
        "subset": subset,
        "shift": shift,
        "user": f"user {number}",
        "character": f"character {number}",
        "dialogue": (Turn("user", f"question {subset} {number}"),),
        "reference": f"reference {subset} {number}",
        "place": f"b.json: IDTest[{number}]",
    }
    return Sample(**{**values, **fields})


def scores(rng: np.random.Generator, design: PairDesign, *, lost: Sequence[int] = ()) -> PairScores:
    """Scores like a language model's: positives above negatives. lost: responses that are missing altogether."""
    n, m = design.negatives_Bm.shape
    tokens_B = rng.integers(3, 40, n).astype(np.float64)
    positive_B = -2.0 * tokens_B + rng.normal(0, 2, n)
    negative_Bm = -2.2 * tokens_B[design.negatives_Bm] + rng.normal(0, 2, (n, m))
    gone_B = np.isin(np.arange(n), list(lost))
    positive_B[gone_B] = np.nan
    negative_Bm[gone_B[design.negatives_Bm]] = np.nan
    tokens_B[gone_B] = np.nan
    return PairScores(positive_B, negative_Bm, tokens_B, 4 * tokens_B, design)


def subset(
    name: str,
    shift: str,
    n: int,
    policies: Sequence[str] = ("one", "two"),
    *,
    seed: int = 0,
    lost: Mapping[str, Sequence[int]] | None = None,
    clusters: Sequence[str] | None = None,
) -> SubsetScores:
    """A subset with scores of every control and policy; lost: per policy the samples that it has not answered."""
    rng = np.random.default_rng([seed, n, *name.encode()])
    design = balanced_design(n, 2, seed)
    made = {policy: scores(rng, design, lost=(lost or {}).get(policy, ())) for policy in (*CONTROLS, *policies)}
    assert REFERENCE in made
    samples = tuple(sample(number, name, shift) for number in range(n))
    return SubsetScores(name, shift, samples, made, None if clusters is None else tuple(clusters))


def world(seed: int = 0, lost: Mapping[str, Sequence[int]] | None = None) -> list[SubsetScores]:
    """Two ID subsets, two user shifts and a character shift."""
    places = [("a", "id", 12), ("b", "id", 7), ("de", "user", 9), ("es", "user", 6), ("Gaming", "character", 10)]
    return [subset(name, shift, n, seed=seed, lost=lost) for name, shift, n in places]
