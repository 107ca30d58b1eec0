"""The commands that look at benchmark files: remid data check, remid data describe."""

from __future__ import annotations

from typing import Annotated

import typer

from remid.cli.options import Data, GroupBy, Mapping, Responses, Taxonomy

app = typer.Typer(help="Look at benchmark files before running on them.", no_args_is_help=True)


@app.command("check")
def data_check(
    data: Data,
    responses: Responses = None,
    mapping: Mapping = None,
    taxonomy: Taxonomy = None,
    group_by: GroupBy = None,
) -> None:
    """Say what DATA holds, or every problem in it with file, record and field."""
    from remid.data.check import check, render
    from remid.data.read import read_benchmark

    benchmark = read_benchmark(data, responses=responses or (), mapping=mapping, taxonomy=taxonomy, group_by=group_by)
    typer.echo(render(check(benchmark)))


@app.command("describe")
def data_describe(
    data: Data,
    responses: Responses = None,
    mapping: Mapping = None,
    taxonomy: Taxonomy = None,
    group_by: GroupBy = None,
    examples: Annotated[int | None, typer.Option(min=0, help="Samples shown per subset.")] = None,
) -> None:
    """Show a few samples of each subset."""
    from remid.data.describe import describe
    from remid.data.read import read_benchmark

    benchmark = read_benchmark(data, responses=responses or (), mapping=mapping, taxonomy=taxonomy, group_by=group_by)
    typer.echo(describe(benchmark, examples=examples))
