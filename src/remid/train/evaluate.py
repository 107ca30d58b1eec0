"""How good an estimator is: log q2 of held-out references, with its own traces, without, and with another's.

All figures are in nats per token of the reference, averaged over samples, with the standard error over samples.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from remid.errors import RenderError
from remid.lm.chat import ChatRenderer, Message
from remid.lm.generate import Decoding, generate
from remid.lm.merged import merged
from remid.lm.models import LoadedModel
from remid.pipeline.prompts import PROMPT_VERSION, role_play_messages
from remid.pipeline.reason import trace_messages
from remid.pipeline.traces import TraceFormat, parse_trace, trimmed
from remid.train.rewards import Likelihood
from remid.train.scoring import AdapterScorer, Pair, using
from remid.types import Sample

#: Chats that are answered together.
_BATCH = 16


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Likelihoods of the references, sample by sample (None: cannot be computed), and the traces behind them.

    own: with the sample's trace (where it did not parse: without one). none: without a trace. other: with the trace of
    the next sample that has one. traces: texts, None where none was written. parsed: whether each follows the format.
    """

    samples: tuple[str, ...]
    own: tuple[Likelihood | None, ...]
    none: tuple[Likelihood | None, ...]
    other: tuple[Likelihood | None, ...]
    traces: tuple[str | None, ...]
    parsed: tuple[bool, ...]

    @property
    def by_sample(self) -> dict[str, float | None]:
        """log q of each reference with its own trace, nats per token."""
        return {name: None if x is None else x.mean for name, x in zip(self.samples, self.own, strict=True)}

    def summary(self) -> dict[str, Any]:
        """The figures of a journal's record. gap: own minus other; advantage: own minus none. None where n < 2."""
        row: dict[str, Any] = {"n": len(self.samples)}
        row |= _mean("log_q", [_per_token(x) for x in self.own])
        row |= _mean("log_q_without", [_per_token(x) for x in self.none])
        row |= _mean("gap", _differences(self.own, self.other))
        row |= _mean("advantage", _differences(self.own, self.none))
        known = [x for x in self.own if x is not None]
        row["perplexity"] = float(np.exp(-sum(x.nats for x in known) / sum(x.tokens for x in known))) if known else None
        written = [p for p, text in zip(self.parsed, self.traces, strict=True) if text is not None]
        row["parse_failures"] = 1 - sum(written) / len(written) if written else None
        return row


def evaluate(
    scorer: AdapterScorer,
    renderer: ChatRenderer,
    samples: Sequence[Sample],
    traces: Mapping[str, str] | None,
    *,
    version: int = PROMPT_VERSION,
) -> HeldOut:
    """Score the references of samples under q2. traces: texts by sample id, None for an estimator without reasoning;
    version: of the prompts that show them."""
    pair_of = partial(reference_pair, renderer=renderer, version=version)
    texts = [None if traces is None else traces.get(sample.sample_id) for sample in samples]
    features = [None if text is None else parse_trace(text).features for text in texts]
    others = _next_known(features)
    ways = [
        [pair_of(sample, own) for sample, own in zip(samples, features, strict=True)],
        [pair_of(sample, None) for sample in samples],
        [
            None if own is None or other is None else pair_of(sample, other)
            for sample, own, other in zip(samples, features, others, strict=True)
        ],
    ]
    found = scorer.score("q2", [pair for way in ways for pair in way])
    n = len(samples)
    own, none, other = (tuple(found[k * n : (k + 1) * n]) for k in range(3))
    ids = tuple(sample.sample_id for sample in samples)
    return HeldOut(ids, own, none, other, tuple(texts), tuple(f is not None for f in features))


def paired_difference(new: Mapping[str, float | None], old: Mapping[str, float | None]) -> dict[str, Any]:
    """over_best: log q by sample of one estimator minus another's, averaged over the samples that both could score,
    with standard error and their number. The samples are the same, so this is surer than two averages side by side."""
    pairs = [(value, old.get(name)) for name, value in new.items()]
    return _mean("over_best", [np.nan if a is None or b is None else a - b for a, b in pairs])


def write_traces(
    model: Any,
    loaded: LoadedModel,
    renderer: ChatRenderer,
    samples: Sequence[Sample],
    form: TraceFormat,
    max_new_tokens: int,
) -> dict[str, str]:
    """q1's traces by sample id, greedy; a sample whose prompt cannot be rendered or does not fit has none."""
    written: dict[str, str] = {}
    for batch in trace_batches(model, loaded, renderer, samples, form, max_new_tokens):
        written |= {name: text for name, (text, _) in batch.items()}
    return written


def trace_batches(
    model: Any,
    loaded: LoadedModel,
    renderer: ChatRenderer,
    samples: Sequence[Sample],
    form: TraceFormat,
    max_new_tokens: int,
    *,
    known: Container[str] = (),
) -> Iterator[dict[str, tuple[str, bool]]]:
    """The same as they are written, with whether each came to its end: about one length together, the longest first.

    known: ids of samples whose traces are there already. A batch of none but these is passed over; the others keep
    their company, and so their last digits.
    """
    prompts: dict[str, list[int]] = {}
    for sample in samples:
        ids = prompt_ids(trace_messages(sample, form), renderer)
        if ids is not None and len(ids) + max_new_tokens <= loaded.max_length:
            prompts[sample.sample_id] = list(ids)
    order = sorted(prompts, key=lambda name: (-len(prompts[name]), name))
    decoding = Decoding(max_new_tokens=max_new_tokens)
    writer = replace(loaded, model=model.get_base_model())
    for start in range(0, len(order), _BATCH):
        batch = order[start : start + _BATCH]
        if all(name in known for name in batch):
            continue
        with using(model, "q1"), merged(model):
            said = generate(writer, [prompts[name] for name in batch], renderer.end_of_turn_id, decoding)
        yield {name: (trimmed(text, form), whole) for name, (text, whole) in zip(batch, said, strict=True)}


def reference_pair(
    sample: Sample, features: str | None, renderer: ChatRenderer, *, version: int = PROMPT_VERSION
) -> Pair | None:
    """A sample's reference under its prompt, None where either cannot be rendered. version: of the prompt."""
    prompt = prompt_ids(role_play_messages(sample, features, version=version), renderer)
    try:
        return None if prompt is None else Pair(prompt, tuple(renderer.response_ids(sample.reference)))
    except RenderError:
        return None


def prompt_ids(messages: Sequence[Message], renderer: ChatRenderer) -> tuple[int, ...] | None:
    """Token ids of a prompt, None where it cannot be rendered."""
    try:
        return tuple(renderer.prompt_ids(messages))
    except RenderError:
        return None


def _next_known(features: Sequence[str | None]) -> list[str | None]:
    """For each place the next known features of another place, going round; None where there are no other.

    They may be the same: who writes one trace for everybody has a gap of 0, and not none.
    """
    n = len(features)
    return [
        next((features[(i + k) % n] for k in range(1, n) if features[(i + k) % n] is not None), None) for i in range(n)
    ]


def _per_token(found: Likelihood | None) -> float:
    return np.nan if found is None else found.mean


def _differences(a: Sequence[Likelihood | None], b: Sequence[Likelihood | None]) -> list[float]:
    return [_per_token(x) - _per_token(y) for x, y in zip(a, b, strict=True)]


def _mean(name: str, values: Sequence[float]) -> dict[str, float | int | None]:
    """Mean, standard error over samples, how many; None where they cannot be told."""
    known = np.array([v for v in values if np.isfinite(v)])
    n = len(known)
    return {
        name: float(known.mean()) if n else None,
        f"{name}_se": float(known.std(ddof=1) / np.sqrt(n)) if n > 1 else None,
        f"{name}_n": n,
    }
