"""Attention of a pass over one path of keys and values: every row sees the path once stored, and its own block.

It stands in for a model's attention through transformers' AttentionInterface, so it serves every architecture that goes
through there: grouped heads, softcaps and sliding windows included. What it does not know (sinks, biases) it refuses,
and the scorer's probe then chooses another layout.

On a CPU in float32 the products go through oneDNN, whose sums run over keys in order, one after the other, whatever
the shape; keys are padded, tiled and aligned so that this order, and that of the softmax, depends on a row's own path
alone. A score then depends on its prompt and continuation only, to the last bit (tests/lm/test_scoring.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from remid.errors import ModelError
from remid.lm.tree import ALIGN, LeafBlock, Pass, PromptBlock

#: Name under which transformers finds `attend`.
TREE = "remid_tree"
#: Keys per tile of values: oneDNN's sums over more than about a thousand are split, and then depend on the shape.
TILE = 1024
#: Key counts are multiples of this.
_PAD = 64
#: Row counts of products are multiples of this. oneDNN compiles kernels for every shape that it meets, half a megabyte
#: each, and never forgets them: without it memory grew with the variety of lengths, 400 MB with eleven policies.
ROWS = 32
#: Rows that are weighed at once: fewer shapes again, and smaller tensors; half of it is slower.
MOST_ROWS = 128


@contextmanager
def attending(model: Any, name: str, attend: Callable[..., Any]) -> Iterator[None]:
    """Let the model's layers attend by this function, known to transformers by its name, for a while."""
    from transformers import AttentionInterface

    AttentionInterface.register(name, attend)  # calling it again changes nothing
    before = model.config.get_text_config()._attn_implementation
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


class Path:
    """Keys and values of the current path, layer by layer. longest: path to fit; own: a block's keys behind it."""

    def __init__(self, longest: int, own: int, onednn: bool) -> None:
        self.columns = _padded(longest) + _padded(own + ALIGN)
        self.windows: set[int] = set()  # sliding windows that layers have named
        self._onednn = onednn
        self._layers: dict[int, _Layer | _OneDnnLayer] = {}

    def layer(self, index: int, key: Tensor, value: Tensor) -> _Layer | _OneDnnLayer:
        """The layer's store, made when it is first asked for. key, value: (1, heads, T, D), for the sizes."""
        if index not in self._layers:
            kind = _OneDnnLayer if self._onednn else _Layer
            self._layers[index] = kind(self.columns, key, value)
        return self._layers[index]


class Running:
    """A pass on its way through the layers: the pass, the path it continues, and the masks that its layers share."""

    def __init__(self, rows: Pass, path: Path, device: torch.device) -> None:
        self.rows = rows
        self.path = path
        self._device = device
        self._masks: dict[tuple[int, int | None], tuple[int, Tensor]] = {}
        self._columns: dict[int, Tensor] = {}

    def columns(self, number: int) -> Tensor:
        """Where the own keys of leaf block `number` stand, from the end of the padded path on."""
        if number not in self._columns:
            block = self.rows.blocks[number]
            assert isinstance(block, LeafBlock)
            self._columns[number] = torch.tensor(block.columns, device=self._device)
        return self._columns[number]

    def mask(self, number: int, window: int | None) -> tuple[int, Tensor]:
        """(first column, mask): what to add to the scores of block `number` from that column to the last; (R, columns).

        Columns before the first are seen by every row, all of them by the rows that pad a block to a multiple of ROWS.
        """
        key = number, window
        if key not in self._masks:
            block = self.rows.blocks[number]
            make = _prompt_mask if isinstance(block, PromptBlock) else _leaf_mask
            first, seen = make(block, window)  # type: ignore[arg-type]
            mask = torch.zeros(padded_rows(len(seen)), seen.shape[1])
            mask[: len(seen)].masked_fill_(~seen, -torch.inf)
            self._masks[key] = first, mask.to(self._device)
        return self._masks[key]


def width(block: PromptBlock | LeafBlock) -> int:
    """Columns of keys that the block's scores have: its path and its own, padded."""
    if isinstance(block, PromptBlock):
        return _padded(block.base + block.stop - block.start)
    return _padded(block.path) + _padded(block.columns[-1] + 1)


def _prompt_mask(block: PromptBlock, window: int | None) -> tuple[int, Tensor]:
    at_R = torch.arange(block.base, block.base + block.stop - block.start)[:, None]
    first = block.base if window is None else 0
    column_K = torch.arange(first, width(block))[None]
    seen = column_K <= at_R
    return first, seen if window is None else seen & (at_R - column_K < window)


def _leaf_mask(block: LeafBlock, window: int | None) -> tuple[int, Tensor]:
    """The rows' own keys are seen within a leaf and up to themselves; the path's padding is not seen."""
    inside = torch.arange(block.start - block.first, block.stop - block.first)  # rows among the block's own
    starts = torch.tensor(block.leaves) - block.first
    own = torch.arange(block.stop - block.first)
    leaf = torch.searchsorted(starts, own, right=True) - 1
    at = own - starts[leaf]  # position within the leaf
    seen_RO = (leaf[inside][:, None] == leaf[None]) & (at[inside][:, None] >= at[None])
    if window is not None:
        seen_RO &= at[inside][:, None] - at[None] < window
    first = block.path if window is None else 0
    edge = _padded(block.path)
    seen = torch.zeros(len(inside), width(block) - first, dtype=torch.bool)
    seen[:, edge - first + torch.tensor(block.columns)] = seen_RO
    if window is not None:
        column_K = torch.arange(block.path)[None]
        seen[:, : block.path] = block.path + at[inside][:, None] - column_K < window
    return first, seen


class _Layer:
    """One layer's keys and values of the path, (heads, columns, D), for any device and floating type."""

    def __init__(self, columns: int, key: Tensor, value: Tensor) -> None:
        self.key = key.new_zeros(key.shape[1], columns, key.shape[3])
        self.value = value.new_zeros(value.shape[1], columns, value.shape[3])

    def put(self, at: int | Tensor, key: Tensor, value: Tensor) -> None:
        """Store keys and values (heads, R, D) from a column on, or at given columns."""
        if isinstance(at, int):
            at = torch.arange(at, at + key.shape[1], device=key.device)
        self.key.index_copy_(1, at, key)
        self.value.index_copy_(1, at, value)

    def put_own(self, edge: int, at: Tensor, key: Tensor, value: Tensor) -> Any:
        """Store a leaf block's own keys and values behind the path."""
        self.put(edge + at, key, value)

    def mix(self, query: Tensor, columns: int, edge: int, own: Any, weigh: Callable[[Tensor], Tensor]) -> Tensor:
        """Values weighted by attention, (Hkv, G * R, D). query: (Hkv, G * R, D); weigh: scores to weights.

        edge: columns from there on hold own values (`own`) instead of the path's; equal to `columns` where none do.
        """
        scores = torch.matmul(query, self.key[:, :columns].transpose(1, 2))
        return torch.matmul(weigh(scores).to(self.value.dtype), self.value[:, :columns])


class _OneDnnLayer:
    """The same for float32 on a CPU: products through oneDNN, values in tiles, transposed, as its kernels want them."""

    def __init__(self, columns: int, key: Tensor, value: Tensor) -> None:
        self.key = key.new_zeros(key.shape[1], columns, key.shape[3])
        tiles = -(-columns // TILE)
        self.value = value.new_zeros(value.shape[1], tiles, value.shape[3], TILE)
        self._last: tuple[int, Tensor] | None = None

    def put(self, at: int, key: Tensor, value: Tensor) -> None:
        self._last = None
        stop = at + key.shape[1]
        self.key[:, at:stop] = key
        while at < stop:
            tile, start = divmod(at, TILE)
            take = min(TILE - start, stop - at)
            self.value[:, tile, :, start : start + take] = value[:, :take].transpose(1, 2)
            value = value[:, take:]
            at += take

    def put_own(self, edge: int, at: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Own keys stand behind the path's; own values apart, (heads, D, columns): they begin a sum of their own."""
        count = _padded(int(at[-1]) + 1)
        self.key[:, edge : edge + count].index_copy_(1, at, key)
        own = value.new_zeros(value.shape[0], value.shape[2], count)
        return own.index_copy_(2, at, value.transpose(1, 2))

    def mix(
        self, query: Tensor, columns: int, edge: int, own: Tensor | None, weigh: Callable[[Tensor], Tensor]
    ) -> Tensor:
        out = torch.empty(*query.shape[:2], self.value.shape[2])
        whole, rest = divmod(edge, TILE)
        if rest and (self._last is None or self._last[0] != edge):
            # Weights must lie close together. Blocks of answers to one prompt share what is made here.
            self._last = edge, self.value[:, whole, :, :rest].contiguous()
        for head in range(query.shape[0]):
            weights = weigh(_times(query[head], self.key[head, :columns])[None])[0]
            total = None
            for tile in range(-(-edge // TILE)):
                start, stop = tile * TILE, min((tile + 1) * TILE, edge)
                values = self.value[head, tile] if tile < whole else self._last[1][head]  # type: ignore[index]
                part = _times(weights[:, start:stop], values)
                total = part if total is None else total.add_(part)
            if own is not None:
                part = _times(weights[:, edge:], own[head])
                total = part if total is None else total.add_(part)
            assert total is not None
            out[head] = total
        return out


def _times(x: Tensor, weight: Tensor) -> Tensor:
    """x @ weight.T through oneDNN. Rows do not influence one another, except that a single row takes another way."""
    if x.shape[0] == 1:
        return _times(x.expand(2, -1), weight)[:1]
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, None, "none", [], "")
    return result


def attend(  # noqa: PLR0913, PLR0917 - transformers sets the signature
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    remid: Running,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention function for a pass. query: (1, Hq, T, D); key, value: (1, Hkv, T, D).

    Returns (1, T, Hq, D). Raises ModelError for what it does not know.
    """
    if attention_mask is not None or s_aux is not None or query.shape[0] != 1:
        raise ModelError("tree attention knows neither masks nor sinks of a model's own")
    heads, kv_heads = query.shape[1], key.shape[1]
    group = heads // kv_heads
    query = query[0] * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    layer = remid.path.layer(module.layer_idx, key, value)
    if sliding_window is not None:
        remid.path.windows.add(sliding_window)
    out = query.new_zeros(1, query.shape[1], heads, value.shape[-1])
    for number, block in enumerate(remid.rows.blocks):
        start, stop = block.start, block.stop
        columns = width(block)
        window = sliding_window if sliding_window is not None and columns > sliding_window else None
        if isinstance(block, PromptBlock):
            edge, own = columns, None
            layer.put(block.base, key[0, :, start:stop], value[0, :, start:stop])
        else:
            edge = _padded(block.path)
            own = layer.put_own(
                edge, remid.columns(number), key[0, :, block.first : stop], value[0, :, block.first : stop]
            )
        first, mask = remid.mask(number, window)

        for at in range(0, stop - start, MOST_ROWS):
            count = min(MOST_ROWS, stop - start - at)
            part = mask[at : at + MOST_ROWS]

            def weigh(scores: Tensor, first: int = first, part: Tensor = part) -> Tensor:
                if softcap is not None:
                    scores = torch.tanh_(scores.div_(softcap)).mul_(softcap)
                scores = scores.float()
                scores.view(*scores.shape[:-2], group, len(part), -1)[..., first:] += part
                return torch.softmax(scores, dim=-1)

            rows = query[:, start + at : start + at + count]
            rows = functional.pad(rows, (0, 0, 0, len(part) - count)).reshape(kv_heads, -1, query.shape[-1])
            mixed = layer.mix(rows, columns, edge, own, weigh).view(heads, len(part), -1)
            out[0, start + at : start + at + count] = mixed[:, :count].transpose(0, 1)
    return out, None


def padded_rows(count: int) -> int:
    """Rows that a product of so many runs."""
    return -(-count // ROWS) * ROWS


def _padded(count: int) -> int:
    return -(-count // _PAD) * _PAD
