"""Exact log-likelihoods of many continuations of one prompt, at the cost of the prompt once.

Three layouts compute the same numbers. "packed": all continuations in one row over the prompt's keys and values, each
seeing the prompt and itself (a block-diagonal causal mask). "repeated": one row per continuation, the prompt's keys and
values repeated. "plain": prompt and continuation run together, pair by pair; the oracle, and the last resort for
models whose state can be neither shared nor copied. `Scorer` picks the first that agrees with "plain" on a probe.

The last token of a continuation is never fed, since nothing is read after it; logits exist only for scored tokens, and
the log-softmax is taken in float32 whatever the weights are.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from remid.errors import ModelError
from remid.lm.models import LoadedModel

Layout = Literal["packed", "repeated", "plain"]
TokenLogProbs = npt.NDArray[np.float32]

#: Mean disagreement with "plain" on the probe, nats per token: above rounding (measured on the embedded model: 6e-6 in
#: float32, 0.055 in bfloat16, 0.006 in float16), below the mildest wrong layout (positions off by one: 0.13). The mean,
#: since single tokens differ by 0.2 in bfloat16 when nothing is wrong.
_PROBE_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.03}
_ADVICE = "use a machine with more memory, a smaller model, or --max-tokens; what is finished is kept"
#: Continuation tokens in one forward pass: bounds the logits (this many rows of the vocabulary, float32).
PACKED_TOKENS = 512


class Scorer:
    """Scores continuations under one model. layout: forced, or None to probe."""

    def __init__(
        self, loaded: LoadedModel, *, layout: Layout | None = None, packed_tokens: int = PACKED_TOKENS
    ) -> None:
        self._model = loaded.model
        self._device = loaded.device
        self._packed_tokens = packed_tokens
        self.layout: Layout = layout or self._probe(loaded.dtype)

    def chunks(self, lengths: Sequence[int]) -> list[range]:
        """Split continuations (lengths in tokens, in this order) into the forward passes that will score them."""
        parts: list[range] = []
        start = used = 0
        for index, length in enumerate(lengths):
            if index > start and used + length > self._packed_tokens:
                parts.append(range(start, index))
                start, used = index, 0
            used += length
        return [*parts, range(start, len(lengths))] if len(lengths) > start else parts

    @torch.inference_mode()
    def prefill(self, prompt: Sequence[int]) -> Prefix:
        """Run the prompt once. prompt: at least one id. Raises ModelError when memory does not suffice."""
        ids = torch.tensor([list(prompt)], device=self._device)
        if self.layout == "plain":
            return Prefix(list(prompt), None, None)
        try:
            out = self._model(input_ids=ids, use_cache=True, logits_to_keep=1)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            raise ModelError(
                f"not enough memory for a prompt of {len(prompt)} tokens; use a machine with more memory, a smaller "
                "model, or a lower limit of tokens"
            ) from error
        return Prefix(list(prompt), out.past_key_values, out.logits[0, -1].float())

    def score(self, prefix: Prefix, continuations: Sequence[Sequence[int]]) -> list[TokenLogProbs]:
        """Per-token log-probabilities (float32, nats) of each continuation, one array per continuation.

        Backs off to smaller passes when memory runs out; raises ModelError when a single continuation does not fit.
        """
        if any(len(c) == 0 for c in continuations):
            raise ValueError("a continuation has at least its end-of-turn token")
        try:
            return self._score_once(prefix, continuations)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        if len(continuations) == 1:
            raise ModelError(
                f"not enough memory for a prompt of {len(prefix.ids)} tokens with one continuation of "
                f"{len(continuations[0])}; {_ADVICE}"
            )
        half = len(continuations) // 2
        return self.score(prefix, continuations[:half]) + self.score(prefix, continuations[half:])

    @torch.inference_mode()
    def _score_once(self, prefix: Prefix, continuations: Sequence[Sequence[int]]) -> list[TokenLogProbs]:
        if self.layout == "plain":
            return [self._plain(prefix.ids, continuation) for continuation in continuations]
        assert prefix.cache is not None
        assert prefix.last_logits is not None
        first = torch.tensor([c[0] for c in continuations], device=self._device)
        first_logp = prefix.last_logits[first] - torch.logsumexp(prefix.last_logits, dim=-1)
        rest = self._packed(prefix, continuations) if self.layout == "packed" else self._repeated(prefix, continuations)
        heads = first_logp.cpu().numpy()
        return [np.concatenate([heads[i : i + 1], rest[i]]) for i in range(len(continuations))]

    def _packed(self, prefix: Prefix, continuations: Sequence[Sequence[int]]) -> list[TokenLogProbs]:
        fed = [list(c[:-1]) for c in continuations]
        total, n_prompt = sum(map(len, fed)), len(prefix.ids)
        if total == 0:
            return [np.empty(0, np.float32) for _ in fed]
        sizes = torch.tensor([len(c) for c in fed])
        block_L = torch.repeat_interleave(torch.arange(len(fed)), sizes)
        within_L = torch.cat([torch.arange(len(c)) for c in fed])
        own_LL = (block_L[:, None] == block_L[None, :]) & (within_L[:, None] >= within_L[None, :])
        seen_LK = torch.cat([torch.ones(total, n_prompt, dtype=torch.bool), own_LL], dim=1)
        dtype = prefix.dtype
        mask = torch.zeros(1, 1, total, n_prompt + total, dtype=dtype)
        mask.masked_fill_(~seen_LK, torch.finfo(dtype).min)
        try:
            out = self._model(
                input_ids=torch.tensor([[token for c in fed for token in c]], device=self._device),
                position_ids=(within_L + n_prompt)[None].to(self._device),
                attention_mask=mask.to(self._device),
                past_key_values=prefix.cache,
                use_cache=True,
            )
        finally:
            prefix.restore()  # also after running out of memory half way through the layers
        targets = torch.tensor([token for c in continuations for token in c[1:]], device=self._device)
        logp_L = _gather(out.logits[0], targets)
        return np.split(logp_L, np.cumsum([len(c) for c in fed])[:-1])

    def _repeated(self, prefix: Prefix, continuations: Sequence[Sequence[int]]) -> list[TokenLogProbs]:
        fed = [list(c[:-1]) for c in continuations]
        longest, n_prompt = max(map(len, fed)), len(prefix.ids)
        if longest == 0:
            return [np.empty(0, np.float32) for _ in fed]
        cache = copy.deepcopy(prefix.cache)
        cache.batch_repeat_interleave(len(fed))
        # Padding stands on the right, where causality hides it from every token that is read.
        rows = torch.tensor([c + [0] * (longest - len(c)) for c in fed], device=self._device)
        positions = torch.arange(n_prompt, n_prompt + longest, device=self._device)[None].expand(len(fed), -1)
        out = self._model(input_ids=rows, position_ids=positions, past_key_values=cache, use_cache=True)
        parts = []
        for row, continuation in enumerate(continuations):
            targets = torch.tensor(continuation[1:], device=self._device, dtype=torch.long)
            parts.append(_gather(out.logits[row, : len(targets)], targets))
        return parts

    def _plain(self, prompt: Sequence[int], continuation: Sequence[int]) -> TokenLogProbs:
        ids = torch.tensor([[*prompt, *continuation[:-1]]], device=self._device)
        out = self._model(input_ids=ids, use_cache=False, logits_to_keep=len(continuation))
        return _gather(out.logits[0], torch.tensor(list(continuation), device=self._device))

    def _probe(self, dtype: str) -> Layout:
        """The cheapest layout that reproduces "plain" on a short prompt with continuations of unequal length."""
        vocabulary = int(self._model.get_input_embeddings().weight.shape[0])
        ids = [(7 * k + 11) % vocabulary for k in range(64)]
        prompt, continuations = ids[:24], [ids[24:34], ids[34:37], ids[37:38], ids[38:58]]
        self.layout = "plain"
        expected = self._score_once(self.prefill(prompt), continuations)
        tolerance = _PROBE_TOLERANCE[dtype]
        layouts: tuple[Layout, ...] = ("packed", "repeated") if self._attends_fully() else ("repeated",)
        for layout in layouts:
            self.layout = layout
            try:
                found = self._score_once(self.prefill(prompt), continuations)
            except (
                Exception
            ):  # a layout that a model's code does not support may fail in any way; the next one is tried
                continue
            if float(np.abs(np.concatenate(found) - np.concatenate(expected)).mean()) < tolerance:
                return layout
        return "plain"

    def _attends_fully(self) -> bool:
        """Packing needs every layer to see the whole prompt: windows count positions in the row, not in the text."""
        config = self._model.config.get_text_config()
        kinds = getattr(config, "layer_types", None) or getattr(config, "attention_layers", None)
        if kinds:
            return all(kind in {"full_attention", "global"} for kind in kinds)
        return not (getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True))


class Prefix:
    """A prompt that has been run: its ids, its keys and values, and the logits of what comes next (V,), float32."""

    __slots__ = ("_states", "cache", "ids", "last_logits")

    def __init__(self, ids: list[int], cache: Any, last_logits: torch.Tensor | None) -> None:
        self.ids = ids
        self.cache = cache
        self.last_logits = last_logits
        self._states = [(layer.keys, layer.values) for layer in cache.layers] if hasattr(cache, "layers") else []

    def restore(self) -> None:
        """Forget the continuations: appending made new tensors, so the prompt's own are still there."""
        for layer, (keys, values) in zip(self.cache.layers, self._states, strict=True):
            layer.keys, layer.values = keys, values

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the keys, which the attention mask must share."""
        keys: torch.Tensor = self.cache.layers[0].keys
        return keys.dtype


def _gather(logits_LV: torch.Tensor, targets_L: torch.Tensor) -> TokenLogProbs:
    """log softmax at the targets, in float32, without a second tensor of the vocabulary's size."""
    logits_LV = logits_LV.float()
    picked = logits_LV.gather(1, targets_L[:, None])[:, 0]
    result: TokenLogProbs = (picked - torch.logsumexp(logits_LV, dim=-1)).cpu().numpy()
    return result


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text
