"""The doors between the rooms: who may import whom (the contracts in pyproject.toml)."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
#: Loaded only by those who need them.
HEAVY = (
    "torch",
    "transformers",
    "scipy",
    "plotly",
    "pyarrow",
    "datasets",
    "pydantic",
    "typer",
    "ray",
    "openai",
)


def test_every_contract_between_the_rooms_is_kept() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    command = [Path(sys.executable).parent / "lint-imports", "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Contracts: {len(contracts)} kept, 0 broken." in done.stdout


def loaded_by(module: str) -> list[str]:
    script = f"import sys, {module}; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return done.stdout.split()


def test_importing_remid_loads_no_large_library() -> None:
    assert loaded_by("remid") == []


@pytest.mark.parametrize("module", ["remid.report", "remid.data", "remid.estimate", "remid.pipeline.config"])
def test_rooms_without_a_model_load_no_torch(module: str) -> None:
    assert not {"torch", "transformers"} & set(loaded_by(module))
