"""One base model with two adapters against two copies of the base with an adapter each: memory and time.

Both train q1 on traces, then q2 on responses (a cold start of a few samples), and then q2 scores the references, as
it does for q1's reward; each in a process of its own, in turns. That adapters and scores are the same to the bit is
tested (tests/study/test_ablation_parts.py) and checked here.

  python -m benchmarks.one_base --turns 3 --out one_base.json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.engine.once import forget_peak, memory_now

_ROOT = Path(__file__).resolve().parents[1]
_ROLES = ("q1", "q2")
_KINDS = {"one base": (_ROLES,), "two bases": (("q1",), ("q2",))}


def train(kind: str, model: str, samples: int) -> dict[str, Any]:
    """What one way takes: bytes at the peak of loading and of training, seconds, and a digest of what came out."""
    from remid.data import mini_benchmark_paths, read_benchmark
    from remid.lm.adapters import new_adapters
    from remid.lm.chat import ChatRenderer
    from remid.lm.models import find_model, load_model
    from remid.pipeline.traces import parse_trace
    from remid.train.config import LoraSettings, SftSettings
    from remid.train.evaluate import reference_pair
    from remid.train.examples import q1_example, q2_example
    from remid.train.extract import extract, rarity
    from remid.train.scoring import AdapterScorer
    from remid.train.sft import run_sft

    begin, processor = time.perf_counter(), time.process_time()
    every = read_benchmark(mini_benchmark_paths()[:1]).train
    rare = rarity(every)
    chosen = [(sample, extract(sample, rare)) for sample in every[:samples]]
    source, models = find_model(model), {}
    for roles in _KINDS[kind]:
        loaded = load_model(source, device="cpu")
        adapted = new_adapters(loaded.model, LoraSettings(), _ROLES, 0)
        for role in set(_ROLES) - set(roles):
            adapted.delete_adapter(role)
        models |= dict.fromkeys(roles, (loaded, adapted))
    at_load = memory_now()["now"]
    forget_peak()
    out = hashlib.sha256()
    for role in _ROLES:
        loaded, adapted = models[role]
        renderer = ChatRenderer(loaded.tokenizer)
        made = [
            q1_example(sample, trace, "compact", renderer, 2048)
            if role == "q1"
            else q2_example(sample, parse_trace(trace).features, renderer, 2048)
            for sample, trace in chosen
        ]
        examples = [one for one in made if not isinstance(one, str)]
        with tempfile.TemporaryDirectory() as scratch:
            run_sft(adapted, role, examples, loaded.tokenizer, SftSettings(epochs=1), Path(scratch), seed=1)
        for name, weight in sorted(adapted.named_parameters()):
            if f".{role}." in name:
                out.update(weight.detach().numpy().tobytes())
    loaded, adapted = models["q2"]
    pairs = [
        reference_pair(sample, parse_trace(trace).features, ChatRenderer(loaded.tokenizer)) for sample, trace in chosen
    ]
    out.update(repr([one and one.nats for one in AdapterScorer(adapted, loaded, 2048).score("q2", pairs)]).encode())
    return {
        "bytes_loaded": at_load,
        "bytes_peak": memory_now()["peak"],
        "seconds": time.perf_counter() - begin,
        "processor_seconds": time.process_time() - processor,
        "digest": out.hexdigest(),
    }


def elsewhere(kind: str, model: str, samples: int) -> dict[str, Any]:
    """The same in a process of its own. Raises RuntimeError with its last words where it fails."""
    command = [sys.executable, "-m", "benchmarks.one_base", "--child", kind, "--model", model]
    done = subprocess.run([*command, "--samples", str(samples)], cwd=_ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"a process of its own failed ({done.returncode}): {done.stderr[-2000:]}")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean, least and most of each figure over turns."""
    names = [name for name, value in rows[0].items() if not isinstance(value, str)]
    found = {name: [row[name] for row in rows] for name in names}
    return {name: {"mean": mean(v), "least": min(v), "most": max(v), "n": len(v)} for name, v in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--samples", type=int, default=8, help="training samples of the built-in benchmark")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", choices=tuple(_KINDS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(train(options.child, options.model, options.samples)))
        return
    rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in _KINDS}
    for turn in range(options.turns):
        for kind in list(_KINDS)[:: 1 if turn % 2 == 0 else -1]:
            rows[kind].append(elsewhere(kind, options.model, options.samples))
    found = {kind: summary(many) for kind, many in rows.items()}
    for kind, row in found.items():
        loaded, peak, took = row["bytes_loaded"], row["bytes_peak"], row["processor_seconds"]
        print(
            f"{kind}: {loaded['mean'] / 1e6:.0f} MB loaded, {peak['mean'] / 1e6:.0f} MB at the peak "
            f"[{peak['least'] / 1e6:.0f} to {peak['most'] / 1e6:.0f}], {took['mean']:.1f} processor seconds "
            f"[{took['least']:.1f} to {took['most']:.1f}], n {took['n']}"
        )
    same = len({row["digest"] for many in rows.values() for row in many}) == 1
    print(f"adapters and scores are {'the same to the bit' if same else 'NOT the same'}")
    if options.out:
        options.out.write_text(json.dumps({**found, "same": same, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
