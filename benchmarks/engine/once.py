"""A process of its own that scores a file of works once and says what it took: `python -m benchmarks.engine.once FILE`.

Peak memory is VmHWM, which belongs to this process alone; what getrusage calls the peak begins with the parent's. It is
set back after loading where the kernel allows it, so that loading and scoring are told apart.
"""

from __future__ import annotations

import hashlib
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from remid.lm.work import Work

_ROOT = Path(__file__).resolve().parents[2]


def score_elsewhere(work: Sequence[Work], model: str, threads: int) -> dict[str, Any]:
    """What the process says. Raises RuntimeError with its last words where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder) / "spec.json"
        asked = [[w.prompt, w.continuations] for w in work]
        spec.write_text(json.dumps({"model": model, "threads": threads, "work": asked}))
        command = [sys.executable, "-m", "benchmarks.engine.once", str(spec)]
        done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"a process of its own failed ({done.returncode}): {done.stderr[-2000:]}")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def memory_now() -> dict[str, int]:
    """Resident bytes of this process, now and at the peak."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:  # not Linux: only the peak is known
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {"now": 0, "peak": peak if sys.platform == "darwin" else peak * 1024}
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith(("VmRSS", "VmHWM"))}
    return {"now": kilobytes["VmRSS"] * 1024, "peak": kilobytes["VmHWM"] * 1024}


def forget_peak() -> bool:
    """Begin a new peak. Returns whether the kernel does that."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def bytes_of(found: dict[Any, Any]) -> str:
    """SHA-256 over all scores in the order of their pairs."""
    digest = hashlib.sha256()
    for key in sorted(found):
        digest.update(found[key].tobytes())
    return digest.hexdigest()


def main() -> None:
    spec = json.loads(Path(sys.argv[1]).read_text())
    work = [Work(tuple(prompt), tuple(map(tuple, answers))) for prompt, answers in spec["work"]]
    from remid.api import share_processors

    share_processors()
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from remid.lm.models import find_model, load_tokenizer
    from remid.lm.scoring import Scorer

    from .arms import load_ours, ours, timed

    torch.set_num_threads(spec["threads"])
    # What is no weight: libraries, the model's code, its tokenizer. On the meta device a model has no memory.
    source = find_model(spec["model"])
    tokenizer = load_tokenizer(source)
    with torch.device("meta"):
        AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(source.path()))
    libraries = memory_now()["now"]
    del tokenizer
    seconds_load, _, scorer = timed(lambda: Scorer(load_ours(spec["model"])))
    loading = memory_now()
    apart = forget_peak()
    seconds, processor, found = timed(lambda: ours(scorer, work))
    told = {
        "seconds": seconds,
        "processor_seconds": processor,
        "seconds_load": seconds_load,
        "bytes_libraries": libraries,
        "bytes_loaded": loading["now"],
        "bytes_peak_loading": loading["peak"],
        "bytes_peak": memory_now()["peak"],
        "peak_is_of_scoring": apart,
        "sha256": bytes_of(found),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
