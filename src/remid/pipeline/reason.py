"""The trace stage: core features for every test sample, from the data, from a model, or none.

A model is the untrained one of the run, after examples and with its answer begun for it, or a trained estimator's q1,
which is asked exactly as it was in training.

A trace is made from the input alone. Where a trace is missing or breaks its format the sample has no prompt and is
left out and counted: mixing prompts with and without a trace would measure two things at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from remid.engine.work import Chat
from remid.errors import ConfigError
from remid.lm.chain import Estimator
from remid.lm.chat import RENDER_VERSION, Message
from remid.lm.generate import Decoding
from remid.pipeline.config import RunConfig, TraceSource
from remid.pipeline.engines import Engines
from remid.pipeline.progress import Progress
from remid.pipeline.prompts import PROMPT_VERSION, dialogue_messages
from remid.pipeline.score import prompt_key
from remid.pipeline.store import Store, content_key
from remid.pipeline.traces import COMPACT_HEADING, FULL_HEADINGS, TraceFormat, compact_from_full, parse_trace, trimmed
from remid.types import Benchmark, Sample

_INSTRUCTION = {
    "compact": (
        "Read the character, the user and the dialogue. Do not answer the user. Write what the character's next line "
        f"must do, in exactly this form:\n{COMPACT_HEADING}\nContent: one or two sentences on what it says.\n"
        "Style: one sentence on how it sounds."
    ),
    "full": (
        "Read the character, the user and the dialogue. Do not answer the user. Reason about the character's next line "
        "under exactly these headings:\n" + "\n".join(FULL_HEADINGS) + "\nEach trial has the lines Draft:, "
        "Verification: and Revision hint:. The core features stand in one block fenced by ``` and list, under Content: "
        "- Fits the user: - Embodies the character: - Continues the dialogue: and under Style: - Tone for the user: "
        "- Character's voice: - Natural flow:"
    ),
}
#: A small model keeps to the compact format if its answer is begun for it; the words are part of the trace.
_OPENING = {"compact": f"{COMPACT_HEADING}\nContent:", "full": ""}
_SHOTS = 2


@dataclass(slots=True)
class Traces:
    """Core features per sample id (empty: none that follows the format), and how the source did.

    prompts: version in which q2 is asked. draws: traces that were asked for of each sample. failures: of traces.
    """

    source: str
    format: str | None
    prompts: int = PROMPT_VERSION
    draws: int = 1
    features: dict[str, tuple[str, ...]] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def single(self) -> dict[str, str | None]:
        """The one trace of each sample, None where it failed."""
        return {sample_id: found[0] if found else None for sample_id, found in self.features.items()}

    @property
    def summary(self) -> dict[str, Any]:
        """The `traces` entry of result.json. n: traces, `draws` of each sample; n_without: samples that have none."""
        n, failed = self.draws * len(self.features), sum(self.failures.values())
        return {
            "source": self.source,
            "format": self.format,
            "draws": self.draws,
            "n": n,
            "n_parsed": n - failed,
            "n_failed": failed,
            "failure_rate": failed / n if n else None,
            "n_without": sum(not found for found in self.features.values()),
            "failures": dict(sorted(self.failures.items())),
        }


def collect_traces(
    benchmark: Benchmark,
    samples: Sequence[Sample],
    store: Store,
    engines: Engines,
    config: RunConfig,
    progress: Progress,
) -> Traces:
    """Core features for each of the test samples by the run's trace setting.

    Raises ConfigError if traces are to come from data that holds none.
    """
    have = sum(sample.trace is not None for sample in samples)
    kind = config.traces if config.traces != "auto" else _automatic(have, len(samples), engines.estimator, progress)
    if config.trace_draws > 1 and kind != "model":
        raise ConfigError(f"trace_draws: only a model draws several traces, and here they are: {kind} (--traces model)")
    if kind == "none":
        return Traces("none", None)
    if kind == "data":
        if have == 0:
            raise ConfigError(
                "traces: the data holds none (field SThought); use --traces model, or --traces none in a run"
            )
        texts = {sample.sample_id: (sample.trace,) for sample in samples}
        return _parse(Traces("data", None), texts)
    manner = _manner(benchmark, config, engines.estimator)
    written = _write(manner, samples, store, engines, progress)
    return _parse(Traces("model", manner.form, draws=manner.draws), written)


def _automatic(have: int, n: int, estimator: Estimator | None, progress: Progress) -> TraceSource:
    """Where traces come from if nobody says: with an estimator, from where it had them in training."""
    if estimator is not None and estimator.q1 is not None:
        if have:
            progress.say("traces: written by the estimator's q1, not those in the data (--traces data)")
        return "model"
    if estimator is not None and estimator.trace_format is None:
        if have:
            progress.say("traces: none, as the estimator was trained without (--traces data takes the data's)")
        return "none"
    if 0 < have < n:
        progress.say(f"traces: only {have} of {n} samples have one, so none are used (--traces data)")
    return "data" if have == n else "none"


def _parse(traces: Traces, texts: Mapping[str, Sequence[str | None]]) -> Traces:
    """The same with what parses of the texts. Raises ConfigError where nothing does.

    Texts that do not parse are left out of a sample's; one that was not written leaves out the whole sample, which with
    it would be another mean.
    """
    for sample_id, drawn in texts.items():
        parsed = [parse_trace(text) if text is not None else None for text in drawn]
        good = tuple(p.features for p in parsed if p is not None and p.features is not None)
        traces.features[sample_id] = () if None in drawn else good
        traces.failures.update((p.failure if p else None) or "no trace" for p in parsed if p is None or p.failure)
    if texts and not any(traces.features.values()):
        why = "; ".join(f"{reason} ({count})" for reason, count in traces.failures.most_common(3))
        raise ConfigError(
            f"traces: not one of {traces.draws * len(texts)} follows the format: {why}; see docs/data.md, or "
            "--traces none"
        )
    return traces


def trace_messages(sample: Sample, form: str, shots: Sequence[Sample] = ()) -> list[Message]:
    """The chat that asks a model for a trace of `sample`, after examples from training data in compact format."""
    rows = [Message("system", _INSTRUCTION[form])]
    for shot in shots:
        rows += [Message("user", _situation(shot)), Message("assistant", _example(shot) or "")]
    return [*rows, Message("user", _situation(sample))]


def _example(sample: Sample) -> str | None:
    """A training sample's trace in the compact format, whichever of the two it has, or None."""
    text = sample.trace or ""
    if FULL_HEADINGS[-1] in text:
        return compact_from_full(text)
    features = parse_trace(text).features
    return None if features is None else f"{COMPACT_HEADING}\n{features}"


def _situation(sample: Sample) -> str:
    names = {"user": "User", "assistant": "Character"}
    talk = "\n".join(f"{names[m.role]}: {m.content}" for m in dialogue_messages(sample))
    return f"# Character\n{sample.character}\n\n# User\n{sample.user}\n\n# Dialogue\n{talk}"


@dataclass(frozen=True, slots=True)
class _Manner:
    """How traces are asked for. opening: begun for the model. draws: of each sample."""

    form: TraceFormat
    decoding: Decoding
    shots: tuple[Sample, ...] = ()
    opening: str = ""
    draws: int = 1


def _manner(benchmark: Benchmark, config: RunConfig, estimator: Estimator | None) -> _Manner:
    """A single trace is greedy, so that it is repeatable; several are drawn, by the run's seed.

    Raises ConfigError for an estimator that has nothing to write with.
    """
    draws = config.trace_draws
    tokens = config.trace_tokens if estimator is None else estimator.trace_tokens
    # From the model's own law at a temperature: nothing is cut off at top_p or bent by a penalty.
    drawn = Decoding(tokens, temperature=config.trace_temperature, top_p=1.0, seed=config.seed)
    if estimator is not None:
        if estimator.q1 is None or estimator.trace_format is None:
            raise ConfigError(
                "traces: this estimator has no q1 to write them; use --traces none, or those in the data: --traces data"
            )
        return _Manner(estimator.trace_format, drawn if draws > 1 else Decoding(tokens), draws=draws)
    form = config.trace_format
    shots = [s for s in benchmark.train if _example(s)][:_SHOTS] if form == "compact" else []
    # Without a penalty a small model that is not drawn from falls into loops, never reaches the second line, and fails
    # the format.
    decoding = drawn if draws > 1 else Decoding(tokens, repetition_penalty=1.2)
    return _Manner(form, decoding, tuple(shots), _OPENING[form], draws)


def _write(
    manner: _Manner, samples: Sequence[Sample], store: Store, engines: Engines, progress: Progress
) -> dict[str, tuple[str | None, ...]]:
    """Traces by sample id; None where the writer has not answered."""
    form, decoding, opening = manner.form, manner.decoding, manner.opening
    how = [*engines.tracer_identity, form, asdict(decoding), _INSTRUCTION[form], RENDER_VERSION]
    generator = content_key(how)
    jobs = {sample.sample_id: tuple(trace_messages(sample, form, manner.shots)) for sample in samples}
    keys = {sample_id: prompt_key(messages) for sample_id, messages in jobs.items()}
    done = store.generations(generator)
    draws = range(1, manner.draws + 1) if manner.draws > 1 else (0,)
    # All draws of a prompt beside each other: whoever cuts this for several workers leaves them together.
    asked = {(keys[i], draw): messages for i, messages in jobs.items() for draw in draws}
    new = {drawn_key(*which): which for which in sorted(asked)}
    todo = {key: Chat(asked[which], opening, which[1]) for key, which in new.items() if key not in done}
    if todo:
        order, chats = list(todo), list(todo.values())
        writer = engines.writing(decoding, chats, engines.tracer)
        progress.say(f"traces: {writer.name}")
        with progress.stage("writing traces", len(order)) as step:
            for batch in writer.write(chats):
                # An empty trace fails its format: counted, and not tried again.
                texts = [trimmed(f"{opening} {w.text or ''}".strip(), form) for w in batch]
                written = zip(batch, texts, strict=True)
                rows = [(order[w.chat], text, w.finished) for w, text in written if not w.again]
                store.add_generations(generator, rows)
                step(len(batch))
        done = store.generations(generator)
    return {
        sample_id: tuple(done[k][0] if (k := drawn_key(key, draw)) in done else None for draw in draws)
        for sample_id, key in keys.items()
    }


def drawn_key(prompt: str, draw: int) -> str:
    """Identifies a text that is drawn for a prompt, by its number (Chat.draw)."""
    return content_key([prompt, draw]) if draw else prompt
