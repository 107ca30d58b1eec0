"""The command line, and how measured pieces become a round (see the package)."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student

from remid.data import mini_benchmark_paths
from remid.data.read import read_benchmark
from remid.pipeline.traces import parse_trace
from remid.train.clock import PARTS, times
from remid.train.collect import extracted
from remid.train.config import GrpoSettings
from remid.train.journal import read_journal

from . import __doc__ as about
from .layouts import Layout, Ours, Parts, Release, measure

CLOCKS = ("wall", "processor")
LAYOUTS = ("ours", "release", "stock")


def of_a_round(parts: Parts, options: Any) -> Parts:
    """Seconds of a whole round by part."""
    counts = {"roll-out": options.train, "SFT": options.train * options.epochs}
    return {name: seconds * counts.get(name, options.prompts) for name, seconds in parts.items()}


def summary(turns: Sequence[Mapping[str, Parts]], options: Any) -> dict[str, Any]:
    """By clock: a round's seconds by part and layout, means over turns; the ratio with 95% interval and range."""
    rounds = [{name: of_a_round(parts, options) for name, parts in turn.items()} for turn in turns]
    found: dict[str, Any] = {}
    for k, clock in enumerate(CLOCKS):
        table = {
            name: {part: float(np.mean([r[name][part][k] for r in rounds])) for part in rounds[0][name]}
            for name in rounds[0]
        }
        whole = {name: [sum(r[name].values())[k] for r in rounds] for name in rounds[0]}
        ratios = {name: np.array(whole[name]) / np.array(whole["ours"]) for name in whole if name != "ours"}
        shares = [
            (r["ours"]["q1 rewards"] + r["ours"]["q2 rewards"])[k] / w
            for r, w in zip(rounds, whole["ours"], strict=True)
        ]
        found[clock] = {
            "seconds": table,
            "whole": {name: float(np.mean(values)) for name, values in whole.items()},
            "ratios": {
                name: {
                    "by_part": {part: table[name][part] / table["ours"][part] for part in table["ours"]},
                    "ratio": float(np.exp(np.log(ratio).mean())),
                    "interval": _factors(_interval(np.log(ratio))),
                    "range": [float(ratio.min()), float(ratio.max())],
                }
                for name, ratio in ratios.items()
            },
            "reward_share_of_ours": float(np.mean(shares)),
            "reward_share_interval": _interval(np.array(shares)),
            "turns": len(turns),
        }
    return found


def _interval(values: np.ndarray) -> list[float] | None:
    """95%, of the mean; None with one turn."""
    n = len(values)
    if n < 2:
        return None
    half = float(student.ppf(0.975, n - 1) * values.std(ddof=1) / math.sqrt(n))
    return [float(values.mean()) - half, float(values.mean()) + half]


def _factors(logs: list[float] | None) -> list[float] | None:
    return None if logs is None else [math.exp(x) for x in logs]


def show(found: Mapping[str, Any]) -> None:
    for clock in CLOCKS:
        one = found[clock]
        around = one["reward_share_interval"]
        around = "" if around is None else " [{:.1f}, {:.1f}]".format(*(100 * x for x in around))
        rewards = f"rewards {100 * one['reward_share_of_ours']:.1f}%{around} of ours"
        print(f"\nA round, {clock} seconds ({one['turns']} turns); {rewards}")
        for part, ours in one["seconds"]["ours"].items():
            theirs = "  ".join(
                f"{name} {one['seconds'][name][part]:8.1f} ({ratio['by_part'][part]:.2f})"
                for name, ratio in one["ratios"].items()
            )
            print(f"  {part:14} ours {ours:8.1f}  {theirs}")
        for name, ratio in one["ratios"].items():
            interval = "" if ratio["interval"] is None else " [{:.2f}, {:.2f}]".format(*ratio["interval"])
            seconds = f"{one['whole'][name]:.0f} over ours {one['whole']['ours']:.0f}"
            print(f"  {name} {seconds}: {ratio['ratio']:.2f}{interval}")


def show_journal(folder: Path) -> None:
    for row in times(read_journal(folder)):
        share = "n/a" if row["reward_share"] is None else f"{100 * row['reward_share']:.0f}%"
        parts = "  ".join(f"{name} {row[name]:.0f}" for name in ("seconds", *PARTS))
        print(f"{row['stage']}: {parts}  (seconds; rewards {share} of all but evaluation)")


def options_of() -> Any:
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    add: Callable[..., Any] = parser.add_argument
    add("--journal", type=Path, help="show the times of this run's folder instead of measuring")
    add("--layouts", nargs="+", default=list(LAYOUTS), choices=LAYOUTS, help="what to measure, ours first")
    add("--turns", type=int, default=3, help="of all layouts, behind one that is not counted")
    add("--prompts-per-step", type=int, default=4, help="of the GRPO steps that are measured")
    add("--generations", type=int, default=4)
    add("--trace-tokens", type=int, default=96, help="of a trace at most")
    add("--response-tokens", type=int, default=64, help="of a response at most")
    add("--traces", type=int, default=16, help="of the roll-out that is measured")
    add("--sequences", type=int, default=8, help="of the SFT that is measured")
    add("--prompts", type=int, default=64, help="of a round's GRPO stages, each")
    add("--train", type=int, default=64, help="training samples of a round: its traces, and its SFT")
    add("--epochs", type=float, default=3, help="of a round's SFT")
    add("--threads", type=int, default=torch.get_num_threads())
    add("--warm", type=int, default=1, help="0: count the first turn too")
    add("--out", type=Path)
    return parser.parse_args()


def main() -> None:
    options = options_of()
    if options.journal:
        return show_journal(options.journal)
    torch.set_num_threads(options.threads)
    train = sorted(read_benchmark([mini_benchmark_paths()[0]]).train, key=lambda sample: sample.sample_id)
    features = {name: str(parse_trace(text).features) for name, text in extracted(train, "compact").texts.items()}
    settings = GrpoSettings(
        generations=options.generations,
        prompts_per_step=options.prompts_per_step,
        trace_tokens=options.trace_tokens,
        response_tokens=options.response_tokens,
    )
    made: dict[str, Callable[[], Layout]] = {
        "ours": lambda: Ours(settings),
        "release": lambda: Release(settings),
        "stock": lambda: Release(settings, stock=True),
    }
    layouts = {name: made[name]() for name in LAYOUTS if name == "ours" or name in options.layouts}
    taken = max(options.prompts_per_step, options.traces, options.sequences)
    turns: list[dict[str, Parts]] = []
    for turn in range(options.turns + options.warm):
        samples = [train[(turn * taken + k) % len(train)] for k in range(taken)]
        order = list(layouts)[:: 1 - 2 * (turn % 2)]
        found = {name: measure(layouts[name], samples, features, options, turn) for name in order}
        for name in layouts:
            print(f"turn {turn}, {name}:", {part: x.round(2).tolist() for part, x in found[name].items()}, flush=True)
        turns += [found] if turn >= options.warm else []
    result = summary(turns, options)
    show(result)
    if options.out:
        kept = {key: value for key, value in vars(options).items() if key not in {"out", "journal"}}
        rows = [{name: {p: x.tolist() for p, x in parts.items()} for name, parts in turn.items()} for turn in turns]
        options.out.write_text(
            json.dumps(result | {"settings": kept, "per_unit": rows}, indent=1) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
