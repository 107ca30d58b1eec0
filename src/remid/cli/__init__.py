"""The command line: parse, call, print. Heavy imports wait inside the commands, so that --help answers at once."""

from __future__ import annotations

import sys
from typing import NoReturn

import typer

from remid.api import share_processors
from remid.cli import data, measure, plan, study, train, verify
from remid.errors import RemidError

app = typer.Typer(
    name="remid",
    help="Measure how far a role-playing model falls when its users, characters or dialogues change, which change did "
    "it, and how sure that is.\n\n"
    "Start with `remid demo`, then `remid data check YOUR_FILE`, then `remid run YOUR_FILE`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for _command in (measure.demo, measure.run, measure.respond, measure.report, measure.tokens, plan.plan, verify.verify):
    app.command()(_command)
app.add_typer(data.app, name="data")
app.add_typer(study.app, name="study")
app.add_typer(train.app, name="train")


def main() -> NoReturn:
    """Run the command line. What the user can mend is one message and exit code 2; anything else is our bug."""
    share_processors()
    try:
        app(prog_name="remid")
    except RemidError as error:
        print(f"remid: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except SystemExit as stop:
        if stop.code == 130:  # typer's answer to Ctrl-C, which it gives without a word
            print("remid: stopped; the same command goes on where it was", file=sys.stderr)
        raise
    raise SystemExit(0)
