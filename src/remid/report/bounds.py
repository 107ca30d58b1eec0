"""Columns of the bounds table that hold the plug-in bounds and the shares (docs/result.md)."""

from __future__ import annotations

_NAMES = ("T0", "T1", "T1'", "T2", "T3", "T4", "T5")
_PARTS = ("user", "character", "dialogue")
_SETS = (*_PARTS, "user+character", "user+dialogue", "character+dialogue", "user+character+dialogue")

#: In the order of the row's keys.
BOUND_COLUMNS = (
    *(
        f"bounds.{name}.{key}"
        for name in _NAMES
        for key in ("value", "ci_low", "ci_high", "information", "slack", "reason", "exceeded")
    ),
    "least",
    *(f"ingredients.{key}" for key in ("t", "js", "eps_id", "eps_ood")),
    *(
        f"shares.{kind}.{part}.{key}"
        for kind in ("paper", "shapley", "sparse")
        for part in _PARTS
        for key in ("value", "ci_low", "ci_high")
    ),
    *(f"shares.v.{name}" for name in _SETS),
    *(f"shares.{key}" for key in ("leader", "leads", "reason")),
)
BOUND_TEXT = {"least", "shares.leader", "shares.reason", *(f"bounds.{name}.reason" for name in _NAMES)}
BOUND_FLAGS = {f"bounds.{name}.exceeded" for name in _NAMES}
