"""Where the first traces come from: the data, an extractive rule with or without the reference, or a model that is
shown the reference.

The model writes what somebody who knows the reference would have planned. What it writes is a target for q1, which
does not know the reference, so a trace that quotes it is refused and counted: q1 could not learn to write it, and q2
would learn to copy.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from remid.engine.work import Chat, WritingEngine
from remid.errors import ConfigError, EngineError
from remid.lm.chat import RENDER_VERSION, Message
from remid.lm.generate import Decoding
from remid.pipeline.engines import Engines, ModelChoice
from remid.pipeline.progress import Progress
from remid.pipeline.reason import trace_messages
from remid.pipeline.score import prompt_key
from remid.pipeline.shorten import shorten
from remid.pipeline.store import Store, content_key
from remid.pipeline.traces import COMPACT_HEADING, compact_from_full, parse_trace, trimmed
from remid.train.extract import extract, extract_blind, quotes_reference, rarity
from remid.train.style import size_of
from remid.types import Sample

if TYPE_CHECKING:
    from remid.train.config import TraceOrigin
    from remid.train.run import TrainRun

#: Words in a row. A model that plans an answer falls into common turns of phrase, so more than the rule's four.
_QUOTE = 6
#: A shorter reference is quoted by all of its words, unless they are fewer than these ("Yes, I do.").
_SHORTEST = 3
_ASK = (
    "\nThe character's next line is given below the dialogue. Describe what it does and how it sounds, as somebody "
    "would have planned it who knows character, user and dialogue but has not seen the line. Do not quote the line."
)
_OPENING = {"compact": f"{COMPACT_HEADING}\nContent:", "full": ""}
_FULL_TOKENS = 1024  # three trials need room


@dataclass(slots=True)
class Collected:
    """Traces that parse, in the format asked for, by sample id; why the others are missing; what made them."""

    source: TraceOrigin
    texts: dict[str, str] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Author:
    """A model that writes traces. identity: what its texts depend on, apart from what is asked. open: makes the engine
    for these chats and agrees on their cost."""

    identity: Sequence[Any]
    open: Callable[[Decoding, Sequence[Chat]], WritingEngine]
    max_tokens: int


def collect_training_traces(run: TrainRun) -> Mapping[str, str]:
    """Traces for the run's training samples from where its settings say; how many failed, and why, is noted.

    They are cut to the settings' trace_share. Raises ConfigError where there are none at all, EngineError where a
    server cannot be used, or did not answer all: the same call asks for the rest.
    """
    config = run.config
    samples = run.split.train
    source = origin(samples, config.traces)
    if source == "model":
        with Store(run.folder) as store, _base(run) if config.author.model is None else _other(run) as who:
            found = written(samples, config.trace_format, who, store, run.progress)
    else:
        found = without_model(samples, source, config.trace_format)
    run.note(f"{len(found.texts)} of {len(samples)} traces ({source})", source=source, failures=dict(found.failures))
    if not found.texts:
        why = "; ".join(f"{reason} ({n})" for reason, n in found.failures.most_common(3))
        raise ConfigError(f"traces: no training sample has one ({why}); use --traces extractive, which needs no model")
    if config.trace_share < 1:
        return {name: shorten(text, config.trace_share) for name, text in found.texts.items()}
    return found.texts


@contextmanager
def _base(run: TrainRun) -> Iterator[Author]:
    """The run's base model as an author, its adapters switched off meanwhile."""
    from remid.engine.local import LocalEngine
    from remid.train.scoring import using

    loaded = replace(run.loaded, model=run.model.get_base_model())
    identity = [loaded.source.fingerprint, loaded.dtype, loaded.device.type]
    with using(run.model, None):
        yield Author(identity, lambda decoding, chats: LocalEngine(loaded, decoding), run.author_tokens)


@contextmanager
def _other(run: TrainRun) -> Iterator[Author]:
    """Another model than the base: a server's, or a local one, which is in memory beside the base meanwhile."""
    config = run.config
    choice = ModelChoice(str(config.author.model), config.device, config.dtype, config.trust_remote_code)
    with Engines(choice, run.engine, run.progress) as engines:
        yield Author(engines.identity, engines.writing, run.author_tokens)


def origin(samples: Sequence[Sample], asked: TraceOrigin) -> TraceOrigin:
    """The source that "auto" stands for: the data if every sample has a trace that parses, else extraction."""
    if asked != "auto":
        return asked
    return "data" if all(parse_trace(sample.trace or "").features for sample in samples) else "extractive"


def without_model(samples: Sequence[Sample], source: TraceOrigin, form: str) -> Collected:
    """Traces from "data", by the "extractive" rule, or by that rule from the "input" alone."""
    return from_data(samples, form) if source == "data" else extracted(samples, form, source)


def extracted(samples: Sequence[Sample], form: str, source: TraceOrigin = "extractive") -> Collected:
    """Traces by the rule (extract.py), words weighted by how rare they are in these samples.

    source: "input" shows the rule no reference, neither a sample's own nor, for the weights, another's.
    """
    blind = source == "input"
    rare, rule = rarity(samples, references=not blind), extract_blind if blind else extract
    return Collected(source, {sample.sample_id: rule(sample, rare, form) for sample in samples})


def from_data(samples: Sequence[Sample], form: str) -> Collected:
    """The samples' own traces, made compact where that is asked; a compact one cannot be made full."""
    found = Collected("data")
    for sample in samples:
        if sample.trace is None:
            found.failures["no trace"] += 1
        else:
            _keep(found, sample, sample.trace, form)
    return found


def written(samples: Sequence[Sample], form: str, author: Author, store: Store, progress: Progress) -> Collected:
    """Traces that a model writes to samples and their references. What is in the store is not written again.

    Raises EngineError where something was not answered and may be another time; all else is in the store by then.
    """
    decoding = Decoding(max_new_tokens=max(author.max_tokens, _FULL_TOKENS if form == "full" else 0))
    generator = content_key([*author.identity, form, asdict(decoding), _ASK, _OPENING[form], RENDER_VERSION])
    jobs = {sample.sample_id: tuple(hindsight_messages(sample, form)) for sample in samples}
    keys = {sample_id: prompt_key(messages) for sample_id, messages in jobs.items()}
    done = store.generations(generator)
    todo = {keys[i]: messages for i, messages in jobs.items() if keys[i] not in done}
    missing: dict[str, str] = {}
    if todo:
        order = sorted(todo)
        chats = [Chat(todo[key], _OPENING[form]) for key in order]
        writer = author.open(decoding, chats)
        progress.say(f"traces: {writer.name}, which is shown the references")
        with progress.stage("writing traces", len(order)) as step:
            for batch in writer.write(chats):
                missing |= {order[w.chat]: _reason(w.missing) for w in batch if w.text is None}
                # A refusal is an answer, and may have been paid for: kept as an empty text.
                rows = [(order[w.chat], _whole(w.text, form), w.finished) for w in batch if not w.again]
                store.add_generations(generator, rows)
                step(len(batch))
        done = store.generations(generator)
    if left := [key for key in todo if key not in done]:
        raise EngineError(
            f"traces: {len(left)} of {len(todo)} were not answered ({missing.get(left[0], 'no reason given')}); the "
            "others are kept, and the same command asks for the rest"
        )
    found = Collected("model")
    for sample in samples:
        if text := done[keys[sample.sample_id]][0]:
            _keep(found, sample, text, form, quoting=False)
        else:
            found.failures[missing.get(keys[sample.sample_id], "nothing was written")] += 1
    return found


def hindsight_messages(sample: Sample, form: str) -> list[Message]:
    """The chat that asks for a trace of a sample whose reference is shown."""
    system, situation = trace_messages(sample, form)
    shown = f"{situation.content}\n\n# The character's next line\n{sample.reference}"
    return [Message(system.role, system.content + _ASK), Message(situation.role, shown)]


def _keep(found: Collected, sample: Sample, text: str, form: str, *, quoting: bool = True) -> None:
    """Add a trace in the format asked for, or count why not. quoting: whether it may quote the reference."""
    parsed = parse_trace(text)
    if parsed.features is None:
        found.failures[parsed.failure or "does not parse"] += 1
    elif not quoting and quotes_reference(text, sample, _quote_of(sample.reference)):
        found.failures["quotes the reference"] += 1
    elif text.lstrip().startswith(COMPACT_HEADING) == (form == "compact"):
        found.texts[sample.sample_id] = text.replace("\r\n", "\n").strip()
    elif form == "compact" and (compact := compact_from_full(text)) is not None:
        found.texts[sample.sample_id] = compact
    else:
        found.failures[f"not in the {form} format, nor to be made so"] += 1


def _quote_of(reference: str) -> int:
    """How many of a reference's words in a row are a quotation."""
    return min(_QUOTE, max(_SHORTEST, int(size_of(reference))))


def _whole(text: str | None, form: str) -> str:
    """The trace with the words that were begun for the model; what follows a compact one's two lines is not it."""
    if form == "full" or text is None:
        return text or ""
    whole = text if text.lstrip().startswith(COMPACT_HEADING) else f"{_OPENING[form]} {text.strip()}"
    return trimmed(whole, "compact")


def _reason(missing: str | None) -> str:
    """Without the numbers of the one sample, so that equal reasons are counted together."""
    return re.sub(r"\d+", "N", (missing or "no text").partition(":")[0])
