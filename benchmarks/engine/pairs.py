"""Which pairs there are to score: contexts of the data as token ids, and the designs that pick pairs of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from remid.data import read_benchmark
from remid.estimate import balanced_design
from remid.lm.chat import ChatRenderer
from remid.lm.models import LoadedModel
from remid.lm.work import Work
from remid.pipeline.policies import REFERENCE
from remid.pipeline.prompts import role_play_messages
from remid.types import ID

Ids = tuple[int, ...]
#: (context, who answers, whose answer): the answer that `who` gave to the last is scored under the first.
Pair = tuple[int, str, int]


@dataclass(frozen=True, slots=True)
class Contexts:
    """Prompts of the in-distribution test samples and everyone's answers to each. left_out: contexts that lack an
    answer or do not fit into the model."""

    prompts: tuple[Ids, ...]
    answers: dict[str, tuple[Ids, ...]]
    left_out: int

    @property
    def policies(self) -> list[str]:
        """Who answers, without the reference."""
        return [who for who in self.answers if who != REFERENCE]

    def row(self, pair: Pair) -> tuple[Ids, Ids]:
        """A pair's prompt and answer."""
        i, who, j = pair
        return self.prompts[i], self.answers[who][j]

    def tokens(self, pairs: Iterable[Pair]) -> int:
        """Tokens of these pairs, every pair with its prompt."""
        return sum(len(p) + len(r) for p, r in map(self.row, pairs))


def read_contexts(data: Path, loaded: LoadedModel, limit: int | None = None) -> Contexts:
    """The first contexts of the data that everyone has answered and that fit into the model with any answer."""
    benchmark = read_benchmark([data])
    samples = [sample for sample in benchmark.test if sample.shift == ID]
    whole = [s for s in samples if all(s.responses.get(who, "").strip() for who in benchmark.policies)]
    renderer = ChatRenderer(loaded.tokenizer)
    prompts = [tuple(renderer.prompt_ids(role_play_messages(s))) for s in whole]
    answers = {REFERENCE: [tuple(renderer.response_ids(s.reference)) for s in whole]}
    for who in benchmark.policies:
        answers[who] = [tuple(renderer.response_ids(s.responses[who])) for s in whole]
    longest = max(len(r) for rs in answers.values() for r in rs)
    fit = [i for i, prompt in enumerate(prompts) if len(prompt) + longest <= loaded.max_length]
    kept = fit[:limit]
    return Contexts(
        tuple(prompts[i] for i in kept),
        {who: tuple(rs[i] for i in kept) for who, rs in answers.items()},
        len(samples) - len(fit),
    )


def paper_pairs(n: int, answerers: Sequence[str], negatives: int, seed: int) -> list[Pair]:
    """The paper's design as its release draws it: each answerer's n positives, then its own random pairs i != j, drawn
    with replacement, in the order of the draw."""
    rng = np.random.default_rng(seed)
    pairs: list[Pair] = []
    for who in answerers:
        pairs += [(i, who, i) for i in range(n)]
        i_M = rng.integers(n, size=negatives)
        j_M = (i_M + rng.integers(1, n, size=negatives)) % n
        pairs += [(int(i), who, int(j)) for i, j in zip(i_M, j_M, strict=True)]
    return pairs


def balanced_pairs(n: int, answerers: Sequence[str], m: int, seed: int) -> list[Pair]:
    """A run's design: each answerer's n positives and the same m negatives of every item for all of them."""
    negatives_Bm = balanced_design(n, m, seed).negatives_Bm
    own = [(i, j) for i in range(n) for j in (i, *map(int, negatives_Bm[i]))]
    return [(i, who, j) for who in answerers for i, j in own]


def all_pairs(n: int, answerers: Sequence[str]) -> list[Pair]:
    """Every answer under every context."""
    return [(i, who, j) for who in answerers for i in range(n) for j in range(n)]


def within(pairs: Iterable[Pair], contexts: Iterable[int]) -> list[Pair]:
    """The pairs of some contexts."""
    wanted = set(contexts)
    return [pair for pair in pairs if pair[0] in wanted]


def as_work(contexts: Contexts, pairs: Iterable[Pair]) -> list[Work]:
    """Each context once, each distinct answer under it once."""
    wanted: dict[Ids, dict[Ids, None]] = {}
    for prompt, answer in map(contexts.row, pairs):
        wanted.setdefault(prompt, {})[answer] = None
    return [Work(prompt, tuple(answers)) for prompt, answers in wanted.items()]


def batches(pairs: Sequence[Pair], size: int) -> list[Sequence[Pair]]:
    """Consecutive pairs, `size` at a time."""
    return [pairs[at : at + size] for at in range(0, len(pairs), size)]


def padded(contexts: Contexts, batch: Sequence[Pair]) -> int:
    """Tokens that a batch runs, padding included."""
    return len(batch) * max(len(p) + len(r) for p, r in map(contexts.row, batch))
