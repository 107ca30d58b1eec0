"""What was left out of a run, and why. Nothing unscorable becomes a number; everything left out is counted here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from remid.pipeline.reason import Traces
from remid.pipeline.score import text_key
from remid.pipeline.store import PromptRow

if TYPE_CHECKING:
    from remid.pipeline.plan import Group

_EXAMPLES = 5
_SMALLEST = 3


@dataclass(frozen=True, slots=True)
class Missing:
    """rows: the `missing` table of result.json. reasons: (sample id, policy) -> why its own pair has no score."""

    rows: list[dict[str, Any]]
    reasons: dict[tuple[str, str], str]


def find_missing(
    groups: Sequence[Group],
    traces: Traces,
    scored: Mapping[tuple[str, str], tuple[int, float | None, str | None]],
    prompts: Mapping[str, PromptRow],
) -> Missing:
    """Collect what has no number: absent responses, failed traces, prompts and pairs that could not be scored."""
    found: dict[tuple[str, str, str | None, str | None], list[str]] = {}
    reasons: dict[tuple[str, str], str] = {}
    for g in groups:
        if len(g.samples) < _SMALLEST:
            reason = f"fewer than {_SMALLEST} samples: an interval says next to nothing"
            found["subset", reason, None, g.subset] = [sample.sample_id for sample in g.samples]
        for i, (sample, key) in enumerate(zip(g.samples, g.keys, strict=True)):
            whole = _prompt_fault(key, prompts)
            if whole is not None:
                found.setdefault((*whole, None, g.subset), []).append(sample.sample_id)
            for policy, texts in g.answers.items():
                what, reason = whole or _pair_fault(key, texts[i], scored)
                if reason:
                    reasons[sample.sample_id, policy] = reason
                    if whole is None:
                        found.setdefault((what, reason, policy, g.subset), []).append(sample.sample_id)
                if whole is None:
                    for j in map(int, g.design.negatives_Bm[i]):
                        fault = _pair_fault(key, texts[j], scored)
                        if fault[0] == "pair" and fault[1]:
                            name = ("pair", f"as a negative: {fault[1]}", policy, g.subset)
                            found.setdefault(name, []).append(sample.sample_id)
    rows = [
        {"what": what, "reason": reason, "policy": policy, "subset": subset, "n": len(ids), "examples": ids[:_EXAMPLES]}
        for (what, reason, policy, subset), ids in found.items()
    ]
    return Missing(rows, reasons)


def _prompt_fault(key: str | None, prompts: Mapping[str, PromptRow]) -> tuple[str, str] | None:
    if key is None:
        return "trace", "no usable trace"
    row = prompts.get(key)
    return ("prompt", row.missing) if row is not None and row.missing else None


def _pair_fault(
    key: str | None, text: str | None, scored: Mapping[tuple[str, str], tuple[int, float | None, str | None]]
) -> tuple[str, str]:
    if text is None:
        return "response", "the policy has not answered"
    if key is None:
        return "trace", "no usable trace"
    return "pair", scored[key, text_key(text)][2] or ""
