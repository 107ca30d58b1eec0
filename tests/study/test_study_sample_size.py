"""The bound against sample size, on a real tiny run and on made-up scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pipeline_fakes import world
from pipeline_tiny import Tiny

from remid.errors import ConfigError, DataError
from remid.pipeline.measure import remid_rows
from remid.pipeline.progress import Progress
from remid.pipeline.shift import Vectors, needed_texts
from remid.study.arcs import Part, whole_parts
from remid.study.sample_size import rows_by_size, sample_size_study

SILENT = Progress(enabled=False)


def test_the_whole_run_gives_the_runs_own_bound(tiny: Tiny, tmp_path: Path, models: None) -> None:
    folder = tiny.copy(tmp_path / "run")
    result = sample_size_study(folder, SILENT, permutations=20, draws=2)
    wanted = [row for row in tiny.run.result["bound"] if row["subset"] is not None and row["policy"] != "reference"]
    assert len(result["cells"]) == len(wanted) == 8
    for row in wanted:
        (cell,) = [c for c in result["cells"] if (c["policy"], c["subset"]) == (row["policy"], row["subset"])]
        assert cell["bound"] == pytest.approx(row["value"], abs=1e-9)
        assert cell["remid"] == pytest.approx(row["remid"], abs=1e-9)
        for key in ("h_hat", "delta", "input_term", "reference_term"):
            assert cell[key] == pytest.approx(row[key], abs=1e-9), key
        assert cell["js_user"] == pytest.approx(row["js"]["user"], abs=1e-9)
        (raw,) = [d["rjsd_raw"] for d in tiny.run.result["divergence"]
                  if (d["subset"], d["component"]) == (row["subset"], "dialogue")]  # fmt: skip
        assert cell["js_dialogue_raw"] == pytest.approx(raw, abs=1e-9)
    assert [row["n"] for row in result["sizes"]] == [4]
    assert result["run"] == tiny.run.result["manifest"]


def parts_and_vectors(lost: dict[str, list[int]] | None = None) -> tuple[list[Part], Vectors]:
    parts = whole_parts(world(lost=lost))
    for part in parts:
        for policy in ("one", "two"):
            n = len(part.scores.samples)
            part.texts[policy] = [None if i in (lost or {}).get(policy, ()) else f"{policy} {i}" for i in range(n)]
    texts = needed_texts([part.scores for part in parts], {part.scores.subset: part.texts for part in parts})
    rng = np.random.default_rng(0)
    return parts, {text: rng.normal(size=8).astype(np.float32) for text in sorted(texts)}


def rows(parts: list[Part], vectors: Vectors, **changes: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    settings = {"sizes": (4, 8), "draws": 3, "permutations": 20, "confidence": 0.95, "seed": 0} | changes
    return rows_by_size(parts, vectors, SILENT, **settings)


def test_sizes_draws_and_cells_are_all_there() -> None:
    parts, vectors = parts_and_vectors()
    sizes, cells = rows(parts, vectors, sizes=(4, 8, 99))
    assert [(row["n"], row["draws"], row["whole"]) for row in sizes] == [(4, 3, False), (8, 3, False), (12, 1, True)]
    assert len(cells) == (3 + 3 + 1) * 5 * 3  # draws, policies but the reference, shifted subsets
    # "es" has 6 items: all of them from n = 8 on; two ID subsets count together.
    assert {c["n_ood"] for c in cells if c["subset"] == "es" and c["n"] > 6} == {6}
    assert {c["n_id"] for c in cells if c["n"] == 8} == {8 + 7}
    assert sizes[0]["pairs_kept"] < sizes[1]["pairs_kept"] < sizes[2]["pairs_kept"] == 1
    whole = {(r["policy"], r["subset"]): r["value"] for r in remid_rows([p.scores for p in parts], 0.95)
             if r["unit"] == "nats/response"}  # fmt: skip
    for cell in (c for c in cells if c["n"] == 12):
        assert cell["remid"] == pytest.approx(whole[cell["policy"], cell["subset"]], abs=1e-12)


def test_known_directions_the_maximum_grows_and_raw_divergence_shrinks() -> None:
    parts, vectors = parts_and_vectors()
    sizes, _ = rows(parts, vectors)
    assert sizes[0]["surprise_max"] < sizes[-1]["surprise_max"]
    assert sizes[0]["js_user_raw"] > sizes[-1]["js_user_raw"] > sizes[-1]["js_user"]
    assert sizes[-1]["bound_final"]["pearson"] == pytest.approx(1.0)
    assert sizes[0]["gap"] == pytest.approx(sizes[0]["bound"] - sizes[0]["remid"])


def test_the_same_seed_gives_the_same_rows() -> None:
    parts, vectors = parts_and_vectors()
    assert rows(parts, vectors) == rows(parts, vectors)
    assert rows(parts, vectors, seed=1)[1] != rows(parts, vectors)[1]


def test_a_policy_that_never_answered_is_missing_and_not_zero() -> None:
    parts, vectors = parts_and_vectors({"two": list(range(12))})
    sizes, cells = rows(parts, vectors)
    gone = [cell for cell in cells if cell["policy"] == "two"]
    assert all(cell["remid"] is cell["bound"] is None for cell in gone)
    assert all(cell["js_user"] is not None for cell in gone)
    assert sizes[-1]["n_cells"] == 4 * 3


def test_wrong_folders_and_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no finished run"):
        sample_size_study(tmp_path, SILENT)
    for settings in ({"sizes": (3,)}, {"sizes": ()}, {"draws": 0}, {"permutations": 5}):
        with pytest.raises(ConfigError, match="sample-size"):
            sample_size_study(tmp_path, SILENT, **settings)  # type: ignore[arg-type]
