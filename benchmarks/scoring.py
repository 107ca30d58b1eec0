"""How much faster is scoring with each prompt run once, and are the numbers the same?

Three arms score the same pairs of one policy and the reference (the run's own balanced design), in turn, block by
block, so that a machine whose speed drifts is fair to all:

  pairwise  every (prompt, response) pair by itself, batches of 4, full logits: what the public release does
  shared    the prompt once, its responses packed behind it, logits only where they are read
  remid     shared, with float32 products through oneDNN on a CPU: what `remid run` does

  python benchmarks/scoring.py DIALOGUES.json --policy NAME --contexts 40 --out scoring.json
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from remid.data import read_benchmark
from remid.estimate import balanced_design
from remid.lm.chat import ChatRenderer
from remid.lm.models import LoadedModel, find_model, load_model
from remid.lm.scoring import Scorer
from remid.pipeline.policies import REFERENCE, subset_texts
from remid.pipeline.prompts import role_play_messages
from remid.types import ID

Job = tuple[list[int], list[list[int]]]


def main() -> None:
    args = arguments()
    loaded = load_model(find_model(args.model), device=args.device)
    # The other arms get the model as transformers loads it, untouched.
    stock = AutoModelForCausalLM.from_pretrained(loaded.source.path(), dtype=next(loaded.model.parameters()).dtype)
    stock = stock.to(loaded.device).eval()
    jobs = make_jobs(args, ChatRenderer(loaded.tokenizer))
    bare = LoadedModel(loaded.source, stock, loaded.tokenizer, loaded.device, loaded.dtype, loaded.max_length)
    shared, ours = Scorer(bare), Scorer(loaded)
    arms: dict[str, Callable[[Job], np.ndarray]] = {
        "pairwise": lambda job: score_pairwise(stock, job, args.batch),
        "shared": lambda job: score_shared(shared, job),
        "remid": lambda job: score_shared(ours, job),
    }
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    scores: dict[str, list[np.ndarray]] = {name: [] for name in arms}
    for score in arms.values():  # warm up caches and kernels on a pair that does not count
        score((jobs[0][0][:64], [jobs[0][1][0][:8]]))
    for start in range(0, len(jobs), args.block):
        block = jobs[start : start + args.block]
        for name, score in arms.items():
            begin = time.perf_counter()
            scores[name] += [score(job) for job in block]
            seconds[name].append(time.perf_counter() - begin)
        print(f"{start + len(block):>4} contexts", {n: round(s[-1], 2) for n, s in seconds.items()}, flush=True)
    result = summary(args, loaded, jobs, seconds, scores)
    print(json.dumps(result, indent=1))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--policy", required=True)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--contexts", type=int, default=40)
    parser.add_argument("--subset", help="contexts of this subset instead of the ID ones")
    parser.add_argument("--negatives", type=int, default=2)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--block", type=int, default=5, help="contexts per turn of an arm")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def make_jobs(args: argparse.Namespace, renderer: ChatRenderer) -> list[Job]:
    """The first contexts of the subset: prompt ids, and the ids of the responses to score under each."""
    test = read_benchmark([args.data]).test
    samples = [s for s in test if (s.subset == args.subset if args.subset else s.shift == ID)][: args.contexts]
    design = balanced_design(len(samples), args.negatives, seed=0)
    texts = subset_texts(samples, [args.policy], design)
    jobs = []
    for i, sample in enumerate(samples):
        rows = [i, *design.negatives_Bm[i].tolist()]
        wanted = dict.fromkeys(t for who in (REFERENCE, args.policy) for j in rows if (t := texts[who][j]) is not None)
        jobs.append((renderer.prompt_ids(role_play_messages(sample)), [renderer.response_ids(t) for t in wanted]))
    return jobs


@torch.inference_mode()
def score_pairwise(model: torch.nn.Module, job: Job, batch: int) -> np.ndarray:
    """(pairs,) nats per response: every pair a row of its own, padded, with logits at every position."""
    prompt, responses = job
    totals = []
    for start in range(0, len(responses), batch):
        rows = [[*prompt, *r] for r in responses[start : start + batch]]
        longest = max(map(len, rows))
        ids = torch.tensor([r + [0] * (longest - len(r)) for r in rows], device=model.device)
        mask = torch.tensor([[1] * len(r) + [0] * (longest - len(r)) for r in rows], device=model.device)
        logp = torch.log_softmax(model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float(), dim=-1)
        picked = logp[:, :-1].gather(2, ids[:, 1:, None])[:, :, 0].double()
        totals += [float(picked[k, len(prompt) - 1 : len(row) - 1].sum()) for k, row in enumerate(rows)]
    return np.array(totals)


def score_shared(scorer: Scorer, job: Job) -> np.ndarray:
    """(pairs,) nats per response: the prompt once."""
    prompt, responses = job
    prefix = scorer.prefill(prompt)
    order = sorted(range(len(responses)), key=lambda k: -len(responses[k]))
    totals = np.zeros(len(responses))
    for chunk in scorer.chunks([len(responses[k]) for k in order]):
        part = [order[k] for k in chunk]
        for k, logp in zip(part, scorer.score(prefix, [responses[k] for k in part]), strict=True):
            totals[k] = logp.astype(np.float64).sum()
    return totals


def summary(
    args: argparse.Namespace,
    loaded: LoadedModel,
    jobs: Sequence[Job],
    seconds: dict[str, list[float]],
    scores: dict[str, list[np.ndarray]],
) -> dict[str, object]:
    base = np.concatenate(scores["pairwise"])
    out: dict[str, object] = {
        "model": loaded.source.name,
        "device": str(loaded.device),
        "dtype": loaded.dtype,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
        "contexts": len(jobs),
        "pairs": int(base.size),
        "negatives": args.negatives,
        "prompt_tokens_median": statistics.median(len(p) for p, _ in jobs),
        "response_tokens_median": statistics.median(len(r) for _, rs in jobs for r in rs),
    }
    for name, found in scores.items():
        ratios = [a / b for a, b in zip(seconds["pairwise"], seconds[name], strict=True)]
        out[name] = {
            "seconds": round(sum(seconds[name]), 2),
            "times_faster": round(sum(seconds["pairwise"]) / sum(seconds[name]), 2),
            "times_faster_by_block_min_median_max": [
                round(f, 2) for f in (min(ratios), statistics.median(ratios), max(ratios))
            ],
            "largest_difference_nats_per_response": float(np.abs(np.concatenate(found) - base).max()),
        }
    return out


if __name__ == "__main__":
    main()
