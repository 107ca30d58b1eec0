"""Journals of made-up training runs: healthy ones with noise, and ones that collapse in a given way."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Row = dict[str, Any]
#: Changes a step's or probe's record in place. t: 0 to 1 over the stage.
Spoil = Callable[[Row, float], None]


@dataclass(frozen=True)
class Healthy:
    """How a healthy run goes: levels, drifts and noise of its signals. noise: a factor on all of it."""

    steps: int = 20
    rounds: int = 1
    groups: int = 4
    generations: int = 4
    noise: float = 1.0
    length: float = 60.0
    drift: float = 0.2
    entropy: float = 1.2
    kept: float = 0.6
    failures: float = 0.3
    gap: float = 0.12
    unique: float = 0.95
    probe_every: int = 4


def run_records(seed: int, how: Healthy = Healthy(), spoil: dict[str, Spoil] | None = None) -> list[Row]:
    """A run's journal: cold start, then rounds of GRPO. spoil: adapter -> what goes wrong in its GRPO stages."""
    rng = np.random.default_rng(seed)
    made: list[Row] = []
    for name in ("sft-q1", "sft-q2"):
        made += _sft(name, rng)
    for number in range(1, how.rounds + 1):
        for adapter in ("q1", "q2"):
            if adapter == "q2":
                made += _sft(f"sft-q2-{number}", rng)
            made += _grpo(f"grpo-{adapter}-{number}", adapter, number, how, rng, (spoil or {}).get(adapter))
    made.append({"kind": "end", "stage": made[-1]["stage"]})
    return [{"time": 1000.0 + 7 * k, **row} for k, row in enumerate(made)]


def _sft(name: str, rng: np.random.Generator) -> list[Row]:
    adapter = name.split("-")[1]
    rows: list[Row] = [{"kind": "stage", "stage": name, "adapter": adapter}]
    for step in range(1, 6):
        signals = {"entropy": 1.0, "accuracy": 0.5}
        learning = {"loss": 3.0 / step + rng.normal(0, 0.05), "learning_rate": 1e-4}
        row = {"kind": "step", "stage": name, "step": step, "steps": 5, "signals": signals, "rewards": {}}
        rows.append({**row, "learning": learning})
    return [*rows, {**_held_out(name, adapter, rng, 0.0, 0.12, 40), "seconds": 35.0, "perplexity": math.exp(2.5)}]


def _held_out(name: str, adapter: str, rng: np.random.Generator, t: float, gap: float, n: int, noise: float = 1) -> Row:
    row: Row = {"kind": "held_out", "stage": name, "adapter": adapter, "n": n, "parse_failures": 0.1}
    known = {
        "log_q": -2.5 + 0.05 * t + rng.normal(0, 0.01 * noise),
        "log_q_without": -2.6,
        "gap": gap * (1 + 0.3 * t) + rng.normal(0, 0.012 * noise),
        "advantage": 0.08 + rng.normal(0, 0.01 * noise),
    }
    for key, value in known.items():
        row |= {key: value, f"{key}_se": 0.12 / math.sqrt(n), f"{key}_n": n}
    return row


def _grpo(
    name: str, adapter: str, number: int, how: Healthy, rng: np.random.Generator, spoil: Spoil | None
) -> list[Row]:
    rows: list[Row] = [{"kind": "stage", "stage": name, "adapter": adapter}]
    for step in range(how.steps + 1):
        # A later round goes on where the one before ended.
        t = (number - 1 + step / how.steps) / how.rounds
        inner = step / how.steps
        if step:
            record = _step(name, adapter, step, how, rng, t)
            if spoil is not None:
                spoil(record, inner)
            rows.append(record)
        if step % how.probe_every == 0 and step < how.steps:
            probe = {**_held_out(name, adapter, rng, t, how.gap, 16, how.noise), "step": step}
            if spoil is not None:
                spoil(probe, inner)
            rows.append(probe)
    rows.append({"kind": "samples", "stage": name, "step": how.steps, "examples": [_example()]})
    end = {**_held_out(name, adapter, rng, t, how.gap, 40), "seconds": 300.0, "perplexity": 12.0}
    if spoil is not None:
        spoil(end, 1.0)
    return [*rows, end]


def _example() -> Row:
    parts = {"likelihood": 0.1, "format": 1.0}
    return {"sample_ID": "s1", "text": "## Core Features\nContent: a\nStyle: b", "parsed": True, "rewards": parts}


def _step(name: str, adapter: str, step: int, how: Healthy, rng: np.random.Generator, t: float) -> Row:
    n = how.groups * how.generations

    def near(value: float, relative: float) -> float:
        return max(0.0, value * (1 + relative * how.noise * rng.normal()))

    def share(p: float, of: int = n) -> float:
        return float(rng.binomial(of, min(1.0, p)) / of)

    first = adapter == "q1"
    gained = 1 - math.exp(-2 * t)
    reward = near((0.3 if first else 0.6) + 0.15 * gained, 0.05)
    signals = {
        "n": float(n),
        "groups": float(how.groups),
        "reward": reward,
        "reward_sd": near(0.1, 0.1),
        "spread": near(0.06, 0.2),
        "no_spread": share(0.15, how.groups),
        "missing": share(0.02),
        "entropy": near((how.entropy if first else 2 * how.entropy) * (1 - (1 - how.kept) * t), 0.06),
        "length": near(how.length * (1 + how.drift * t), 0.06),
        "distinct_1": near(0.35, 0.06),
        "distinct_2": near(0.65 - 0.05 * t, 0.06),
        "unique": share(how.unique, how.groups * (how.generations - 1)),
        "failures": share(how.failures * (1 - 0.7 * t)),
        "unfinished": share(0.1),
        "cross_identical": share(0.01, 6 * how.generations),
        "cross_overlap": near((0.3 if first else 0.08) * (1 + 0.2 * t), 0.15),
        "cross_distinct_2": near(0.6 if first else 0.85, 0.06),
    }
    signals["own_distinct_2"] = min(1.0, 1.4 * signals["distinct_2"])
    part = "likelihood" if first else "typical"
    rewards = {
        part: {"mean": reward / 2, "sd": 0.1, "spread": 0.05},
        "format": {"mean": 1 - signals["failures"], "sd": 0.3, "spread": 0.2},
    }
    learning = {"loss": rng.normal(0, 0.01), "grad_norm": 0.4, "learning_rate": 1e-5, "step_time": 20.0}
    row = {"kind": "step", "stage": name, "step": step, "steps": how.steps, "signals": signals, "rewards": rewards}
    return {**row, "learning": learning}
