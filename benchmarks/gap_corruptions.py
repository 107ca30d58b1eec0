"""Does the gap move when it must, and stay when it must not? References, spoilt on purpose, as policies.

Each corruption has known levels of harm, made from the references themselves without any model, so that the right
order is known by construction: truncation, words in another order, words or sentences of another sample's reference,
typing errors, text that is added (another's reference, an echo of the last turn, the response's own first sentence
again and again). Beside them changes that harm nothing: typography, and an action in asterisks.
The same texts for every estimator: only --seed changes them.

  python -m benchmarks.gap_corruptions make DATA.json:IDTest:36 --out runs/corrupt.json
  remid run runs/corrupt.json --negatives 2 --out runs/corrupt
  python -m benchmarks.gap_corruptions show runs/corrupt
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.component_policies import sources

from remid.data.write import write_benchmark
from remid.estimate import balanced_design
from remid.types import Benchmark, Sample

Rng = np.random.Generator
#: One corruption at a level in (0, 1]: (the sample, another sample, level, generator) -> text.
Corrupt = Callable[[Sample, Sample, float, Rng], str]


def sentences(text: str) -> list[str]:
    return [part for part in re.split(r"(?<=[.!?])\s+", text.strip()) if part]


def truncated(sample: Sample, other: Sample, level: float, rng: Rng) -> str:
    """Without its last part: `level` of the words are gone."""
    kept = sample.reference.split()
    return " ".join(kept[: max(1, round(len(kept) * (1 - level)))])


def shuffled_words(sample: Sample, other: Sample, level: float, rng: Rng) -> str:
    """A share of the words changes places among themselves."""
    before = sample.reference.split()
    made = before.copy()
    chosen = np.flatnonzero(rng.random(len(made)) < level)
    for place, source in zip(chosen, rng.permutation(chosen), strict=True):
        made[place] = before[source]
    return " ".join(made)


def other_words(sample: Sample, other: Sample, level: float, rng: Rng) -> str:
    """A share of the words is replaced by words of another sample's reference."""
    pool = other.reference.split()
    return " ".join(str(rng.choice(pool)) if rng.random() < level else word for word in sample.reference.split())


def other_sentences(sample: Sample, other: Sample, level: float, rng: Rng) -> str:
    """The last part of the sentences (at least one) is another sample's."""
    own, theirs = sentences(sample.reference), sentences(other.reference)
    keep = min(len(own) - 1, round(len(own) * (1 - level)))
    return " ".join([*own[:keep], *theirs[: max(1, len(own) - keep)]])


def typing_errors(sample: Sample, other: Sample, level: float, rng: Rng) -> str:
    """A share of the letters is swapped with the next, left out or doubled."""
    made, text, k = [], sample.reference, 0
    while k < len(text):
        if text[k].isalpha() and rng.random() < level:
            kind = rng.integers(3)
            if kind == 0 and k + 1 < len(text):
                made.append(text[k + 1] + text[k])
                k += 1
            elif kind == 1:
                made.append(text[k] * 2)
        else:
            made.append(text[k])
        k += 1
    return "".join(made).strip() or text


def added_other(sample: Sample, other: Sample, level: float, rng: Rng) -> str:
    """The whole reference, then part of another sample's."""
    more = other.reference.split()
    return f"{sample.reference} {' '.join(more[: max(1, round(len(more) * level))])}"


def added_echo(sample: Sample, other: Sample, level: float, rng: Rng) -> str:
    """Part of the last turn said back, then the whole reference."""
    said = sample.dialogue[-1].text.split()
    return f"{' '.join(said[: max(1, round(len(said) * level))])} {sample.reference}"


def looped(sample: Sample, other: Sample, level: float, rng: Rng) -> str:
    """The first sentence up to eight times instead of the rest."""
    return " ".join([sentences(sample.reference)[0]] * max(2, round(8 * level)))


def other_reference(sample: Sample, other: Sample, level: float, rng: Rng) -> str:
    """Another sample's reference, with a probability."""
    return other.reference if rng.random() < level else sample.reference


def own_profile(sample: Sample, other: Sample, level: float, rng: Rng) -> str:
    """Part of the character's profile, recited instead of an answer."""
    text = sample.character.split()
    return " ".join(text[: max(3, round(60 * level))])


def typography(sample: Sample, other: Sample, level: float, rng: Rng) -> str:
    """Other quotation marks, dashes and dots; the first letter of each sentence as it is."""
    made = sample.reference.replace("'", "’").replace('"', "”").replace("...", "…").replace(" - ", " – ")
    return made if made != sample.reference else made.rstrip(".") + "!"


def with_action(sample: Sample, other: Sample, level: float, rng: Rng) -> str:
    """An action in front, as role-players write them."""
    return f"*{rng.choice(['smiles', 'nods', 'looks up', 'leans back', 'sighs'])}* {sample.reference}"


#: Corruption -> levels, with which the harm grows; and changes that do none.
HARM: dict[str, tuple[Corrupt, tuple[float, ...]]] = {
    "other-reference": (other_reference, (0.25, 0.5, 1.0)),
    "other-sentences": (other_sentences, (0.5, 1.0)),
    "other-words": (other_words, (0.1, 0.3, 0.6)),
    "word-order": (shuffled_words, (0.2, 0.5, 1.0)),
    "typing": (typing_errors, (0.05, 0.15)),
    "truncated": (truncated, (0.25, 0.5, 0.75)),
    "added-other": (added_other, (0.5, 1.0)),
    "added-echo": (added_echo, (0.5, 1.0)),
    "looped": (looped, (0.4, 1.0)),
    "profile": (own_profile, (0.3, 1.0)),
}
HARMLESS: dict[str, Corrupt] = {"typography": typography, "action": with_action}


def corrupted(samples: list[Sample], seed: int) -> list[Sample]:
    """Every sample with its spoilt references as policies, `name-percent`."""
    partners_B1 = balanced_design(len(samples), 1, seed, [s.reference for s in samples]).negatives_Bm
    made = []
    for i, sample in enumerate(samples):
        other = samples[int(partners_B1[i, 0])]
        texts = {}
        for k, (name, (corrupt, levels)) in enumerate(HARM.items()):
            for level in levels:
                # One generator for all levels, so that a higher one spoils what a lower one does, and more.
                texts[f"{name}-{round(100 * level)}"] = corrupt(
                    sample, other, level, np.random.default_rng([seed, i, k])
                )
        for k, (name, corrupt) in enumerate(HARMLESS.items()):
            texts[name] = corrupt(sample, other, 1.0, np.random.default_rng([seed, i, 100 + k]))
        made.append(replace(sample, responses=texts, trace=None))
    return made


def table(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Gap, its parts and R-EMI of every policy on ID data."""
    remi = {r["policy"]: r for r in result["remi"] if r["shift"] == "id" and r["unit"] == "nats/token"}
    rows = [r for r in result["gap"] if r["shift"] == "id" and r["subset"] is None]
    return [
        {
            "policy": r["policy"],
            "gap": [r["value"], r["ci_low"], r["ci_high"]],
            "missing": r["missing"]["value"],
            "excess": r["excess"]["value"],
            "blind_over_reference": r["blind"]["over_reference"]["value"],
            "remi": remi[r["policy"]]["value"] if r["policy"] in remi else None,
            "reading": r["reading"],
            "n": r["n"],
        }
        for r in rows
    ]


def verdicts(rows: list[dict[str, Any]]) -> list[str]:
    """What is not as it must be, in words."""
    gap = {row["policy"]: row["gap"] for row in rows}
    wrong = []
    for name, (_, levels) in HARM.items():
        names = [f"{name}-{round(100 * level)}" for level in levels]
        values = [gap[n][0] for n in names]
        if gap[names[-1]][1] is None or gap[names[-1]][1] <= 0:
            wrong.append(f"{names[-1]} is not told from the reference")
        if any(a >= b for a, b in pairwise(values)):
            wrong.append(f"{name}: levels out of order ({', '.join(f'{v:.3f}' for v in values)})")
    wrong += [f"{name} is told from the reference" for name in HARMLESS if (gap[name][1] or 0) > 0]
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make", help="write the data")
    make.add_argument("data", help="FILE:SPLIT:COUNT")
    make.add_argument("--seed", type=int, default=0)
    make.add_argument("--out", type=Path, required=True)
    show = commands.add_parser("show", help="the table of a finished run")
    show.add_argument("run", type=Path)
    args = parser.parse_args()
    if args.command == "make":
        (samples,) = sources([args.data]).values()
        write_benchmark(Benchmark(tuple(corrupted(samples, args.seed)), "", ""), args.out)
        return
    rows = table(json.loads((args.run / "result.json").read_text()))
    for r in sorted(rows, key=lambda row: row["policy"]):
        value, low, high = r["gap"]
        print(
            f"{r['policy']:20} gap {value:.3f} [{low:.3f}, {high:.3f}]  missing {r['missing']:+.3f}  excess "
            f"{r['excess']:+.3f}  blind {r['blind_over_reference']:+.3f}  R-EMI {r['remi']:+.3f}  {r['reading']}"
        )
    print(*(verdicts(rows) or ["everything moves as it must"]), sep="\n")


if __name__ == "__main__":
    main()
