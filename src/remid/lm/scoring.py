"""Exact log-likelihoods of many continuations of many prompts, each prompt run once and each continuation once.

`Scorer` picks the cheapest layout (lm/layouts.py) that agrees with pair-by-pair scoring on a probe, runs it, and makes
do with less memory where memory runs out.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch

from remid.errors import ModelError
from remid.lm import layouts
from remid.lm.heap import keep_freed_memory
from remid.lm.models import LoadedModel
from remid.lm.work import Scored, Work

LayoutName = Literal["tree", "repeated", "plain"]

_ADVICE = "use a machine with more memory, a smaller model, or --max-tokens; the same command tries again"
#: Rows of a pass and of a block on a CPU: enough that fixed costs vanish, few enough that what is computed stays in the
#: cache (measured, docs/log.md).
PASS_ROWS, BLOCK_ROWS = 1024, 128
#: The same on an accelerator, which wants more work at once (not tuned).
_ACCELERATOR_ROWS, _ACCELERATOR_BLOCK = 8192, 1024
#: How torch, its allocators and oneDNN say that memory ran out (oneDNN says no more than that, whatever it lacks).
_MEMORY_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "could not create a primitive")
_LEAST_ROWS = 64


class Scorer:
    """Scores continuations under one model.

    layout: forced, or None to probe. rows, block: rows of a pass and of a block, None: what suits the device.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        layout: LayoutName | None = None,
        rows: int | None = None,
        block: int | None = None,
    ) -> None:
        self._model = loaded.model
        on_cpu = loaded.device.type == "cpu"
        self._rows = rows or (PASS_ROWS if on_cpu else _ACCELERATOR_ROWS)
        self._block = block or (BLOCK_ROWS if on_cpu else _ACCELERATOR_BLOCK)
        if on_cpu:
            keep_freed_memory()
        self.layout: LayoutName
        self._run: layouts.Layout
        candidates = [(name, run) for name, run in _candidates(loaded.model) if layout in (None, name)]
        try:
            self.layout, self._run = _choose(candidates, loaded)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise ModelError(f"{loaded.source.name}: not enough memory to begin; {_ADVICE}") from error

    def score(self, work: Sequence[Work]) -> Iterator[list[Scored]]:
        """Log-probabilities of every continuation, in batches as passes end; each continuation comes exactly once.

        Where memory runs out, passes become smaller; what does not fit by itself comes with a reason instead.
        Raises ValueError for an empty prompt or continuation.
        """
        if any(not w.prompt or not all(w.continuations) for w in work):
            raise ValueError("a prompt has at least one token, a continuation at least its end-of-turn token")
        left = {(w, k) for w, item in enumerate(work) for k in range(len(item.continuations))}
        rows, block = self._rows, self._block
        while left:
            indices, todo, numbers = _remaining(work, left)
            try:
                for results in self._run.run(todo, rows, block):
                    batch = [Scored(indices[w], numbers[w][k], logp) for w, k, logp in results]
                    left -= {(scored.work, scored.continuation) for scored in batch}
                    yield batch
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                self._free()
                if rows > _LEAST_ROWS:
                    rows, block = rows // 2, max(block // 2, 16)
                    continue
                rows, block = self._rows, self._block
                worst = max(self._run.works, key=lambda w: len(todo[w].prompt))
                lost = [(w, k) for w, k in left if w == indices[worst]]
                left -= set(lost)
                reason = f"not enough memory for a prompt of {len(todo[worst].prompt)} tokens; {_ADVICE}"
                yield [Scored(w, k, None, reason, again=True) for w, k in sorted(lost)]

    def _free(self) -> None:
        gc.collect()
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()


def _candidates(model: Any) -> list[tuple[LayoutName, layouts.Layout]]:
    """Layouts from the cheapest to the one that always works."""
    return [
        ("tree", layouts.Tree(model, whole_head=False)),
        ("tree", layouts.Tree(model, whole_head=True)),
        ("repeated", layouts.Repeated(model)),
        ("plain", layouts.Plain(model)),
    ]


def _choose(
    candidates: Sequence[tuple[LayoutName, layouts.Layout]], loaded: LoadedModel
) -> tuple[LayoutName, layouts.Layout]:
    """The first that reproduces pair-by-pair scoring on prompts that share a beginning, answers of unequal length."""
    if len(candidates) == 1:
        return candidates[0]
    ids = tuple(layouts.probe_ids(loaded.model, 64))
    answers = (ids[24:34], ids[34:37], ids[37:38], ids[38:58])
    work = [Work(ids[:24], answers), Work((*ids[:12], *ids[40:52]), answers[:2])]
    plain = _probe(layouts.Plain(loaded.model), work)
    for name, layout in candidates[:-1]:
        try:
            found = _probe(layout, work)
        except Exception as error:  # a layout that a model's code does not support may fail in any way
            if is_out_of_memory(error):  # another layout would have other last digits
                raise
            continue
        if isinstance(layout, layouts.Tree) and not layout.windows and not layouts.attends_fully(loaded.model):
            continue  # some layers see less than they were asked to, and the probe is too short to show it
        if float(np.abs(found - plain).mean()) < layouts.PROBE_TOLERANCE[loaded.dtype]:
            return name, layout
    return candidates[-1]


def _probe(layout: layouts.Layout, work: Sequence[Work]) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    # Small passes and blocks, so that every seam is crossed.
    results = sorted((result for batch in layout.run(work, 16, 8) for result in batch), key=lambda r: r[:2])
    return np.concatenate([logp for _, _, logp in results])


def _remaining(work: Sequence[Work], left: set[tuple[int, int]]) -> tuple[list[int], list[Work], list[list[int]]]:
    """Indices of works with something left, those works without what is done, and the numbers of what is left."""
    indices = sorted({w for w, _ in left})
    numbers = [[k for k in range(len(work[w].continuations)) if (w, k) in left] for w in indices]
    todo = []
    for w, ks in zip(indices, numbers, strict=True):
        todo.append(Work(work[w].prompt, tuple(work[w].continuations[k] for k in ks)))
    return indices, todo, numbers


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, as torch, its allocators and oneDNN say it."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return any(words in text for words in _MEMORY_WORDS)
