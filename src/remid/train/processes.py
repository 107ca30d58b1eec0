"""Several processes that train one run (torch.distributed): which one this is, and what the first one writes for all.

Before training begins there is no process group, and a barrier has a time limit that a server or a large model may
exceed while it writes traces; so the others wait for a file. If the first process fails, its launcher ends the others.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

_EVERY = 0.2  # seconds


def is_first() -> bool:
    """Whether this process writes what all share; true where there is only one."""
    return os.environ.get("RANK", "0") == "0"


def several() -> bool:
    """Whether there are more processes than this one."""
    return os.environ.get("WORLD_SIZE", "1") != "1"


def wait_for(path: Path) -> None:
    """Return once the first process has put this file there."""
    while not path.exists():
        time.sleep(_EVERY)
