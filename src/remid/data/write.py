"""Writing a benchmark as RPGBench JSON that reads back equal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from remid.data.text import shown
from remid.errors import DataError, Problem
from remid.types import Benchmark, Sample


def write_benchmark(benchmark: Benchmark, path: Path) -> None:
    """Writes an object of split -> list of samples, UTF-8, to `path` (which must end in .json).

    Read back with the same taxonomy and group_by, it gives samples equal to these but for `place`, and the same
    digest. A subset that reading renamed (group_by, or "NAME [SHIFT]") is written under the tag it came with.
    DataError where the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".json":
        raise DataError(
            [Problem(shown(str(path), 400), "", "", "must end in .json, so that it reads back as RPGBench JSON")]
        )
    by_split: dict[str, list[dict[str, Any]]] = {}
    for sample in benchmark.samples:
        by_split.setdefault(sample.split, []).append(_record(sample))
    text = json.dumps(by_split, ensure_ascii=False, indent=1, allow_nan=False)
    # Written beside its place and moved there, so that a reader never meets half a file.
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(text.encode("utf-8") + b"\n")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        reason = f"cannot be written: {error.strerror or error}"
        raise DataError([Problem(shown(str(path), 400), "", "", reason)]) from None


def _record(sample: Sample) -> dict[str, Any]:
    record = {
        "sample_ID": sample.sample_id,
        "user_persona": sample.user,
        "agent_character": sample.meta.get("agent_character", sample.character),
        "dialogue_context": [
            {"user_query" if turn.role == "user" else "agent_response": turn.text} for turn in sample.dialogue
        ],
        "agent_golden_response": sample.reference,
        "subset_tag": sample.meta.get("subset_tag", sample.subset),
    }
    if sample.trace is not None:
        record["SThought"] = sample.trace
    if sample.responses:
        record["model_response"] = dict(sample.responses)
    return record | {key: value for key, value in sample.meta.items() if key not in record}
