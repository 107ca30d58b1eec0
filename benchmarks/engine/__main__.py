"""Measure everything that is claimed of scoring, and leave engine.json and engine.html.

  python -m benchmarks.engine DIALOGUES.json --quick
  python -m benchmarks.engine DIALOGUES.json --lm-eval FOLDER
  python -m benchmarks.engine DIALOGUES.json --only stage --stage-contexts 60

Sections that are finished stay in engine.json: a run that was broken off goes on behind them, and --only measures one
anew. Sections: speed (A), exact (B), harness (C), stage (D), growth (E), ray (F), kills (G); docs/engine.md says what
each is. --lm-eval names a folder that lm_eval was installed into (pip install --target); without it and without an
lm_eval that can be imported, that section says so and the others go on. Times mean nothing while other work runs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from remid.api import share_processors

from .sizes import QUICK, Sizes


def main() -> None:
    share_processors()  # as every command of remid does, before torch is imported
    from rich.console import Console

    from remid.pipeline.run import write_json
    from remid.report.sheet import console_tables, render_sheet

    from .bench import Bench
    from .claims import checks
    from .show import LEDE, TITLE, engine_sections, manifest

    args = arguments()
    sizes = QUICK if args.quick else Sizes()
    given = {f.name: getattr(args, f.name) for f in fields(Sizes) if getattr(args, f.name) is not None}
    bench = Bench(args.data, args.policy, args.model, args.threads, replace(sizes, **given), args.quick, args.lm_eval)
    bench.use(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "engine.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"sections": {}}
    found |= {"machine": machine(), "versions": versions()}
    for name, measure in sections().items():
        if name not in (args.only or [name]) or (not args.only and finished(found["sections"].get(name), args.quick)):
            continue
        found["sections"][name] = one(name, measure, bench, args.quick)
        write_json(path, found)
    page = args.out / "engine.html"
    made = engine_sections(found)
    page.write_text(render_sheet(TITLE, LEDE, made, manifest(found)), encoding="utf-8")
    Console(width=160).print(console_tables(made[:1]))
    print(f"\nresult: {path}\npage:   {page}")
    if any(check["passed"] is False for check in checks(found)):
        raise SystemExit(1)


def sections() -> dict[str, Callable[[Any], dict[str, Any]]]:
    """By the name that --only takes."""
    from .exact import exact
    from .growth import growth
    from .harness import against_harness
    from .hooks import kills, ray_workers
    from .speed import speed
    from .stage import stage

    return {
        "speed": speed,
        "exact": exact,
        "harness": against_harness,
        "stage": stage,
        "growth": growth,
        "ray": ray_workers,
        "kills": kills,
    }


def finished(known: dict[str, Any] | None, quick: bool) -> bool:
    """Whether a section was measured before, in the same manner and with the same libraries."""
    return bool(known and "result" in known and known["quick"] == quick and known["versions"] == versions())


def one(name: str, measure: Callable[[Any], dict[str, Any]], bench: Any, quick: bool) -> dict[str, Any]:
    """A section's result or why there is none, with when, how and beside what it was measured."""
    from .spread import load_average

    bench.use(bench.threads)
    bench.say(f"== {name}")
    row: dict[str, Any] = {
        "quick": quick,
        "command": "python -m benchmarks.engine " + " ".join(Path(a).name if "/" in a else a for a in sys.argv[1:]),
        "sizes": asdict(bench.sizes),
        "threads": bench.threads,
        "policy": bench.policy,
        "model": bench.model,
        "data": bench.data.name,
        "versions": versions(),
        "load_before": load_average(),
    }
    begin = time.perf_counter()
    try:
        row["result"] = measure(bench)
    except (ImportError, RuntimeError) as error:  # another program is missing or failed; the others still count
        row["failed"] = f"{type(error).__name__}: {error}"
        bench.say(f"{name} failed: {row['failed']}")
    return row | {"seconds": time.perf_counter() - begin, "load_after": load_average()}


def machine() -> dict[str, Any]:
    """What the figures depend on besides the versions."""
    import torch

    return {
        "processor": _processor(),
        "processors": os.cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "system": f"{platform.system()} {platform.machine()}",
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def versions() -> dict[str, str]:
    """Of what computes."""
    return {"python": platform.python_version()} | {
        name: version(name) for name in ("remid", "torch", "transformers", "numpy")
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/engine"))
    parser.add_argument("--only", action="append", choices=list(_NAMES), help="measure this section anew (repeatable)")
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes: is everything in order? Its figures mean little"
    )
    parser.add_argument("--policy", default="mmrole-agent")
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--lm-eval", type=Path, help="folder that lm_eval was installed into")
    group = parser.add_argument_group("sizes", "what each is: benchmarks/engine/sizes.py")
    for field in fields(Sizes):
        kind = type(field.default)
        group.add_argument("--" + field.name.replace("_", "-"), type=kind, metavar=str(field.default))
    return parser.parse_args()


_NAMES = ("speed", "exact", "harness", "stage", "growth", "ray", "kills")


if __name__ == "__main__":
    main()
