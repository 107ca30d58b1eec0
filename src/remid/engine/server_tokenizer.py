"""The tokenizer of a model that runs elsewhere: loaded here, because token ids are what is sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from remid.errors import ModelError
from remid.lm import builtin
from remid.lm.models import BUILTIN, files_digest

#: What a tokenizer's output can depend on: everything in its folder but weights.
_SUFFIXES = frozenset({".json", ".model", ".jinja", ".txt"})


def tokenizer_fingerprint(name: str) -> str:
    """Changes whenever the tokenizer's ids or the chat template could. Raises ModelError where there is none."""
    if name in (BUILTIN, builtin.NAME):
        return builtin.FINGERPRINT
    folder = Path(name).expanduser()
    files = sorted(p for p in folder.iterdir() if p.suffix in _SUFFIXES and p.is_file()) if folder.is_dir() else []
    if not any(p.name in ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json") for p in files):
        raise ModelError(
            f"{name}: holds no tokenizer (tokenizer.json); give the folder of the served model's tokenizer (no weights "
            f"needed), or {BUILTIN}"
        )
    return f"tokenizer:{files_digest(files, folder)}"


def load_tokenizer(name: str) -> Any:
    """The tokenizer in a local folder, or the embedded model's ("builtin"). Code that comes with it is not run."""
    from transformers import AutoTokenizer

    tokenizer_fingerprint(name)  # says what is missing in words that help
    path = builtin.builtin_path() if name in (BUILTIN, builtin.NAME) else Path(name).expanduser()
    try:
        return AutoTokenizer.from_pretrained(str(path), local_files_only=True)
    except Exception as error:
        raise ModelError(f"{name}: the tokenizer cannot be loaded: {error}") from error
