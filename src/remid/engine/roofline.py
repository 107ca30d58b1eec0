"""What scoring costs in floating-point operations and in memory, and what this machine's matrix products reach.

The floor of scoring is arithmetic: every token that has to run takes two operations per weight (one product, one sum),
every row that is read takes the last layer, and every row attends to the keys that it may see. `useful` counts that,
`executed` what the tree layout (lm/tree.py) multiplies, padding and masked keys included. Source: docs/engine.md.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from remid.errors import ModelError
from remid.lm.tree import ALIGN, PromptBlock, arrange, passes
from remid.lm.work import Work

if TYPE_CHECKING:
    import torch

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a decoder the cost of scoring depends on.

    weights: all entries, each counted once. body: entries of the matrices that every token passes, without the last
    layer. vocabulary, hidden, inner: width of logits, of the residual stream, of the feed-forward block. heads,
    kv_heads, head: how many query and key heads, and the width of one. bytes: of one entry.
    """

    weights: int
    body: int
    vocabulary: int
    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Flop:
    """Operations of scoring. tokens: rows fed. read: rows whose logits are computed. body, last, attention: operations
    in the layers' matrices, in the last layer, and in the products of attention; all else is left out."""

    tokens: int
    read: int
    body: int
    last: int
    attention: int

    @property
    def total(self) -> int:
        """All three."""
        return self.body + self.last + self.attention


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes at the peak of scoring on a CPU in float32, by the formula in docs/engine.md. What Python and its libraries
    take is not in it.

    weights: the model. packed: the copy of its linear layers in oneDNN's order. path: keys and values. activations: of
    one pass, the masks of its blocks included. logits: of one block of rows, and their log-softmax.
    """

    weights: int
    packed: int
    path: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.packed + self.path + self.activations + self.logits


def shape_of(model: Any) -> Shape:
    """The shape of a transformers causal model. Raises ModelError for mixtures of experts and what does not attend."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    config = model.config.get_text_config()
    known = {name: getattr(config, name, None) for name in ("num_attention_heads", "num_hidden_layers", "hidden_size")}
    if None in known.values():
        unsaid = ", ".join(name for name, value in known.items() if value is None)
        raise ModelError(f"roofline: the configuration of {type(model).__name__} does not say {unsaid}")
    if any(getattr(config, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts")):
        raise ModelError("roofline: not every token passes every weight of a mixture of experts; its cost is unknown")
    last = model.get_output_embeddings()
    linear = [m for m in model.modules() if isinstance(m, nn.Linear | Conv1D) and m is not last]
    heads = int(config.num_attention_heads)
    inner = getattr(config, "intermediate_size", None) or max(max(m.weight.shape) for m in linear)
    return Shape(
        weights=sum(p.numel() for p in model.parameters()),
        body=sum(m.weight.numel() for m in linear),
        vocabulary=int(last.weight.shape[0]),
        hidden=int(config.hidden_size),
        inner=int(inner),
        layers=int(config.num_hidden_layers),
        heads=heads,
        kv_heads=int(getattr(config, "num_key_value_heads", None) or heads),
        head=int(getattr(config, "head_dim", None) or config.hidden_size // heads),
        bytes=int(last.weight.element_size()),
    )


def useful(work: Sequence[Work], shape: Shape) -> Flop:
    """The least that these works take: beginnings that neighbours share once, keys that are seen and no others.

    Sliding windows are not taken into account: their layers see fewer keys than are counted.
    """
    tokens = read = keys = 0
    for index, kept in arrange(work):
        item = work[index]
        prompt = len(item.prompt)
        tokens += prompt - kept
        keys += _sum_to(prompt) - _sum_to(kept)
        read += 1
        for continuation in item.continuations:
            fed = len(continuation) - 1
            tokens += fed
            read += fed
            keys += fed * prompt + _sum_to(fed)
    return _flop(shape, tokens, read, keys)


def executed(work: Sequence[Work], shape: Shape, rows: int, block: int) -> Flop:
    """What the tree layout multiplies for these works, in passes of `rows` and blocks of `block`."""
    from remid.lm.attention import padded_rows, width

    step = _read_at_once(shape)
    tokens = read = keys = 0
    for part in passes(work, arrange(work), rows, block):
        tokens += padded_rows(len(part.ids))
        keys += sum(padded_rows(one.stop - one.start) * width(one) for one in part.blocks)
        whole, rest = divmod(len(part.ends) + sum(len(work[w].continuations[k]) - 1 for _, w, k in part.answers), step)
        read += whole * step + min(step, padded_rows(rest))
    return _flop(shape, tokens, read, keys)


def passes_of(work: Sequence[Work], rows: int, block: int) -> dict[str, int]:
    """How many passes, prompt blocks and blocks of continuations these works are cut into."""
    cut = [one for part in passes(work, arrange(work), rows, block) for one in [None, *part.blocks]]
    prompts = sum(isinstance(one, PromptBlock) for one in cut)
    return {"passes": cut.count(None), "prompt_blocks": prompts, "leaf_blocks": len(cut) - cut.count(None) - prompts}


def memory(
    shape: Shape, longest_prompt: int, longest_continuation: int, rows: int, block: int, lanes: int = 1
) -> Memory:
    """What the tree layout takes at its peak: nothing in it depends on how many prompts, continuations or policies.

    lanes: threads that run passes of their own (lm/lanes.py), each with a path, activations and logits.

    What a task of many pairs holds besides (its token ids, its results until they are stored) is not in it.
    """
    from remid.lm.attention import MOST_ROWS, TILE, Path
    from remid.lm.cpu import PACKED_BYTES

    columns = Path(longest_prompt, max(2 * block, longest_continuation), onednn=True).columns
    kv, group = shape.kv_heads * shape.head, shape.heads // shape.kv_heads
    # Keys, values in tiles, and the last tile laid out anew.
    path = shape.layers * kv * 4 * (columns + -(-columns // TILE) * TILE + TILE)
    # Residual stream twice and its norm; queries, keys, values, their rotated copies and what attention gives; three
    # of the feed-forward width. Scores, weights, and a tile of weights laid out anew, of one key head.
    per_row = 3 * shape.hidden + 3 * shape.heads * shape.head + 4 * kv + 3 * shape.inner
    scores = 3 * group * min(2 * block, MOST_ROWS) * columns
    masks = rows * (2 * block + 2 * ALIGN)
    packed = (shape.body + shape.vocabulary * shape.hidden) * 4
    return Memory(
        weights=shape.weights * shape.bytes,
        packed=packed if packed <= PACKED_BYTES else 0,
        path=lanes * path,
        activations=lanes * 4 * (rows * per_row + scores + masks),
        logits=lanes * 4 * 2 * _read_at_once(shape) * shape.vocabulary,
    )


def matrix_rate(
    *, device: str = "cpu", dtype: str = "float32", size: int = 2048, repeats: int = 5, clock: Clock = time.perf_counter
) -> dict[str, float]:
    """Operations per second of a product of two square matrices, by way: "mm", and on a CPU in float32 "onednn".

    Medians over `repeats`, after one that does not count. clock: time.process_time on a machine that does other work
    too; it adds up the seconds of all threads.
    """
    import torch

    from remid.lm.cpu import has_onednn

    made = torch.Generator().manual_seed(0)
    a, b = (torch.randn(size, size, generator=made).to(device, getattr(torch, dtype)) for _ in range(2))
    ways: dict[str, Callable[[], torch.Tensor]] = {"mm": lambda: torch.mm(a, b)}
    if device == "cpu" and dtype == "float32" and has_onednn():
        # In its own order of weights, as the model's layers have them: the fastest product there is here.
        packed = torch.ops.mkldnn._reorder_linear_weight(b, size)
        ways["onednn"] = lambda: torch.ops.mkldnn._linear_pointwise(a, packed, None, "none", [], "")
    with torch.inference_mode():
        return {way: 2 * size**3 / _median_seconds(product, device, repeats, clock) for way, product in ways.items()}


def _median_seconds(product: Callable[[], torch.Tensor], device: str, repeats: int, clock: Clock) -> float:
    import torch

    def wait() -> None:
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    seconds = []
    for _ in range(repeats + 1):
        wait()
        begin = clock()
        product()
        wait()
        seconds.append(clock() - begin)
    return statistics.median(seconds[1:])


def _flop(shape: Shape, tokens: int, read: int, keys: int) -> Flop:
    return Flop(
        tokens=tokens,
        read=read,
        body=2 * shape.body * tokens,
        last=2 * shape.vocabulary * shape.hidden * read,
        attention=4 * shape.layers * shape.heads * shape.head * keys,
    )


def _read_at_once(shape: Shape) -> int:
    from remid.lm.layouts import LOGITS

    return max(2, LOGITS // shape.vocabulary)


def _sum_to(count: int) -> int:
    return count * (count + 1) // 2
