"""The stages of training an estimator, each a function of the run: cold start, GRPO on q1, roll-out, GRPO on q2."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from remid.errors import ConfigError
from remid.lm.chat import Message
from remid.pipeline.prompts import role_play_messages
from remid.pipeline.reason import trace_messages
from remid.pipeline.traces import parse_trace, trimmed
from remid.train.config import SftSettings
from remid.train.evaluate import prompt_ids
from remid.train.examples import Example, q1_example, q2_example
from remid.train.grpo import run_grpo
from remid.train.rewards import Completion, Likelihood, RewardBatch, response_parts, response_shape_reward, trace_parts
from remid.train.run import TrainRun
from remid.train.scoring import Pair
from remid.train.sft import run_sft
from remid.types import Sample


def supervised(
    run: TrainRun, adapter: str, traces: Mapping[str, str], settings: SftSettings, out: Path, seed: int
) -> None:
    """SFT of q1 (input -> trace) or q2 (input and core features -> response) on traces."""
    examples = supervised_examples(run, traces, (adapter,))
    run_sft(run.model, adapter, examples, run.loaded.tokenizer, settings, out, seed=seed, callbacks=run.callbacks())


def supervised_examples(run: TrainRun, traces: Mapping[str, str], roles: Sequence[str]) -> list[Example]:
    """What q1, q2 or both learn from each training sample in turn; what is left out is noted."""
    examples: list[Example] = []
    left_out: Counter[str] = Counter()
    for sample in run.split.train:
        for role in roles:
            made = _example(run, role, sample, traces.get(sample.sample_id))
            if isinstance(made, str):
                left_out[made] += 1
            else:
                examples.append(made)
    who = roles[0] if len(roles) == 1 else "both"
    run.note(f"{who}: {len(examples)} examples", left_out=dict(left_out), n=len(examples))
    return examples


def _example(run: TrainRun, role: str, sample: Sample, text: str | None) -> Example | str:
    """One example of q1 or q2 from a sample and its trace, or why there is none."""
    form, limit = run.config.trace_format, run.max_tokens
    if role == "q1":
        return "no trace" if text is None else q1_example(sample, text, form, run.renderer, limit)
    features = None if text is None else parse_trace(text).features
    if run.config.reasoning and features is None:
        return "no trace that parses"
    return q2_example(sample, features, run.renderer, limit, version=run.config.prompts)


def improve_traces(run: TrainRun, out: Path, seed: int) -> None:
    """GRPO on q1: traces under which q2 finds the reference likely."""
    how, form = run.config.grpo, run.config.trace_format
    asked = {s.sample_id: trace_messages(s, form) for s in run.split.train}
    samples = _draw(run, seed, _prompts(run, asked), how.trace_tokens)
    known = {sample.sample_id: sample for sample in samples}
    without: Mapping[str, Likelihood | None] = {}
    if how.reward == "advantage":
        without = _of_references(run, "q2", {s.sample_id: run.reference_pair(s, None) for s in samples})

    def compute(said: Sequence[Completion]) -> list[Mapping[str, float] | None]:
        # As it will be read; what follows a compact trace costs it the reward for its format, and nothing else.
        features = [parse_trace(trimmed(one.text, run.config.trace_format)).features for one in said]
        pairs = [run.reference_pair(known[one.sample], own) for one, own in zip(said, features, strict=True)]
        rows: list[Mapping[str, float] | None] = []
        for one, own, found in zip(said, features, run.scorer.score("q2", pairs), strict=True):
            if found is None or (how.reward == "advantage" and without.get(one.sample) is None):
                rows.append(None)
                continue
            tokens = len(run.loaded.tokenizer(own, add_special_tokens=False)["input_ids"]) if own else 0
            rows.append(trace_parts(one.text, found, without.get(one.sample), tokens, run.config.trace_format, how))
        return rows

    rows = [_row(s.sample_id, asked[s.sample_id]) for s in samples]
    weights = {"likelihood": how.likelihood, "format": how.format, "length": how.length}
    rewards = RewardBatch(compute, weights, _parses, run.renderer.end_of_turn_id, run.journal.show)
    _grpo(run, "q1", rows, rewards, out, seed)


def improve_responses(run: TrainRun, traces: Mapping[str, str], out: Path, seed: int) -> None:
    """GRPO on q2: responses that the frozen reference model ("ref") finds as likely as the reference response."""
    how, train = run.config.grpo, run.split.train
    features = {s.sample_id: parse_trace(traces.get(s.sample_id, "")).features for s in train}
    asked = {s.sample_id: role_play_messages(s, features[s.sample_id], version=run.config.prompts) for s in train}
    prompts = _prompts(run, asked)
    samples = _draw(run, seed, prompts, how.response_tokens)
    golden = _of_references(run, "ref", {s.sample_id: run.reference_pair(s, features[s.sample_id]) for s in samples})

    def compute(said: Sequence[Completion]) -> list[Mapping[str, float] | None]:
        pairs = [Pair(prompts[one.sample] or (), one.ids) for one in said]
        rows: list[Mapping[str, float] | None] = []
        for one, found in zip(said, run.scorer.score("ref", pairs), strict=True):
            reference = golden[one.sample]
            known = found is not None and reference is not None
            rows.append(response_parts(one, found, reference, how) if known else None)  # type: ignore[arg-type]
        return rows

    rows = [_row(s.sample_id, asked[s.sample_id]) for s in samples]
    weights = {"typical": how.typical, "shape": how.shape}
    rewards = RewardBatch(compute, weights, _well_formed, run.renderer.end_of_turn_id, run.journal.show)
    _grpo(run, "q2", rows, rewards, out, seed)


def _grpo(run: TrainRun, adapter: str, rows: list[dict[str, Any]], rewards: RewardBatch, out: Path, seed: int) -> None:
    """out: folder for checkpoints."""
    how = run.config.grpo
    tokens, beta = {"q1": (how.trace_tokens, how.beta), "q2": (how.response_tokens, how.response_beta)}[adapter]
    run_grpo(
        run.model,
        adapter,
        renderer=run.renderer,
        tokenizer=run.loaded.tokenizer,
        rows=rows,
        rewards=rewards.functions,
        weights=list(rewards.weights.values()),
        settings=how.model_copy(update={"beta": beta}),
        max_new_tokens=tokens,
        out=out,
        seed=seed,
        callbacks=run.callbacks(),
    )


def _parses(one: Completion) -> bool:
    return parse_trace(one.text).features is not None


def _well_formed(one: Completion) -> bool:
    return response_shape_reward(one.text, one.finished) > 0


def _row(sample_id: str, messages: Sequence[Any]) -> dict[str, Any]:
    return {"sample_id": sample_id, "prompt": [{"role": m.role, "content": m.content} for m in messages]}


def _of_references(run: TrainRun, adapter: str, pairs: Mapping[str, Pair | None]) -> dict[str, Likelihood | None]:
    """log q under the adapter, by sample; what rewards are compared with, so its seconds are told as theirs."""
    begin = time.perf_counter()
    found = dict(zip(pairs, run.scorer.score(adapter, list(pairs.values())), strict=True))
    run.note(f"{len(found)} references under {adapter}", part="rewards", seconds=time.perf_counter() - begin)
    return found


def _prompts(run: TrainRun, asked: Mapping[str, Sequence[Message]]) -> dict[str, tuple[int, ...] | None]:
    return {name: prompt_ids(messages, run.renderer) for name, messages in asked.items()}


def _draw(run: TrainRun, seed: int, prompts: Mapping[str, Sequence[int] | None], tokens: int) -> list[Sample]:
    """The prompts of one GRPO stage, of samples whose prompt and completion fit; how many do not is noted.

    prompts: of all training samples. tokens: of a completion at most. Raises ConfigError where none fits.
    """
    left_out: Counter[str] = Counter()
    fit = []
    for sample in run.split.train:
        ids = prompts[sample.sample_id]
        if ids is None:
            left_out["the chat template or the tokenizer cannot express it"] += 1
        elif len(ids) + tokens > run.max_tokens:
            left_out[f"longer than {run.max_tokens} tokens"] += 1
        else:
            fit.append(sample)
    if left_out:
        run.note(f"{len(fit)} training samples to draw from", left_out=dict(left_out), n=len(fit))
    if not fit:
        raise ConfigError(f"{run.stage}: no prompt with {tokens} tokens behind it fits into --max-tokens")
    return drawn(fit, run.config.grpo.samples, seed)


def drawn(train: Sequence[Sample], count: int, seed: int) -> list[Sample]:
    """So many training samples in a random order, each as often as any other give or take one."""
    rng = np.random.default_rng(seed)
    order: list[int] = []
    while len(order) < count:
        order += rng.permutation(len(train)).tolist()
    return [train[i] for i in order[:count]]
