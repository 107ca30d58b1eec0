"""Which engine a run asked for. What an engine is called and how many workers it has does not change any number."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from remid.engine.work import ScoringEngine
from remid.lm.models import ModelSource
from remid.pipeline.config import RunConfig
from remid.pipeline.progress import Progress


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Where the model runs."""


@contextmanager
def scoring_engine(
    source: ModelSource, config: RunConfig, engine: EngineConfig, progress: Progress
) -> Iterator[ScoringEngine]:
    """The engine that scores this run."""
    from remid.engine.local import LocalEngine
    from remid.lm.models import load_model

    yield LocalEngine(
        load_model(source, device=config.device, dtype=config.dtype, trust_remote_code=config.trust_remote_code)
    )
