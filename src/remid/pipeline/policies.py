"""Whose responses are measured: the benchmark's policies, and four controls that calibrate every run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from remid.data.text import shown
from remid.errors import ConfigError
from remid.types import Benchmark, PairDesign, Sample

REFERENCE, SHUFFLED, GENERIC, PARROT = "reference", "shuffled", "generic", "parrot"
CONTROLS = (REFERENCE, SHUFFLED, GENERIC, PARROT)
#: What `generic` says to everyone: fluent, polite, and about nothing.
GENERIC_SENTENCE = "That is very interesting, thank you for telling me. Please go on, I would like to hear more."

#: Responses of one policy to the samples of one subset, in order; None where it has not answered.
Texts = list[str | None]


def chosen_policies(benchmark: Benchmark, wanted: Sequence[str] | None) -> tuple[str, ...]:
    """The policies that are to be measured. Raises ConfigError for a name under which nobody has answered."""
    if wanted is None:
        return benchmark.policies
    unknown = [name for name in wanted if name not in benchmark.policies]
    if unknown:
        have = ", ".join(map(shown, benchmark.policies)) or "none"
        names = ", ".join(map(shown, unknown))
        raise ConfigError(f"policies: no responses of {names} in the data (there are: {have})")
    return tuple(dict.fromkeys(wanted))


def subset_texts(samples: Sequence[Sample], policies: Sequence[str], design: PairDesign) -> dict[str, Texts]:
    """Responses by policy, controls first. samples: those of one subset. design: their negatives.

    `shuffled` answers x_i with the reference of its first negative, so that all but one of the pairs that it needs
    are the reference's own pairs and cost nothing.
    """
    references: Texts = [sample.reference for sample in samples]
    first = design.negatives_Bm[:, 0] if design.negatives_Bm.shape[1] else range(len(samples))
    texts: dict[str, Texts] = {
        REFERENCE: references,
        SHUFFLED: [samples[int(j)].reference if int(j) != i else None for i, j in enumerate(first)],
        GENERIC: [GENERIC_SENTENCE] * len(samples),
        PARROT: [sample.dialogue[-1].text for sample in samples],
    }
    for policy in policies:
        texts[policy] = [_answer(sample.responses, policy) for sample in samples]
    return texts


def _answer(responses: Mapping[str, str], policy: str) -> str | None:
    text = responses.get(policy)
    return text if text is not None and text.strip() else None
