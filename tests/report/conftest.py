"""Lets the tests of this folder import `factory`, `devtools` and the journals of tests/train, in any import mode."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
