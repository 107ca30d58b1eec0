"""Three ways to compute the same log-probabilities: a tree of prompts, the prompt's state repeated, pair by pair.

A layout turns works into (work, continuation, log-probabilities) as they finish. The last token of a continuation is
never fed, since nothing is read after it; logits exist only for rows that are read, a block at a time, and the
log-softmax is taken in float32 whatever the weights are.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from remid.lm import attention
from remid.lm.cpu import has_onednn
from remid.lm.heap import give_back_memory
from remid.lm.lanes import Part, Pool, lanes_for, parts_of, run_lanes
from remid.lm.tree import Pass, passes
from remid.lm.work import TokenLogProbs, Work

Result = tuple[int, int, TokenLogProbs]

#: Entries of one block of logits: 25 MB in float32, which a processor's last cache holds.
LOGITS = 128 * 49152
#: Mean disagreement with "plain" on the probe, nats per token: above rounding (measured on the embedded model: 6e-6 in
#: float32, 0.055 in bfloat16, 0.006 in float16), below the mildest wrong layout (positions off by one: 0.13). The mean,
#: since single tokens differ by 0.2 in bfloat16 when nothing is wrong.
PROBE_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.03}
#: Rows of a pass whose logits a model only gives all at once.
_WHOLE_ROWS = 512


class Layout(Protocol):
    """A way to run. works: indices of what was in hand last, for the message when memory runs out."""

    works: list[int]

    def run(self, work: Sequence[Work], rows: int, block: int) -> Iterator[list[Result]]:
        """Results as they finish. rows: tokens that run at once; block: rows that attend at once."""
        ...


class Tree:
    """Prompts in an order in which neighbours share their beginning, everything packed into passes of one size.

    whole_head: take logits from the model as a whole, not from its last layer block by block (for models that do
    something to them in between).
    """

    def __init__(self, model: Any, *, whole_head: bool) -> None:
        self._model = model
        self._whole_head = whole_head
        self._device = model.device
        self.works: list[int] = []
        self.windows: set[int] = set()  # sliding windows that layers have asked for

    def run(self, work: Sequence[Work], rows: int, block: int) -> Iterator[list[Result]]:
        if self._whole_head:
            rows = min(rows, _WHOLE_ROWS)
        longest = max(len(w.prompt) for w in work)
        own = max(2 * block, *(len(c) for w in work for c in w.continuations))
        onednn = self._device.type == "cpu" and self._model.dtype == torch.float32 and has_onednn()
        parts = parts_of(work)
        # Elsewhere a device is one, or bits would depend on who ran what.
        lanes = lanes_for(parts, torch.get_num_threads()) if onednn else 1
        pool = Pool(work, parts, lanes)

        def walk() -> Iterator[list[Result]]:
            return self._walk(work, parts, pool, (rows, block), attention.Path(longest, own, onednn))

        with attention.attending(self._model, attention.TREE, attention.attend):
            yield from run_lanes(lanes, walk) if lanes > 1 else walk()

    @torch.inference_mode()
    def _walk(
        self, work: Sequence[Work], parts: Sequence[Part], pool: Pool, size: tuple[int, int], path: attention.Path
    ) -> Iterator[list[Result]]:
        """Take parts from the pool until it is empty, and run them on a path of one's own."""
        todo = [Work(work[w].prompt, tuple(work[w].continuations[k] for k in ks)) for w, ks in parts]
        firsts: dict[int, TokenLogProbs] = {}  # of every continuation of a part whose prompt has run
        for part in passes(todo, pool.walk(), *size):
            try:
                logp_by_row, ends = self._forward(part, todo, path)
            except BaseException:
                self.works = [parts[number][0] for number in part.works]
                raise
            self.windows |= path.windows
            firsts.update(ends)
            results = []
            for row, number, k in part.answers:
                rest = logp_by_row[row : row + len(todo[number].continuations[k]) - 1]
                w, ks = parts[number]
                results.append((w, ks[k], np.concatenate([firsts[number][k : k + 1], rest])))
            if self._device.type == "cpu":
                give_back_memory()
            if results:
                yield results

    def _forward(
        self, part: Pass, work: Sequence[Work], path: attention.Path
    ) -> tuple[TokenLogProbs, dict[int, TokenLogProbs]]:
        """Log-probability of what follows each row (NaN where nothing does), and of all first tokens after each end."""
        # Few shapes (lm/attention.py), and never a single row, which would take another way and round otherwise.
        spare = [0] * (attention.padded_rows(len(part.ids)) - len(part.ids))
        inputs = {
            "input_ids": torch.tensor([part.ids + spare], device=self._device),
            "position_ids": torch.tensor([part.positions + spare], device=self._device),
            "use_cache": False,
            "remid": attention.Running(part, path, self._device),
        }
        rows: list[int] = []
        targets: list[int] = []
        for row, w, k in part.answers:
            continuation = work[w].continuations[k]
            rows += range(row, row + len(continuation) - 1)
            targets += continuation[1:]
        ends = dict(part.ends)
        logp_by_row = np.full(len(part.ids), np.nan, np.float32)
        firsts: dict[int, TokenLogProbs] = {}
        wanted = [*rows, *ends]
        for start, logp_RV in self._log_softmax(inputs, wanted):
            count = min(len(rows) - start, len(logp_RV))
            if count > 0:
                index = torch.tensor(targets[start : start + count], device=self._device)
                picked = logp_RV[:count].gather(1, index[:, None])[:, 0]
                logp_by_row[rows[start : start + count]] = picked.cpu().numpy()
            for place in range(max(0, count), len(logp_RV)):
                w = ends[wanted[start + place]]
                index = torch.tensor([c[0] for c in work[w].continuations], device=self._device)
                firsts[w] = logp_RV[place, index].cpu().numpy()
        return logp_by_row, firsts

    def _log_softmax(self, inputs: dict[str, Any], rows: list[int]) -> Iterator[tuple[int, Tensor]]:
        """(first, float32 log-probabilities of all tokens (R, V)) of the wanted rows, a block at a time."""
        index = torch.tensor(rows, device=self._device, dtype=torch.long)
        head = self._model.get_output_embeddings()
        if self._whole_head:
            logits = self._model(**inputs, logits_to_keep=index).logits[0]
            yield from ((at, torch.log_softmax(logits[at : at + 1].float(), dim=-1)) for at in range(len(rows)))
            return
        hidden = self._model.base_model(**inputs).last_hidden_state[0]
        step = max(2, LOGITS // head.weight.shape[0])
        for at in range(0, len(rows), step):
            count = min(step, len(rows) - at)
            spare = min(step, attention.padded_rows(count)) - count
            picked = functional.pad(hidden[index[at : at + step]], (0, 0, 0, spare))
            yield at, torch.log_softmax(head(picked)[:count].float(), dim=-1)


class Repeated:
    """One row per continuation, the prompt's state repeated for each."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.works: list[int] = []

    @torch.inference_mode()
    def run(self, work: Sequence[Work], rows: int, block: int) -> Iterator[list[Result]]:
        del block  # rows of one continuation attend together
        for w in _longest_first(work):
            self.works = [w]
            item = work[w]
            ids = torch.tensor([item.prompt], device=self._model.device)
            out = self._model(input_ids=ids, use_cache=True, logits_to_keep=1)
            first_V = torch.log_softmax(out.logits[0, -1].float(), dim=-1).cpu()
            for ks in _chunks(item, rows):
                rest = self._forward(item, ks, copy.deepcopy(out.past_key_values))
                heads = [first_V[item.continuations[k][0]].numpy()[None] for k in ks]
                yield [(w, k, np.concatenate([heads[i], rest[i]])) for i, k in enumerate(ks)]

    def _forward(self, item: Work, ks: Sequence[int], cache: Any) -> list[TokenLogProbs]:
        device = self._model.device
        fed = [item.continuations[k][:-1] for k in ks]
        longest, past = max(map(len, fed)), len(item.prompt)
        if longest == 0:
            return [np.empty(0, np.float32) for _ in fed]
        cache.batch_repeat_interleave(len(fed))
        # Padding stands on the right, where causality hides it from every token that is read.
        rows = torch.tensor([[*c, *[0] * (longest - len(c))] for c in fed], device=device)
        positions = torch.arange(past, past + longest, device=device)[None].expand(len(fed), -1)
        out = self._model(input_ids=rows, position_ids=positions, past_key_values=cache, use_cache=True)
        return [_gather(out.logits[i, : len(fed[i])], item.continuations[k][1:]) for i, k in enumerate(ks)]


class Plain:
    """Prompt and continuation run together, pair by pair."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.works: list[int] = []

    @torch.inference_mode()
    def run(self, work: Sequence[Work], rows: int, block: int) -> Iterator[list[Result]]:
        del rows, block  # a pair cannot be cut
        for w in _longest_first(work):
            self.works = [w]
            for k, continuation in enumerate(work[w].continuations):
                ids = torch.tensor([[*work[w].prompt, *continuation[:-1]]], device=self._model.device)
                out = self._model(input_ids=ids, use_cache=False, logits_to_keep=len(continuation))
                yield [(w, k, _gather(out.logits[0], continuation))]


def probe_ids(model: Any, count: int) -> list[int]:
    """Different tokens of the model's vocabulary, as far as it has so many: what ways of running it are compared on."""
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    return [(7 * k + 11) % vocabulary for k in range(count)]


def attends_fully(model: Any) -> bool:
    """Whether every layer sees the whole prompt."""
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None) or getattr(config, "attention_layers", None)
    if kinds:
        return all(kind in {"full_attention", "global"} for kind in kinds)
    return not (getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True))


def _longest_first(work: Sequence[Work]) -> list[int]:
    return sorted(range(len(work)), key=lambda i: (-len(work[i].prompt), work[i].prompt))


def _chunks(item: Work, rows: int) -> Iterator[list[int]]:
    """Continuations by falling length, cut where `rows` tokens are reached."""
    part: list[int] = []
    used = 0
    for k in sorted(range(len(item.continuations)), key=lambda k: (-len(item.continuations[k]), item.continuations[k])):
        length = len(item.continuations[k])
        if part and used + length > rows:
            yield part
            part, used = [], 0
        part.append(k)
        used += length
    yield part


def _gather(logits_LV: Tensor, targets: Sequence[int]) -> TokenLogProbs:
    """Log-softmax at the targets, in float32."""
    index = torch.tensor(list(targets), device=logits_LV.device, dtype=torch.long)
    logp_LV = torch.log_softmax(logits_LV.float(), dim=-1)
    result: TokenLogProbs = logp_LV.gather(1, index[:, None])[:, 0].cpu().numpy()
    return result
