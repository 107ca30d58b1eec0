"""Estimators are made of adapters, know what they hold, and load to the same numbers wherever they lie."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_adapters import Sizes, chat_folder, make_adapter, perturb, save

from remid.data import mini_benchmark_paths, read_benchmark
from remid.errors import ModelError
from remid.lm.adapters import load_weights, new_adapters, read_estimator, stack, write_estimator
from remid.lm.chain import BUILTIN, WEIGHTS
from remid.lm.chat import ChatRenderer
from remid.lm.models import ModelSource, find_model, load_model
from remid.lm.scoring import Scorer
from remid.lm.work import Work
from remid.pipeline.prompts import role_play_messages
from remid.pipeline.traces import parse_trace

#: What estimators here were trained on: without and with traces.
ALONE: dict[str, Any] = {"trace_format": None, "trace_tokens": 20, "prompt_version": 1}
BOTH: dict[str, Any] = ALONE | {"trace_format": "compact"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    return find_model(str(chat_folder(tmp_path_factory.mktemp("base"))))


@pytest.fixture
def pair(base: ModelSource, tmp_path: Path) -> SimpleNamespace:
    """Adapters q1 and q2 on the base, and the estimator made of them."""
    chains = {name: make_adapter(base, tmp_path / "stages" / name, name, seed) for seed, name in ((3, "q1"), (4, "q2"))}
    made = write_estimator(
        tmp_path / "estimator",
        base=base,
        q1=tmp_path / "stages" / "q1",
        q2=tmp_path / "stages" / "q2",
        **BOTH,
    )
    return SimpleNamespace(chains=chains, made=made)


def test_an_estimator_is_read_as_it_was_written_wherever_it_lies(
    pair: SimpleNamespace, base: ModelSource, tmp_path: Path
) -> None:
    made, chains = pair.made, pair.chains
    shutil.rmtree(tmp_path / "stages")  # its adapters are its own
    shutil.move(tmp_path / "estimator", tmp_path / "moved")
    moved = read_estimator(tmp_path / "moved")
    assert moved.about == made.about
    assert (moved.trace_format, moved.trace_tokens, moved.prompt_version) == ("compact", 20, 1)
    assert moved.about["q1"] == [{"stage": "sft", "digest": chains["q1"].digest, "parents": []}]
    assert str(tmp_path) not in json.dumps(moved.about)
    assert moved.q1 is not None
    q1, q2 = stack(base, moved.q1), stack(base, moved.q2)
    assert len({q1.fingerprint, q2.fingerprint, base.fingerprint}) == 3
    load_model(q1, device="cpu")


def test_an_estimator_without_a_trace_generator_has_another_digest(
    pair: SimpleNamespace, base: ModelSource, tmp_path: Path
) -> None:
    alone = write_estimator(
        tmp_path / "estimator",
        base=base,
        q1=None,
        q2=tmp_path / "stages" / "q2",
        **ALONE,
    )
    assert alone.q1 is None
    assert alone.about["q1"] is None
    assert alone.about["digest"] != pair.made.about["digest"]
    assert not (tmp_path / "estimator" / "q1").exists()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_an_estimator_of_half_the_size_loads_to_what_is_stored(
    dtype: Any, pair: SimpleNamespace, base: ModelSource, tmp_path: Path
) -> None:
    stages = tmp_path / "stages"
    half = write_estimator(tmp_path / "half", base=base, q1=stages / "q1", q2=stages / "q2", dtype=dtype, **BOTH)
    sizes = [(folder / "q2" / WEIGHTS).stat().st_size for folder in (tmp_path / "half", tmp_path / "estimator")]
    assert sizes[0] < 0.7 * sizes[1]  # names and shapes of so small weights are a good part of the file
    (entry,) = half.about["q2"]
    assert entry["digest"] != pair.chains["q2"].digest
    assert entry["parents"] == [pair.chains["q2"].digest]
    assert half.about["digest"] != pair.made.about["digest"]
    # Merged for measuring, put on again for training, and by hand: the same numbers, in float32.
    stored = load_file(tmp_path / "half" / "q2" / WEIGHTS)
    whole = load_file(stages / "q2" / WEIGHTS)
    peft_model = new_adapters(load_model(base, device="cpu").model, Sizes(), ("q2",), 0)
    load_weights(peft_model, "q2", half.q2[0], base.fingerprint)
    for name, tensor in stored.items():
        assert tensor.dtype == getattr(torch, dtype)
        assert torch.equal(tensor, whole[name].to(tensor.dtype))
        own = dict(peft_model.named_parameters())[name.replace(".weight", ".q2.weight")]
        assert own.dtype == torch.float32
        assert torch.equal(own, tensor.float())
    name = "model.layers.1.mlp.up_proj"
    a, b = (stored[f"base_model.model.{name}.lora_{x}.weight"].float() for x in "AB")
    before, after = (
        load_model(source, device="cpu").model.get_submodule(name).weight for source in (base, stack(base, half.q2))
    )
    torch.testing.assert_close(after, before + b @ a * 2.0, atol=1e-6, rtol=0)  # alpha / r


def test_weights_that_half_precision_cannot_hold_are_refused(base: ModelSource, tmp_path: Path) -> None:
    peft_model = new_adapters(load_model(base, device="cpu").model, Sizes(), ("q2",), 0)
    perturb(peft_model, "q2", 1, scale=1e5)
    save(peft_model, "q2", tmp_path / "q2", base)
    with pytest.raises(ModelError, match="q2: its weights do not fit into float16"):
        write_estimator(tmp_path / "half", base=base, q1=None, q2=tmp_path / "q2", dtype="float16", **ALONE)
    assert not (tmp_path / "half").exists()


def test_an_estimator_takes_no_adapter_of_another_base(pair: SimpleNamespace, tmp_path: Path) -> None:
    other = find_model(str(chat_folder(tmp_path / "other", seed=8)))
    with pytest.raises(ModelError, match="stands on"):
        write_estimator(
            tmp_path / "estimator",
            base=other,
            q1=None,
            q2=tmp_path / "stages" / "q2",
            **ALONE,
        )
    assert read_estimator(tmp_path / "estimator").about == pair.made.about


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"q2": ["../stages/q2"]}, "q2: ../stages/q2 must name a folder inside"),
        ({"q2": ["/q2"]}, "must name a folder inside"),
        ({"q2": []}, "q2: Tuple should have at least 1"),
        ({"q2": ["gone"]}, "No such file"),
        ({"trace_format": "long"}, "trace_format: "),
        ({"schema": 7}, "schema: "),
    ],
)
def test_an_estimator_that_is_none_is_refused(
    change: dict[str, Any], reason: str, pair: SimpleNamespace, tmp_path: Path
) -> None:
    path = tmp_path / "estimator" / "estimator.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match=reason):
        read_estimator(tmp_path / "estimator")
    with pytest.raises(ModelError, match="not an estimator written by remid train"):
        read_estimator(tmp_path / "stages" / "q2")


def test_the_embedded_estimator_is_small_and_better_than_its_base_where_it_was_not_trained() -> None:
    estimator = read_estimator(BUILTIN)
    assert sum(file.stat().st_size for file in estimator.folder.rglob("*") if file.is_file()) < 10_000_000
    source = find_model("builtin")
    assert estimator.base.fingerprint == source.fingerprint
    benchmark, _ = mini_benchmark_paths()
    samples = [s for s in read_benchmark([benchmark]).test if s.shift == "id"][:6]
    found = []
    for under in (source, stack(source, estimator.q2)):
        loaded = load_model(under, device="cpu")
        renderer = ChatRenderer(loaded.tokenizer)
        work = []
        for sample in samples:
            prompt = renderer.prompt_ids(role_play_messages(sample, parse_trace(sample.trace or "").features))
            work.append(Work(tuple(prompt), (tuple(renderer.response_ids(sample.reference)),)))
        scores = [one.logp_T for batch in Scorer(loaded).score(work) for one in batch]
        found.append(sum(float(logp_T.sum()) for logp_T in scores if logp_T is not None))
        assert len(scores) == len(samples)
    assert found[1] > found[0] + 20  # nats over six references; 0.2 a token is 50
