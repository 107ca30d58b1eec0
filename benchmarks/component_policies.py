"""Policies that are blind to one part of their input, written by the embedded model, for benchmarks.components.

One model writes all of them at one temperature, and only its prompt differs: `full` sees everything, `no-character`,
`no-user` and `no-dialogue` miss a part (instead of the dialogue there is a fixed opening turn), `last-turn` sees the
dialogue's last turn alone, `other-character` plays another sample's character. `reference` is `full` with another seed.
The result is a benchmark whose golden responses are `reference`, with the policies under `model_response` and the
data's own response as policy `human`.

  OMP_NUM_THREADS=1 python -m benchmarks.component_policies DATA.json:IDTest:100 --out runs/policies.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from remid.data import mini_benchmark_paths, read_benchmark
from remid.data.write import write_benchmark
from remid.engine.work import Chat
from remid.estimate import balanced_design
from remid.lm.chat import Message
from remid.lm.generate import Decoding
from remid.pipeline.engines import EngineConfig, Engines, ModelChoice
from remid.pipeline.progress import Progress
from remid.pipeline.prompts import role_play_messages
from remid.types import Benchmark, Sample, Turn

TOKENS, TEMPERATURE, SEED = 40, 0.7, 0
OPENING = (Turn("user", "Hello! Tell me what is on your mind."),)
Prompt = Callable[[Sample, Sample], list[Message]]

#: Name -> (its prompt for a sample and another sample of the same source, its seed).
POLICIES: dict[str, tuple[Prompt, int]] = {
    "reference": (lambda sample, other: role_play_messages(sample), SEED),
    "full": (lambda sample, other: role_play_messages(sample), SEED + 1),
    "last-turn": (lambda sample, other: role_play_messages(replace(sample, dialogue=sample.dialogue[-1:])), SEED),
    "no-character": (lambda sample, other: role_play_messages(sample, without=("character",)), SEED),
    "no-user": (lambda sample, other: role_play_messages(sample, without=("user",)), SEED),
    "no-dialogue": (lambda sample, other: role_play_messages(replace(sample, dialogue=OPENING)), SEED),
    "other-character": (lambda sample, other: role_play_messages(replace(sample, character=other.character)), SEED),
}


def sources(wanted: Sequence[str]) -> dict[str, list[Sample]]:
    """Samples by source: the built-in benchmark's in English, then FILE:SPLIT:COUNT as asked."""
    mini, _ = mini_benchmark_paths()
    found = {"mini": [s for s in read_benchmark([mini]).test if s.split in ("IDTest", "OOD2Test")]}
    for one in wanted:
        name, split, count = one.rsplit(":", 2)
        samples = [s for s in read_benchmark([Path(name)]).samples if s.split == split]
        found[Path(name).stem] = samples[: int(count)]
    return found


def answers(samples: Sequence[Sample], engines: Engines, policy: str, progress: Progress) -> list[str | None]:
    """What the policy says to each sample; None where it says nothing."""
    prompt, seed = POLICIES[policy]
    others = balanced_design(len(samples), 1, SEED, [s.character for s in samples]).negatives_Bm[:, 0]
    chats = [Chat(tuple(prompt(s, samples[j]))) for s, j in zip(samples, others, strict=True)]
    texts: list[str | None] = [None] * len(chats)
    writer = engines.writing(Decoding(TOKENS, TEMPERATURE, seed=seed), chats)
    with progress.stage(policy, len(chats)) as step:
        for batch in writer.write(chats):
            for written in batch:
                texts[written.chat] = (written.text or "").strip() or None
            step(len(batch))
    return texts


def record(source: str, sample: Sample, said: dict[str, str | None]) -> Sample:
    """The sample as ID data of its source, with what was said to it."""
    return replace(
        sample,
        sample_id=f"{source}-{sample.sample_id}",
        split="IDTest",
        subset=source,
        shift="id",
        reference=said["reference"] or sample.reference,
        responses={name: text for name, text in said.items() if text and name != "reference"}
        | {"human": sample.reference},
        meta={"subset_tag": source, "source_ID": sample.sample_id},
        trace=None,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", help="FILE:SPLIT:COUNT besides the built-in benchmark")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    progress = Progress()
    made: list[Sample] = []
    choice: dict[str, Any] = {"model": "builtin", "device": "cpu", "dtype": args.dtype}
    with Engines(ModelChoice(**choice), EngineConfig(), progress) as engines:
        for source, samples in sources(args.data).items():
            # Each policy is kept as soon as it is there: the whole takes half an hour.
            said: dict[str, list[str | None]] = {}
            for policy in POLICIES:
                kept = args.out.with_name(f".{args.out.stem}-{source}-{policy}.json")
                if not kept.exists():
                    kept.write_text(json.dumps(answers(samples, engines, policy, progress)))
                said[policy] = json.loads(kept.read_text())
            made += [record(source, s, {p: said[p][i] for p in POLICIES}) for i, s in enumerate(samples)]
    write_benchmark(Benchmark(tuple(made), "", ""), args.out)


if __name__ == "__main__":
    main()
