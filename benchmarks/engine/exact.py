"""B. The same numbers however they are computed: against one at a time, and against each other, to the bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from remid.lm.scoring import BLOCK_ROWS, PASS_ROWS, Scorer
from remid.lm.tree import arrange
from remid.lm.work import Work
from remid.pipeline.policies import REFERENCE

from .arms import Scores, ours, total
from .bench import Bench
from .once import bytes_of, score_elsewhere
from .pairs import Contexts, Pair, as_work
from .spread import Row

#: (rows of a pass, rows of a block) besides the ones a run uses; odd ones and tiny ones, so that cuts fall anywhere.
_PACKINGS = ((512, 64), (257, 37), (100, 100), (4096, 256))


def exact(bench: Bench) -> Row:
    """Differences of every way of scoring to the reference ways, and which of our ways give the same bytes."""
    contexts = bench.contexts()
    pairs = _random_pairs(bench, contexts)
    work = as_work(contexts, pairs)
    base = ours(bench.scorer, work)
    singly = [Work(w.prompt, (answer,)) for w in work for answer in w.continuations]
    ways: dict[str, Callable[[], Scores]] = {
        "again": lambda: ours(bench.scorer, work),
        "other order": lambda: ours(bench.scorer, [Work(w.prompt, w.continuations[::-1]) for w in work[::-1]]),
        "each prompt in its own call": lambda: _apart(bench.scorer, work),
        "each pair in its own call": lambda: _apart(bench.scorer, singly),
    }
    for rows, block in _PACKINGS[:2] if bench.quick else _PACKINGS:
        ways[f"passes of {rows}, blocks of {block}"] = lambda rows=rows, block=block: ours(
            Scorer(bench.loaded, layout="tree", rows=rows, block=block), work
        )
    for threads in (1, 2):
        ways[f"{threads} thread{'s' * (threads > 1)}"] = lambda threads=threads: _threaded(bench, threads, work)
    same = []
    for name, way in ways.items():
        same.append({"way": name, **_against(base, way())})
        bench.say(f"numbers, {name}: {same[-1]['tokens_same_bits']} of {same[-1]['tokens']} tokens to the bit")
    elsewhere = score_elsewhere(work, bench.model, bench.threads)
    references: dict[str, Callable[[], Scores]] = {
        "one at a time, stock transformers": lambda: ours(Scorer(bench.stock, layout="plain"), work),
        "one at a time, our matrix products": lambda: ours(Scorer(bench.loaded, layout="plain"), work),
    }
    against = []
    found: dict[str, Scores] = {}
    for name, way in references.items():
        found[name] = way()
        against.append({"way": name, **_against(found[name], base)})
        bench.say(f"numbers, {name}: at most {against[-1]['largest_per_token']:.1e} nats for a token")
    double = _in_double(bench, work[:1])
    for name, scores in {"ours": base, **found}.items():
        against.append({"way": f"{name}, to float64, one context", **_against(double, {k: scores[k] for k in double})})
    return {
        "packing": {"rows": PASS_ROWS, "block": BLOCK_ROWS},
        "contexts": len(work),
        "pairs": len(base),
        "prompt_tokens": sum(len(w.prompt) for w in work),
        "prompt_tokens_shared": sum(kept for _, kept in arrange(work)),
        "layout": bench.scorer.layout,
        "same": same,
        "same_bytes_in_another_process": elsewhere["sha256"] == bytes_of(base),
        "against": against,
    }


def _random_pairs(bench: Bench, contexts: Contexts) -> list[Pair]:
    """Some neighbouring contexts, each with its own answer by the reference and random answers of anyone."""
    rng = np.random.default_rng(5)
    who = [REFERENCE, *contexts.policies]
    n = len(contexts.prompts)
    pairs: list[Pair] = []
    # Neighbours in the order of their prompts, so that there are beginnings to share.
    by_text = sorted(range(n), key=lambda i: contexts.prompts[i])
    start = int(rng.integers(n - bench.sizes.exact_contexts + 1))
    for i in by_text[start : start + bench.sizes.exact_contexts]:
        pairs.append((i, REFERENCE, i))
        for _ in range(bench.sizes.exact_pairs - 1):
            pairs.append((i, who[int(rng.integers(len(who)))], int(rng.integers(n))))
    return pairs


def _apart(scorer: Scorer, work: Sequence[Work]) -> Scores:
    return {key: logp_T for one in work for key, logp_T in ours(scorer, [one]).items()}


def _threaded(bench: Bench, threads: int, work: Sequence[Work]) -> Scores:
    bench.use(threads)
    try:
        return ours(bench.scorer, work)
    finally:
        bench.use(bench.threads)


def _in_double(bench: Bench, work: Sequence[Work]) -> Scores:
    """Stock transformers in float64, a pair at a time, rounded to float32 at the end only."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(bench.loaded.source.path(), dtype=torch.float64).eval()
    found: Scores = {}
    with torch.inference_mode():
        for one in work:
            for answer in one.continuations:
                ids = torch.tensor([[*one.prompt, *answer[:-1]]])
                logits = model(input_ids=ids, use_cache=False, logits_to_keep=len(answer)).logits[0]
                logp = torch.log_softmax(logits, dim=-1).gather(1, torch.tensor(answer)[:, None])[:, 0]
                found[one.prompt, answer] = logp.numpy()
    return found


def _against(base: Scores, other: Scores) -> Row:
    """Differences in nats: of single tokens, and of a response's sum per token of it. Both hold the same pairs."""
    assert base.keys() == other.keys()
    token = np.concatenate([other[k].astype(np.float64) - base[k] for k in base])
    response = np.array([(total(other[k]) - total(base[k])) / len(base[k]) for k in base])
    return {
        "responses": len(response),
        "tokens": len(token),
        "tokens_same_bits": int((token == 0).sum()),
        "largest_per_token": float(np.abs(token).max()),
        "mean_per_token": float(np.abs(token).mean()),
        "largest_per_response_token": float(np.abs(response).max()),
        "mean_per_response_token": float(np.abs(response).mean()),
    }
