"""The engine on this machine: torch, on a CPU, CUDA or MPS."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from remid.engine.work import Chat, Scored, Work, Written
from remid.errors import DeviceError, RenderError

if TYPE_CHECKING:
    from remid.lm.chat import ChatRenderer
    from remid.lm.generate import Decoding
    from remid.lm.models import LoadedModel

#: Chats that are answered together.
_BATCH = 16


class LocalEngine:
    """Scores and writes with one loaded model. decoding: how to write; only scoring does without."""

    def __init__(self, loaded: LoadedModel, decoding: Decoding | None = None) -> None:
        from remid.lm.scoring import Scorer

        self._loaded = loaded
        self._decoding = decoding
        # Layouts are probed now: workers of a cluster are compared by name before they begin.
        self._scorer: Scorer | None = Scorer(loaded) if decoding is None else None
        self._renderer: ChatRenderer | None = None

    @property
    def name(self) -> str:
        """Model, layout, floating type and device."""
        import torch

        threads = f", {torch.get_num_threads()} threads" if self._loaded.device.type == "cpu" else ""
        layout = f"{self._scorer.layout}, " if self._scorer else ""
        return f"{self._loaded.source.name}, {layout}{self._loaded.dtype} on {self._loaded.device}{threads}"

    def score(self, work: Sequence[Work]) -> Iterator[list[Scored]]:
        """Batches of results as forward passes end."""
        from remid.lm.scoring import Scorer

        with _device_faults(self._loaded.device):
            if self._scorer is None:
                self._scorer = Scorer(self._loaded)
            yield from self._scorer.score(work)

    def write(self, chats: Sequence[Chat]) -> Iterator[list[Written]]:
        """Batches of texts, longest prompts first; a chat that does not fit or cannot be rendered has a reason."""
        from remid.lm.chat import ChatRenderer
        from remid.lm.room import roomy_cache

        if self._decoding is None:
            raise ValueError("an engine without decoding settings cannot write")
        renderer = self._renderer = self._renderer or ChatRenderer(self._loaded.tokenizer)
        room = self._loaded.max_length - self._decoding.max_new_tokens
        prompts: dict[int, list[int]] = {}
        refused = []
        for number, chat in enumerate(chats):
            try:
                opening = renderer.response_ids(chat.opening)[:-1] if chat.opening else []
                ids = [*renderer.prompt_ids(chat.messages), *opening]
            except RenderError as error:
                refused.append(Written(number, None, False, f"cannot be rendered: {error}"))
                continue
            if len(ids) > room:
                refused.append(Written(number, None, False, f"prompt of {len(ids)} tokens, room for {room}"))
            else:
                prompts[number] = ids
        if refused:
            yield refused
        draw = [chat.draw for chat in chats]
        # What keeps its past in another way than we know is left to transformers, a prompt for every text.
        shares = self._decoding.plain and any(draw) and roomy_cache(self._loaded.model, 1) is not None
        write = self._draw if shares else self._continue
        yield from write(prompts, draw, renderer.end_of_turn_id, self._decoding)

    def _continue(
        self, prompts: dict[int, list[int]], draw: Sequence[int], end: int, decoding: Decoding
    ) -> Iterator[list[Written]]:
        """Every chat behind a prompt of its own."""
        from remid.lm.generate import generate

        order = sorted(prompts, key=lambda number: (-len(prompts[number]), prompts[number], draw[number]))
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            rows = [prompts[k] for k in batch]
            # Named by its content, so that a resumed run draws for the same batch what a whole one would have drawn.
            draws = [draw[k] for k in batch]
            stream = _named([rows, draws] if any(draws) else rows)
            with _device_faults(self._loaded.device):
                texts = generate(self._loaded, rows, end, decoding, stream=stream)
            yield [Written(k, text, finished) for k, (text, finished) in zip(batch, texts, strict=True)]

    def _draw(
        self, prompts: dict[int, list[int]], draw: Sequence[int], end: int, decoding: Decoding
    ) -> Iterator[list[Written]]:
        """All texts of a prompt behind one run of it; each depends on its prompt and number alone, but for rounding."""
        from remid.lm.sampling import drawn_texts

        places: dict[tuple[int, ...], dict[int, list[int]]] = {}
        for place, ids in prompts.items():
            places.setdefault(tuple(ids), {}).setdefault(draw[place], []).append(place)
        with _device_faults(self._loaded.device):
            for batch in drawn_texts(
                self._loaded,
                {ids: sorted(by_draw) for ids, by_draw in places.items()},
                end_of_turn=end,
                max_new_tokens=decoding.max_new_tokens,
                temperature=decoding.temperature,
                seed=decoding.seed,
            ):
                yield [
                    Written(place, text, finished)
                    for ids, number, text, finished in batch
                    for place in places[ids][number]
                ]


def _named(content: Sequence[Any]) -> int:
    return zlib.crc32(json.dumps(content).encode())


@contextmanager
def _device_faults(device: Any) -> Iterator[None]:
    """Turn an accelerator's own failure into a DeviceError."""
    try:
        yield
    except RuntimeError as error:  # torch.AcceleratorError is one
        if not any(words in str(error) for words in ("CUDA error", "CUBLAS_STATUS", "CUDNN_STATUS", "HIP error")):
            raise
        reason = str(error).strip().splitlines()[0]
        raise DeviceError(
            f"{device} failed: {reason}. What is finished is kept; the same command goes on from there. If it fails "
            "again at the same place, look at the device (nvidia-smi, dmesg), or use --device cpu"
        ) from error
