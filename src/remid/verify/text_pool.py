"""Everything that the check on text worlds can draw, scored once: prompts of every input, a text of every response."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
import numpy.typing as npt

from remid.data.worlds import text as worlds
from remid.data.worlds import text_grammar as grammar
from remid.estimate import exact
from remid.lm.chat import ChatRenderer
from remid.lm.models import LoadedModel
from remid.types import FloatArray, IntArray
from remid.verify.tiny import Prompts, all_symbols, draw_prompts, padded, score_table, voice_weight

BoolArray = npt.NDArray[np.bool_]

#: Whose log-likelihoods: the trained model's, the exact conditional's, and both again where one q stands for all slot
#: authors because nothing tells them apart ("one ...").
Source = Literal["trained", "exact", "one trained", "one exact"]

#: exp of it is 0 beside anything that a response could have; a finite score keeps an impossible pair in the matrix.
_IMPOSSIBLE = -200.0


@dataclass(frozen=True, slots=True)
class Pool:
    """Everything that can be drawn, and its scores: prompts of every input symbol, one text per voice and response.

    table: (source, reveals) -> log q (N prompts, V voices, Y responses), NaN where a voice never says a response.
    prompt_XK: numbers of the K prompts of each input symbol. voices: names in order of V.
    """

    voices: tuple[str, ...]
    prompt_XK: IntArray
    table: Mapping[tuple[Source, grammar.Reveals], FloatArray]

    def scores(
        self, source: Source, reveals: grammar.Reveals, author: str, prompt_B: IntArray, y_B: IntArray
    ) -> FloatArray:
        """S_BB: log q(y_j | x_i) of an author's responses under the prompts."""
        slot = author in worlds.SLOT_AUTHORS
        voice = worlds.ANONYMOUS if slot and source.startswith("one") else author
        found_NVY = self.table[source, reveals]
        return np.asarray(found_NVY[prompt_B[:, None], self.voices.index(voice), y_B[None, :]])


def make_pool(
    sources: Sequence[Source],
    kinds: Sequence[grammar.Reveals],
    voices: tuple[str, ...],
    surfaces: int,
    loaded: LoadedModel | None,
    seed: int,
) -> Pool:
    """Prompts with and without traces (surface forms of their own), one surface form per response, and their scores.

    Raises ValueError where a source needs a trained model and there is none.
    """
    symbols_N3 = all_symbols(surfaces)
    n_x = int(np.prod(worlds.INPUT_SHAPE))
    prompt_XK = np.arange(len(symbols_N3)).reshape(surfaces, n_x).T
    law_VXY = np.stack([worlds.channel(name) for name in voices]).reshape(len(voices), n_x, -1)
    x_N = np.ravel_multi_index(tuple(symbols_N3.T), worlds.INPUT_SHAPE)
    with np.errstate(divide="ignore"):
        exact_NVY = np.maximum(np.log(law_VXY), _IMPOSSIBLE).transpose(1, 0, 2)[x_N]
    table: dict[tuple[Source, grammar.Reveals], FloatArray] = {}
    for source, reveals in product(sources, kinds):
        if source.endswith("exact"):
            table[source, reveals] = exact_NVY
        elif ("trained", reveals) not in table:
            if loaded is None:
                raise ValueError(f"source {source!r} needs a trained model")
            renderer = ChatRenderer(loaded.tokenizer)
            prompts = draw_prompts(symbols_N3, [reveals] * len(symbols_N3), seed + 77, renderer)
            table["trained", reveals] = _scored(loaded, prompts, law_VXY.max(axis=1) > 0, voices, seed)
            table["one trained", reveals] = table["trained", reveals]
    return Pool(voices, prompt_XK, table)


def _scored(loaded: LoadedModel, prompts: Prompts, said_VY: BoolArray, voices: Sequence[str], seed: int) -> FloatArray:
    """(N, V, Y) log q of one text per voice and response; NaN where the voice never says it."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 5]))
    renderer = ChatRenderer(loaded.tokenizer)
    texts = [
        grammar.response_text(worlds.OPENINGS.get(voices[v], ""), y, int(rng.integers(grammar.SURFACES)))
        for v, y in np.argwhere(said_VY)
    ]
    ids = padded([renderer.response_ids(text) for text in texts])
    out_NVY = np.full((len(prompts.ids), *said_VY.shape), np.nan)
    out_NVY[:, said_VY] = score_table(loaded, prompts.ids, ids)
    return out_NVY


@dataclass(frozen=True, slots=True)
class Fit:
    """How near-exact the trained q is for one author: held-out cross-entropy minus exact entropy, nats per response.

    information: I(X; Y) under the ID law. reached: E log q(y|x) - E log E_x' q(y|x') under that law, which InfoNCE and
    leave-one-out tend to with many candidates; at most `information`.
    """

    author: str
    reveals: grammar.Reveals
    excess: float
    information: float
    reached: float


def fits_of(pool: Pool) -> tuple[Fit, ...]:
    """Of every voice under the ID law, from the whole table: no sampling error but that of surface forms."""
    p_X = worlds.law().reshape(-1)
    fits = []
    for (source, reveals), table_NVY in pool.table.items():
        if source != "trained":
            continue
        for v, author in enumerate(pool.voices):
            w_XY = worlds.channel(author).reshape(p_X.size, -1)
            said_Y = w_XY.max(axis=0) > 0
            q_XKY = table_NVY[pool.prompt_XK, v][..., said_Y]
            joint_XKY = (p_X[:, None] * w_XY[:, said_Y])[:, None, :] * np.ones(q_XKY.shape[:2])[..., None]
            joint_XKY = joint_XKY / joint_XKY.sum()
            # Averaged over x and surface forms; the highest score per column keeps exp from underflowing.
            top_Y = q_XKY.max(axis=(0, 1))
            weight_XK1 = (p_X[:, None] / q_XKY.shape[1] * np.ones(q_XKY.shape[:2]))[..., None]
            mixed_Y = np.log(np.sum(weight_XK1 * np.exp(q_XKY - top_Y), axis=(0, 1))) + top_Y
            log_q = float(np.sum(joint_XKY * q_XKY))
            reached = log_q - float(np.sum(joint_XKY * mixed_Y))
            entropy = float(exact.mean_over(p_X, exact.entropy(w_XY)))
            constant = _voice_entropy(author, pool.voices)
            fits.append(Fit(author, reveals, -log_q - entropy - constant, float(exact.information(p_X, w_XY)), reached))
    return tuple(fits)


def _voice_entropy(author: str, voices: Sequence[str]) -> float:
    """What is the same for every response of a voice: -log of its weight in training, and of one surface form."""
    surfaces = grammar.SURFACES if author in worlds.OPENINGS else 1
    return float(np.log(surfaces) - np.log(voice_weight(author, voices)))
