"""Which engine a run uses, opened when it is first needed and once.

Which engine, and with how many workers, changes no number: it is no part of a run's configuration, except for a server,
whose scores are its own.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from remid.engine.local import LocalEngine
from remid.engine.work import Chat, ScoringEngine, Work, WritingEngine
from remid.errors import ConfigError, ModelError
from remid.lm.chain import Estimator, read_estimator, stack
from remid.lm.chat import RENDER_VERSION, ChatRenderer
from remid.lm.models import DTypeName, ModelSource, find_model, load_tokenizer, resolve_device, resolve_dtype
from remid.pipeline.config import RunConfig
from remid.pipeline.progress import Progress
from remid.pipeline.prompts import PROMPT_VERSION, PROMPT_VERSIONS
from remid.pipeline.store import content_key

if TYPE_CHECKING:
    from remid.engine.cluster import ClusterEngine
    from remid.engine.cluster_ray import RayCluster
    from remid.engine.server_client import ServerClient
    from remid.engine.server_score import ServerScorer
    from remid.engine.server_settings import ServerSettings
    from remid.engine.spending import Cost
    from remid.lm.generate import Decoding
    from remid.lm.models import LoadedModel

EngineKind = Literal["local", "ray"]


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Where the model runs.

    kind: in this process, or on a Ray cluster. workers: of the cluster (None: as many as there is room for), each with
    so many threads. ray_address: "auto" or host:port of a running cluster (None: one is started here).
    server: an OpenAI-compatible server instead. agree: is told what a server will cost before anything is sent, and
    ends the command if that is too much.
    """

    kind: EngineKind = "local"
    workers: int | None = None
    threads: int = 1
    ray_address: str | None = None
    server: ServerSettings | None = None
    agree: Callable[[Cost], None] | None = None


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """The model that is asked for. tokenizer: with a server, the folder of the served model's tokenizer.

    estimator: folder of a trained estimator on that model, or, where model is "builtin", on the one that it names.
    """

    model: str
    device: str = "auto"
    dtype: DTypeName = "auto"
    trust_remote_code: bool = False
    tokenizer: str | None = None
    estimator: Path | None = None


def run_engines(config: RunConfig, engine: EngineConfig | None, progress: Progress) -> Engines:
    """The engines of a run."""
    choice = ModelChoice(
        config.model, config.device, config.dtype, config.trust_remote_code, config.tokenizer, config.estimator
    )
    return Engines(choice, with_server(engine, config.score_server, config.model), progress)


def with_server(engine: EngineConfig | None, url: str | None, model: str) -> EngineConfig:
    """The engine that reaches a server (url None: there is none), which needs nothing but its address if nothing else
    was said."""
    engine = engine or EngineConfig()
    if url is None or engine.server is not None:
        return engine
    from remid.engine.server_settings import ServerSettings

    return replace(engine, server=ServerSettings(base_url=url, model=model))


class Engines:
    """The engines of one run. A context manager that closes what it opened.

    source: the model that scores. estimator: the trained one, if the run has one. tracer: the model that writes its
    traces, which is its q1 and otherwise the model that scores.

    Raises ConfigError for settings that contradict each other, ModelError or EngineError when something is opened.
    """

    def __init__(self, choice: ModelChoice, config: EngineConfig, progress: Progress) -> None:
        if config.server is not None and config.kind != "local":
            raise ConfigError("engine: a server is asked from this process; --engine ray has no part in it")
        if config.server is not None and choice.estimator is not None:
            raise ConfigError("engine: a server scores with what it has loaded, not with an estimator")
        if config.kind == "local" and (config.workers is not None or config.ray_address is not None):
            raise ConfigError("engine: --workers and --ray-address belong to --engine ray")
        self._choice, self._config, self._progress = choice, config, progress
        self._stack = ExitStack()
        self._cluster: RayCluster | None = None
        self._loaded: LoadedModel | None = None
        self._holds = ""  # fingerprint of what is loaded
        self._workers: ClusterEngine | None = None  # of one model: their processors are free again when it changes
        self._client: ServerClient | None = None
        self._scorer: ServerScorer | None = None
        self._reader: tuple[ChatRenderer, int] | None = None
        self._scoring: ScoringEngine | None = None
        self.estimator: Estimator | None = None
        self.source = self.tracer = self._find()
        if choice.estimator is not None:
            self.estimator = read_estimator(choice.estimator)
            base = _base_of(self.estimator, self.source)
            self.source = stack(base, self.estimator.q2)
            self.tracer = stack(base, self.estimator.q1) if self.estimator.q1 is not None else self.source

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def where(self) -> tuple[str, str]:
        """Floating type of the weights, and device."""
        if self._config.server is not None:
            return "the server's", "server"
        device = self._device()
        return resolve_dtype(self._choice.dtype, device), device

    @property
    def served(self) -> bool:
        """Whether a server scores."""
        return self._scorer is not None

    @property
    def identity(self) -> list[Any]:
        """What a score or a text depends on, apart from what is asked."""
        return self._identity(self.source)

    @property
    def tracer_identity(self) -> list[Any]:
        """What a trace depends on, apart from what is asked."""
        return self._identity(self.tracer)

    def scorer_id(self, overflow: str, max_tokens: int | None) -> str:
        """Identifies everything besides prompt and response that a score depends on."""
        return content_key([*self.identity, overflow, max_tokens, RENDER_VERSION])

    def renderer(self) -> ChatRenderer:
        """What makes token ids. No server is asked anything: its tokenizer is here."""
        return self._scorer.renderer if self._scorer is not None else self.reader()[0]

    def reader(self) -> tuple[ChatRenderer, int]:
        """What makes token ids, and how many of them fit into the model. A server is probed first."""
        if self._reader is None:
            if self._scorer is not None:
                self._scorer.probe()
                # A server may have to write a token before it answers.
                self._reader = self._scorer.renderer, (self._scorer.max_length or (1 << 20)) - 1
            else:
                tokenizer, limit = load_tokenizer(self.source, trust_remote_code=self._choice.trust_remote_code)
                self._reader = ChatRenderer(tokenizer), limit
        return self._reader

    def scoring(self, work: Sequence[Work]) -> ScoringEngine:
        """The engine that scores this work; what it costs is agreed upon first."""
        if self._scorer is not None:
            if self._config.agree is not None:
                self._config.agree(self._scorer.estimate(work))
            return self._scorer
        if self._scoring is None:
            source = self.source
            on_cluster = self._config.kind == "ray"
            self._scoring = self._on_cluster(source, None) if on_cluster else LocalEngine(self._load(source))
        return self._scoring

    def writing(self, decoding: Decoding, chats: Sequence[Chat], source: ModelSource | None = None) -> WritingEngine:
        """The engine that writes these chats; what they cost is agreed upon first. source: None is the one that scores.

        One model is in memory at a time: where source is another than before, the engines made before are not to be
        used any more.
        """
        source = source or self.source
        if self._config.server is not None:
            from remid.engine.server_write import ServerWriter

            writer = ServerWriter(self._config.server, decoding, client=self._served(self._config.server))
            if self._config.agree is not None:
                self._config.agree(writer.estimate(chats))
            return writer
        if self._config.kind == "ray":
            return self._on_cluster(source, decoding)
        return LocalEngine(self._load(source), decoding)

    def _identity(self, source: ModelSource) -> list[Any]:
        dtype, device = self.where
        return [source.fingerprint, dtype, device.partition(":")[0]]

    def _find(self) -> ModelSource:
        server, tokenizer = self._config.server, self._choice.tokenizer
        if server is None:
            return find_model(self._choice.model)
        if tokenizer is None:  # a writer needs none
            return ModelSource(server.model, None, f"server:{content_key(server.identity('chat'))}")
        from remid.engine.server_score import ServerScorer

        self._scorer = ServerScorer(server, tokenizer, client=self._served(server))
        return ModelSource(server.model, None, f"server:{content_key(self._scorer.identity)}")

    def _served(self, server: ServerSettings) -> ServerClient:
        """One client for scores and traces, so that what may be spent is spent once."""
        if self._client is None:
            from remid.engine.server_client import ServerClient

            self._client = ServerClient(server)
        return self._client

    def _device(self) -> str:
        if self._config.kind == "ray" and self._choice.device == "auto":
            return self._open_cluster().resolve_device("auto")
        return resolve_device(self._choice.device)

    def _load(self, source: ModelSource) -> LoadedModel:
        if self._loaded is None or self._holds != source.fingerprint:
            from remid.lm.models import load_model

            if self._loaded is not None:
                self._loaded = self._scoring = None
                gc.collect()  # a model's modules refer to each other in circles
            choice = self._choice
            self._progress.say(f"loading {source.name}")
            self._holds = source.fingerprint
            self._loaded = load_model(
                source, device=choice.device, dtype=choice.dtype, trust_remote_code=choice.trust_remote_code
            )
        return self._loaded

    def _open_cluster(self) -> RayCluster:
        if self._cluster is None:
            from remid.engine.cluster_ray import RayCluster

            config = self._config
            cpus = config.workers * config.threads if config.workers else None
            self._progress.say(f"ray: {config.ray_address or 'starting here'}")
            self._cluster = self._stack.enter_context(RayCluster(config.ray_address, cpus=cpus))
            self._stack.callback(self._end_workers)
        return self._cluster

    def _end_workers(self) -> None:
        if self._workers is not None:
            self._workers.close()
        self._workers = self._scoring = None

    def _on_cluster(self, source: ModelSource, decoding: Decoding | None) -> ClusterEngine:
        from remid.engine.cluster import ClusterEngine, ClusterSettings
        from remid.engine.cluster_worker import ModelRecipe, name_everywhere

        self._end_workers()
        choice, cluster = self._choice, self._open_cluster()
        device = cluster.resolve_device(choice.device)  # without a number: a worker sees the one that it is given
        recipe = ModelRecipe(
            name_everywhere(source),
            source.fingerprint,
            device,
            choice.dtype,
            partial(LocalEngine, decoding=decoding),
            trust_remote_code=choice.trust_remote_code,
            adapters=tuple(str(folder.resolve()) for folder in source.adapters),
        )
        settings = ClusterSettings(workers=self._config.workers, threads=self._config.threads)
        self._workers = ClusterEngine(
            cluster, recipe, settings, device=device.partition(":")[0], say=self._progress.say
        )
        return self._workers


def _base_of(estimator: Estimator, asked: ModelSource) -> ModelSource:
    """The model beneath an estimator: the one asked for, or, where that is only the default, the one it names.

    Raises ModelError where it is not the model that the estimator was trained on, or prompts were other ones then.
    """
    then, now = (estimator.prompt_version, estimator.render_version), (PROMPT_VERSION, RENDER_VERSION)
    if then[0] not in PROMPT_VERSIONS or then[1] != now[1]:
        raise ModelError(
            f"{estimator.folder}: was trained on prompts of version {then[0]}.{then[1]}, and this remid asks in "
            f"version {now[0]}.{now[1]}; train it again, or use the remid that trained it"
        )
    wanted, base = estimator.base, asked
    if asked.folder is None and asked.fingerprint != wanted.fingerprint:
        pinned = wanted.fingerprint.removeprefix("hub:")
        try:
            base = find_model(wanted.name if pinned == wanted.fingerprint else pinned)
        except ModelError as error:
            raise ModelError(
                f"{estimator.folder}: stands on {wanted.name}, which is not here; say where it is: --model ({error})"
            ) from error
    if base.fingerprint != wanted.fingerprint:
        raise ModelError(
            f"{estimator.folder}: stands on {wanted.name} ({wanted.fingerprint}), but {base.name} is another model "
            f"({base.fingerprint}); give the model that it was trained on: --model"
        )
    return base
