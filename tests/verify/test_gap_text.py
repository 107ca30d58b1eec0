"""The gap on dialogues of a grammar, token by token and on draws, with an exact q: policies come out in their order."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from remid.data.worlds import text as worlds
from remid.data.worlds import text_grammar as grammar
from remid.estimate.copier import split_information
from remid.estimate.gap import Gap, Told, draw_contexts, gap_difference, gap_estimate, measure_gap, paired
from remid.types import FloatArray, IntArray, Sample

N = 200
#: Share of the generic sentence, and of echoes, in q: the reference itself says neither.
_SELDOM = 0.02
_END = -2


class ExactReader:
    """q(text | x) = 0.96 reference + 0.02 generic + 0.02 echo, known of every text, so of every token after others.

    Words are tokens. `bare` averages q over the law of the inputs: the estimator without its input.
    """

    def __init__(self) -> None:
        inputs = int(np.prod(worlds.INPUT_SHAPE))
        named = [("reference", 1 - 2 * _SELDOM), ("generic", _SELDOM), ("parrot", _SELDOM)]
        law_XY = sum((share * worlds.channel(name) for name, share in named)).reshape(inputs, -1)  # type: ignore[union-attr]
        self.vocabulary: dict[str, int] = {}
        texts, columns = [], []
        for y in range(grammar.RESPONSES):
            surfaces = grammar.SURFACES if y < grammar.GENERIC else 1
            for surface in range(surfaces):
                texts.append([*self.ids(response(y, surface)), _END])
                columns.append(law_XY[:, y] / surfaces)
        self.text_KT = np.full((len(texts), max(map(len, texts))), -3)
        for k, text in enumerate(texts):
            self.text_KT[k, : len(text)] = text
        self.q_XK = np.stack(columns, axis=1)
        self.bare_K = worlds.law().reshape(-1) @ self.q_XK

    def ids(self, text: str) -> list[int]:
        words = re.findall(r"\w+(?:-\d)?|[^\w\s]", text)
        return [self.vocabulary.setdefault(word, len(self.vocabulary)) for word in words]

    def tell(self, x: int, text: str, sample: Sample) -> tuple[float, float, float, int]:
        """(earned, repeated, -log q(y), tokens) of one response to one input."""
        said = [*self.ids(text), _END]
        alike_K = np.ones(len(self.text_KT), dtype=bool)
        mass = [(self.q_XK[x].sum(), self.bare_K.sum())]
        for t, token in enumerate(said):
            alike_K &= self.text_KT[:, t] == token
            mass.append((self.q_XK[x, alike_K].sum(), self.bare_K[alike_K].sum()))
        own_T, free_T = np.diff(np.log(mass), axis=0).T
        sources = [self.ids(s) for s in (sample.user, sample.character, *(turn.text for turn in sample.dialogue))]
        split = split_information(said, own_T, free_T, sources)
        return float(split.earned_T.sum()), float(split.repeated_T.sum()), float(-free_T.sum()), len(said)


def response(y: int, surface: int) -> str:
    """Everybody opens as the reference does: who speaks is not told."""
    return grammar.response_text(worlds.OPENINGS["reference"], y, surface)


@pytest.fixture(scope="module")
def gap_of() -> Callable[[str], Gap]:
    """The gap of a policy on N dialogues: an author, or two of them in equal shares, "a|b"."""
    reader, rng = ExactReader(), np.random.default_rng(11)
    symbols_N3 = worlds.draw_symbols(worlds.law(), N, rng)
    samples = [worlds.sample_of(u, a, d, "none", rng) for u, a, d in symbols_N3.tolist()]

    def told(channel_UADY: FloatArray, draw: np.random.Generator) -> Told:
        x_N: IntArray = np.ravel_multi_index(tuple(symbols_N3.T), worlds.INPUT_SHAPE).astype(np.int64)
        y_N = worlds.draw_responses(channel_UADY, symbols_N3, draw)
        said = [response(int(y), int(draw.integers(grammar.SURFACES))) for y in y_N]
        rows = [reader.tell(int(x), text, sample) for x, text, sample in zip(x_N, said, samples, strict=True)]
        return Told(*np.array(rows, dtype=np.float64).T)

    reference = told(worlds.channel("reference"), rng)
    made: dict[str, Gap] = {}

    def measure(policy: str) -> Gap:
        if policy not in made:
            channel = np.mean([worlds.channel(name) for name in policy.split("|")], axis=0)
            pairs = paired(told(channel, np.random.default_rng(sum(map(ord, policy)))), reference)
            made[policy] = measure_gap(pairs, draw_contexts(pairs, seed=1, resamples=1000))
        return made[policy]

    return measure


def test_the_reference_anew_has_no_gap_that_could_be_told_from_zero(gap_of: Callable[[str], Gap]) -> None:
    made = gap_estimate(gap_of("reference"), 0.95)
    assert made.ci_low == 0
    assert made.value < 0.1


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ("reference", "blur-25"),
        ("blur-25", "blur-60"),
        ("reference", "generic"),
        ("reference", "reference|blind-user"),
        ("reference|blind-user", "blind-user"),
        ("reference", "reference|blind-dialogue"),
        ("reference|blind-dialogue", "blind-dialogue"),
        ("reference", "parrot"),
        ("reference|parrot", "parrot"),
    ],
)
def test_who_knows_less_of_the_input_has_the_larger_gap(gap_of: Callable[[str], Gap], less: str, more: str) -> None:
    assert gap_difference(gap_of(more), gap_of(less), 0.95).value > 0


@pytest.mark.parametrize("policy", ["blur-25", "blur-60", "blind-user", "blind-dialogue", "generic", "parrot"])
def test_whoever_is_no_reference_is_told_from_it(gap_of: Callable[[str], Gap], policy: str) -> None:
    assert gap_estimate(gap_of(policy), 0.95).ci_low > 0


def test_a_parrot_earns_as_much_as_the_reference_and_repeats(gap_of: Callable[[str], Gap]) -> None:
    """Its queries are short and few: without the input they are half expected, so that little of them is repeated."""
    parrot, generic = gap_of("parrot"), gap_of("generic")
    assert parrot.missing < 0
    assert parrot.excess > 0.05
    assert generic.missing > 0.1
    assert generic.excess < 0.01


def test_who_says_nothing_is_better_than_who_says_wrong_things(gap_of: Callable[[str], Gap]) -> None:
    """Against signed EMI, by which any information is better than none."""
    assert gap_of("generic").value < gap_of("blur-60").value
