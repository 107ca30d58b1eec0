"""Memory that was freed: kept for the next tensor, and given back when asked. In a process of its own: it is of all."""

from __future__ import annotations

import subprocess
import sys

import pytest

_PROBE = """
from pathlib import Path
from remid.lm.heap import give_back_memory, keep_freed_memory, one_heap

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

assert one_heap() and keep_freed_memory()
import torch
begin = resident()
held = []
for _ in range(100):  # 200 MB in pieces, with something between them that stays
    held.append((torch.ones(500_000), torch.ones(2_000)))
stay = [small for _, small in held]
full = resident()
del held
freed = resident()
give_back_memory()
print(full - begin, freed - begin, resident() - begin)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the heap of glibc")
def test_freed_memory_is_kept_until_it_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, check=True)
    full, freed, after = map(int, done.stdout.split())
    assert full > 190e6
    assert freed > 0.9 * full
    assert after < 0.2 * full
