"""Exact worlds for `meaning`, with policies whose order is beyond doubt: what each says is made of the reference's law.

Responses are a reference's 4 to 11 answers, an echo of each dialogue, and the same answers in another language, which
the reference never uses. It echoes its dialogue in at most one response of twenty.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from remid.data.worlds.discrete import random_worlds
from remid.estimate.exact import mean_over, output_law
from remid.estimate.exact_gap import ExactGap, Telling
from remid.types import COMPONENTS, FloatArray

#: Shares of responses that are any answer at random.
NOISE = (0.1, 0.3, 0.6)
_MOST_ECHO = 0.05
_Shape = tuple[int, int, int, int]
#: (users, characters, dialogues, answers): every shape of the input with two counts of answers, 4 to 11 in turn.
_SHAPES: list[_Shape] = [
    (u, a, d, 4 + (i + apart) % 8) for i, (u, a, d) in enumerate(product((2, 3, 4), repeat=3)) for apart in (0, 4)
]


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """N worlds of one shape (users, characters, dialogues, answers). echo_XY: the response that repeats x's dialogue.

    Of the Y responses the first are answers, the next echoes, the last the answers in another language.
    """

    shape: _Shape
    p_X: FloatArray
    q_X: FloatArray
    reference_XY: FloatArray
    echo_XY: FloatArray


def scenes(n: int, seed: int) -> Iterator[Scene]:
    """At least n random worlds, in batches of one shape each."""
    seeds = np.random.SeedSequence(seed).generate_state(len(_SHAPES))
    for shape, shape_seed in zip(_SHAPES, seeds, strict=True):
        yield _scene(-(-n // len(_SHAPES)), shape, int(shape_seed))


def _scene(n: int, shape: _Shape, seed: int) -> Scene:
    *inputs, answers = shape
    dialogues, x = inputs[2], int(np.prod(inputs))
    p_X, q_X, _, answer_XY, _ = random_worlds(n, shape, seed).flat()
    echo_XY = np.zeros((n, x, 2 * answers + dialogues))
    echo_XY[:, np.arange(x), answers + np.arange(x) % dialogues] = 1.0
    often = np.random.default_rng(np.random.SeedSequence([seed, 1])).uniform(0, _MOST_ECHO, size=(n, 1, 1))
    reference_XY = (1 - often) * _answers(answer_XY, echo_XY.shape[-1]) + often * echo_XY
    return Scene(shape, p_X, q_X, reference_XY, echo_XY)


def _answers(answer_XK: FloatArray, responses: int, first: int = 0) -> FloatArray:
    """A law of answers as a law of all responses; first: where the answers stand."""
    law_XY = np.zeros((*answer_XK.shape[:-1], responses))
    law_XY[..., first : first + answer_XK.shape[-1]] = answer_XK
    return law_XY


def policies(scene: Scene) -> dict[str, FloatArray]:
    """Channels (N, X, Y) of one symbol a response. "longer" is none of them: its response is the reference's."""
    users, characters, dialogues, answers = scene.shape
    reference_XY = scene.reference_XY
    n, inputs, responses = reference_XY.shape
    uniform_Y = _answers(np.full(answers, 1 / answers), responses)
    law_Y = output_law(scene.p_X, reference_XY)
    apart = reference_XY.reshape(n, users, characters, dialogues, responses)
    sharp_XY = reference_XY**2
    answer_XK = reference_XY[..., :answers] / reference_XY[..., :answers].sum(-1, keepdims=True)
    return {
        "reference": reference_XY,
        **{noise_name(share): (1 - share) * reference_XY + share * uniform_Y for share in NOISE},
        **{f"ignores {part}": ignoring(scene, part) for part in COMPONENTS},
        "generic": np.broadcast_to(np.eye(responses)[law_Y.argmax(-1)][:, None], (n, inputs, responses)),
        "shuffled": np.broadcast_to(law_Y[:, None], (n, inputs, responses)),
        "parrot": scene.echo_XY,
        "wrong character": np.roll(apart, 1, axis=2).reshape(reference_XY.shape),
        "other language": _answers(answer_XK, responses, answers + dialogues),
        "sharper": sharp_XY / sharp_XY.sum(-1, keepdims=True),
    }


def noise_name(share: float) -> str:
    """What the policy with this share of noise is called."""
    return f"noise {100 * share:.0f}%"


def ignoring(scene: Scene, part: str) -> FloatArray:
    """The reference to whom a part of the input is unknown: its law with that part drawn anew, given the others."""
    axis = 1 + COMPONENTS.index(part)
    p_UAD = scene.p_X.reshape(-1, *scene.shape[:3])
    reference_UADY = scene.reference_XY.reshape(*p_UAD.shape, -1)
    given_UAD = p_UAD / p_UAD.sum(axis, keepdims=True)
    mean_UADY = (given_UAD[..., None] * reference_UADY).sum(axis, keepdims=True)
    return np.broadcast_to(mean_UADY, reference_UADY.shape).reshape(scene.reference_XY.shape)


def longer(p_X: FloatArray, reference_XY: FloatArray, told: Telling) -> ExactGap:
    """The reference's response and then a filler: one of many words, independent of all, and q knows so.

    The filler tells nothing, and what is repeated is spread over two tokens.
    """
    repeated = mean_over(p_X, (reference_XY * told.repeated_XY).sum(-1))
    return ExactGap(np.zeros_like(repeated), repeated / 2 - repeated)
