"""The tiny run of the pipeline's tests, here as well."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "pipeline"))
sys.path.insert(0, str(Path(__file__).parents[1] / "report"))

from pipeline_tiny import Tiny, reuse, tiny_run

from remid.lm.models import LoadedModel


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, shallow: LoadedModel) -> Tiny:
    """A finished run on the tiny benchmark, not to be changed."""
    return tiny_run(tmp_path_factory, shallow)


@pytest.fixture
def models(shallow: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading the tests' model and the embedder costs nothing in this test."""
    reuse(shallow, monkeypatch)
