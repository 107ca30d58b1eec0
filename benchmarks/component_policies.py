"""Policies that are blind to one part of their input, written by the embedded model, for benchmarks.components.

One model writes all of them at one temperature, and only its prompt differs: `full` sees everything, `no-character`,
`no-user` and `no-dialogue` miss a part (instead of the dialogue there is a fixed opening turn), `last-turn` sees the
dialogue's last turn alone, `other-character` plays another sample's character. `reference` is `full` with another seed.
The result is a benchmark whose golden responses are `reference`, with the policies under `model_response` and the
data's own response as policy `human`.

With --asked the dialogue is its last turn and a question that needs user and character, since small models hardly use
them where the dialogue goes on by itself.

  OMP_NUM_THREADS=1 python -m benchmarks.component_policies mini DATA.json:IDTest:100 --out runs/policies.json
  OMP_NUM_THREADS=1 python -m benchmarks.component_policies DATA.json:IDTest:80 --asked --out runs/asked.json \
      --policies reference full no-user no-character
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
SPLITS = ("IDTest", "OOD2Test")
OPENING = (Turn("user", "Hello! Tell me what is on your mind."),)
QUESTION = " Tell me about yourself, and tell me what you know about me."
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
    """Samples by source: FILE:SPLIT:COUNT, or "mini", the built-in benchmark's in English."""
    found: dict[str, list[Sample]] = {}
    for one in wanted:
        if one == "mini":
            found[one] = [s for s in read_benchmark([mini_benchmark_paths()[0]]).test if s.split in SPLITS]
            continue
        name, split, count = one.rsplit(":", 2)
        samples = [s for s in read_benchmark([Path(name)]).samples if s.split == split]
        found[Path(name).stem] = samples[: int(count)]
    return found


def asked(sample: Sample) -> Sample:
    """The last turn alone, with the question behind it."""
    return replace(sample, dialogue=(Turn("user", sample.dialogue[-1].text + QUESTION),))


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
    parser.add_argument("data", nargs="+", help="mini, or FILE:SPLIT:COUNT")
    parser.add_argument("--asked", action="store_true")
    parser.add_argument("--policies", nargs="+", default=list(POLICIES), choices=list(POLICIES))
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    progress = Progress()
    made: list[Sample] = []
    choice: dict[str, Any] = {"model": "builtin", "device": "cpu", "dtype": args.dtype}
    with Engines(ModelChoice(**choice), EngineConfig(), progress) as engines:
        for name, found in sources(args.data).items():
            source, samples = (f"{name}-asked", list(map(asked, found))) if args.asked else (name, found)
            # Each policy is kept as soon as it is there: the whole takes half an hour.
            said: dict[str, list[str | None]] = {}
            for policy in args.policies:
                kept = args.out.with_name(f".{args.out.stem}-{source}-{policy}.json")
                if not kept.exists():
                    kept.write_text(json.dumps(answers(samples, engines, policy, progress)))
                said[policy] = json.loads(kept.read_text())
            made += [record(source, s, {p: said[p][i] for p in args.policies}) for i, s in enumerate(samples)]
    write_benchmark(Benchmark(tuple(made), "", ""), args.out)


if __name__ == "__main__":
    main()
