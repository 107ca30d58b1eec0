"""One sample under the microscope: the scored span, token by token."""

from __future__ import annotations

from typing import Any

from remid.data.text import shown
from remid.errors import ConfigError, ModelError
from remid.lm.models import find_model, load_model
from remid.pipeline.policies import REFERENCE
from remid.pipeline.prompts import role_play_messages
from remid.pipeline.traces import parse_trace
from remid.types import Benchmark, Sample


def token_table(
    benchmark: Benchmark, sample_id: str, policy: str, model: str, *, show_prompt: bool = False, **options: Any
) -> str:
    """A table of the response's tokens (end-of-turn token last) with their log-probabilities in nats.

    options: for load_model. Raises ConfigError where the sample or the policy's response does not exist.
    """
    from remid.lm.chat import ChatRenderer
    from remid.lm.scoring import Scorer
    from remid.lm.work import Work

    sample = _find(benchmark, sample_id)
    text = sample.reference if policy == REFERENCE else sample.responses.get(policy)
    if text is None:
        have = ", ".join((REFERENCE, *sample.responses))
        raise ConfigError(f"policy: {shown(policy)} has not answered {shown(sample_id)} (there are: {have})")
    loaded = load_model(find_model(model), **options)
    renderer = ChatRenderer(loaded.tokenizer)
    features = parse_trace(sample.trace).features if sample.trace else None
    prompt = renderer.prompt_ids(role_play_messages(sample, features))
    ids = renderer.response_ids(text)
    if len(prompt) + len(ids) > loaded.max_length:  # positions it was never trained on: numbers without a meaning
        raise ModelError(
            f"{shown(sample_id)}: prompt of {len(prompt)} and response of {len(ids)} tokens, the model takes "
            f"{loaded.max_length}; a run leaves the sample out"
        )
    [scored] = next(Scorer(loaded, layout="plain").score([Work(tuple(prompt), (tuple(ids),))]))
    if scored.logp_T is None:
        raise ModelError(f"{shown(sample_id)}: {scored.missing}")
    logp_T = scored.logp_T
    lines = [f"prompt: {len(prompt)} tokens, trace: {'yes' if features else 'no'}, response: {len(ids)} tokens"]
    if show_prompt:
        lines += [_printable(renderer.decode(prompt)), "---"]
    lines.append(f"{'position':>8} {'id':>7} {'log p, nats':>12}  token")
    for place, (token, logp) in enumerate(zip(ids, logp_T, strict=True), start=len(prompt)):
        lines.append(f"{place:>8} {token:>7} {logp:>12.4f}  {_printable(repr(renderer.decode([token])))}")
    total, n_bytes = float(logp_T.sum()), max(1, len(text.encode()))
    per = f"{total / len(ids):.4f} nats/token, {total / n_bytes:.4f} nats/byte"
    return "\n".join([*lines, f"sum: {total:.4f} nats/response, {per}"])


def _find(benchmark: Benchmark, sample_id: str) -> Sample:
    # Test samples first: their ids are unique, while training data may use the same ones.
    for sample in (*benchmark.test, *benchmark.train):
        if sample.sample_id == sample_id:
            return sample
    examples = ", ".join(shown(s.sample_id) for s in benchmark.test[:3])
    raise ConfigError(f"sample: no sample has the id {shown(sample_id)} (there are: {examples}, ...)")


def _printable(text: str) -> str:
    """Line by line, with control and bidi marks made visible: the text is data, the terminal is not."""
    return "\n".join(shown(line, limit=10_000) for line in text.split("\n"))
