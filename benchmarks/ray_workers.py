"""How much faster are two workers of one thread than one, on Ray, and are the numbers the same?

Arms score the same prompts and responses in turn, so that a machine whose speed drifts is fair to all:

  here         this process, one thread, no Ray
  one          one worker with one thread
  two          two workers with one thread each (--workers for another number)

Without DIALOGUES prompts and responses are random ids of the lengths given; time does not depend on what they say.

  python benchmarks/ray_workers.py --contexts 12 --responses 24 --out ray_workers.json
  python benchmarks/ray_workers.py DIALOGUES.json --contexts 12 --out ray_workers.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from remid.engine.cluster import ClusterEngine, ClusterSettings
from remid.engine.cluster_ray import RayCluster
from remid.engine.cluster_tasks import cut_works
from remid.engine.cluster_worker import ModelRecipe, name_everywhere
from remid.engine.local import LocalEngine
from remid.engine.work import Scored, Work
from remid.lm.models import LoadedModel, find_model, load_model


def main() -> None:
    args = arguments()
    # Nothing has imported torch yet; this process computes an arm of its own.
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    source = find_model(args.model)
    loaded = load_model(source, device="cpu", dtype="float32")
    work = dialogues(args, loaded) if args.data else synthetic(args)
    recipe = ModelRecipe(name_everywhere(source), source.fingerprint, "cpu", "float32", LocalEngine)
    with ExitStack() as stack:
        cluster = stack.enter_context(RayCluster(cpus=1 + args.workers))
        engines: dict[str, Any] = {"here": LocalEngine(loaded)}
        for arm, workers in (("one", 1), ("two", args.workers)):
            settings = ClusterSettings(workers=workers, task_tokens=args.task_tokens)
            engines[arm] = stack.enter_context(ClusterEngine(cluster, recipe, settings))
        ready = {arm: engine.wait() for arm, engine in engines.items() if isinstance(engine, ClusterEngine)}
        print("workers ready:", ready, flush=True)
        measured = {arm: measure(engine, work) for arm, engine in engines.items()}  # warms up, and is compared
        same = {arm: bytes_of(results) == bytes_of(measured["here"][1]) for arm, (_, results) in measured.items()}
        print("same bytes as here:", same, flush=True)
        seconds: dict[str, list[float]] = {arm: [] for arm in engines}
        for repeat in range(args.repeats):
            for arm in list(engines)[:: 1 if repeat % 2 else -1]:
                seconds[arm].append(measure(engines[arm], work)[0])
            print({arm: round(times[-1], 2) for arm, times in seconds.items()}, flush=True)
    result = summary(args, work, seconds, same)
    print(json.dumps(result, indent=1))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--contexts", type=int, default=12)
    parser.add_argument("--responses", type=int, default=24, help="per context")
    parser.add_argument("--prompt-tokens", type=int, default=500, help="without DIALOGUES")
    parser.add_argument("--response-tokens", type=int, default=40, help="without DIALOGUES")
    parser.add_argument("--task-tokens", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def synthetic(args: argparse.Namespace) -> list[Work]:
    """Random ids that no two prompts share, lengths within a quarter of those asked for."""
    draw = random.Random(0)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(draw.randrange(100, 10_000) for _ in range(draw.randint(length * 3 // 4, length * 5 // 4)))

    return [
        Work(ids(args.prompt_tokens), tuple(ids(args.response_tokens) for _ in range(args.responses)))
        for _ in range(args.contexts)
    ]


def dialogues(args: argparse.Namespace, loaded: LoadedModel) -> list[Work]:
    """The first ID contexts, each with the references and answers of the contexts that follow it in the circle."""
    from remid.data import read_benchmark
    from remid.lm.chat import ChatRenderer
    from remid.pipeline.prompts import role_play_messages
    from remid.types import ID

    renderer = ChatRenderer(loaded.tokenizer)
    samples = [s for s in read_benchmark([args.data]).test if s.shift == ID]
    texts = [text for s in samples for text in (s.reference, *s.responses.values())]
    works = []
    for k, sample in enumerate(samples[: args.contexts]):
        wanted = dict.fromkeys(texts[(k * args.responses + r) % len(texts)] for r in range(args.responses))
        prompt = renderer.prompt_ids(role_play_messages(sample))
        works.append(Work(tuple(prompt), tuple(tuple(renderer.response_ids(text)) for text in wanted)))
    return works


def measure(engine: Any, work: Sequence[Work]) -> tuple[float, list[Scored]]:
    """Seconds to score everything, and the results."""
    begin = time.perf_counter()
    results = [one for batch in engine.score(work) for one in batch]
    return time.perf_counter() - begin, results


def bytes_of(results: Sequence[Scored]) -> dict[tuple[int, int], bytes | None]:
    return {(r.work, r.continuation): None if r.logp_T is None else r.logp_T.tobytes() for r in results}


def summary(
    args: argparse.Namespace, work: Sequence[Work], seconds: dict[str, list[float]], same: dict[str, bool]
) -> dict[str, Any]:
    """Medians over repeats; ratios are medians of the ratios within a repeat."""
    tokens = sum(each.tokens for each in work)
    pairs = list(zip(seconds["one"], seconds["two"], strict=True))
    return {
        "model": args.model,
        "data": args.data.name if args.data else "random ids",
        "workers": args.workers,
        "contexts": len(work),
        "continuations": sum(len(each.continuations) for each in work),
        "tokens": tokens,
        "tasks": len(cut_works(work, args.task_tokens)),
        "same_bytes": all(same.values()),
        "seconds": {arm: [round(s, 3) for s in times] for arm, times in seconds.items()},
        "median_seconds": {arm: round(statistics.median(times), 3) for arm, times in seconds.items()},
        "tokens_per_second": {arm: round(tokens / statistics.median(times)) for arm, times in seconds.items()},
        "two_over_one": round(statistics.median(one / two for one, two in pairs), 3),
        "one_over_here": round(
            statistics.median(h / o for h, o in zip(seconds["here"], seconds["one"], strict=True)), 3
        ),
        "machine": {"processors": os.cpu_count(), "load": os.getloadavg()[0], "python": platform.python_version()},
    }


if __name__ == "__main__":
    main()
