"""Models are found where the user says, identified by every byte that matters, and refused with a reason."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from chat_cases import BYTE_LEVEL, TEMPLATES
from tiny_models import tiny

from remid.errors import ModelError
from remid.lm import builtin
from remid.lm.models import find_model, load_model, resolve_device, resolve_dtype


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REMID_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that looks like a model, small enough to hash often."""
    made = tmp_path / "model"
    made.mkdir()
    for name in (
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "merges.txt",
        "code.py",
    ):
        (made / name).write_text(f'{{"name": "{name}"}}')
    (made / "model.safetensors").write_bytes(bytes(range(200)))
    return made


def test_the_embedded_model_is_named_without_touching_a_file(cache: Path) -> None:
    source = find_model("builtin")
    assert source == find_model(builtin.NAME)
    assert source.fingerprint == builtin.FINGERPRINT
    assert not cache.exists()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/no/such/folder", "no such folder"),
        ("./missing", "no such folder"),
        ("~/missing/model", "no such folder"),
        ("justaname", "not a hub id"),
        ("a/b/c", "not a hub id"),
    ],
)
def test_what_is_neither_folder_nor_hub_id_is_refused(name: str, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        find_model(name)


def test_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"x")
    with pytest.raises(ModelError, match="is a file"):
        find_model(str(path))


def test_pickled_weights_are_refused(folder: Path, cache: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickled weights are not loaded"):
        find_model(str(folder))


def test_weights_without_a_configuration_are_refused(folder: Path, cache: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"config\.json"):
        find_model(str(folder))


@pytest.mark.parametrize("name", ["some-owner/some-model", "some-owner/some-model@v1", "owner/model@refs/pr/1"])
def test_an_unreachable_hub_is_a_model_error_that_says_what_to_do(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"not in the local hub cache.*--model builtin"):
        find_model(name)


@pytest.mark.parametrize(("name", "revision"), [("a/b", None), ("a/b@v1", "v1"), ("a/b@refs/pr/1", "refs/pr/1")])
def test_a_hub_model_is_identified_by_its_commit_and_brings_no_pickles(
    name: str, revision: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def download(repo: str, **options: Any) -> str:
        asked.update(options, repo=repo)
        return str(tmp_path / "snapshots" / "0123abcd")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    source = find_model(name)
    assert source.fingerprint == "hub:a/b@0123abcd"
    assert (asked["repo"], asked["revision"]) == ("a/b", revision)
    assert not any(pattern.endswith((".bin", ".pt", ".pth", "*")) for pattern in asked["allow_patterns"])


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "merges.txt",
        "model.safetensors",
    ],
)
def test_the_fingerprint_changes_with_any_byte_and_comes_back_with_it(name: str, folder: Path, cache: Path) -> None:
    path, before = folder / name, find_model(str(folder)).fingerprint
    content, times = path.read_bytes(), path.stat()
    for position in (0, len(content) // 2, len(content) - 1):
        changed = bytearray(content)
        changed[position] ^= 1
        path.write_bytes(changed)
        # Same size, same modification time, as after unpacking an archive: the bytes are what counts.
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert find_model(str(folder)).fingerprint != before
    path.write_bytes(content)
    assert find_model(str(folder)).fingerprint == before


def test_the_fingerprint_is_not_the_folders_name_place_or_readme(folder: Path, cache: Path, tmp_path: Path) -> None:
    before = find_model(str(folder)).fingerprint
    other = tmp_path / "elsewhere" / "under-another-name"
    shutil.copytree(folder, other)
    (other / "README.md").write_text("notes")
    assert find_model(str(other)).fingerprint == before
    assert find_model(str(other)).name == str(other)


def test_a_file_that_moves_to_another_name_changes_the_fingerprint(folder: Path, cache: Path) -> None:
    before = find_model(str(folder)).fingerprint
    (folder / "tokenizer.json").rename(folder / "tokenizer2.json")  # the same place in the order of names
    assert find_model(str(folder)).fingerprint != before


def test_unchanged_files_are_not_read_again(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = find_model(str(folder)).fingerprint

    def read(*_: Any) -> None:
        raise AssertionError("hashed again")

    monkeypatch.setattr("hashlib.file_digest", read)
    assert find_model(str(folder)).fingerprint == before


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '"text"'])
def test_a_broken_memory_of_fingerprints_only_costs_time(content: str, folder: Path, cache: Path) -> None:
    before = find_model(str(folder)).fingerprint
    (cache / "fingerprints.json").write_text(content)
    assert find_model(str(folder)).fingerprint == before
    assert len(json.loads((cache / "fingerprints.json").read_text())) == 7


def test_a_cache_that_cannot_be_written_only_costs_time(folder: Path, cache: Path) -> None:
    before = find_model(str(folder)).fingerprint
    shutil.rmtree(cache)
    cache.write_text("a file where the folder should be")
    assert find_model(str(folder)).fingerprint == before


@pytest.fixture
def tiny_folder(tmp_path: Path, cache: Path) -> Path:
    """A tiny model with a tokenizer and a chat template, saved."""
    made = tmp_path / "tiny"
    tiny("llama").model.save_pretrained(made)
    tokenizer = BYTE_LEVEL["bytes-chatml"]()
    tokenizer.chat_template = TEMPLATES["chatml"].jinja
    tokenizer.save_pretrained(made)
    return made


def test_a_local_folder_loads_in_evaluation_mode(tiny_folder: Path) -> None:
    loaded = load_model(find_model(str(tiny_folder)), device="cpu")
    assert not loaded.model.training
    assert (loaded.dtype, loaded.device.type, loaded.max_length) == ("float32", "cpu", 2048)


def test_a_tokenizer_without_a_chat_template_is_refused(tiny_folder: Path) -> None:
    for path in tiny_folder.glob("chat_template*"):
        path.unlink()
    with pytest.raises(ModelError, match="no chat template"):
        load_model(find_model(str(tiny_folder)), device="cpu")


def test_damaged_weights_are_a_model_error(tiny_folder: Path) -> None:
    path = tiny_folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(find_model(str(tiny_folder)), device="cpu")


def test_auto_is_float32_on_a_cpu_and_bfloat16_on_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_dtype("auto", "cpu") == "float32"
    assert resolve_dtype("auto", "cuda:0") == "bfloat16"
    assert resolve_dtype("float16", "cpu") == "float16"
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert resolve_device("auto") == "cpu"
    assert resolve_device("cuda:1") == "cuda:1"


def test_a_local_folder_with_the_embedded_models_name_is_that_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody who tunes the embedded model may well leave it there."""
    monkeypatch.chdir(tmp_path)
    assert find_model(builtin.NAME).fingerprint == builtin.FINGERPRINT
    folder.rename(tmp_path / builtin.NAME)
    assert find_model(builtin.NAME).folder == Path(builtin.NAME)
    assert find_model("builtin").fingerprint == builtin.FINGERPRINT
