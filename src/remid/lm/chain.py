"""Adapters in folders that know what they stand on, and estimators made of them. Nothing here loads a model.

An *adapter* folder holds PEFT's own two files (adapter_config.json, adapter_model.safetensors) and chain.json: the
base, the key of what lies beneath it, a digest of its own files, the earlier stages it was trained on from, data and
settings. Adapters can be stacked. The key of what is reached so far begins as the base's fingerprint and takes in each
adapter's digest in turn; an adapter is put on nothing but the key it was trained on. A wrong base, a wrong order and a
changed file are therefore found before a number is computed.

An *estimator* folder holds estimator.json and the adapter folders that it names: q1 writes traces, q2 scores.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from remid.errors import ModelError, StoreError
from remid.lm.chat import RENDER_VERSION
from remid.lm.models import ModelSource

CONFIG, WEIGHTS, CHAIN = "adapter_config.json", "adapter_model.safetensors", "chain.json"
ESTIMATOR = "estimator.json"
#: Marks of the samples that an estimator was trained on (remid.data.same), one a line.
TRAINED_ON = "trained_on.txt"
#: Stands for the estimator that comes with remid, on the embedded model (lm/estimator).
BUILTIN = Path("builtin")

TraceFormat = Literal["compact", "full"]
#: Of stored weights. They are loaded into float32 whatever it is, so they are the same numbers everywhere.
AdapterDType = Literal["float32", "bfloat16", "float16"]
_Json = TypeVar("_Json", bound=BaseModel)


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)


class Base(_Record):
    """The model beneath all adapters, as remid.lm.models.ModelSource names and identifies it."""

    name: str
    fingerprint: str


class Chain(_Record):
    """chain.json. stands_on: key of what lies beneath. parents: digests of earlier stages, oldest first."""

    schema_version: Literal[1] = Field(alias="schema")
    name: str
    base: Base
    stands_on: str
    digest: str
    stage: str
    parents: tuple[str, ...]
    data: str
    config: dict[str, Any]
    versions: dict[str, str]


class _EstimatorFile(_Record):
    """estimator.json. q1, q2: adapter folders within the estimator's own, lowest first."""

    schema_version: Literal[1] = Field(alias="schema")
    base: Base
    trace_format: TraceFormat | None
    trace_tokens: int = Field(ge=1)
    prompt_version: int
    render_version: int
    q1: tuple[str, ...] | None = Field(min_length=1)
    q2: tuple[str, ...] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Estimator:
    """A trained estimator in its folder. q1: None where there is no trace generator.

    trace_format: of the traces that q2 was trained on, None: on none. trace_tokens: longest trace, in tokens.
    about: what it is, for a run's manifest, without paths. trained_on: marks of the samples that it was trained on, or
    its stages chosen by; None where it does not say.
    """

    folder: Path
    base: Base
    trace_format: TraceFormat | None
    trace_tokens: int
    prompt_version: int
    render_version: int
    q1: tuple[Path, ...] | None
    q2: tuple[Path, ...]
    about: dict[str, Any]
    trained_on: frozenset[str] | None = None


def read_chain(folder: Path) -> Chain:
    """What an adapter says of itself; its files are not looked at. Raises ModelError where it says nothing readable."""
    return _read(folder / CHAIN, Chain, "not an adapter written by remid")


def read_estimator(folder: Path) -> Estimator:
    """An estimator and the chains of its adapters. folder: BUILTIN for the one that comes with remid.

    Raises ModelError where something is missing or unreadable.
    """
    if folder == BUILTIN:
        folder = Path(__file__).with_name("estimator")
    file = _read(folder / ESTIMATOR, _EstimatorFile, "not an estimator written by remid train")
    stacks: dict[str, tuple[Path, ...] | None] = {}
    about: dict[str, Any] = {"base": file.base.fingerprint, "trace_format": file.trace_format}
    for role, names in (("q1", file.q1), ("q2", file.q2)):
        if names is None:
            stacks[role] = about[role] = None
            continue
        for name in names:
            parts = PurePosixPath(name).parts
            if not parts or name.startswith("/") or ".." in parts:
                raise ModelError(f"{folder / ESTIMATOR}: {role}: {name} must name a folder inside {folder}")
        stacks[role] = tuple(folder / name for name in names)
        chains = [read_chain(folder / name) for name in names]
        about[role] = [{"stage": c.stage, "digest": c.digest, "parents": list(c.parents)} for c in chains]
    versions = {"prompt": file.prompt_version, "render": file.render_version, "trace_tokens": file.trace_tokens}
    about["digest"] = hashlib.sha256(_canonical([about, versions])).hexdigest()[:32]
    return Estimator(
        folder,
        file.base,
        file.trace_format,
        file.trace_tokens,
        file.prompt_version,
        file.render_version,
        stacks["q1"],
        stacks["q2"] or (),
        about,
        _marks(folder / TRAINED_ON),
    )


def _marks(path: Path) -> frozenset[str] | None:
    try:
        return frozenset(path.read_text(encoding="utf-8").split())
    except FileNotFoundError:  # from before there were marks, or made by hand
        return None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read ({error})") from error


def stack(source: ModelSource, folders: Sequence[Path]) -> ModelSource:
    """The model with adapters on it, lowest first, each of them verified. Loads nothing.

    Raises ModelError for an adapter that stands on something else, or whose files are missing or have changed.
    """
    key, names = source.fingerprint, []
    for folder in folders:
        chain = verified(folder, key)
        key = next_key(key, chain.digest)
        names.append(f"{chain.name} ({chain.stage})")
    if not folders:
        return source
    adapters = (*source.adapters, *folders)
    return ModelSource(" + ".join([source.name, *names]), source.folder, key, adapters, base=source.root)


def write_estimator(  # noqa: PLR0913 - what an estimator says of itself, all of it by name
    folder: Path,
    *,
    base: ModelSource,
    q1: Path | None,
    q2: Path,
    trace_format: TraceFormat | None,
    trace_tokens: int,
    prompt_version: int,
    dtype: AdapterDType = "float32",
    trained_on: Iterable[str] | None = None,
) -> Estimator:
    """Make an estimator of adapters that stand on `base`, which are copied; what was in `folder` is replaced.

    trace_format: None where q2 was trained without traces. dtype: of the copied weights. trained_on: see Estimator.
    Raises ModelError for adapters
    that stand on something else, StoreError where it cannot be written.
    """
    roles = {"q1": q1, "q2": q2}
    with replacing(folder) as made:
        for role, adapter in roles.items():
            if adapter is not None:
                chain = verified(adapter, base.fingerprint)
                (made / role).mkdir()
                for name in (CONFIG, WEIGHTS, CHAIN):
                    shutil.copyfile(adapter / name, made / role / name)
                if dtype != "float32":
                    _round(made / role, chain, dtype)
        file = _EstimatorFile(
            schema=1,
            base=Base(name=base.name, fingerprint=base.fingerprint),
            trace_format=trace_format,
            trace_tokens=trace_tokens,
            prompt_version=prompt_version,
            render_version=RENDER_VERSION,
            q1=None if q1 is None else ("q1",),
            q2=("q2",),
        )
        (made / ESTIMATOR).write_text(dump(file), encoding="utf-8")
        if trained_on is not None:
            (made / TRAINED_ON).write_text("".join(f"{mark}\n" for mark in sorted(set(trained_on))), encoding="utf-8")
    return read_estimator(folder)


def _round(folder: Path, chain: Chain, dtype: AdapterDType) -> None:
    """Round a copied adapter's weights; its digest becomes that of what is stored, what it was before is a parent."""
    import torch
    from safetensors.torch import load_file, save_file

    kind = getattr(torch, dtype)
    tensors = {name: tensor.to(kind) for name, tensor in load_file(folder / WEIGHTS).items()}
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise ModelError(f"{folder.name}: its weights do not fit into {dtype}; keep them in float32")
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    rounded = chain.model_copy(update={"digest": digest_of(folder), "parents": (*chain.parents, chain.digest)})
    (folder / CHAIN).write_text(dump(rounded), encoding="utf-8")


def verified(folder: Path, key: str) -> Chain:
    """An adapter's chain, if its files are what it says and it stands on `key`."""
    chain = read_chain(folder)
    found = digest_of(folder)
    if found != chain.digest:
        raise ModelError(
            f"{folder}: {CONFIG} or {WEIGHTS} is not what was saved (digest {found}, expected {chain.digest}); "
            "copy the folder again, or train it again"
        )
    if chain.stands_on != key:
        raise ModelError(
            f"{folder}: adapter {chain.name} ({chain.stage}) stands on {chain.stands_on}, but would be put on {key}; "
            f"it needs {chain.base.name} ({chain.base.fingerprint}) and beneath it the adapters it was trained on, "
            "in their order"
        )
    return chain


def next_key(key: str, digest: str) -> str:
    """Key of what is reached by putting an adapter on what has this key."""
    return f"adapted:{hashlib.sha256(f'{key}{digest}'.encode()).hexdigest()}"


def digest_of(folder: Path) -> str:
    """SHA-256 over the settings' content and the weights' bytes."""
    whole = hashlib.sha256(_canonical(read_json(folder / CONFIG)))
    try:
        with (folder / WEIGHTS).open("rb") as stream:
            whole.update(hashlib.file_digest(stream, "sha256").digest())
    except OSError as error:
        raise ModelError(f"{folder / WEIGHTS}: cannot be read ({error.strerror}); an adapter needs it") from error
    return whole.hexdigest()


def _canonical(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def dump(record: BaseModel) -> str:
    """A record as the text of its file."""
    return json.dumps(record.model_dump(mode="json", by_alias=True), ensure_ascii=False, indent=1) + "\n"


def _read(path: Path, kind: type[_Json], otherwise: str) -> _Json:
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}): {otherwise}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "content"
        raise ModelError(f"{path}: {place}: {first['msg']}: {otherwise}") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from an adapter's file, or ModelError."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); an adapter needs it") from error
    except ValueError as error:
        raise ModelError(f"{path}: is not JSON ({error}); copy the folder again") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: is not a JSON object; copy the folder again")
    return content


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A new folder that takes the place of `folder` once it is whole."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
            made = Path(scratch) / "new"
            made.mkdir()
            yield made
            if folder.exists():
                folder.rename(Path(scratch) / "old")
            made.rename(folder)
    except OSError as error:
        raise StoreError(f"{folder}: cannot be written ({error.strerror or error}); make room there") from error
