"""Adapters load to the weights that were saved, on what they were trained on, and on nothing else."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_adapters import Sizes, chat_folder, make_adapter, perturb, save
from tiny_models import ids, tiny

from remid.errors import EngineError, ModelError
from remid.lm.adapters import (
    activate,
    attach,
    frozen_copy,
    load_weights,
    new_adapters,
    read_chain,
    stack,
    trainable_names,
)
from remid.lm.models import ModelSource, find_model, load_model

FILES = ("adapter_config.json", "adapter_model.safetensors", "chain.json")


def logp(model: Any, seed: int = 0) -> torch.Tensor:
    """(2, 40, vocabulary) log-probabilities of random text."""
    text = torch.tensor([ids(40, seed), ids(40, seed + 1)])
    with torch.no_grad():
        return torch.log_softmax(model.eval()(input_ids=text).logits, -1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    return find_model(str(chat_folder(tmp_path_factory.mktemp("base"))))


@pytest.fixture(scope="module")
def chained(base: ModelSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with adapter `one` on the base and adapter `two` on top of it. Not to be changed."""
    folder = tmp_path_factory.mktemp("chained")
    make_adapter(base, folder / "one", "q2", 1)
    make_adapter(stack(base, [folder / "one"]), folder / "two", "q2", 2)
    return folder


@pytest.fixture
def copied(chained: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    shutil.copytree(chained, tmp_path / "copied")
    return tmp_path / "copied"


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2", "gemma2-window"])
def test_a_merged_adapter_computes_what_the_adapter_computes(kind: str, tmp_path: Path) -> None:
    # In float64: the wide weights of these models amplify float32's rounding to 1.3e-5, and hide what is behind it.
    loaded, source = tiny(kind), ModelSource(kind, None, kind)
    before = logp(loaded.model.double())
    peft_model = new_adapters(loaded.model, Sizes(), ("q1", "q2"), 0)
    assert torch.equal(logp(peft_model), before)  # fresh adapters change nothing
    perturb(peft_model, "q2", 3)
    save(peft_model, "q2", tmp_path / "q2", source)
    activate(peft_model, "q2")
    expected = logp(peft_model)
    merged = attach(tiny(kind).model.double(), [tmp_path / "q2"], kind)
    assert type(merged) is type(loaded.model)
    assert not any("lora" in name for name, _ in merged.named_modules())
    torch.testing.assert_close(logp(merged), expected, atol=1e-10, rtol=0)
    assert (expected - before).abs().max() > 0.05
    activate(peft_model, "q1")
    assert torch.equal(logp(peft_model), before)


def test_stacked_adapters_add_up_and_their_order_is_their_key(base: ModelSource, chained: Path) -> None:
    one, two = chained / "one", chained / "two"
    both = stack(base, [one, two])
    key = base.fingerprint
    for folder in (one, two):
        assert read_chain(folder).stands_on == key
        key = "adapted:" + hashlib.sha256(f"{key}{read_chain(folder).digest}".encode()).hexdigest()
    assert both.fingerprint == key
    assert both == stack(stack(base, [one]), [two])
    assert (both.root, both.adapters) == (base, (one, two))
    assert stack(base, []) == base
    peft_model = new_adapters(load_model(base, device="cpu").model, Sizes(), ("one", "two"), 0)
    perturb(peft_model, "one", 1)
    perturb(peft_model, "two", 2)
    peft_model.base_model.set_adapter(["one", "two"])
    torch.testing.assert_close(logp(load_model(both, device="cpu").model), logp(peft_model), atol=1e-5, rtol=0)


def test_a_model_is_loaded_with_its_adapters_to_the_same_weights_every_time(base: ModelSource, chained: Path) -> None:
    source = stack(base, [chained / "one", chained / "two"])
    first, second = (load_model(source, device="cpu") for _ in range(2))
    plain = load_model(base, device="cpu")
    assert first.source == source
    assert not first.model.training
    assert {name for name, _ in first.model.named_parameters()} == {n for n, _ in plain.model.named_parameters()}
    again = dict(second.model.named_parameters())
    assert all(torch.equal(weight, again[name]) for name, weight in first.model.named_parameters())
    assert (logp(first.model) - logp(plain.model)).abs().max() > 0.05


def test_in_half_precision_changes_are_summed_before_they_are_rounded(base: ModelSource, chained: Path) -> None:
    merged = load_model(stack(base, [chained / "one", chained / "two"]), device="cpu", dtype="bfloat16").model
    wanted = load_model(base, device="cpu", dtype="bfloat16").model.model.layers[1].mlp.up_proj.weight.float()
    for name in ("one", "two"):
        tensors = load_file(chained / name / FILES[1])
        a, b = (tensors[f"base_model.model.model.layers.1.mlp.up_proj.lora_{x}.weight"] for x in "AB")
        wanted += b @ a * 2.0  # alpha / r
    found = merged.model.layers[1].mlp.up_proj.weight
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, wanted.bfloat16())


def test_another_base_is_refused(chained: Path, tmp_path: Path) -> None:
    other = find_model(str(chat_folder(tmp_path / "other", seed=8)))
    for attempt in (
        lambda: stack(other, [chained / "one"]),
        lambda: attach(load_model(other, device="cpu").model, [chained / "one"], other.fingerprint),
    ):
        with pytest.raises(
            ModelError, match=r"one: adapter q2 \(sft\) stands on folder:\w+, but would be put on"
        ) as told:
            attempt()
        assert other.fingerprint in str(told.value)
        assert read_chain(chained / "one").stands_on in str(told.value)


def test_another_order_is_refused_and_so_is_a_gap(base: ModelSource, chained: Path) -> None:
    for folders in (["two", "one"], ["two"], ["one", "one"], ["one", "two", "one"]):
        with pytest.raises(
            ModelError, match=r"stands on (folder|adapted):\w+, but would be put on (folder|adapted):\w+"
        ):
            stack(base, [chained / name for name in folders])


@pytest.mark.parametrize("file", FILES[:2])
def test_a_changed_file_is_refused(file: str, base: ModelSource, copied: Path) -> None:
    path = copied / "one" / file
    content = bytearray(path.read_bytes())
    place = len(content) - 3 if file.endswith("safetensors") else content.index(b'"r": 4') + 5
    content[place] ^= 1
    path.write_bytes(content)
    for attempt in (
        lambda: stack(base, [copied / "one"]),
        lambda: attach(load_model(base, device="cpu").model, [copied / "one"], base.fingerprint),
        lambda: load_model(ModelSource("m", base.folder, "k", (copied / "one",), base), device="cpu"),
    ):
        with pytest.raises(ModelError, match=r"is not what was saved \(digest \w+, expected \w+\)"):
            attempt()


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_refused(file: str, base: ModelSource, copied: Path) -> None:
    (copied / "one" / file).unlink()
    with pytest.raises(ModelError, match=rf"{file}: cannot be read \(No such file"):
        stack(base, [copied / "one"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c.pop("stands_on"), "stands_on: Field required"),
        (lambda c: c.update(schema=2), "schema: Input should be 1"),
        (lambda c: c.update(parents="ab"), "parents: "),
        (lambda c: c.update(more=1), "more: Extra inputs"),
    ],
)
def test_a_chain_that_is_none_is_refused(change: Callable[[Any], Any], reason: str, copied: Path) -> None:
    path = copied / "one" / "chain.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ModelError, match=rf"chain\.json: {reason}"):
        read_chain(copied / "one")


def resign(folder: Path, **settings: Any) -> None:
    """Change an adapter's settings and its digest with them, as somebody else's tool would write them."""
    from remid.lm.chain import digest_of

    config = json.loads((folder / FILES[0]).read_text()) | settings
    (folder / FILES[0]).write_text(json.dumps(config))
    chain = json.loads((folder / FILES[2]).read_text()) | {"digest": digest_of(folder)}
    (folder / FILES[2]).write_text(json.dumps(chain))


def test_what_does_not_fit_the_model_is_refused_and_not_half_loaded(base: ModelSource, copied: Path) -> None:
    model = load_model(base, device="cpu").model
    resign(copied / "one", r=8)
    with pytest.raises(ModelError, match=r"one: does not fit the model: 28 weights differ in name or size"):
        attach(model, [copied / "one"], base.fingerprint)
    resign(copied / "one", r=4, target_modules=["q_proj"])
    with pytest.raises(ModelError, match="does not fit the model"):
        attach(load_model(base, device="cpu").model, [copied / "one"], base.fingerprint)
    resign(copied / "one", target_modules=["nowhere"])
    with pytest.raises(ModelError, match="does not fit the model"):
        attach(load_model(base, device="cpu").model, [copied / "one"], base.fingerprint)


@pytest.mark.parametrize(
    "settings",
    [
        {"use_dora": True},
        {"use_rslora": True},
        {"bias": "all"},
        {"modules_to_save": ["lm_head"]},
        {"corda_config": {"cache_file": "x.pt"}},
        {"peft_type": "VERA"},
        {"something_new": 3},
    ],
)
def test_variants_of_lora_are_refused(settings: dict[str, Any], base: ModelSource, copied: Path) -> None:
    resign(copied / "one", **settings)
    with pytest.raises(ModelError, match=f"{next(iter(settings))}: only plain LoRA"):
        attach(load_model(base, device="cpu").model, [copied / "one"], base.fingerprint)


def test_the_same_adapter_is_saved_as_the_same_bytes_and_names_no_path(base: ModelSource, tmp_path: Path) -> None:
    folder = str(base.folder)
    source = ModelSource("the-base", base.folder, base.fingerprint)
    for place in ("here", "there"):
        make_adapter(source, tmp_path / place, "q1", 5)
    for file in FILES:
        content = (tmp_path / "here" / file).read_bytes()
        assert content == (tmp_path / "there" / file).read_bytes()
        assert folder.encode() not in content
    targets = json.loads((tmp_path / "here" / FILES[0]).read_text())["target_modules"]
    assert targets == sorted(targets)
    assert len(targets) >= 7
    assert not any("lm_head" in name for name in targets)
    assert {p.name for p in (tmp_path / "here").iterdir()} == set(FILES)


def test_peft_itself_reads_what_was_saved(base: ModelSource, chained: Path) -> None:
    from peft import PeftModel

    theirs = PeftModel.from_pretrained(load_model(base, device="cpu").model, chained / "one")
    ours = load_model(stack(base, [chained / "one"]), device="cpu").model
    torch.testing.assert_close(logp(ours), logp(theirs), atol=1e-5, rtol=0)


def test_a_saved_adapter_is_replaced_whole_or_not_at_all(base: ModelSource, tmp_path: Path) -> None:
    peft_model = new_adapters(load_model(base, device="cpu").model, Sizes(), ("q2",), 0)
    first = save(peft_model, "q2", tmp_path / "q2", base, "sft", rate=1.0)
    perturb(peft_model, "q2", 1)
    with pytest.raises(Exception, match="serialize"):
        save(peft_model, "q2", tmp_path / "q2", base, "grpo-1", rate=object())
    assert read_chain(tmp_path / "q2") == first
    second = save(peft_model, "q2", tmp_path / "q2", base, "grpo-1", [first.digest])
    assert read_chain(tmp_path / "q2") == second
    assert (second.parents, second.stage) == ((first.digest,), "grpo-1")
    assert second.digest != first.digest
    assert [p.name for p in tmp_path.iterdir()] == ["q2"]


def test_one_adapter_is_trained_at_a_time_and_a_frozen_copy_never(base: ModelSource) -> None:
    peft_model = new_adapters(load_model(base, device="cpu").model, Sizes(), ("q1", "q2"), 0)
    for name in ("q1", "q2", "q1"):
        activate(peft_model, name)
        assert len(trainable_names(peft_model)) == 2 * 14
        assert all(f".{name}." in parameter for parameter in trainable_names(peft_model))
    perturb(peft_model, "q2", 1)
    activate(peft_model, "q2")
    wanted, active = logp(peft_model), trainable_names(peft_model)
    frozen_copy(peft_model, "q2", "ref")
    assert peft_model.active_adapter == "q2"
    assert trainable_names(peft_model) == active
    perturb(peft_model, "q2", 2)
    assert not torch.equal(logp(peft_model), wanted)
    peft_model.set_adapter("ref")
    assert torch.equal(logp(peft_model), wanted)
    peft_model.set_adapter("q2")
    assert trainable_names(peft_model) == active
    frozen_copy(peft_model, "q2", "ref")  # again, with newer weights
    wanted = logp(peft_model)
    peft_model.set_adapter("ref")
    assert torch.equal(logp(peft_model), wanted)


def test_fresh_adapters_are_seeded_and_disturb_nobodys_random_numbers(base: ModelSource) -> None:
    torch.manual_seed(0)
    wanted = torch.rand(3)
    made = []
    for seed in (1, 1, 2):
        torch.manual_seed(0)
        peft_model = new_adapters(load_model(base, device="cpu").model, Sizes(), ("q1", "q2"), seed)
        assert torch.equal(torch.rand(3), wanted)
        made.append({n: p.clone() for n, p in peft_model.named_parameters() if "lora_A" in n})
    assert all(torch.equal(weight, made[1][name]) for name, weight in made[0].items())
    assert not any(torch.equal(weight, made[2][name]) for name, weight in made[0].items())
    first = next(name for name in made[0] if ".q1." in name)
    assert not torch.equal(made[0][first], made[0][first.replace(".q1.", ".q2.")])


def test_a_stage_is_taken_up_where_it_was_saved(base: ModelSource, chained: Path) -> None:
    peft_model = new_adapters(load_model(base, device="cpu").model, Sizes(), ("q1", "q2"), 9)
    active = trainable_names(peft_model)
    load_weights(peft_model, "q2", chained / "one", base.fingerprint)
    assert trainable_names(peft_model) == active
    assert peft_model.active_adapter == "q1"
    activate(peft_model, "q2")
    wanted = logp(load_model(stack(base, [chained / "one"]), device="cpu").model)
    torch.testing.assert_close(logp(peft_model), wanted, atol=1e-5, rtol=0)
    with pytest.raises(ModelError, match="stands on adapted"):
        load_weights(peft_model, "q2", chained / "two", base.fingerprint)


def test_a_worker_makes_the_stack_that_the_run_is_about(base: ModelSource, copied: Path) -> None:
    from remid.engine.cluster_worker import ModelRecipe, name_everywhere

    source = stack(base, [copied / "one", copied / "two"])
    assert name_everywhere(source) == name_everywhere(base)
    hub = ModelSource("a/b + q2", base.folder, "adapted:1", base=ModelSource("a/b", base.folder, "hub:a/b@12"))
    assert name_everywhere(hub) == "a/b@12"
    seen: list[Any] = []
    folders = tuple(map(str, source.adapters))
    recipe = ModelRecipe(name_everywhere(source), source.fingerprint, "cpu", "float32", seen.append, adapters=folders)
    recipe()
    assert torch.equal(logp(seen[0].model), logp(load_model(source, device="cpu").model))
    less = ModelRecipe(name_everywhere(source), source.fingerprint, "cpu", "float32", seen.append, adapters=folders[:1])
    with pytest.raises(EngineError, match="is another model here"):
        less()
    resign(copied / "one", lora_alpha=9)
    with pytest.raises(ModelError, match="stands on"):
        recipe()


def test_adapters_on_the_last_layers_only(base: ModelSource, tmp_path: Path) -> None:
    peft_model = new_adapters(load_model(base, device="cpu").model, Sizes(layers=1), ("q1", "q2"), 0)
    activate(peft_model, "q2")
    names = trainable_names(peft_model)
    assert len(names) == 14  # seven linear layers of one decoder layer, two factors each
    assert all(".layers.1." in name for name in names)
    perturb(peft_model, "q2", 1)
    wanted = logp(peft_model)
    save(peft_model, "q2", tmp_path / "last", base)
    merged = load_model(stack(base, [tmp_path / "last"]), device="cpu").model
    assert torch.allclose(logp(merged), wanted, atol=1e-4)
    again = new_adapters(load_model(base, device="cpu").model, Sizes(layers=1), ("q2",), 3)
    load_weights(again, "q2", tmp_path / "last", base.fingerprint)
    assert torch.equal(logp(again), wanted)
    with pytest.raises(ModelError, match=r"lora.layers: 3 asked for, the model has 2"):
        new_adapters(load_model(base, device="cpu").model, Sizes(layers=3), ("q2",), 0)
