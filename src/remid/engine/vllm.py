"""Scoring and writing with vLLM in this process, on GPUs. Written from vLLM's documentation: NOT YET RUN ON A GPU.

vLLM is an extra (pip install "remid[vllm]") and is imported inside functions only. What it does with requests for
prompt log-probabilities, from its documentation and issues: it ignores its prefix cache for them and runs the whole
prompt with every continuation, so a pair costs prompt and continuation; and it holds float32 log-probabilities of the
whole vocabulary for every token of a step, which its memory profile does not count (pull request 52054), hence the
small steps below.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from remid.engine.work import Chat, Scored, Work, Written, seed_of
from remid.errors import EngineError

if TYPE_CHECKING:
    from remid.lm.chat import ChatRenderer
    from remid.lm.generate import Decoding

#: Tokens of one step: at a vocabulary of 152,000 the log-probabilities of 2,048 tokens take 1.2 GB, twice at the peak.
_STEP_TOKENS = 2048
_MEMORY = 0.8
#: Requests handed to vLLM at once, and stored together.
_BATCH = 256


def load_vllm(model: str, *, dtype: str = "auto", max_length: int | None = None, gpus: int = 1) -> Any:
    """A vllm.LLM for a local folder. Raises EngineError where vLLM is not installed or cannot start."""
    vllm = _import_vllm()
    try:
        return vllm.LLM(
            model=model,
            dtype=dtype,
            max_model_len=max_length,
            tensor_parallel_size=gpus,
            gpu_memory_utilization=_MEMORY,
            max_num_batched_tokens=_STEP_TOKENS,
            enable_chunked_prefill=True,
            trust_remote_code=False,
        )
    except Exception as error:
        raise EngineError(f"vLLM could not start with {model}: {type(error).__name__}: {error}") from error


def vllm_identity(fingerprint: str, dtype: str) -> list[Any]:
    """What a result depends on: vLLM's kernels are not torch's, so its scores are not local scores."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        release = version("vllm")
    except PackageNotFoundError:
        raise EngineError(_NOT_INSTALLED) from None
    return ["vllm", release, fingerprint, dtype]


class VllmScorer:
    """Scores with a vllm.LLM (load_vllm)."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm
        # The one token that vLLM insists on writing needs a place too.
        self._room = int(llm.llm_engine.model_config.max_model_len) - 1

    @property
    def name(self) -> str:
        """What does the work, in words for the user."""
        return "vLLM, prompt log-probabilities"

    def score(self, work: Sequence[Work]) -> Iterator[list[Scored]]:
        """Results in batches, prompt by prompt. Raises EngineError where vLLM breaks or answers about other ids."""
        params = _import_vllm().SamplingParams(max_tokens=1, temperature=1.0, prompt_logprobs=0, detokenize=False)
        for batch in batches_of_pairs(work):
            fits = [pair for pair in batch if pair_length(work, pair) <= self._room]
            found = [
                Scored(*pair, None, f"{pair_length(work, pair)} tokens do not fit into {self._room}")
                for pair in batch
                if pair_length(work, pair) > self._room
            ]
            prompts = [{"prompt_token_ids": [*work[i].prompt, *work[i].continuations[j]]} for i, j in fits]
            outputs = _generate(self._llm, prompts, params) if prompts else []
            for (i, j), prompt, output in zip(fits, prompts, outputs, strict=True):
                numbers = read_prompt_logprobs(output.prompt_logprobs, prompt["prompt_token_ids"], len(work[i].prompt))
                found.append(scored(i, j, numbers))
            yield found


class VllmWriter:
    """Writes with a vllm.LLM (load_vllm), from ids that are rendered here, so an opening is exact."""

    def __init__(self, llm: Any, renderer: ChatRenderer, decoding: Decoding) -> None:
        self._llm = llm
        self._renderer = renderer
        self._decoding = decoding
        self._room = int(llm.llm_engine.model_config.max_model_len) - decoding.max_new_tokens

    @property
    def name(self) -> str:
        """What does the work, in words for the user."""
        return "vLLM"

    def write(self, chats: Sequence[Chat]) -> Iterator[list[Written]]:
        """Answers in batches, in the order of the chats. Raises EngineError where vLLM breaks."""
        for start in range(0, len(chats), _BATCH):
            part = range(start, min(start + _BATCH, len(chats)))
            prompts = {index: self._ids(chats[index]) for index in part}
            fits = [index for index in part if len(prompts[index]) <= self._room]
            params = [self._params(seed_of(chats[index], self._decoding.seed)) for index in fits]
            outputs = _generate(self._llm, [{"prompt_token_ids": prompts[index]} for index in fits], params)
            written = [read_written(index, output) for index, output in zip(fits, outputs, strict=True)]
            yield written + [
                Written(index, None, False, f"prompt of {len(prompts[index])} tokens, room for {self._room}")
                for index in part
                if len(prompts[index]) > self._room
            ]

    def _params(self, seed: int) -> Any:
        decoding = self._decoding
        return _import_vllm().SamplingParams(
            max_tokens=decoding.max_new_tokens,
            temperature=decoding.temperature,
            top_p=decoding.top_p if decoding.temperature > 0 else 1.0,
            seed=seed if decoding.temperature > 0 else None,
            repetition_penalty=decoding.repetition_penalty,
            stop_token_ids=[self._renderer.end_of_turn_id],
        )

    def _ids(self, chat: Chat) -> list[int]:
        opening = self._renderer.response_ids(chat.opening)[:-1] if chat.opening else []
        return [*self._renderer.prompt_ids(chat.messages), *opening]


def batches_of_pairs(work: Sequence[Work], size: int = _BATCH) -> Iterator[list[tuple[int, int]]]:
    """(work, continuation) in order, one prompt's pairs together as far as a batch reaches."""
    pairs = [(i, j) for i, one in enumerate(work) for j in range(len(one.continuations))]
    for start in range(0, len(pairs), size):
        yield pairs[start : start + size]


def pair_length(work: Sequence[Work], pair: tuple[int, int]) -> int:
    """Tokens of a prompt with one of its continuations."""
    i, j = pair
    return len(work[i].prompt) + len(work[i].continuations[j])


def read_prompt_logprobs(
    found: Sequence[Mapping[int, Any] | None] | None, ids: Sequence[int], start: int
) -> list[float]:
    """Log-probabilities of ids[start:] (nats) out of RequestOutput.prompt_logprobs; NaN where not finite.

    found: per token a mapping from token id to something with `.logprob`, None for the first. Raises EngineError where
    it is not about these ids.
    """
    if found is None or len(found) != len(ids):
        got = "none" if found is None else str(len(found))
        raise EngineError(f"vLLM gave {got} of {len(ids)} log-probabilities of a prompt; this version cannot score")
    numbers = []
    for position in range(start, len(ids)):
        entry = found[position]
        if not entry or ids[position] not in entry:
            raise EngineError(
                f"vLLM gave no log-probability of token {position} of a prompt; this version cannot score"
            )
        number = float(entry[ids[position]].logprob)
        numbers.append(number if math.isfinite(number) else math.nan)
    return numbers


def scored(work: int, continuation: int, numbers: Sequence[float]) -> Scored:
    """One pair's result."""
    if any(map(math.isnan, numbers)):
        return Scored(work, continuation, None, "a log-probability is not finite")
    return Scored(work, continuation, np.asarray(numbers, dtype=np.float32))


def read_written(chat: int, output: Any) -> Written:
    """One RequestOutput as text; cut off in the middle of a character, its last mark is dropped."""
    (one,) = output.outputs
    finished = one.finish_reason == "stop"
    return Written(chat, (one.text if finished else one.text.rstrip("\ufffd")).strip(), finished)


_NOT_INSTALLED = 'vLLM is not installed: pip install "remid[vllm]" (it needs a GPU), or use another engine'


def _import_vllm() -> Any:
    from importlib import import_module

    try:
        return import_module("vllm")
    except ImportError as error:
        raise EngineError(f"{_NOT_INSTALLED} ({error})") from error


def _generate(llm: Any, prompts: list[dict[str, list[int]]], params: Any) -> list[Any]:
    try:
        return list(llm.generate(prompts, params, use_tqdm=False))
    except Exception as error:
        raise EngineError(
            f"vLLM failed: {type(error).__name__}: {error}. What is done is kept; the same command goes on"
        ) from error
