"""Print R-EMI on ID data and R-EMID per shift from a run's result.json (python examples/read_result.py [RUN_FOLDER]).

Needs nothing but Python. docs/result.md lists every key.
"""

import json
import sys
from pathlib import Path

UNIT = "nats/response"


def cell(row: dict | None) -> str:
    """value [interval] with * where it is significant after correction; "n/a" is "could not be estimated", never 0."""
    if row is None or row["value"] is None:
        return "n/a"
    star = "*" if row.get("significant") else ""
    if row["ci_low"] is None:
        return f"{row['value']:+.1f}{star} [no interval]"
    return f"{row['value']:+.1f}{star} [{row['ci_low']:+.1f}, {row['ci_high']:+.1f}]"


def table(result: dict) -> list[list[str]]:
    """A header, then a line per policy. Rows without a subset pool a whole shift."""
    remi = {row["policy"]: row for row in result["remi"] if row["shift"] == "id" and pooled(row)}
    remid = {(row["policy"], row["shift"]): row for row in result["remid"] if pooled(row)}
    shifts = list(dict.fromkeys(shift for _, shift in remid))
    lines = [["policy", "R-EMI on ID", *(f"R-EMID {shift}" for shift in shifts)]]
    for policy in result["policies"]:
        name = policy["policy"]
        label = name if policy["kind"] == "model" else f"{name} (control)"
        lines.append([label, cell(remi.get(name)), *(cell(remid.get((name, shift))) for shift in shifts)])
    return lines


def pooled(row: dict) -> bool:
    """Whether a row stands for a whole shift, in the unit that is printed."""
    return row["unit"] == UNIT and row["subset"] is None


def main(folder: Path) -> None:
    """Print the table and every warning."""
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    if result["schema_version"] != 1:
        raise SystemExit(f"{folder}: schema {result['schema_version']}, this script reads 1")
    lines = table(result)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    print(f"{UNIT}; positive R-EMID: the policy loses under the shift; *: significant after correction")
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
    for warning in result["warnings"]:
        print(f"! {warning['text']}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo"))
