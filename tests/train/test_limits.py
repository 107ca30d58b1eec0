"""What may be set, and what is too long to be learnt from: refused or counted, never dropped in silence."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from remid.errors import ConfigError
from remid.pipeline.progress import Progress
from remid.pipeline.traces import CONTENT_FEATURES, FULL_HEADINGS, STYLE_FEATURES
from remid.train.arguments import common_arguments
from remid.train.collect import Collected, _keep
from remid.train.config import make_train_config
from remid.train.run import TrainRun, open_run
from remid.train.stages import _draw
from remid.types import Sample


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"grpo": {"samples": 3}}, "samples: 3 prompts make no step of 4"),
        ({"sft": {"batch": 8, "micro": 3}}, "batch: 8 sequences cannot run 3 at a time"),
    ],
)
def test_settings_under_which_something_would_silently_not_be_learnt(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_train_config(data=("b.json",), **settings)


def test_a_batch_of_one_part_and_whole_steps_are_taken() -> None:
    made = make_train_config(data=("b.json",), sft={"batch": 1, "micro": 2}, grpo={"samples": 4})
    assert (made.sft.batch, made.grpo.samples) == (1, 4)


@pytest.mark.parametrize(("dtype", "mixed"), [(torch.float32, False), (torch.bfloat16, True)])
def test_float32_is_not_trained_in_mixed_precision(dtype: torch.dtype, mixed: bool, tmp_path: Path) -> None:
    model = SimpleNamespace(device=torch.device("cuda"), dtype=dtype)
    assert common_arguments(model, tmp_path, 0)["bf16"] is mixed


@pytest.fixture
def run(settings: dict[str, Any], tmp_path: Path) -> TrainRun:
    run = open_run(make_train_config(**settings), tmp_path / "run", Progress(enabled=False))
    run.stage = "grpo-q1-1"
    return run


def test_a_prompt_that_does_not_fit_with_its_completion_is_not_drawn_and_counted(run: TrainRun) -> None:
    first, second, *rest = (sample.sample_id for sample in run.split.train)
    prompts: dict[str, list[int] | None] = {name: [1] * 10 for name in rest}
    prompts |= {first: None, second: [1] * (run.max_tokens - 15)}
    assert {s.sample_id for s in _draw(run, 0, prompts, 16)} <= set(rest)
    (note,) = [row for row in run.journal.read() if row["kind"] == "note"]
    assert note["n"] == len(rest)
    assert sorted(note["left_out"].values()) == [1, 1]
    prompts[second] = [1] * (run.max_tokens - 16)
    drawn = {s.sample_id for seed in range(20) for s in _draw(run, seed, prompts, 16)}
    assert second in drawn
    with pytest.raises(ConfigError, match=r"grpo-q1-1: no prompt with 16 tokens behind it fits into --max-tokens"):
        _draw(run, 0, dict.fromkeys(prompts), 16)


def test_a_whole_trace_may_not_quote_the_reference_in_its_drafts() -> None:
    reference = "The tide has taken all of the rum and the map with it"
    sample = Sample("1", "IDTest", "IDTest", "id", "A pirate.", "Ann.", (), reference)
    features = "\n".join(f"- {name}: yes" for name in (*CONTENT_FEATURES, *STYLE_FEATURES))
    for draft, failures in ((reference, {"quotes the reference": 1}), ("Nothing is left.", {})):
        parts = [f"{heading}\n{draft}" for heading in FULL_HEADINGS[:-1]]
        found = Collected("model")
        _keep(found, sample, "\n".join([*parts, FULL_HEADINGS[-1], f"```\n{features}\n```"]), "full", quoting=False)
        assert dict(found.failures) == failures
