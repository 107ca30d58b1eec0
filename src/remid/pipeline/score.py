"""The scoring stage: which (prompt, response) pairs a run needs, and each one's log-likelihood, from the store or anew.

The unit of work is one prompt with all its responses. Within a unit the order is fixed by content, and what is stored
is always whole forward passes from its front, so a run that was killed goes on with the same passes it would have
made, and ends with the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from remid.errors import RenderError
from remid.lm.chat import RENDER_VERSION, Message
from remid.lm.models import ModelSource, resolve_device, resolve_dtype
from remid.pipeline.config import RunConfig
from remid.pipeline.policies import Texts
from remid.pipeline.progress import Progress
from remid.pipeline.prompts import PROMPT_VERSION, drop_oldest_turns
from remid.pipeline.store import PromptRow, ScoreRow, Store, content_key
from remid.types import PairDesign, PairScores

if TYPE_CHECKING:
    from remid.lm.chat import ChatRenderer
    from remid.lm.models import LoadedModel
    from remid.lm.scoring import Scorer

#: Positions kept free for responses, so that a prompt's fate does not depend on who answers it.
RESERVED_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class Unit:
    """One prompt (key and messages) and the texts to score under it, without repeats."""

    key: str
    messages: tuple[Message, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fitted:
    """A prompt's ids as they will be scored, and what had to be dropped; missing: why it cannot be scored."""

    ids: list[int]
    dropped_turns: int
    missing: str | None


def prompt_key(messages: Sequence[Message]) -> str:
    """Identifies a prompt by its content."""
    return content_key([PROMPT_VERSION, [[m.role, m.content] for m in messages]])


def text_key(text: str) -> str:
    """Identifies a response by its content."""
    return content_key(text)


def scorer_key(source: ModelSource, config: RunConfig) -> str:
    """Identifies everything besides prompt and response that a score depends on."""
    device = resolve_device(config.device)
    kind = device.partition(":")[0]
    parts = [source.fingerprint, resolve_dtype(config.dtype, device), kind, config.overflow, config.max_tokens]
    return content_key([*parts, RENDER_VERSION])


def plan_units(
    prompts: Sequence[tuple[Message, ...] | None], texts: Mapping[str, Texts], design: PairDesign
) -> list[Unit]:
    """Units of one subset: under x_i, every policy's y_i and its y_j for the negatives j of i.

    prompts: per sample, or None where the sample has no prompt (its trace is missing).
    """
    units = []
    for i, messages in enumerate(prompts):
        if messages is None:
            continue
        rows = (i, *(int(j) for j in design.negatives_Bm[i]))
        wanted = dict.fromkeys(text for answers in texts.values() for j in rows if (text := answers[j]) is not None)
        units.append(Unit(prompt_key(messages), messages, tuple(wanted)))
    return units


def score_units(
    units: Sequence[Unit], store: Store, scorer_id: str, source: ModelSource, config: RunConfig, progress: Progress
) -> None:
    """Score what the store does not hold yet. Loads the model only if anything is missing."""
    have = store.scored(scorer_id)
    todo = [
        Unit(unit.key, unit.messages, missing)
        for unit in _merge(units)
        if (missing := tuple(text for text in unit.texts if (unit.key, text_key(text)) not in have))
    ]
    if not todo:
        progress.say("scoring: everything is in the store")
        return
    from remid.lm.chat import ChatRenderer
    from remid.lm.models import load_model
    from remid.lm.scoring import Scorer

    progress.say(f"scoring: loading {source.name}")
    loaded = load_model(source, device=config.device, dtype=config.dtype, trust_remote_code=config.trust_remote_code)
    renderer = ChatRenderer(loaded.tokenizer)
    fitted = [(unit, fit_prompt(unit.messages, renderer, loaded, config)) for unit in todo]
    # Longest first: memory runs out at once or never, and the time left is not flattered by short prompts.
    fitted.sort(key=lambda pair: (-len(pair[1].ids), pair[0].key))
    lengths = {text: _length(renderer, text) for unit, _ in fitted for text in unit.texts}
    total = sum(len(fit.ids) + sum(lengths[text] for text in unit.texts) for unit, fit in fitted)
    scorer = Scorer(loaded)
    pairs = sum(len(unit.texts) for unit in todo)
    progress.say(f"scoring: {len(todo)} prompts, {pairs} responses, {total} tokens, {scorer.layout} on {loaded.device}")
    limit = context_limit(loaded, config)
    with progress.stage("scoring", total) as step:
        for unit, fit in fitted:
            _score_unit(unit, fit, renderer, scorer, store, scorer_id, limit)
            step(len(fit.ids) + sum(lengths[text] for text in unit.texts))


def context_limit(loaded: LoadedModel, config: RunConfig) -> int:
    """Tokens that a prompt and a response may take together."""
    return min(loaded.max_length, config.max_tokens or loaded.max_length)


def fit_prompt(messages: Sequence[Message], renderer: ChatRenderer, loaded: LoadedModel, config: RunConfig) -> Fitted:
    """Render a prompt into its share of the context, by the run's overflow rule. Never cuts inside a turn."""
    limit = context_limit(loaded, config)
    room = limit - min(RESERVED_TOKENS, limit // 4)
    exchanges = 0
    try:
        ids = renderer.prompt_ids(messages)
        if config.overflow == "drop-oldest":
            most = (len(messages) - 2) // 2
            while len(ids) > room and exchanges < most:
                exchanges += 1
                ids = renderer.prompt_ids(drop_oldest_turns(list(messages), exchanges))
    except RenderError as error:
        return Fitted([], 0, f"cannot be rendered: {error}")
    missing = f"prompt of {len(ids)} tokens, room for {room}" if len(ids) > room else None
    return Fitted(ids, 2 * exchanges, missing)


def _merge(units: Sequence[Unit]) -> list[Unit]:
    """Units with the same prompt become one (two samples may share an input)."""
    merged: dict[str, Unit] = {}
    for unit in units:
        known = merged.get(unit.key)
        texts = unit.texts if known is None else tuple(dict.fromkeys(known.texts + unit.texts))
        merged[unit.key] = Unit(unit.key, unit.messages, texts)
    return list(merged.values())


def _length(renderer: ChatRenderer, text: str) -> int:
    try:
        return len(renderer.response_ids(text))
    except RenderError:
        return 0


def _score_unit(  # noqa: PLR0917
    unit: Unit, fit: Fitted, renderer: ChatRenderer, scorer: Scorer, store: Store, scorer_id: str, limit: int
) -> None:
    """Score one prompt's texts pass by pass; what cannot be scored is stored with its reason."""
    row = PromptRow(len(fit.ids), fit.dropped_turns, fit.missing)
    scorable: list[tuple[str, list[int]]] = []
    unscorable: list[tuple[str, ScoreRow]] = []
    for text in unit.texts:
        key = text_key(text)
        try:
            ids = renderer.response_ids(text)
        except RenderError as error:
            unscorable.append((key, ScoreRow(0, None, None, f"cannot be rendered: {error}")))
            continue
        reason = fit.missing or (f"{len(ids)} tokens do not fit" if len(fit.ids) + len(ids) > limit else None)
        if reason is None:
            scorable.append((key, ids))
        else:
            unscorable.append((key, ScoreRow(len(ids), None, None, reason)))
    if unscorable:
        store.add_scores(scorer_id, unit.key, row, unscorable)
    if not scorable:
        return
    scorable.sort(key=lambda pair: (-len(pair[1]), pair[0]))
    prefix = scorer.prefill(fit.ids)
    for chunk in scorer.chunks([len(ids) for _, ids in scorable]):
        part = [scorable[index] for index in chunk]
        logps = scorer.score(prefix, [ids for _, ids in part])
        done = [(key, _score_row(logp)) for (key, _), logp in zip(part, logps, strict=True)]
        store.add_scores(scorer_id, unit.key, row, done)


def _score_row(logp_T: np.ndarray[tuple[int], np.dtype[np.float32]]) -> ScoreRow:
    total = float(logp_T.astype(np.float64).sum())
    if not np.isfinite(total):
        return ScoreRow(len(logp_T), None, logp_T, "log-likelihood is not finite")
    return ScoreRow(len(logp_T), total, logp_T, None)


def pair_scores(
    prompts: Sequence[str | None],
    answers: Texts,
    design: PairDesign,
    scored: Mapping[tuple[str, str], tuple[int, float | None, str | None]],
) -> PairScores:
    """One policy's PairScores in one subset from what the store holds. prompts: keys, None where there is none."""
    n, m = design.negatives_Bm.shape
    positive_B, negative_Bm = np.full(n, np.nan), np.full((n, m), np.nan)
    tokens_B, bytes_B = np.full(n, np.nan), np.full(n, np.nan)
    keys = [None if text is None else text_key(text) for text in answers]

    def look_up(i: int, j: int) -> tuple[int, float]:
        prompt, text = prompts[i], keys[j]
        tokens, logp, _ = (0, None, None) if prompt is None or text is None else scored[prompt, text]
        return tokens, np.nan if logp is None else logp

    for i in range(n):
        tokens, positive_B[i] = look_up(i, i)
        text = answers[i]
        if tokens and text is not None:
            tokens_B[i], bytes_B[i] = tokens, max(1, len(text.encode()))
        for k in range(m):
            j = int(design.negatives_Bm[i, k])
            tokens, negative_Bm[i, k] = look_up(i, j)
    return PairScores(positive_B, negative_Bm, tokens_B, bytes_B, design)
