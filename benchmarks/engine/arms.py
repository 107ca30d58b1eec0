"""What is compared, each a function from pairs to numbers: pair by pair, ours, and lm-evaluation-harness."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from remid.lm.models import LoadedModel, find_model, load_model
from remid.lm.scoring import Scorer
from remid.lm.work import TokenLogProbs, Work

from .pairs import Ids

T = TypeVar("T")
#: Log-probabilities of the tokens of an answer, by prompt and answer.
Scores = dict[tuple[Ids, Ids], TokenLogProbs]


def load_ours(name: str) -> LoadedModel:
    """The model as a run loads it on a CPU in float32."""
    return load_model(find_model(name), device="cpu", dtype="float32")


def load_stock(loaded: LoadedModel) -> LoadedModel:
    """The same model as transformers loads it, nothing of ours in it: torch's own kernels and its own attention."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(loaded.source.path(), dtype=torch.float32).eval()
    return LoadedModel(loaded.source, model, loaded.tokenizer, loaded.device, loaded.dtype, loaded.max_length)


@torch.inference_mode()
def pair_by_pair(model: Any, rows: Sequence[tuple[Ids, Ids]]) -> list[float]:
    """Nats per response of one padded batch, every pair with its prompt, logits at every position: as the release."""
    whole = [prompt + answer for prompt, answer in rows]
    longest = max(map(len, whole))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in whole])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in whole])
    logp = torch.log_softmax(model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float(), dim=-1)
    picked = logp[:, :-1].gather(2, ids[:, 1:, None])[:, :, 0].double()
    return [float(picked[k, len(p) - 1 : len(p) + len(a) - 1].sum()) for k, (p, a) in enumerate(rows)]


def ours(scorer: Scorer, work: Sequence[Work]) -> Scores:
    """Everything that was asked. Raises RuntimeError where anything is missing, which no arm may pass over."""
    found: Scores = {}
    for batch in scorer.score(work):
        for one in batch:
            if one.logp_T is None:
                raise RuntimeError(one.missing)
            found[work[one.work].prompt, work[one.work].continuations[one.continuation]] = one.logp_T
    return found


def total(logp_T: TokenLogProbs) -> float:
    """Nats per response."""
    return float(logp_T.astype(np.float64).sum())


def harness(site: Path | None, stock: LoadedModel) -> Any:
    """lm-evaluation-harness' HFLM around the stock model. site: folder where lm_eval is installed, None: importable.

    The folder is searched last, so that torch and transformers stay the ones that all arms use.
    """
    if site is not None and str(site) not in sys.path:
        sys.path.append(str(site))
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    from lm_eval.models.huggingface import HFLM

    return HFLM(
        pretrained=stock.model,
        tokenizer=stock.tokenizer,
        backend="causal",
        device="cpu",
        dtype="float32",
        max_length=stock.max_length,
    )


def through_harness(lm: Any, rows: Sequence[tuple[Ids, Ids]], batch: int) -> list[float]:
    """Nats per response: its own ordering, batching and cache of logits, on exactly our ids."""
    lm.batch_size_per_gpu = batch
    requests = [((f"context {k}", f"answer {k}"), list(p), list(a)) for k, (p, a) in enumerate(rows)]
    return [float(logp) for logp, _ in lm._loglikelihood_tokens(requests, disable_tqdm=True)]


def timed(call: Callable[[], T]) -> tuple[float, float, T]:
    """Seconds on the clock, seconds of processor time over all threads, and what came of it."""
    wall, processor = time.perf_counter(), time.process_time()
    result = call()
    return time.perf_counter() - wall, time.process_time() - processor, result
