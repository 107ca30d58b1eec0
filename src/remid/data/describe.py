"""A benchmark at a glance: a few examples of every subset, shortened to a line each."""

from __future__ import annotations

from collections.abc import Sequence

from remid.data.check import groups, queries
from remid.data.text import counted, shown
from remid.types import Benchmark, Sample

#: With more subsets than this, one example each, so that the whole fits a screen.
_MANY = 4


def describe(benchmark: Benchmark, *, examples: int | None = None, width: int = 110) -> str:
    """A screenful about a benchmark: sizes, policies, and `examples` samples per subset, `width` characters wide.

    examples: None means two, or one where there are many subsets. Samples are taken evenly from each subset, so the
    same benchmark always shows the same ones. What could steer a terminal is shown escaped.
    """
    grouped = groups(benchmark.samples)
    each = examples if examples is not None else (1 if len(grouped) > _MANY else 2)
    sizes = {"test sample": benchmark.test, "training sample": benchmark.train, "subset": grouped}
    head = ", ".join(counted(len(some), noun) for noun, some in sizes.items())
    lines = [shown(benchmark.source, width), head]
    policies = ", ".join(benchmark.policies)
    lines.append(shown(f"policies: {policies}" if policies else "policies: none (references only)", width))
    for group in grouped:
        lines += ["", shown(f"{group[0].shift} / {group[0].subset}: {len(group)} samples", width)]
        lines += [line for sample in _evenly(group, each) for line in _example(sample, width)]
    return "\n".join(lines) + "\n"


def _evenly(group: Sequence[Sample], count: int) -> list[Sample]:
    count = min(count, len(group))
    return [group[index * len(group) // count] for index in range(count)]


def _example(sample: Sample, width: int) -> list[str]:
    # User and character share a line: in a benchmark of personas both are long and only the start tells.
    half = max(10, (width - 18) // 2)
    return [
        f"  user: {shown(sample.user, half) or '-'} | as: {shown(sample.character, half)}",
        f"    turns: {queries(sample)}, last: {shown(sample.dialogue[-1].text, width - 20)}",
        f"    reference: {shown(sample.reference, width - 15)}",
    ]
