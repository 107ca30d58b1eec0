"""F and G. What other scripts of this folder measure, run as they are run by hand: workers on Ray, and kills."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from .bench import Bench
from .spread import Row

_HERE = Path(__file__).resolve().parents[1]


def ray_workers(bench: Bench) -> Row:
    """Two workers of one thread against one, on real dialogues (benchmarks/ray_workers.py)."""
    contexts = "2" if bench.quick else "6"
    more = ["--model", bench.model, "--contexts", contexts, "--responses", "4" if bench.quick else "12"]
    return _script("ray_workers.py", [str(bench.data), *more, "--repeats", str(bench.sizes.ray_repeats)])


def kills(bench: Bench) -> Row:
    """SIGKILLs at random moments (benchmarks/kills.py)."""
    return _script("kills.py", ["--kills", str(bench.sizes.kills)])


def _script(name: str, options: list[str]) -> Row:
    """What the script writes to --out. Raises RuntimeError with its last words where it fails."""
    path = _HERE / name
    if not path.exists():
        raise RuntimeError(f"benchmarks/{name} does not exist")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        command = [sys.executable, str(path), *options, "--out", str(out)]
        done = subprocess.run(command, cwd=_HERE.parent, capture_output=True, text=True, check=False)
        if not out.exists():
            raise RuntimeError(f"benchmarks/{name} failed ({done.returncode}): {(done.stderr or done.stdout)[-1500:]}")
        found: Row = json.loads(out.read_text())
    return {
        "script": f"benchmarks/{name} {' '.join(options)}".replace(str(Path(options[0])), Path(options[0]).name),
        **found,
    }
