"""Where models come from: the built-in name, a local folder, or a hub id; and what identifies each in a run."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from remid.errors import ModelError
from remid.lm import builtin

if TYPE_CHECKING:
    import torch

DTypeName = Literal["auto", "float32", "bfloat16", "float16"]

#: What a model's outputs can depend on (.txt: merges.txt and vocab.txt of older tokenizers).
_FINGERPRINTED = frozenset({".json", ".safetensors", ".model", ".jinja", ".txt", ".py"})
#: The spelling by which users ask for the embedded model.
BUILTIN = "builtin"


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model that has been found but not loaded. fingerprint: changes whenever its outputs could change.

    adapters: folders of adapters to merge into the weights, lowest first (lm/adapters.py: stack). base: without them.
    """

    name: str
    folder: Path | None  # None: the embedded model, which may still have to be fetched
    fingerprint: str
    adapters: tuple[Path, ...] = ()
    base: ModelSource | None = None

    @property
    def root(self) -> ModelSource:
        """The model without adapters."""
        return self.base or self

    def path(self) -> Path:
        """The local folder, fetching the embedded model if need be."""
        return self.folder if self.folder is not None else builtin.builtin_path()


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A causal language model in evaluation mode with its tokenizer, on one device."""

    source: ModelSource
    model: Any
    tokenizer: Any
    device: torch.device
    dtype: str
    max_length: int  # tokens that fit into the model's positions


def find_model(name: str) -> ModelSource:
    """Resolve "builtin", a local folder, or a hub id ("owner/name", "owner/name@revision").

    Raises ModelError when the folder holds no model, or the hub cannot be reached.
    """
    path = Path(name).expanduser()
    if name == BUILTIN or (name == builtin.NAME and not path.is_dir()):  # a folder of that name may be tuned from it
        return ModelSource(builtin.NAME, None, builtin.FINGERPRINT)
    if path.is_dir():
        return ModelSource(name, path, _fingerprint(path))
    if path.exists():
        raise ModelError(f"{name}: is a file; give the folder that holds config.json and the safetensors weights")
    if name.partition("@")[0].count("/") != 1 or name.startswith((".", "/", "~")):
        raise ModelError(f'{name}: no such folder, and not a hub id like "owner/name" (the embedded model: {BUILTIN})')
    folder = _from_hub(name)
    return ModelSource(name, folder, f"hub:{name.partition('@')[0]}@{folder.name}")


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    repo, _, revision = name.partition("@")
    try:
        # No pickled weights. Modelling code comes along as text; only --trust-remote-code ever runs it.
        patterns = ["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt", "*.py"]
        return Path(snapshot_download(repo, revision=revision or None, allow_patterns=patterns))
    except Exception as error:
        raise ModelError(
            f"{name}: not in the local hub cache and the hub could not be used ({type(error).__name__}). "
            "Offline? Give a local folder, or use the embedded model: --model builtin"
        ) from error


def _fingerprint(folder: Path) -> str:
    """Digest over configuration, tokenizer, weights and code of a model's folder."""
    files = sorted(p for p in folder.iterdir() if p.suffix in _FINGERPRINTED and p.is_file())
    if not any(p.suffix == ".safetensors" for p in files) or not (folder / "config.json").exists():
        raise ModelError(f"{folder}: needs config.json and *.safetensors weights (pickled weights are not loaded)")
    return f"folder:{files_digest(files, folder)}"


def files_digest(files: Iterable[Path], root: Path) -> str:
    """SHA-256 (32 hex digits) over names and contents; digests of unchanged files are remembered by size and time."""
    memory_file = builtin.cache_dir() / "fingerprints.json"
    try:
        memory = json.loads(memory_file.read_text())
    except (OSError, ValueError):
        memory = {}
    known: dict[str, str] = dict(memory) if isinstance(memory, dict) else {}
    whole = hashlib.sha256()
    for path in files:
        stat = path.stat()
        # The change time too: tools that copy or unpack set the modification time back.
        key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ctime_ns}"
        if key not in known:
            with path.open("rb") as stream:
                known[key] = hashlib.file_digest(stream, "sha256").hexdigest()
        whole.update(f"{path.relative_to(root)}:{known[key]}\n".encode())
    if known != memory:
        with contextlib.suppress(OSError):  # a cache that cannot be written costs time, nothing else
            memory_file.parent.mkdir(parents=True, exist_ok=True)
            memory_file.write_text(json.dumps(known))
    return whole.hexdigest()[:32]


def resolve_device(device: str = "auto") -> str:
    """ "auto" is CUDA where there is one, else the CPU."""
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def resolve_dtype(dtype: DTypeName, device: str) -> str:
    """ "auto" is float32 on a CPU and bfloat16 on an accelerator."""
    if dtype != "auto":
        return dtype
    return "float32" if device.startswith("cpu") else "bfloat16"


def load_model(
    source: ModelSource, *, device: str = "auto", dtype: DTypeName = "auto", trust_remote_code: bool = False
) -> LoadedModel:
    """Load weights and tokenizer. Raises ModelError with the library's reason when that fails."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    where = resolve_device(device)
    kind = resolve_dtype(dtype, where)
    path = source.path()
    tokenizer, limit = load_tokenizer(source, trust_remote_code=trust_remote_code)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            path, dtype=getattr(torch, kind), use_safetensors=True, trust_remote_code=trust_remote_code
        )
        model = model.to(where).eval()
    except Exception as error:
        raise ModelError(f"{source.name}: cannot be loaded from {path}: {error}") from error
    if source.adapters:
        from remid.lm.adapters import attach

        model = attach(model, source.adapters, source.root.fingerprint).eval()
    if where == "cpu" and kind == "float32":
        from remid.lm.cpu import use_onednn

        use_onednn(model)
    return LoadedModel(source, model, tokenizer, torch.device(where), kind, limit)


def load_tokenizer(source: ModelSource, *, trust_remote_code: bool = False) -> tuple[Any, int]:
    """A model's tokenizer, and how many tokens fit into its positions; the weights stay where they are.

    Raises ModelError with the library's reason, or where there is no chat template.
    """
    from transformers import AutoConfig, AutoTokenizer

    path = source.path()
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code).get_text_config()
    except Exception as error:
        raise ModelError(f"{source.name}: cannot be loaded from {path}: {error}") from error
    if not getattr(tokenizer, "chat_template", None):
        raise ModelError(f"{source.name}: its tokenizer has no chat template; use an instruction-tuned model")
    return tokenizer, int(getattr(config, "max_position_embeddings", None) or 1 << 20)
