"""The parts of the vLLM engine that need no GPU: what it is asked, and how its output is read."""

from __future__ import annotations

import importlib.util
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from remid.engine.vllm import (
    batches_of_pairs,
    load_vllm,
    pair_length,
    read_prompt_logprobs,
    read_written,
    scored,
    vllm_identity,
)
from remid.engine.work import Work, Written
from remid.errors import EngineError


def entry(**logps: float) -> dict[int, Any]:
    """A position as vLLM gives it: the token itself, and likelier ones if any were asked for."""
    return {int(name[1:]): SimpleNamespace(logprob=value, rank=1, decoded_token=None) for name, value in logps.items()}


_FOUND = [None, entry(t8=-1.0), entry(t5=-0.1, t9=-2.5), entry(t2=-0.5)]


def test_a_continuations_numbers_are_found_by_their_ids() -> None:
    assert read_prompt_logprobs(_FOUND, [7, 8, 9, 2], 2) == [-2.5, -0.5]


@pytest.mark.parametrize(
    ("found", "ids", "said"),
    [
        (None, [7, 8], "gave none of 2"),
        (_FOUND[:3], [7, 8, 9, 2], "gave 3 of 4"),
        (_FOUND, [7, 8, 9, 3], "of token 3"),
        ([None, None], [7, 8], "of token 1"),
    ],
)
def test_an_output_about_other_ids_stops_the_work(found: Any, ids: list[int], said: str) -> None:
    with pytest.raises(EngineError, match=said):
        read_prompt_logprobs(found, ids, 1)


@pytest.mark.parametrize("value", [float("-inf"), math.nan])
def test_a_number_that_is_none_is_missing(value: float) -> None:
    numbers = read_prompt_logprobs([None, entry(t8=value), entry(t9=-1.0)], [7, 8, 9], 1)
    assert scored(0, 1, numbers).missing == "a log-probability is not finite"
    fine = scored(0, 1, [-1.0, -2.0])
    assert fine.logp_T is not None
    np.testing.assert_array_equal(fine.logp_T, np.float32([-1, -2]))


def test_pairs_keep_their_prompts_together() -> None:
    work = [Work((1, 2), ((3,), (4, 5))), Work((6,), ((7,), (8,), (9, 9, 9)))]
    assert list(batches_of_pairs(work, 3)) == [[(0, 0), (0, 1), (1, 0)], [(1, 1), (1, 2)]]
    assert pair_length(work, (1, 2)) == 4


@pytest.mark.parametrize(
    ("text", "reason", "expected"),
    [(" A leaky shed. ", "stop", ("A leaky shed.", True)), ("雨が\ufffd", "length", ("雨が", False))],
)
def test_a_text_is_read_with_its_end(text: str, reason: str, expected: tuple[str, bool]) -> None:
    output = SimpleNamespace(outputs=[SimpleNamespace(text=text, finish_reason=reason)])
    assert read_written(4, output) == Written(4, *expected)


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed here")
def test_without_vllm_the_message_says_how_to_get_it() -> None:
    with pytest.raises(EngineError, match=r"pip install \"remid\[vllm\]\""):
        load_vllm("anywhere")
    with pytest.raises(EngineError, match="is not installed"):
        vllm_identity("folder:1", "bfloat16")
