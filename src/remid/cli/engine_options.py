"""Options for servers, shared by the commands that write or score through one (docs/servers.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from remid.engine.server_settings import ServerSettings
    from remid.engine.spending import Cost

Server = Annotated[
    str | None, typer.Option("--server", help="Write through this OpenAI-compatible server (http://.../v1).")
]
ScoreServer = Annotated[
    str | None, typer.Option("--score-server", help="Score through this server; it must give prompt log-probabilities.")
]
Tokenizer = Annotated[
    str | None, typer.Option("--tokenizer", help="With --score-server: folder of the served model's tokenizer.")
]
KeyEnv = Annotated[
    str, typer.Option("--key-env", help='Environment variable that holds the server\'s key; "" sends none.')
]
Concurrency = Annotated[int, typer.Option("--concurrency", min=1, help="Requests under way at once.")]
RequestsPerMinute = Annotated[float | None, typer.Option("--rpm", help="Requests per minute at most.")]
TokensPerMinute = Annotated[float | None, typer.Option("--tpm", help="Tokens per minute at most.")]
PricePrompt = Annotated[float | None, typer.Option("--price-prompt", help="Price of a million prompt tokens.")]
PriceCompletion = Annotated[float | None, typer.Option("--price-completion", help="Price of a million written tokens.")]
MaxCost = Annotated[
    float | None, typer.Option("--max-cost", help="Stop before this command spends more (needs prices).")
]
MaxServerTokens = Annotated[int | None, typer.Option("--max-server-tokens", help="Stop before it spends more tokens.")]
Omit = Annotated[
    list[str] | None,
    typer.Option("--omit", help="Field that the model refuses, such as temperature: not sent (repeatable)."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before spending.")]


def server_settings(url: str, model: str, **given: Any) -> ServerSettings:
    """Settings from a command's options; what was not given (None) keeps its default. Raises ConfigError."""
    from remid.engine.server_settings import ServerSettings

    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if "omit" in chosen:
        chosen["omit"] = tuple(chosen["omit"])
    return ServerSettings(base_url=url, model=model, **chosen)


def agree_to(cost: Cost, *, ask: bool) -> None:
    """Print what a job will cost before it starts; where money is named, ask. Ends the command if the answer is no."""
    typer.echo(f"estimate: {cost}", err=True)
    if ask and cost.money:
        typer.confirm("Go on? (--yes does not ask)", abort=True, err=True)
