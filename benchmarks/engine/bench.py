"""What every section works with: the options, the data, and the models, each loaded once."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from remid.lm.models import LoadedModel
from remid.lm.scoring import Scorer

from .arms import load_ours, load_stock
from .pairs import Contexts, read_contexts
from .sizes import Sizes


@dataclass(frozen=True)
class Bench:
    """One run of the bench. threads: of torch in this process. lm_eval: folder with lm_eval, or None."""

    data: Path
    policy: str
    model: str
    threads: int
    sizes: Sizes
    quick: bool
    lm_eval: Path | None

    def contexts(self, limit: int | None = None) -> Contexts:
        """The first contexts of the data."""
        return read_contexts(self.data, self.loaded, min(limit or self.sizes.contexts, self.sizes.contexts))

    @cached_property
    def loaded(self) -> LoadedModel:
        """As a run loads it."""
        return load_ours(self.model)

    @cached_property
    def stock(self) -> LoadedModel:
        """As transformers loads it."""
        return load_stock(self.loaded)

    @cached_property
    def scorer(self) -> Scorer:
        """As a run scores."""
        return Scorer(self.loaded)

    def use(self, threads: int) -> None:
        """From here on torch computes with so many threads."""
        torch.set_num_threads(threads)

    def say(self, text: str) -> None:
        """A line for whoever watches."""
        print(text, file=sys.stderr, flush=True)
