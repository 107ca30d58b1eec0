"""The items behind the numbers: what was said, how likely it was, and which pairs pull hardest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from remid.estimate import Influence, remi
from remid.pipeline.measure import SubsetScores, number
from remid.pipeline.policies import REFERENCE, Texts
from remid.pipeline.store import PromptRow
from remid.types import PairScores

_PAIRS_SHOWN = 3


def detail_rows(
    subsets: Sequence[SubsetScores],
    answers: Mapping[str, Mapping[str, Texts]],
    features: Mapping[str, tuple[str, ...]],
    prompts: Mapping[str, PromptRow | None],
    reasons: Mapping[tuple[str, str], str],
) -> list[dict[str, Any]]:
    """Rows of details.json (docs/result.md). prompts: by sample id; reasons: by (sample id, policy) where missing."""
    rows = []
    for s in subsets:
        pulls = {policy: remi(scores, s.scores[REFERENCE]) for policy, scores in s.scores.items()}
        columns = {policy: _negative_means(scores) for policy, scores in s.scores.items()}
        for i, sample in enumerate(s.samples):
            prompt = prompts.get(sample.sample_id)
            rows.append(
                {
                    "sample_id": sample.sample_id,
                    "subset": s.subset,
                    "shift": s.shift,
                    "user": sample.user,
                    "character": sample.character,
                    "dialogue": [{"role": turn.role, "text": turn.text} for turn in sample.dialogue],
                    "reference": sample.reference,
                    "trace": "\n\n".join(features.get(sample.sample_id, ())) or None,
                    "prompt_tokens": prompt.n_tokens if prompt else None,
                    "dropped_turns": prompt.dropped_turns if prompt else None,
                    "responses": [
                        {
                            "policy": policy,
                            "text": answers[s.subset][policy][i],
                            "missing": reasons.get((sample.sample_id, policy)),
                            **_response(s, scores, pulls[policy], columns[policy], i),
                        }
                        for policy, scores in s.scores.items()
                    ],
                }
            )
    return rows


def _response(
    s: SubsetScores, scores: PairScores, pull: Influence, column_B: np.ndarray[Any, Any], i: int
) -> dict[str, Any]:
    logp, mean = scores.positive_B[i], column_B[i]
    tokens = scores.tokens_B[i]
    return {
        "logp": number(logp),
        "n_tokens": int(tokens) if np.isfinite(tokens) else None,
        "negative_mean": number(mean),
        "density": number(logp - mean),
        "contribution": number(pull.phi_B[i]),
        "pairs": _hardest_pairs(s, scores, i),
    }


def _hardest_pairs(s: SubsetScores, scores: PairScores, i: int) -> list[dict[str, Any]]:
    """The inputs under which y_i is scored as a negative, farthest from its own log-likelihood first."""
    rows, columns = np.nonzero(scores.design.negatives_Bm == i)
    values = scores.negative_Bm[rows, columns]
    order = np.argsort(-np.abs(values - scores.positive_B[i]), kind="stable")
    shown = [k for k in order if np.isfinite(values[k])][:_PAIRS_SHOWN]
    return [{"sample_id": s.samples[int(rows[k])].sample_id, "logp": float(values[k])} for k in shown]


def _negative_means(scores: PairScores) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(B,) mean log-likelihood of each y_j under the other inputs that it was scored with."""
    n = scores.positive_B.size
    finite = np.isfinite(scores.negative_Bm)
    index = scores.design.negatives_Bm[finite]
    total = np.bincount(index, scores.negative_Bm[finite], minlength=n)
    count = np.bincount(index, minlength=n)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
