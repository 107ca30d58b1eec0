"""What the stages of one training run share: data, base model with its adapters, scorer, journal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from remid.data import read_benchmark
from remid.errors import ConfigError, StoreError
from remid.lm.adapters import new_adapters
from remid.lm.chat import ChatRenderer
from remid.lm.models import LoadedModel, find_model, load_model
from remid.pipeline.engines import EngineConfig, with_server
from remid.pipeline.progress import Progress
from remid.pipeline.run import make_folder, write_json
from remid.train.config import TrainConfig
from remid.train.evaluate import HeldOut, evaluate, reference_pair, write_traces
from remid.train.examples import Split, refuse_leaks, split_training, without_leaks
from remid.train.journal import Journal, read_object
from remid.train.processes import is_first, several, wait_for
from remid.train.scoring import AdapterScorer, Pair
from remid.types import Benchmark, Sample


@dataclass
class TrainRun:
    """One run in its folder. model: PeftModel with adapters q1 and q2 over the base in `loaded`. stage: in hand now.

    max_tokens: of a prompt and its completion together. engine: how a server that writes traces is reached.
    held_traces: what q1 as it is now writes for the held-out samples, None where that is not known yet. watch: what
    listens to the GRPO stage in hand, with the `warnings` that it gave (train/callbacks.py), None where nothing does.
    """

    config: TrainConfig
    folder: Path
    progress: Progress
    benchmark: Benchmark
    split: Split
    loaded: LoadedModel
    model: Any
    renderer: ChatRenderer
    max_tokens: int
    scorer: AdapterScorer
    journal: Journal
    engine: EngineConfig
    stage: str = ""
    held_traces: dict[str, str] | None = None
    watch: Any = None
    stage_callbacks: Callable[[TrainRun], list[Any]] = field(default=lambda run: [])

    @property
    def author_tokens(self) -> int:
        """Limit of a trace that a model writes before training."""
        return self.config.author.tokens or self.config.grpo.trace_tokens

    def write_traces(self, samples: Sequence[Sample]) -> dict[str, str]:
        """q1's traces as it is now, by sample id."""
        form, limit = self.config.trace_format, self.config.grpo.trace_tokens
        return write_traces(self.model, self.loaded, self.renderer, samples, form, limit)

    def traces_of_held_out(self) -> dict[str, str] | None:
        """q1's traces of the held-out samples, written once for each q1; None where there is no reasoning."""
        if self.config.reasoning and self.held_traces is None:
            self.held_traces = self.write_traces(self.split.held_out)
        return self.held_traces

    def reference_pair(self, sample: Sample, features: str | None) -> Pair | None:
        """A sample's reference under q2's prompt with these core features."""
        return reference_pair(sample, features, self.renderer, version=self.config.prompts)

    def evaluate(self, samples: Sequence[Sample], traces: Mapping[str, str] | None) -> HeldOut:
        """How likely q2, as it is now, finds the samples' references."""
        return evaluate(self.scorer, self.renderer, samples, traces, version=self.config.prompts)

    @property
    def collapsed(self) -> bool:
        """Whether the stage in hand was ended for a sign of collapse, and the run is to end with it."""
        return bool(self.config.stop_on_collapse and self.watch is not None and self.watch.warnings)

    def callbacks(self) -> list[Any]:
        """What watches a stage while it trains."""
        return self.stage_callbacks(self)

    def note(self, text: str, **record: Any) -> None:
        """A line for the user and a record in the journal."""
        self.progress.say(f"{self.stage}: {text}")
        self.journal.add({"kind": "note", "stage": self.stage, "text": text, **record})


def open_run(config: TrainConfig, folder: Path, progress: Progress, engine: EngineConfig | None = None) -> TrainRun:
    """Read the data, refuse leaks, load the base once, and put fresh adapters on it.

    engine: how a server that writes traces is reached and what it may cost; None: by the defaults of ServerSettings.
    Raises DataError, ConfigError, ModelError; StoreError where the folder belongs to another run.
    """
    if config.stop_on_collapse and several():
        raise ConfigError("stop_on_collapse: the first of several processes alone would stop; leave it out")
    engine = with_server(engine, config.author.server, str(config.author.model))
    benchmark = read_benchmark(config.data, mapping=config.mapping, taxonomy=config.taxonomy)
    dropped = 0
    if config.drop_leaks:
        benchmark, dropped = without_leaks(benchmark)
    split = split_training(benchmark, config.limit, config.holdout, config.seed)
    refuse_leaks((*split.train, *split.held_out), benchmark.test)
    source = find_model(config.model)
    _claim(folder, config, split.digest, source.fingerprint)
    if dropped:
        progress.say(f"{dropped} training samples are test samples too, and are left out")
    progress.say(f"loading {source.name}")
    loaded = load_model(source, device=config.device, dtype=config.dtype, trust_remote_code=config.trust_remote_code)
    model = new_adapters(loaded.model, config.lora, ("q1", "q2"), config.seed)
    max_tokens = min(config.max_tokens, loaded.max_length)
    return TrainRun(
        config,
        folder,
        progress,
        benchmark,
        split,
        loaded,
        model,
        ChatRenderer(loaded.tokenizer),
        max_tokens,
        AdapterScorer(model, loaded, max_tokens),
        Journal(folder, writes=is_first()),
        engine,
    )


def _claim(folder: Path, config: TrainConfig, data: str, base: str) -> None:
    """Write what the run is made from, or compare it with what is there."""
    make_folder(folder)
    path = folder / "train.json"
    settings = config.model_dump(mode="json")
    mine = {"config": settings, "data": data, "base": base}
    if is_first() and not path.exists():
        write_json(path, mine)
    wait_for(path)
    theirs = read_object(path)
    if theirs is None or "config" not in theirs:
        raise StoreError(f"{path}: does not hold the settings of a training run; use another --out")
    if theirs != mine:
        changed = [key for key in settings if theirs["config"].get(key) != settings[key]]
        changed += [key for key in ("data", "base") if theirs.get(key) != mine[key]]
        raise StoreError(
            f"{folder}: holds a training run with other settings ({', '.join(changed)}); use another --out"
        )
