"""CoRL's rewards (arXiv 2512.17270, algorithm 1) as plain functions of numbers, and how TRL is given them.

q1 is rewarded for traces under which q2 finds the reference likely, q2 for responses that the frozen reference model
finds as likely as the reference response. A reward that cannot be computed is None, and then all parts of that row are:
TRL adds parts up with nansum, which would count a missing part as 0.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from remid.pipeline.traces import FULL_HEADINGS, parse_trace
from remid.train.config import GrpoSettings, Transform
from remid.train.signals import Said, examples, step_signals

Reward = Callable[..., list[float | None]]

_FENCED = re.compile(r"```[a-z]*\n.+?\n```", re.DOTALL)
#: What a response must not hold: headings, and labels of speakers, which is where small models ramble on.
_NO_RESPONSE = re.compile(r"^\s*(#{1,6}\s|User:|Character:|Content:|Style:)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Likelihood:
    """log q of one completion: nats summed over its tokens, and how many they are."""

    nats: float
    tokens: int

    @property
    def mean(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens


def likelihood_reward(found: Likelihood, without: Likelihood | None, transform: Transform) -> float:
    """The reference's likelihood under a trace as a reward. without: the same without a trace, for "advantage"."""
    if transform == "exp":
        return math.exp(found.mean)
    if transform == "mean":
        return found.mean
    if transform == "sum":
        return found.nats
    if without is None:
        raise ValueError("the advantage of a trace needs the likelihood without one")
    return found.mean - without.mean


def trace_format_reward(text: str, form: str) -> float:
    """Full traces: 0.5 for a fenced block, 0.5 for all headings (the paper's). Compact ones: 1 where they parse."""
    if form == "compact":
        return float(parse_trace(text).features is not None)
    lines = [line.strip() for line in text.splitlines()]
    headed = all(lines.count(heading) == 1 for heading in FULL_HEADINGS)
    return 0.5 * bool(_FENCED.search(text)) + 0.5 * headed


def length_reward(tokens: int, target: int) -> float:
    """Tokens of the core features over the target, at most 1. Tokens, since words by spaces are none in Chinese."""
    return min(tokens / target, 1.0)


def typical_reward(found: Likelihood, reference: Likelihood, ratio: str) -> float:
    """min(pi_ref(sampled|x,r) / pi_ref(reference|x,r), 1), of means per token ("mean") or whole responses ("sum").

    The other way round, as the paper's letters allow too, what is unlikelier than the reference would earn the most.
    Likely responses earn more, so q2 becomes sharper than the law (docs/training.md).
    """
    gap = found.mean - reference.mean if ratio == "mean" else found.nats - reference.nats
    return math.exp(min(gap, 0.0))


def response_shape_reward(text: str, finished: bool) -> float:
    """1 for a response that ends by itself, says something, and holds no heading or speaker's label."""
    return float(finished and bool(text.strip()) and not _NO_RESPONSE.search(text))


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled completion of a row. sample: its id. ids: tokens as sampled; finished: ends with its end of turn."""

    sample: str
    text: str
    ids: tuple[int, ...]
    finished: bool


class RewardBatch:
    """TRL asks for one reward after the other; this computes them all for a batch when the first is asked for.

    compute: completions -> for each, its parts by name, or None where one of them cannot be computed. weights: of the
    parts, in the order in which TRL is given them. parsed: whether a completion follows its format. end_of_turn: the
    token that ends a completion. show: is given a few completions of each batch, for whoever watches.
    With every batch its signals (train/signals.py) and the seconds it took are logged.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Completion]], Sequence[Mapping[str, float] | None]],
        weights: Mapping[str, float],
        parsed: Callable[[Completion], bool],
        end_of_turn: int,
        show: Callable[[Sequence[Mapping[str, Any]]], None] = lambda rows: None,
    ) -> None:
        self.weights = dict(weights)
        self._compute, self._parsed, self._end, self._show = compute, parsed, end_of_turn, show
        self._known: tuple[Any, list[Mapping[str, float] | None]] | None = None

    @property
    def functions(self) -> list[Reward]:
        """One plain function per part, named as it is logged."""
        return [self._function(name) for name in self.weights]

    def _function(self, name: str) -> Reward:
        def reward(
            completions: Sequence[Any], completion_ids: Sequence[Sequence[int]], sample_id: Sequence[str], **more: Any
        ) -> list[float | None]:
            rows = self._rows(completions, completion_ids, sample_id, more.get("log_metric"))
            return [None if row is None else row[name] for row in rows]

        reward.__name__ = name
        return reward

    def _rows(
        self,
        completions: Sequence[Any],
        ids: Sequence[Sequence[int]],
        samples: Sequence[str],
        log: Callable[[str, float], None] | None,
    ) -> list[Mapping[str, float] | None]:
        key = tuple(samples), tuple(map(tuple, ids))
        if self._known is None or self._known[0] != key:
            begin = time.perf_counter()
            asked = [
                Completion(sample, _text(said), tuple(tokens), bool(tokens) and tokens[-1] == self._end)
                for sample, said, tokens in zip(samples, completions, ids, strict=True)
            ]
            rows = list(self._compute(asked))
            self._known = key, rows
            if log is not None:
                log("seconds/reward", time.perf_counter() - begin)
                self._tell(asked, rows, log)
        return self._known[1]

    def _tell(
        self,
        asked: Sequence[Completion],
        rows: Sequence[Mapping[str, float] | None],
        log: Callable[[str, float], None],
    ) -> None:
        said = [
            Said(one.sample, one.text, one.ids, one.finished, self._parsed(one), row)
            for one, row in zip(asked, rows, strict=True)
        ]
        for name, value in step_signals(said, self.weights).items():
            log(f"signals/{name}", value)
        self._show(examples(said))


def trace_parts(
    text: str, found: Likelihood, without: Likelihood | None, feature_tokens: int, form: str, how: GrpoSettings
) -> dict[str, float]:
    """q1's rewards by name."""
    return {
        "likelihood": likelihood_reward(found, without, how.reward),
        "format": trace_format_reward(text, form),
        "length": length_reward(feature_tokens, how.length_target),
    }


def response_parts(said: Completion, found: Likelihood, reference: Likelihood, how: GrpoSettings) -> dict[str, float]:
    """q2's rewards by name."""
    return {
        "typical": typical_reward(found, reference, how.ratio),
        "shape": response_shape_reward(said.text, said.finished),
    }


def _text(said: Any) -> str:
    """The text of a completion as TRL gives it: a string, or a list with one message."""
    return said if isinstance(said, str) else str(said[0]["content"])
