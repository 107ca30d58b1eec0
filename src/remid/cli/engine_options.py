"""Options for where the model runs: a Ray cluster (docs/cluster.md) or a server (docs/servers.md)."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from remid.engine.server_settings import ServerSettings
    from remid.engine.spending import Cost
    from remid.pipeline.engines import EngineConfig


def _option(*names: str, **settings: Any) -> Any:
    """An option that `--help` shows with the others of its kind."""
    return typer.Option(*names, rich_help_panel="Where the model runs", **settings)


class Engine(StrEnum):
    """Where the model runs."""

    local = "local"
    ray = "ray"


EngineOption = Annotated[Engine, _option("--engine", help="local: in this process; ray: spread over a cluster.")]
Workers = Annotated[
    int | None,
    _option("--workers", min=1, help="With --engine ray; default: as many as there is room for."),
]
WorkerThreads = Annotated[int, _option("--worker-threads", min=1, help="With --engine ray: processors of each.")]
RayAddress = Annotated[
    str | None,
    _option("--ray-address", help="auto, or host:port of a running cluster; without it Ray is started here."),
]
Server = Annotated[
    str | None,
    _option("--server", help="Write through this OpenAI-compatible server (http://.../v1)."),
]
ScoreServer = Annotated[
    str | None,
    _option(
        "--score-server",
        help="Score through this server; it must give prompt log-probabilities.",
    ),
]
Tokenizer = Annotated[
    str | None,
    _option("--tokenizer", help="With --score-server: folder of the served model's tokenizer."),
]
KeyEnv = Annotated[
    str,
    _option("--key-env", help='Environment variable that holds the server\'s key; "" sends none.'),
]
Concurrency = Annotated[int, _option("--concurrency", min=1, help="Requests under way at once.")]
RequestsPerMinute = Annotated[float | None, _option("--rpm", help="Requests per minute at most.")]
TokensPerMinute = Annotated[float | None, _option("--tpm", help="Tokens per minute at most.")]
PricePrompt = Annotated[float | None, _option("--price-prompt", help="Price of a million prompt tokens.")]
PriceCompletion = Annotated[float | None, _option("--price-completion", help="Price of a million written tokens.")]
MaxCost = Annotated[
    float | None,
    _option("--max-cost", help="Stop before this command spends more (needs prices)."),
]
MaxServerTokens = Annotated[int | None, _option("--max-server-tokens", help="Stop before it spends more tokens.")]
Omit = Annotated[
    list[str] | None,
    _option(
        "--omit",
        help="Field that the model refuses, such as temperature: not sent (repeatable).",
    ),
]
Yes = Annotated[bool, _option("--yes", "-y", help="Do not ask before spending.")]


#: Options that do nothing without a server, by the name of their setting.
_SERVED = {
    "requests_per_minute": "--rpm",
    "tokens_per_minute": "--tpm",
    "price_prompt": "--price-prompt",
    "price_completion": "--price-completion",
    "max_cost": "--max-cost",
    "max_total_tokens": "--max-server-tokens",
    "omit": "--omit",
}


def server_settings(url: str | None, model: str, option: str, **given: Any) -> ServerSettings | None:
    """Settings from a command's options; what was not given (None) keeps its default. None where url is None.

    option: the one that names a server. Raises ConfigError, also for limits that no server is there to keep: somebody
    who sets a budget expects that money is spent.
    """
    from remid.engine.server_settings import ServerSettings
    from remid.errors import ConfigError

    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if url is None:
        if idle := [_SERVED[name] for name in chosen if name in _SERVED]:
            raise ConfigError(f"{', '.join(idle)}: for a server, and none is named; see {option}")
        return None
    if "omit" in chosen:
        chosen["omit"] = tuple(chosen["omit"])
    return ServerSettings(base_url=url, model=model, **chosen)


def agree_to(cost: Cost, *, ask: bool) -> None:
    """Print what a job will cost before it starts; where money is named, ask. Ends the command if the answer is no."""
    typer.echo(f"estimate: {cost}", err=True)
    if ask and cost.money:
        typer.confirm("Go on? (--yes does not ask)", abort=True, err=True)


def engine_config(
    engine: Engine, workers: int | None, threads: int, ray_address: str | None, server: ServerSettings | None, yes: bool
) -> EngineConfig:
    """Where a command's model runs, from its options."""
    from remid.pipeline.engines import EngineConfig

    return EngineConfig(engine.value, workers, threads, ray_address, server, lambda cost: agree_to(cost, ask=not yes))
