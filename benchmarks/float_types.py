"""What bfloat16 gives and costs on this processor: seconds of scoring, and how far R-EMI moves.

Every policy's responses and the reference's under their own context and two others, as a run scores them, in float32
and in bfloat16 by turns, group of contexts by group. Ratios are over groups, with intervals from 2,000 resamples of
them. Processors with bfloat16 units (AMX, AVX-512 BF16) gain much, others nothing.

  OMP_NUM_THREADS=1 python -m benchmarks.float_types DIALOGUES.json
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.engine.arms import ours, timed, total
from benchmarks.engine.pairs import Contexts, as_work, balanced_pairs, read_contexts, within
from benchmarks.engine.spread import ratio, turns

from remid.estimate import balanced_design, estimate, remi
from remid.lm.models import find_model, load_model
from remid.lm.scoring import Scorer
from remid.pipeline.policies import REFERENCE
from remid.types import PairScores

NEGATIVES, SEED = 2, 0
TYPES = ("float32", "bfloat16")
Row = dict[str, Any]


def pair_scores(contexts: Contexts, who: str, nats: dict[Any, float]) -> PairScores:
    """What was scored of one policy, as the estimators take it."""
    n, design = len(contexts.prompts), balanced_design(len(contexts.prompts), NEGATIVES, SEED)
    answers = contexts.answers[who]
    return PairScores(
        design=design,
        positive_B=np.array([nats[contexts.prompts[i], answers[i]] for i in range(n)]),
        negative_Bm=np.array(
            [[nats[contexts.prompts[i], answers[j]] for j in design.negatives_Bm[i]] for i in range(n)]
        ),
        tokens_B=np.array([float(len(a)) for a in answers]),
        bytes_B=np.full(n, np.nan),
    )


def measure(data: Path, model: str, limit: int, groups: int) -> Row:
    """Seconds of both types, group by group; differences token by token, and of every policy's R-EMI."""
    loaded = {kind: load_model(find_model(model), device="cpu", dtype=kind) for kind in TYPES}
    scorers = {kind: Scorer(loaded[kind]) for kind in TYPES}
    contexts = read_contexts(data, loaded["float32"], limit)
    pairs = balanced_pairs(len(contexts.prompts), list(contexts.answers), NEGATIVES, SEED)
    seconds: dict[str, list[float]] = {kind: [] for kind in TYPES}
    found: dict[str, dict[Any, Any]] = {kind: {} for kind in TYPES}
    for number, group in enumerate(np.array_split(np.arange(len(contexts.prompts)), groups)):
        work = as_work(contexts, within(pairs, map(int, group)))
        for kind in turns(TYPES, number):
            taken, _, scores = timed(lambda kind=kind, work=work: ours(scorers[kind], work))
            seconds[kind].append(taken)
            found[kind] |= scores
        print(
            f"group {number + 1} of {groups}: " + ", ".join(f"{k} {s[-1]:.1f} s" for k, s in seconds.items()),
            flush=True,
        )
    off_T = np.concatenate([found["bfloat16"][key] - logp_T for key, logp_T in found["float32"].items()])
    nats = {kind: {key: total(logp_T) for key, logp_T in scores.items()} for kind, scores in found.items()}
    off_R = np.array([nats["bfloat16"][key] - value for key, value in nats["float32"].items()])
    return {
        "contexts": len(contexts.prompts),
        "pairs": len(off_R),
        "tokens": len(off_T),
        "seconds": seconds,
        "float32_over_bfloat16": ratio(seconds["float32"][1:], seconds["bfloat16"][1:]),
        "token_nats": _spread(off_T),
        "response_nats": _spread(off_R),
        "policies": {who: _moved(contexts, who, nats) for who in contexts.policies},
    }


def _moved(contexts: Contexts, who: str, nats: dict[str, dict[Any, float]]) -> Row:
    """A policy's R-EMI (nats per token) in float32, with its interval, and what bfloat16 adds to it."""
    by_type = {
        kind: remi(*(pair_scores(contexts, one, nats[kind]) for one in (who, REFERENCE)), "nats/token")
        for kind in TYPES
    }
    exact, rounded = by_type["float32"], by_type["bfloat16"]
    told, moved_B = estimate(exact), rounded.phi_B - exact.phi_B
    spread = float(np.nanstd(moved_B, ddof=1) / np.sqrt(exact.n))
    return {
        "remi": told.value,
        "low": told.ci_low,
        "high": told.ci_high,
        "moved": rounded.value - exact.value,
        "moved_se": spread,
    }


def _spread(off: np.ndarray) -> Row:
    return {"mean": float(off.mean()), "rms": float(np.sqrt((off**2).mean())), "largest": float(np.abs(off).max())}


def main() -> None:
    """Measure, print, and leave float_types.json in --out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="dialogues with responses of several policies")
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--contexts", type=int, default=24)
    parser.add_argument("--groups", type=int, default=7, help="the first one warms up and does not count")
    parser.add_argument("--out", type=Path, default=Path("runs/float-types"))
    args = parser.parse_args()
    found = measure(args.data, args.model, args.contexts, args.groups)
    found |= {"torch": torch.__version__, "machine": platform.machine(), "amx": torch.cpu._is_amx_tile_supported()}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "float_types.json").write_text(json.dumps(found, indent=1))
    times = found["float32_over_bfloat16"]
    print(f"float32 / bfloat16: {times['of_sums']:.2f} [{times['low']:.2f}, {times['high']:.2f}], {times['n']} groups")
    print("off, nats:", {k: found[k] for k in ("token_nats", "response_nats")})
    for who, row in found["policies"].items():
        told = f"R-EMI {row['remi']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]"
        print(f"{who:24s} {told} nats/token, moved {row['moved']:+.5f} +- {row['moved_se']:.5f}")


if __name__ == "__main__":
    main()
