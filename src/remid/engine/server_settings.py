"""How a server is reached, how hard it may be asked, and what it may cost: all but the key, which stays outside."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from remid.errors import ConfigError, EngineError

Opening = Literal["auto", "continue", "assistant", "instruction"]
Dialect = Literal["auto", "prompt_logprobs", "echo"]

DEFAULT_KEY = "OPENAI_API_KEY"
#: What `omit` may name: the fields of a chat request that some servers refuse.
OMITTABLE = ("temperature", "top_p", "seed", "repetition_penalty")


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """An OpenAI-compatible server and one of its models.

    base_url: up to and with "/v1". api_key_env: the environment variable that holds the key ("": send none).
    concurrency: requests under way at once. requests_per_minute, tokens_per_minute: limits to keep (None: none).
    timeout: seconds for one request. max_retries: tries after the first, when a server is busy or fails.
    price_prompt, price_completion: of a million tokens, in whatever currency max_cost has.
    max_cost, max_total_tokens: what one command may spend; it stops before that is exceeded.
    opening: how an answer is begun for the model ("auto" asks the server once). dialect: how prompt log-probabilities
    are asked for. omit: fields that are not sent, for models that refuse them. Raises ConfigError.
    """

    base_url: str
    model: str
    api_key_env: str = DEFAULT_KEY
    concurrency: int = 8
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    timeout: float = 300.0
    max_retries: int = 8
    price_prompt: float | None = None
    price_completion: float | None = None
    max_cost: float | None = None
    max_total_tokens: int | None = None
    opening: Opening = "auto"
    dialect: Dialect = "auto"
    omit: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_url(self.base_url)
        if not self.model.strip():
            raise ConfigError("server: name the model that the server shall use (--model)")
        if self.api_key_env and not re.fullmatch(r"[A-Za-z_]\w*", self.api_key_env, re.ASCII):
            # Not repeated: it may be the key itself.
            raise ConfigError("server: give the name of the environment variable that holds the key, not the key")
        if self.concurrency < 1 or self.max_retries < 0 or not 0 < self.timeout < float("inf"):
            raise ConfigError("server: concurrency and timeout must be above 0, max_retries at least 0")
        self._check_money()
        if unknown := [name for name in self.omit if name not in OMITTABLE]:
            raise ConfigError(f"server: omit: {', '.join(unknown)} cannot be left out; one of {', '.join(OMITTABLE)}")

    def _check_money(self) -> None:
        for name in ("requests_per_minute", "tokens_per_minute", "max_cost", "max_total_tokens"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"server: {name} must be above 0")
        prices = (self.price_prompt, self.price_completion)
        if any(price is not None and not 0 <= price < float("inf") for price in prices):
            raise ConfigError("server: a price must be 0 or more")
        if (self.price_prompt is None) != (self.price_completion is None):
            raise ConfigError("server: give both prices, for prompt and for completion tokens, or none")
        if self.max_cost is not None and self.price_prompt is None:
            raise ConfigError("server: max_cost needs price_prompt and price_completion (per million tokens)")

    @property
    def url(self) -> str:
        """base_url in one spelling: lower-case host, no slash at its end."""
        parts = urlsplit(self.base_url.strip())
        return f"{parts.scheme.lower()}://{parts.netloc.lower()}{parts.path.rstrip('/')}"

    @property
    def is_local(self) -> bool:
        """Whether the server is on this machine."""
        host = urlsplit(self.url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost" or host.endswith(".localhost")

    def key(self) -> str | None:
        """The key from the environment, or None where none is needed. Raises EngineError where one is.

        The default variable holds the key of a paid service, so it is not sent in the clear to another machine.
        """
        secure = self.url.startswith("https:")
        if not self.api_key_env or (self.api_key_env == DEFAULT_KEY and not secure and not self.is_local):
            return None
        value = os.environ.get(self.api_key_env, "").strip()
        if not (value.isascii() and value.isprintable()):  # a line break would end the header
            raise EngineError(f"the key in the environment variable {self.api_key_env} has signs that no key has")
        if value:
            return value
        if self.is_local or not secure:
            return None
        raise EngineError(
            f"{self.url}: needs a key, and the environment variable {self.api_key_env} is not set; set it, name "
            'another (api_key_env), or give api_key_env="" if this server wants none'
        )

    def identity(self, kind: str) -> list[Any]:
        """What identifies the server and the model behind a result, without credentials."""
        return ["openai-compatible", kind, self.url, self.model]


def _check_url(base_url: str) -> None:
    """Refuse what is not a plain address. Messages never repeat the address: it may hold a password."""
    try:
        parts = urlsplit(base_url.strip())
        port_fits = parts.port is None or 0 < parts.port < 65536
    except ValueError:
        raise ConfigError("server: base_url is not an address; it looks like http://localhost:8000/v1") from None
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname or not port_fits:
        raise ConfigError("server: base_url is not an address; it looks like http://localhost:8000/v1")
    if parts.username is not None or parts.password is not None:
        raise ConfigError("server: base_url holds a user or password; keys come from the environment (api_key_env)")
    if parts.query or parts.fragment:
        raise ConfigError("server: base_url has a query; give the plain address (keys come from the environment)")
