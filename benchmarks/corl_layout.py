"""Seconds per GRPO step on q1: everything that completions share computed once, against the layout of CoRL's release.

Ours: completions sampled behind one copy of their prompt, log-probabilities packed behind it, the reward scored under
adapter q2 of the same base with shared prompts. The release's: TRL's own sampling and log-probabilities, a second model
loaded for the reward, scored pair by pair with logits at every position. Both have oneDNN's linear layers where
gradients are not asked for, so it is the layout alone that differs. They take turns in one process on the same prompts.

An untrained q1 writes no trace that parses; what it writes is taken for the features, so that every completion makes
another prompt for q2, as it will when q1 is trained. Completions have `--tokens` tokens or fewer.

  python benchmarks/corl_layout.py --turns 3 --out corl_layout.json
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback
from trl import GRPOTrainer

from remid.data import mini_benchmark_paths
from remid.data.read import read_benchmark
from remid.lm.adapters import activate, new_adapters
from remid.lm.chat import ChatRenderer
from remid.lm.models import find_model, load_model
from remid.pipeline.reason import trace_messages
from remid.pipeline.traces import parse_trace
from remid.train.config import GrpoSettings, LoraSettings
from remid.train.evaluate import reference_pair
from remid.train.grpo import SharedPromptTrainer, _arguments, _rollout
from remid.train.scoring import AdapterScorer
from remid.types import Sample

Seconds = dict[str, float]
PARTS = ("generation", "reward", "training")


def timed(kind: Any, clock: Callable[[], float]) -> Any:
    """The trainer, with the seconds that its parts take."""

    class Timed(kind):  # type: ignore[misc]
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            self.seconds: Seconds = defaultdict(float)

        def _clock(self, part: str, call: Callable[[], Any]) -> Any:
            begin = clock()
            result = call()
            self.seconds[part] += clock() - begin
            return result

        def _generate(self, *args: Any) -> Any:
            return self._clock("generation", lambda: super(Timed, self)._generate(*args))

        def _calculate_rewards(self, *args: Any) -> Any:
            return self._clock("reward", lambda: super(Timed, self)._calculate_rewards(*args))

        def training_step(self, *args: Any) -> Any:
            return self._clock("step", lambda: super(Timed, self).training_step(*args))

    return Timed


class Bench:
    """Both layouts, ready to take a step on any samples."""

    def __init__(self, settings: GrpoSettings, tokens: int, clock: Callable[[], float]) -> None:
        self.settings, self.tokens, self.clock = settings, tokens, clock
        self.loaded = load_model(find_model("builtin"), device="cpu")
        self.renderer = ChatRenderer(self.loaded.tokenizer)
        self.model = new_adapters(self.loaded.model, LoraSettings(), ("q1", "q2"), 0)
        self.scorer = AdapterScorer(self.model, self.loaded, 4096)
        self.policy = new_adapters(load_model(find_model("builtin"), device="cpu").model, LoraSettings(), ("q1",), 0)
        self.judge = new_adapters(load_model(find_model("builtin"), device="cpu").model, LoraSettings(), ("q2",), 0)
        self.judge.eval()
        self.samples: dict[str, Sample] = {}

    def _pairs(self, completions: Sequence[Any], sample_id: Sequence[str]) -> list[Any]:
        texts = [completion[0]["content"] for completion in completions]
        features = [parse_trace(text).features or text or None for text in texts]
        return [
            reference_pair(self.samples[name], own, self.renderer)
            for name, own in zip(sample_id, features, strict=True)
        ]

    def shared_reward(self, completions: Sequence[Any], sample_id: Sequence[str], **_: Any) -> list[float | None]:
        found = self.scorer.score("q2", self._pairs(completions, sample_id))
        return [None if one is None else math.exp(one.mean) for one in found]

    @torch.no_grad()
    def pairwise_reward(self, completions: Sequence[Any], sample_id: Sequence[str], **_: Any) -> list[float | None]:
        rewards: list[float | None] = []
        for pair in self._pairs(completions, sample_id):
            ids = torch.tensor([[*pair.prompt, *pair.completion]])
            logp_LV = torch.log_softmax(self.judge(input_ids=ids).logits[0, :-1].float(), dim=-1)
            logp_L = logp_LV.gather(1, ids[0, 1:, None])[len(pair.prompt) - 1 :, 0]
            rewards.append(math.exp(float(logp_L.mean())))
        return rewards

    def step(self, shared: bool, samples: Sequence[Sample], seed: int) -> Seconds:
        """One optimizer step on these prompts."""
        self.samples = {sample.sample_id: sample for sample in samples}
        rows = [
            {
                "sample_id": sample.sample_id,
                "prompt": [{"role": m.role, "content": m.content} for m in trace_messages(sample, "compact")],
            }
            for sample in samples
        ]
        model = self.model if shared else self.policy
        activate(model, "q1")
        more: dict[str, Any] = {}
        if shared:
            more = {"packed": True, "rollout_func": _rollout(self.renderer, self.settings, self.tokens, seed)}
        with tempfile.TemporaryDirectory() as folder:
            trainer = timed(SharedPromptTrainer if shared else GRPOTrainer, self.clock)(
                model=model,
                reward_funcs=[self.shared_reward if shared else self.pairwise_reward],
                args=_arguments(model, self.settings, [1.0], self.tokens, Path(folder), seed),
                train_dataset=Dataset.from_list(rows),
                processing_class=self.loaded.tokenizer,
                **more,
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        seconds = dict(trainer.seconds)
        whole = seconds.pop("step")
        (log,) = [row for row in trainer.state.log_history if "completions/mean_length" in row]
        return {
            **seconds,
            "training": whole - sum(seconds.values()),
            "step": whole,
            "tokens": log["completions/mean_length"],
            "reward_mean": log["reward"],
        }


def summary(ours: list[Seconds], theirs: list[Seconds]) -> dict[str, Any]:
    """Means by part, the reward's share in ours, and the ratio with its range over turns."""

    def mean(rows: list[Seconds]) -> Seconds:
        return {name: round(sum(row[name] for row in rows) / len(rows), 3) for name in rows[0]}

    ratios = [b["step"] / a["step"] for a, b in zip(ours, theirs, strict=True)]
    shares = [row["reward"] / row["step"] for row in ours]
    return {
        "ours": mean(ours),
        "release": mean(theirs),
        "ratio": {part: round(mean(theirs)[part] / mean(ours)[part], 2) for part in (*PARTS, "step")},
        "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)],
        "reward_share_of_ours": round(sum(shares) / len(shares), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--turns", type=int, default=3, help="steps of each layout, in turns, behind one of each unread"
    )
    parser.add_argument("--prompts", type=int, default=4, help="prompts of a step")
    parser.add_argument("--generations", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=96, help="of a completion at most")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cpu-time", action="store_true", help="processor seconds, where others use the machine too")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    benchmark = read_benchmark([mini_benchmark_paths()[0]])
    train = sorted(benchmark.train, key=lambda sample: sample.sample_id)
    settings = GrpoSettings(generations=options.generations, prompts_per_step=options.prompts)
    bench = Bench(settings, options.tokens, time.process_time if options.cpu_time else time.perf_counter)
    rows: dict[bool, list[Seconds]] = {True: [], False: []}
    for turn in range(options.turns + 1):
        start = turn * options.prompts
        samples = [train[(start + k) % len(train)] for k in range(options.prompts)]
        for shared in (True, False):
            seconds = bench.step(shared, samples if turn else samples[:1] * options.prompts, seed=turn)
            shown = {name: round(value, 3) for name, value in seconds.items()}
            print("ours   " if shared else "release", shown, flush=True)
            if turn:
                rows[shared].append(seconds)
    found = summary(rows[True], rows[False]) | {"settings": vars(options) | {"out": None}}
    found["turns"] = {"ours": rows[True], "release": rows[False]}
    text = json.dumps(found, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
