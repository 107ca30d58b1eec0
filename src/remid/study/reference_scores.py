"""Test references under a trained estimator: its q1 writes traces, its q2 scores."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from remid.lm.adapters import load_weights, new_adapters, read_estimator
from remid.lm.chat import ChatRenderer
from remid.lm.models import find_model, load_model
from remid.pipeline.traces import parse_trace
from remid.study.ablation import Scores
from remid.train.config import TrainConfig
from remid.train.evaluate import reference_pair, write_traces
from remid.train.scoring import AdapterScorer
from remid.types import Sample


def reference_scores(
    folder: Path, config: TrainConfig, samples: Sequence[Sample], *, best: str, begin: float
) -> Scores:
    """Scores of the samples' references. folder: an estimator that train_corl has left; config: of its training.

    best: the round it is of; begin: when its training began (time.perf_counter). A trace that does not parse gives q2
    no features, as in training. Raises ModelError where the estimator does not stand on the base of the settings.
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
    scorer = AdapterScorer(model, loaded, min(config.max_tokens, loaded.max_length))
    texts: dict[str, str] | None = None
    if estimator.q1 is not None and estimator.trace_format is not None:
        texts = write_traces(model, loaded, renderer, samples, estimator.trace_format, estimator.trace_tokens)
    features = [None if texts is None else parse_trace(texts.get(s.sample_id, "")).features for s in samples]
    pairs = [reference_pair(sample, own, renderer) for sample, own in zip(samples, features, strict=True)]
    found = scorer.score("q2", pairs)
    lengths = [len(loaded.tokenizer(f, add_special_tokens=False)["input_ids"]) for f in features if f is not None]
    return Scores(
        tuple(sample.sample_id for sample in samples),
        tuple(None if one is None else one.nats for one in found),
        tuple(None if pair is None else len(pair.completion) for pair in pairs),
        None if texts is None else tuple(f is not None for f in features),
        sum(lengths) / len(lengths) if lengths else None,
        best,
        time.perf_counter() - begin,
        tuple((s.sample_id, texts.get(s.sample_id, "")) for s in samples[:6]) if texts is not None else (),
    )
