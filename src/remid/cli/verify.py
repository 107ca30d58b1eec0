"""remid verify: hold the measurement against worlds with known answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from remid.cli.options import Quiet


def verify(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for verify.json and verify.html.")] = Path(
        "runs/verify"
    ),
    full: Annotated[
        bool, typer.Option("--full", help="The sizes behind docs/results/verify.md; most of an hour.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of all worlds and draws.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Check estimators, intervals, bounds and shares against exact truth; exit code 1 if a claim fails.

    Needs no data, no network and no GPU. A small model is trained on a grammar for the part that goes through text.
    """
    from rich.console import Console

    from remid.pipeline.progress import Progress
    from remid.pipeline.run import make_folder, write_json
    from remid.report.sheet import console_tables, render_sheet
    from remid.verify.run import run_verify
    from remid.verify.show import LEDE, TITLE, verify_sections

    make_folder(out)
    found = run_verify(full=full, seed=seed, progress=Progress(not quiet))
    write_json(out / "verify.json", found)
    sections = verify_sections(found)
    manifest = {key: found[key] for key in ("full", "seed", "sizes")}
    page = out / "verify.html"
    page.write_text(render_sheet(TITLE, LEDE, sections, manifest), encoding="utf-8")
    Console().print(console_tables(sections[:1]))
    typer.echo(f"\nresult: {out / 'verify.json'}\npage:   {page}")
    if any(check["passed"] is False for check in found["checks"]):
        raise typer.Exit(1)
