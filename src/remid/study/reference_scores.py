"""Test references under a trained estimator: its q1 writes traces, its q2 scores."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from remid.data import read_benchmark
from remid.estimate import mixed_logp
from remid.lm.adapters import load_weights, new_adapters, read_estimator
from remid.lm.chain import Estimator
from remid.lm.chat import ChatRenderer
from remid.lm.models import LoadedModel, find_model, load_model
from remid.lm.sampling import drawn_texts
from remid.pipeline.progress import Progress
from remid.pipeline.reason import drawn_key, trace_messages
from remid.pipeline.score import prompt_key
from remid.pipeline.shorten import shorten
from remid.pipeline.store import Store, content_key
from remid.pipeline.traces import parse_trace, trimmed
from remid.study.ablation_tables import Scores
from remid.study.arms import GREEDY, Draws
from remid.train.collect import origin, without_model
from remid.train.config import TrainConfig
from remid.train.evaluate import prompt_ids, reference_pair, trace_batches
from remid.train.scoring import AdapterScorer, using
from remid.types import Sample


def reference_scores(
    folder: Path,
    config: TrainConfig,
    samples: Sequence[Sample],
    written: Path,
    progress: Progress,
    *,
    best: str,
    begin: float,
    draws: Draws = GREEDY,
) -> Scores:
    """Scores of the samples' references. folder: an estimator that train_corl has left; config: of its training.

    draws: with several, references are scored once more by the mean over these traces of q1.
    written: folder of the store that traces are kept in as they are written. best: the stage the estimator is of;
    begin: when its training began (time.perf_counter). A trace that does not parse gives q2 no features, as in
    training. Raises ModelError where the estimator does not stand on the base of the settings.
    """
    estimator = read_estimator(folder)
    source = find_model(config.model)
    loaded = load_model(source, device=config.device, dtype=config.dtype, trust_remote_code=config.trust_remote_code)
    roles = {"q1": estimator.q1, "q2": estimator.q2}
    model = new_adapters(loaded.model, config.lora, tuple(roles), config.seed)
    for role, stack in roles.items():
        if stack is not None:
            load_weights(model, role, stack[0], source.fingerprint)
    renderer = ChatRenderer(loaded.tokenizer)
    texts = None
    if estimator.q1 is not None:
        texts = _traces(model, loaded, renderer, samples, estimator, folder=written, progress=progress)
    features = [None if texts is None else parse_trace(texts.get(s.sample_id, "")).features for s in samples]
    pair_of = partial(reference_pair, renderer=renderer, version=estimator.prompt_version)
    ways = [[pair_of(sample, own) for sample, own in zip(samples, features, strict=True)]]
    if texts is not None:  # the same without a trace, and with one of the kind that q2 was trained on
        given = zip(samples, _like_training(samples, config), strict=True)
        ways.append([pair_of(sample, None) for sample in samples])
        ways.append([None if other is None else pair_of(sample, other) for sample, other in given])
    found: list[list[str | None]] = []
    if draws.count > 1 and texts is not None:
        drawn = _drawn(model, loaded, renderer, samples, estimator, draws, folder=written, progress=progress)
        found = [[parse_trace(text).features for text in drawn[s.sample_id]] for s in samples]
        ways += [[pair_of(s, f[k]) for s, f in zip(samples, found, strict=True)] for k in range(draws.count)]
    scorer = AdapterScorer(model, loaded, min(config.max_tokens, loaded.max_length))
    with progress.stage("scoring references", sum(pair is not None for pairs in ways for pair in pairs)) as step:
        scored = iter(scorer.score("q2", [pair for pairs in ways for pair in pairs], step))
    nats = [tuple(None if one is None else one.nats for one in islice(scored, len(samples))) for _ in ways]
    lengths = [len(loaded.tokenizer(f, add_special_tokens=False)["input_ids"]) for f in features if f is not None]
    return Scores(
        tuple(sample.sample_id for sample in samples),
        nats[0],
        tuple(None if pair is None else len(pair.completion) for pair in ways[0]),
        None if texts is None else tuple(f is not None for f in features),
        sum(lengths) / len(lengths) if lengths else None,
        best,
        time.perf_counter() - begin,
        tuple((s.sample_id, texts.get(s.sample_id, "")) for s in samples[:6]) if texts is not None else (),
        without=nats[1] if texts is not None else None,
        hindsight=nats[2] if texts is not None else None,
        mixed=tuple(map(_mean_law, zip(*nats[3:], strict=True))) if nats[3:] else None,
        drawn_parsed=tuple(f is not None for of_sample in found for f in of_sample) if nats[3:] else None,
    )


def _mean_law(nats: Sequence[float | None]) -> float | None:
    """Log of the mean probability; None where one of them is missing."""
    return None if None in nats else float(mixed_logp(np.array(nats, dtype=np.float64)[:, None])[0])


def _like_training(samples: Sequence[Sample], config: TrainConfig) -> list[str | None]:
    """Core features of each sample from where training samples have theirs: the data, or the extractive rule.

    None where there are none; for all samples where a model wrote the traces, which is not asked again.
    """
    benchmark = read_benchmark(config.data, mapping=config.mapping, taxonomy=config.taxonomy)
    source = origin(benchmark.train, config.traces)
    if source == "model":
        return [None] * len(samples)
    made = without_model(samples, source, config.trace_format)
    cut = {name: shorten(text, config.trace_share) for name, text in made.texts.items()}
    return [parse_trace(cut.get(sample.sample_id, "")).features for sample in samples]


def _traces(
    model: Any,
    loaded: LoadedModel,
    renderer: ChatRenderer,
    samples: Sequence[Sample],
    estimator: Estimator,
    *,
    folder: Path,
    progress: Progress,
) -> dict[str, str]:
    """q1's traces by sample id; each batch is kept as it is written, and what another estimator of the same weights has
    written is not written again."""
    form, limit = estimator.trace_format or "compact", estimator.trace_tokens
    keys = {sample.sample_id: prompt_key(tuple(trace_messages(sample, form))) for sample in samples}
    generator = content_key(["q1", estimator.about["digest"], form, limit, loaded.dtype, loaded.device.type])
    with Store(folder) as store, progress.stage("writing traces", len(samples)) as step:
        before = {key: text for key, (text, _) in store.generations(generator).items()}
        texts = {name: before[key] for name, key in keys.items() if key in before}
        step(len(texts))
        for batch in trace_batches(model, loaded, renderer, samples, form, limit, known=frozenset(texts)):
            store.add_generations(generator, [(keys[name], *row) for name, row in batch.items()])
            texts |= {name: text for name, (text, _) in batch.items()}
            step(len(batch))
    return texts


def _drawn(
    model: Any,
    loaded: LoadedModel,
    renderer: ChatRenderer,
    samples: Sequence[Sample],
    estimator: Estimator,
    draws: Draws,
    *,
    folder: Path,
    progress: Progress,
) -> dict[str, list[str]]:
    """Traces of q1 by sample id, drawn from its own law; none where the prompt leaves no room for one. They are
    kept as they are written, as greedy ones are."""
    form, limit = estimator.trace_format or "compact", estimator.trace_tokens
    who = ["q1 drawn", estimator.about["digest"], form, limit, draws.temperature, loaded.dtype, loaded.device.type]
    generator = content_key(who)
    asked = {sample.sample_id: tuple(trace_messages(sample, form)) for sample in samples}
    keys = {name: [drawn_key(prompt_key(said), k) for k in range(1, draws.count + 1)] for name, said in asked.items()}
    prompts = {name: ids for name, said in asked.items() if (ids := prompt_ids(said, renderer)) is not None}
    fit = {ids: keys[name] for name, ids in prompts.items() if len(ids) + limit <= loaded.max_length}
    with Store(folder) as store, progress.stage("drawing traces", len(fit) * draws.count) as step:
        known = store.generations(generator)
        todo = {ids: [k for k, key in enumerate(of_prompt, 1) if key not in known] for ids, of_prompt in fit.items()}
        step(sum(draws.count - len(numbers) for numbers in todo.values()))
        wanted = {ids: numbers for ids, numbers in todo.items() if numbers}
        end, writer = renderer.end_of_turn_id, replace(loaded, model=model)
        with using(model, "q1"):
            for batch in drawn_texts(
                writer, wanted, end_of_turn=end, max_new_tokens=limit, temperature=draws.temperature
            ):
                rows = [(fit[ids][number - 1], trimmed(text, form), whole) for ids, number, text, whole in batch]
                store.add_generations(generator, rows)
                step(len(rows))
        written = store.generations(generator)
    return {name: [written.get(key, ("", False))[0] for key in keys[name]] for name in asked}
