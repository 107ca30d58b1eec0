"""A causal model of a hundred thousand weights that learns the text world's q(y|x, r) in about a minute on one core.

One q for everybody, as in a real run: the same model scores the reference and every policy under the same prompt. It
can be exact for each author because an author is known by his opening word: q(y|x) = w(author) p(y|x, author), and
the constant w drops out of every estimator that compares inputs for one response. Responses by the anonymous voice
take that away: there q is the mixture of all slot authors, which is what one q is in earnest.

It is saved as an ordinary model folder, and the package's own Scorer and pipeline can use it like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from remid.data.worlds import text as worlds
from remid.data.worlds import text_grammar as grammar
from remid.lm.chat import ChatRenderer, Message
from remid.lm.models import LoadedModel, ModelSource
from remid.lm.small import MARK, frames, small_llama, word_tokenizer
from remid.pipeline.prompts import role_play_messages
from remid.pipeline.traces import parse_trace
from remid.types import FloatArray, IntArray, Sample, Turn

if TYPE_CHECKING:
    import torch

_MAX_LENGTH = 512
#: Token sequences of responses, padded with -1: (N, longest).
Ids = npt.NDArray[np.int64]


#: Everyone who can speak in training.
VOICES = (*worlds.OPENINGS, "generic", "parrot")


@dataclass(frozen=True, slots=True)
class Training:
    """How long, how wide, and whose responses. prompts, responses: per step. rate: the highest learning rate.

    pool: surface forms of each input symbol that the model sees. seed decides weights, samples and their order.
    """

    steps: int = 2000
    prompts: int = 12
    responses: int = 16
    width: int = 64
    layers: int = 2
    rate: float = 8e-3
    pool: int = 12
    seed: int = 0
    voices: tuple[str, ...] = VOICES


@dataclass(frozen=True, slots=True)
class Prompts:
    """Inputs as the model sees them. symbols_N3: user, character, dialogue of each; ids: its tokens."""

    symbols_N3: IntArray
    ids: tuple[list[int], ...]


def messages_of(sample: Sample) -> list[Message]:
    """The prompt that the pipeline would show for a sample, with its trace where it has one."""
    features = None if sample.trace is None else parse_trace(sample.trace).features
    return role_play_messages(sample, features)


def make_tokenizer() -> Any:
    """A tokenizer that knows every text of the grammar and the frame of the prompts (lm/small.py).

    The generic sentence is one token, as a fixed piece of the system message is.
    """
    said = [
        *(f"{opening} consider" for opening in worlds.OPENINGS.values()),
        *(grammar.response_text("Ah,", y, s) for y in range(grammar.SLOT_RESPONSES) for s in range(grammar.SURFACES)),
    ]
    probe = Sample("", "", "", "", MARK, MARK, (Turn("user", MARK),), "")
    fixed = frames([*(m.content for m in role_play_messages(probe, MARK)), grammar.GENERIC_SENTENCE])
    return word_tokenizer(fixed, (*grammar.all_texts(), *said), r"[ \n]?[^\s]+", _MAX_LENGTH)


def draw_prompts(
    symbols_N3: IntArray, reveals: Sequence[grammar.Reveals], seed: int, renderer: ChatRenderer
) -> Prompts:
    """Inputs of given symbols in surface forms of their own, with traces that reveal as much as `reveals` says."""
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    ids = []
    for (user, character, dialogue), reveal in zip(symbols_N3.tolist(), reveals, strict=True):
        sample = worlds.sample_of(user, character, dialogue, reveal, rng)
        ids.append(renderer.prompt_ids(messages_of(sample)))
    return Prompts(symbols_N3, tuple(ids))


def all_symbols(times: int) -> IntArray:
    """Every input symbol, `times` times over: (times * |X|, 3)."""
    indices = np.indices(worlds.INPUT_SHAPE).reshape(3, -1).T
    return np.tile(indices, (times, 1)).astype(np.int64)


def train_tiny(settings: Training) -> LoadedModel:
    """A model trained on responses drawn from the voices' channels; inputs uniform over symbols and kinds of trace."""
    import torch

    tokenizer = make_tokenizer()
    renderer = ChatRenderer(tokenizer)
    rng = np.random.default_rng(np.random.SeedSequence(settings.seed))
    symbols_N3 = all_symbols(settings.pool)
    kinds: list[grammar.Reveals] = ["none", "partial", "full"]
    reveals = [kinds[k] for k in rng.integers(3, size=len(symbols_N3))]
    prompts = draw_prompts(symbols_N3, reveals, settings.seed + 1, renderer)
    voices = _voices(renderer, settings.voices)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        model = small_llama(tokenizer, settings.width, settings.layers)
        _fit(model, prompts, voices, settings, rng)
    source = ModelSource("text-world-tiny", None, f"tiny:{settings}")
    return LoadedModel(source, model.eval(), tokenizer, torch.device("cpu"), "float32", _MAX_LENGTH)


def save_tiny(loaded: LoadedModel, folder: Path) -> None:
    """Write model (safetensors) and tokenizer as a folder that `--model` accepts."""
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)


@dataclass(frozen=True, slots=True)
class _Voices:
    """Who speaks in training: weight_V of each voice, channel_VXY laws, and the ids of all their responses.

    ids_VYST: (voices, responses, surfaces, tokens), end of turn included, -1 behind it.
    """

    weight_V: FloatArray
    below_VXY: FloatArray
    ids_VYST: Ids


def voice_weight(author: str, voices: Sequence[str] = VOICES) -> float:
    """Share of an author's responses (or the anonymous voice's) in training: the factor w(author) of q."""
    # What generic and parrot say is learnt soon; the others need the samples.
    share = {name: 0.5 if name in ("generic", "parrot") else 1.0 for name in voices}
    return share[author] / sum(share.values())


def _voices(renderer: ChatRenderer, names: Sequence[str]) -> _Voices:
    weight_V = np.array([voice_weight(name, names) for name in names])
    shape = (len(names), -1, grammar.RESPONSES)
    below_VXY = np.cumsum(np.stack([worlds.channel(name) for name in names]).reshape(shape), axis=-1)
    rows = [
        renderer.response_ids(grammar.response_text(worlds.OPENINGS["reference"], response, surface))
        for response in range(grammar.RESPONSES)
        for surface in range(grammar.SURFACES)
    ]
    ids = np.tile(padded(rows).reshape(1, grammar.RESPONSES, grammar.SURFACES, -1), (len(names), 1, 1, 1))
    # Authors differ in their first word alone.
    for v, name in enumerate(names):
        if name in worlds.OPENINGS:
            ids[v, : grammar.SLOT_RESPONSES, :, 0] = renderer.response_ids(worlds.OPENINGS[name])[0]
    return _Voices(weight_V, below_VXY, ids)


def padded(rows: Sequence[Sequence[int]]) -> Ids:
    """(N, longest), -1 behind each row's end."""
    out = np.full((len(rows), max(map(len, rows))), -1, dtype=np.int64)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out


def _draw(voices: _Voices, x_N: IntArray, responses: int, rng: np.random.Generator) -> Ids:
    """(N, responses, tokens): responses by voices drawn at random, -1 behind each one's end."""
    shape = (x_N.size, responses)
    v_NK = rng.choice(voices.weight_V.size, p=voices.weight_V, size=shape)
    y_NK = np.sum(voices.below_VXY[v_NK, x_N[:, None]] < rng.random((*shape, 1)) * (1 - 1e-12), axis=-1)
    surface_NK = rng.integers(grammar.SURFACES, size=shape)
    return np.asarray(voices.ids_VYST[v_NK, y_NK, surface_NK], dtype=np.int64)


def _fit(model: Any, prompts: Prompts, voices: _Voices, settings: Training, rng: np.random.Generator) -> None:
    import torch

    optimiser = torch.optim.AdamW(model.parameters(), lr=settings.rate, betas=(0.9, 0.98), weight_decay=0.0)

    def rate(step: int) -> float:
        return min(1.0, (step + 1) / 30) * (1 - step / settings.steps)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
    x_N = np.ravel_multi_index(tuple(prompts.symbols_N3.T), worlds.INPUT_SHAPE)
    # Prompts of about one length share a step, so that little of it is padding.
    by_length = np.argsort([len(ids) for ids in prompts.ids], kind="stable")
    model.train()
    for _ in range(settings.steps):
        start = int(rng.integers(x_N.size - 4 * settings.prompts))
        chosen = rng.choice(by_length[start : start + 4 * settings.prompts], settings.prompts, replace=False)
        drawn = _draw(voices, x_N[chosen], settings.responses, rng)
        logp_NKT = _log_probs(model, [prompts.ids[i] for i in chosen], drawn)
        loss = -logp_NKT.sum() / drawn.shape[0] / drawn.shape[1]
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()


def _log_probs(model: Any, prompts: Sequence[Sequence[int]], drawn_NKT: Ids) -> torch.Tensor:
    """(N, K, T) log-probabilities of K responses under each of N prompts, 0 behind a response's end.

    A prompt is run once: its responses stand behind it in one row, each hidden from the others, as in lm/layouts.py.
    """
    import torch

    N, K, T = drawn_NKT.shape
    lengths_N = torch.tensor([len(p) for p in prompts])
    P = int(lengths_N.max())
    # Prompts end at column P; what stands before a shorter one is hidden.
    left = torch.tensor([[0] * (P - len(p)) + list(p) for p in prompts])
    drawn = torch.from_numpy(drawn_NKT)
    fed = drawn[:, :, :-1].clamp(min=0).reshape(N, -1)
    row_L = torch.arange(P + K * (T - 1))
    block_L = torch.where(row_L < P, -1, (row_L - P) // (T - 1))
    within_L = torch.where(row_L < P, row_L - P, (row_L - P) % (T - 1))
    seen_LL = ((block_L[None] == block_L[:, None]) | (block_L[None] == -1)) & (row_L[None] <= row_L[:, None])
    real_NL = (row_L[None] >= P) | (row_L[None] >= P - lengths_N[:, None])
    # A hidden row sees itself, or its softmax would have nothing to sum over.
    seen_NLL = (seen_LL[None] & real_NL[:, None, :]) | torch.eye(row_L.numel(), dtype=torch.bool)[None]
    hidden = model.model(
        input_ids=torch.cat([left, fed], dim=1),
        position_ids=(within_L[None] + lengths_N[:, None]).clamp(min=0),
        attention_mask=torch.zeros(seen_NLL.shape).masked_fill_(~seen_NLL, torch.finfo(torch.float32).min)[:, None],
        use_cache=False,
    ).last_hidden_state
    first = hidden[:, P - 1 : P].unsqueeze(1).expand(N, K, 1, -1)
    behind = hidden[:, P:].reshape(N, K, T - 1, -1)
    read = drawn >= 0
    logits = model.lm_head(torch.cat([first, behind], dim=2)[read])
    logp = torch.log_softmax(logits, dim=-1).gather(1, drawn[read][:, None])[:, 0]
    return torch.zeros(N, K, T).masked_scatter(read, logp)


def score_table(loaded: LoadedModel, prompts: Sequence[Sequence[int]], responses: Ids) -> FloatArray:
    """(N, M) log q of M responses (padded ids) under N prompts, nats per response; what the Scorer gives, in batches.

    Prompts of one length run together, 64 responses in a row behind each.
    """
    import torch

    out_NM = np.empty((len(prompts), len(responses)))
    lengths_N = np.array([len(p) for p in prompts])
    order = np.argsort(lengths_N, kind="stable")
    chunks = np.array_split(np.arange(len(responses)), max(1, len(responses) // 64))
    with torch.inference_mode():
        for rows in np.array_split(order, max(1, len(prompts) // 32)):
            for chunk in chunks:
                drawn = np.broadcast_to(responses[chunk], (rows.size, chunk.size, responses.shape[1])).copy()
                logp_NKT = _log_probs(loaded.model, [prompts[i] for i in rows], drawn)
                out_NM[np.ix_(rows, chunk)] = logp_NKT.double().sum(-1).numpy()
    return out_NM
