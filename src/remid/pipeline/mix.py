"""Scores of samples that have several traces: the mean of a response's probability over their prompts.

They are made of stored scores and stored under a key of their own, so that whatever reads the store finds one score for
each sample and response, however many prompts are behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from remid.estimate import mixed_logp
from remid.lm.chat import Message
from remid.pipeline.score import prompt_key, text_key, texts_under
from remid.pipeline.store import PromptRow, ScoreRow, Store, content_key

if TYPE_CHECKING:
    from remid.pipeline.plan import Plan, Scored

#: A sample's prompts, one for each of its traces; the same one twice counts twice.
Prompts = tuple[tuple[Message, ...], ...]


def mixed_key(prompts: Prompts) -> str | None:
    """Identifies what a sample's scores are stored under: its only prompt, or all of them; None where it has none."""
    keys = sorted(prompt_key(messages) for messages in prompts)
    return (keys[0] if len(keys) == 1 else content_key(["mean of", *keys])) if keys else None


def mix_scores(plan: Plan, store: Store) -> None:
    """Store the mixed scores of a plan whose pairs have all been scored. What is mixed already is left as it is.

    Where a score is missing under one of the prompts it is missing as a whole: fewer prompts would be another measure.
    """
    if all(len(prompts) < 2 for g in plan.groups for prompts in g.prompts):
        return
    scored, heads = store.scored(plan.scorer_id), store.prompts(plan.scorer_id)
    for g in plan.groups:
        for i, (prompts, key) in enumerate(zip(g.prompts, g.keys, strict=True)):
            if key is None or len(prompts) < 2:
                continue
            keys = [prompt_key(messages) for messages in prompts]
            texts = map(text_key, texts_under(i, g.answers, g.design))
            todo = [text for text in texts if (key, text) not in scored]
            if not todo and key in heads:
                continue
            rows, missing = _rows(plan.scorer_id, key, keys, todo, scored, store)
            store.note_failures(plan.scorer_id, missing)
            store.add_scores(plan.scorer_id, {key: _head([heads[k] for k in keys if k in heads])}, rows)


def _rows(
    scorer_id: str, key: str, keys: Sequence[str], texts: Sequence[str], scored: Scored, store: Store
) -> tuple[list[tuple[str, str, ScoreRow]], list[tuple[str, str, int, str]]]:
    """Mixed rows, and pairs of which one is missing, with its reason."""
    rows: list[tuple[str, str, ScoreRow]] = []
    missing: list[tuple[str, str, int, str]] = []
    for text in texts:
        under = [scored[k, text] for k in keys]
        reason = next((why or "not scored" for _, logp, why in under if logp is None), None)
        if reason is not None:
            missing.append((key, text, under[0][0], reason))
            continue
        logps = [store.token_logps(scorer_id, k, text) for k in keys]
        mixed_T = mixed_logp(np.array(logps, dtype=np.float64))
        total = float(mixed_T.sum())
        rows.append((key, text, ScoreRow(len(mixed_T), total, mixed_T.astype(np.float32), None)))
    return rows, missing


def _head(heads: Sequence[PromptRow]) -> PromptRow:
    """Of the longest prompt, and why one of them cannot be scored."""
    missing = next((head.missing for head in heads if head.missing), None)
    return PromptRow(max(h.n_tokens for h in heads), max(h.dropped_turns for h in heads), missing)
