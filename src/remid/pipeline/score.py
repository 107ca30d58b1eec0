"""The scoring stage: which (prompt, response) pairs a run needs, and each one's log-likelihood, from the store or anew.

What an engine computes is stored batch by batch, each batch in one transaction; a run that was killed asks only for
what is not there. On a CPU in float32 a score depends on its prompt and response alone, to the last bit, so it ends
with the same bytes whatever was computed together (lm/attention.py).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from remid.engine.work import Scored, Work
from remid.errors import RenderError, StoreError
from remid.lm.chat import ChatRenderer, Message
from remid.pipeline.config import RunConfig
from remid.pipeline.engines import Engines
from remid.pipeline.policies import Texts
from remid.pipeline.progress import Progress
from remid.pipeline.prompts import drop_oldest_turns
from remid.pipeline.store import PromptRow, ScoreRow, Store, content_key
from remid.types import PairDesign, PairScores

#: Positions kept free for responses, so that a prompt's fate does not depend on who answers it.
RESERVED_TOKENS = 2048
#: Of a prompt's key; its words are in the key themselves.
_KEY_FORM = 1


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
    return content_key([_KEY_FORM, [[m.role, m.content] for m in messages]])


def text_key(text: str) -> str:
    """Identifies a response by its content."""
    return content_key(text)


def plan_units(
    prompts: Sequence[Sequence[tuple[Message, ...]]], texts: Mapping[str, Texts], design: PairDesign
) -> list[Unit]:
    """Units of one subset: under x_i, every policy's y_i and its y_j for the negatives j of i.

    prompts: per sample, one for each of its traces (none where the trace is missing).
    """
    units = []
    for i, of_sample in enumerate(prompts):
        wanted = texts_under(i, texts, design)
        units += [Unit(prompt_key(messages), messages, wanted) for messages in dict.fromkeys(of_sample)]
    return units


def texts_under(i: int, texts: Mapping[str, Texts], design: PairDesign) -> tuple[str, ...]:
    """Every policy's response to x_i and to the negatives of i, each once."""
    rows = (i, *(int(j) for j in design.negatives_Bm[i]))
    return tuple(dict.fromkeys(text for answers in texts.values() for j in rows if (text := answers[j]) is not None))


def score_units(
    units: Sequence[Unit], store: Store, scorer_id: str, engines: Engines, config: RunConfig, progress: Progress
) -> None:
    """Score what the store does not hold yet. Opens an engine only if anything is missing."""
    have = store.scored(scorer_id)
    todo = [
        Unit(unit.key, unit.messages, missing)
        for unit in _merge(units)
        if (missing := tuple(text for text in unit.texts if (unit.key, text_key(text)) not in have))
    ]
    if not todo:
        progress.say("scoring: everything is in the store")
        return
    jobs = _prepare(todo, store, scorer_id, engines, config)
    if not jobs:
        return
    work = [job.work for job in jobs]
    total, pairs = sum(w.tokens for w in work), sum(len(w.continuations) for w in work)
    progress.say(f"scoring: {len(jobs)} prompts, {pairs} responses, {total} tokens")
    engine = engines.scoring(work)
    progress.say(f"scoring: {engine.name}")
    with progress.stage("scoring", total) as step:
        begun: set[int] = set()
        for batch in engine.score(work):
            _store_batch(batch, jobs, store, scorer_id)
            new = {scored.work for scored in batch} - begun
            begun |= new
            answers = sum(len(work[s.work].continuations[s.continuation]) for s in batch)
            step(sum(len(work[w].prompt) for w in new) + answers)


@dataclass(frozen=True, slots=True)
class _Job:
    """One prompt as work: its key, what is stored about it, its work, and the keys of the work's continuations."""

    key: str
    row: PromptRow
    work: Work
    responses: tuple[str, ...]


def _prepare(units: Sequence[Unit], store: Store, scorer_id: str, engines: Engines, config: RunConfig) -> list[_Job]:
    """Token ids of all that can be scored; what cannot is stored with its reason."""
    renderer, longest = engines.reader()
    limit = min(longest, config.max_tokens or longest)
    if engines.served:
        _same_limit(limit, store, scorer_id)
    # A response stands under several prompts: made into ids once, and kept once.
    ids_of = functools.cache(lambda text: tuple(renderer.response_ids(text)))
    jobs = []
    for unit in units:
        fit = fit_prompt(unit.messages, renderer, limit, config)
        row = PromptRow(len(fit.ids), fit.dropped_turns, fit.missing)
        scorable: dict[str, tuple[int, ...]] = {}
        unscorable: list[tuple[str, str, ScoreRow]] = []
        for text in unit.texts:
            try:
                ids = ids_of(text)
            except RenderError as error:
                unscorable.append((unit.key, text_key(text), ScoreRow(0, None, None, f"cannot be rendered: {error}")))
                continue
            reason = fit.missing or (f"{len(ids)} tokens do not fit" if len(fit.ids) + len(ids) > limit else None)
            if reason is None:
                scorable[text_key(text)] = ids
            else:
                unscorable.append((unit.key, text_key(text), ScoreRow(len(ids), None, None, reason)))
        if unscorable:
            store.add_scores(scorer_id, {unit.key: row}, unscorable)
        if scorable:
            jobs.append(_Job(unit.key, row, Work(tuple(fit.ids), tuple(scorable.values())), tuple(scorable)))
    return jobs


def _same_limit(limit: int, store: Store, scorer_id: str) -> None:
    """A server may be started again with more or less room under the same name, which no key of a score shows: prompts
    whole and shortened would be mixed. Raises StoreError where this store's prompts were cut for another limit."""
    known = store.generations(f"limit:{scorer_id}")
    if not known:
        store.add_generations(f"limit:{scorer_id}", [("tokens", str(limit), True)])
    elif (before := int(known["tokens"][0])) != limit:
        raise StoreError(
            f"the server takes {limit} tokens now, and took {before} when this run began: start it as it was, or use "
            "another --out; a --max-tokens that both have room for keeps runs comparable"
        )


def _store_batch(batch: Sequence[Scored], jobs: Sequence[_Job], store: Store, scorer_id: str) -> None:
    """One transaction for what came of one pass; failures that may pass are told, not stored."""
    prompts: dict[str, PromptRow] = {}
    rows: list[tuple[str, str, ScoreRow]] = []
    passing: list[tuple[str, str, int, str]] = []
    for scored in batch:
        job = jobs[scored.work]
        response, length = job.responses[scored.continuation], len(job.work.continuations[scored.continuation])
        if scored.logp_T is not None:
            rows.append((job.key, response, _score_row(scored.logp_T)))
        elif scored.again:
            passing.append((job.key, response, length, scored.missing or "not scored"))
        else:
            rows.append((job.key, response, ScoreRow(length, None, None, scored.missing or "not scored")))
        prompts[job.key] = job.row
    store.note_failures(scorer_id, passing)
    store.add_scores(scorer_id, prompts, rows)


def fit_prompt(messages: Sequence[Message], renderer: ChatRenderer, limit: int, config: RunConfig) -> Fitted:
    """Render a prompt into its share of the context, by the run's overflow rule. Never cuts inside a turn.

    limit: tokens that a prompt and a response may take together.
    """
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
    """One policy's PairScores in one subset from what the store holds. prompts: keys, None where there is none.

    Raises StoreError where a pair has not been scored.
    """
    n, m = design.negatives_Bm.shape
    positive_B, negative_Bm = np.full(n, np.nan), np.full((n, m), np.nan)
    tokens_B, bytes_B = np.full(n, np.nan), np.full(n, np.nan)
    keys = [None if text is None else text_key(text) for text in answers]

    def look_up(i: int, j: int) -> tuple[int, float]:
        prompt, text = prompts[i], keys[j]
        if prompt is None or text is None:
            return 0, np.nan
        if (prompt, text) not in scored:  # a folder that was copied without it, or mended
            raise StoreError("the run's store lacks scores of it; give the command of the run again")
        tokens, logp, _ = scored[prompt, text]
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
