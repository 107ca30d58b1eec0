"""A base model for the hops world: like a language model, it knows single steps and has never had to chain them.

It has seen traces in which each fact, where it is not left open or a guess, follows from what is named before it, true
or not; and responses that take up what a trace names, with facts drawn at random. It has never seen an answer that
follows from an input: the way from input to answer is left for LoRA to learn, directly or by way of traces. A few
hundred thousand weights, an ordinary model folder, made in minutes on one core.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from remid.data.worlds import hops
from remid.lm.chat import ChatRenderer, Message
from remid.lm.small import MARK, frames, small_llama, word_tokenizer
from remid.pipeline.prompts import role_play_messages
from remid.pipeline.reason import trace_messages
from remid.pipeline.traces import parse_trace
from remid.types import Sample, Turn

Ids = npt.NDArray[np.int64]

_MAX_LENGTH = 256
_IGNORED = -100  # the label that is left out of the loss
#: In the base's own traces: how often a fact is left open, and how often one that is named is what follows.
_OPEN_SHARE, _KNOWN = 1 / 3, 0.8
#: Shares of traces, of responses behind a trace, and of responses without one: the steps are the hardest to learn.
_KINDS = (0.6, 0.25, 0.15)


@dataclass(frozen=True, slots=True)
class BaseTraining:
    """How the base is made. inputs: how many it sees. batch: sequences per step. seed: of weights, inputs and order."""

    steps: int = 1400
    batch: int = 64
    inputs: int = 2000
    width: int = 96
    layers: int = 3
    rate: float = 4e-3
    seed: int = 0


def make_base(folder: Path, settings: BaseTraining | None = None) -> Path:
    """The base in a folder, made there unless it stands there already. Whole or not at all."""
    if (folder / "config.json").exists():
        return folder
    tokenizer = make_tokenizer()
    model = _train(tokenizer, settings or BaseTraining())
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".base-") as scratch:
        made = Path(scratch) / "base"
        model.save_pretrained(made)
        tokenizer.save_pretrained(made)
        made.rename(folder)
    return folder


def make_tokenizer() -> Any:
    """A tokenizer that knows every text of the hops world and what the prompts put around it (lm/small.py).

    Punctuation marks are tokens of their own.
    """
    talk = tuple(Turn("agent" if k == 1 else "user", MARK) for k in range(3))
    probe = Sample("", "", "", "", MARK, MARK, talk, "")
    fixed = frames(m.content for m in (*role_play_messages(probe, MARK), *trace_messages(probe, "compact")))
    texts = [part for text in hops.all_texts() for part in (text, parse_trace(text).features) if part]
    return word_tokenizer(fixed, texts, r"[ \n]?[^\s.,]+|[.,]", _MAX_LENGTH)


@dataclass(frozen=True, slots=True)
class _Rows:
    """Token sequences whose words for mood, place and gift are put in as they are drawn.

    ids_NL: padded at the end with the end of turn. length_N. slots_N3: places of a trace's three words (0: none).
    answer_N: where the completion begins. openings: the two words with which a response may begin. symbols_N3: of the
    input.
    """

    ids_NL: Ids
    length_N: Ids
    slots_N3: Ids
    answer_N: Ids
    openings: Ids
    symbols_N3: Ids


def _train(tokenizer: Any, settings: BaseTraining) -> Any:
    import torch

    rng = np.random.default_rng(np.random.SeedSequence(settings.seed))
    rows, words_3W = _rows(tokenizer, settings)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        model = small_llama(tokenizer, settings.width, settings.layers)
        optimiser = torch.optim.AdamW(model.parameters(), lr=settings.rate, betas=(0.9, 0.98), weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: min(1.0, (step + 1) / 30) * (1 - step / settings.steps)
        )
        model.train()
        for _ in range(settings.steps):
            kinds = rng.choice(3, size=settings.batch, p=_KINDS)
            chosen = 3 * rng.integers(len(rows.ids_NL) // 3, size=settings.batch) + kinds
            ids, labels, mask = (torch.from_numpy(a) for a in _draw(rows, words_3W, chosen, rng))
            loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
    return model.eval()


def _rows(tokenizer: Any, settings: BaseTraining) -> tuple[_Rows, Ids]:
    """Of each input three sequences: asked for a trace, answered with a trace, answered without one.

    Also (3, 9) the tokens of mood, place and gift as a trace names them, OPEN last.
    """
    renderer = ChatRenderer(tokenizer)
    trace = hops.trace_text([0, 0, 0])
    features = parse_trace(trace).features
    word_ids = [
        [tokenizer.convert_tokens_to_ids(f" {w}") for w in (*words, hops.OPEN)] for words in hops.FACTS.values()
    ]
    words_3W = np.array(word_ids, dtype=np.int64)
    answer = renderer.response_ids(hops.response_text([0, 0, 0], 0))
    made: list[tuple[list[int], int]] = []
    # Every law in turn, so that no symbol is rare.
    shifts = [shift for shift in hops.SPLITS if shift != "id"]
    each = settings.inputs // len(shifts)
    inputs = [s for k in shifts for s in hops.make_samples(hops.HopsWorld(), each, 1000 + settings.seed, shift=k)]
    for sample in inputs:
        asked: list[tuple[list[Message], list[int]]] = [
            (trace_messages(sample, "compact"), renderer.response_ids(trace)),
            (role_play_messages(sample, features), answer),
            (role_play_messages(sample, None), answer),
        ]
        made += [([*(prompt := renderer.prompt_ids(m)), *said], len(prompt)) for m, said in asked]
    longest = max(len(ids) for ids, _ in made)
    ids_NL = np.array([ids + [renderer.end_of_turn_id] * (longest - len(ids)) for ids, _ in made], dtype=np.int64)
    answer_N = np.array([start for _, start in made], dtype=np.int64)
    slots_N3 = np.stack([_first(ids_NL, int(words_3W[k, 0]), made) for k in range(3)], axis=-1)
    length_N = np.array([len(ids) for ids, _ in made], dtype=np.int64)
    openings = np.array([tokenizer.convert_tokens_to_ids(word) for word in hops.OPENINGS], dtype=np.int64)
    symbols_N3 = np.repeat(np.array([hops.read_input(sample) for sample in inputs], dtype=np.int64), 3, axis=0)
    return _Rows(ids_NL, length_N, slots_N3, answer_N, openings, symbols_N3), words_3W


def _first(ids_NL: Ids, word: int, made: Sequence[tuple[list[int], int]]) -> Ids:
    """(N,) place of a trace's word in each sequence; 0 where a word stands in the response alone."""
    kind_N = np.arange(len(made)) % 3
    return np.where(kind_N == 2, 0, np.argmax(ids_NL == word, axis=1)).astype(np.int64)


def _draw(rows: _Rows, words_3W: Ids, chosen: Ids, rng: np.random.Generator) -> tuple[Ids, Ids, Ids]:
    """(B, L) ids, labels and attention mask of a step. A response takes up what is named with probability 0.7."""
    n, kinds, facts = len(chosen), chosen % 3, len(hops.FACTS)
    ids_BL = rows.ids_NL[chosen].copy()
    random_B3 = rng.integers(hops.SIZE, size=(n, facts))
    open_B3 = rng.random((n, facts)) < _OPEN_SHARE
    steps_B3 = _stepwise(rows.symbols_N3[chosen], random_B3, open_B3, rng)
    named_B3 = np.where(open_B3, hops.SIZE, np.where((kinds == 0)[:, None], steps_B3, random_B3))
    heard_B3 = (kinds == 1)[:, None] & (named_B3 < hops.SIZE) & (rng.random((n, facts)) < 0.7)
    said_B3 = np.where(heard_B3, named_B3, rng.integers(hops.SIZE, size=(n, facts)))
    row_B = np.arange(n)
    with_trace, answered = kinds < 2, kinds > 0
    ids_BL[row_B[answered], rows.answer_N[chosen][answered]] = rng.choice(rows.openings, int(answered.sum()))
    for k in range(facts):
        place_B = rows.slots_N3[chosen, k]
        ids_BL[row_B[with_trace], place_B[with_trace]] = words_3W[k][named_B3[with_trace, k]]
        # A response is an opening, gift, place and mood.
        said = rows.answer_N[chosen] + facts - k
        ids_BL[row_B[answered], said[answered]] = words_3W[k][said_B3[answered, k]]
    place_L = np.arange(ids_BL.shape[1])[None]
    inside_BL = place_L < rows.length_N[chosen][:, None]
    labels_BL = np.where((place_L >= rows.answer_N[chosen][:, None]) & inside_BL, ids_BL, _IGNORED)
    return ids_BL, labels_BL, inside_BL.astype(np.int64)


def _stepwise(symbols_B3: Ids, random_B3: Ids, open_B3: npt.NDArray[np.bool_], rng: np.random.Generator) -> Ids:
    """(B, 3) facts, each with probability _KNOWN what follows from the one before as it is named, else a guess.

    Behind a fact that is left open there is nothing to follow from: a guess.
    """
    mood_KK, place_KK, gift_KK = hops.tables(hops.HopsWorld())
    user_B, character_B, topic_B = symbols_B3.T
    known_B3 = rng.random(random_B3.shape) < _KNOWN
    known_B3[:, 1:] &= ~open_B3[:, :-1]
    mood_B = np.where(known_B3[:, 0], mood_KK[user_B, character_B], random_B3[:, 0])
    place_B = np.where(known_B3[:, 1], place_KK[mood_B, topic_B], random_B3[:, 1])
    gift_B = np.where(known_B3[:, 2], gift_KK[place_B, user_B], random_B3[:, 2])
    return np.stack([mood_B, place_B, gift_B], axis=-1)
