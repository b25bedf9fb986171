"""The gateway's configuration: read once, checked, then frozen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from server.budget.families import FAMILY_TEXTS, FamilyError, FamilyOptions
from server.gateway.chat.granularity import Granularity
from server.gateway.engines.discovery import DNS_SCHEME

ENVIRONMENT_PREFIX = "S1_GATEWAY_"
_URLS = frozenset({"cors_origins", "engine_urls", "otlp_endpoint", "redis_url", "reward_url"})
"""Settings whose values may hold a password."""


class SettingsError(ValueError):
    """A setting that stops the start; the message names it, its value and what was expected."""


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    """The address to listen on."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """0 lets the system choose."""
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes that serve this port together (docs/workers.md)."""
    engine_urls: tuple[str, ...] = ()
    """Base URLs of the engines, without /v1; at least one, unless `s1 serve` starts its own.
    `dns+http://NAME:PORT` stands for an engine at every address of the name, as they come and go."""
    family: str | None = None
    """The engines' thinking markers: a family, or `none`. Needed by engines without our plugin, where it
    can't be told; the four texts below describe a new family, or change one. In them `\\n` is a newline."""
    think_start: str | None = None
    """The marker before the thinking."""
    think_end: str | None = None
    """The marker after it."""
    wait_text: str | None = None
    """What an injected wait says."""
    answer_prompt: str | None = None
    """What a forced answer begins with."""
    policy_file: Path | None = None
    """Defaults and caps of thinking budgets (docs/policy.md); read again when it changes."""
    reward_url: str | None = None
    """Base URL of a process-reward model that vLLM's pooling runner serves (docs/parallel.md)."""
    reward_step_tag: Annotated[str, Field(min_length=1)] = "<extra_0>"
    """The token after each step at which the reward model rates; the default is Qwen2.5-Math-PRM's."""
    reward_timeout_s: Annotated[float, Field(gt=0)] = 120.0
    """For one line of thought to be rated, its wait in the reward model's queue included."""
    step_boundary: Annotated[str, Field(min_length=1)] = "\n\n"
    """Between the steps of a line of thought; `\\n` is a newline. The demo checkpoint's is one newline."""
    max_body_bytes: Annotated[int, Field(ge=1024)] = 8 * 1024 * 1024
    """The largest request body that is read; a larger one is a 413."""
    connect_timeout_s: Annotated[float, Field(gt=0)] = 10.0
    """A dead engine refuses at once; a crowded one may take seconds to accept."""
    control_timeout_s: Annotated[float, Field(gt=0)] = 5.0
    """For health, models and description of an engine, not for generation, which has no limit."""
    receipt_wait_ms: Annotated[int, Field(ge=0, le=60_000)] = 2000
    """How long an engine may take to find a finished request's receipt, which arrives a moment after the last
    token."""
    refresh_interval_s: Annotated[float, Field(gt=0)] = 5.0
    """Between two looks at a ready engine."""
    starting_interval_s: Annotated[float, Field(gt=0)] = 0.5
    """Between two looks at an engine that isn't ready."""
    drain_delay_s: Annotated[float, Field(ge=0)] = 0.0
    """After SIGTERM, how long new connections are still taken while /ready says no: as long as a load
    balancer needs to notice."""
    drain_timeout_s: Annotated[float, Field(ge=0)] = 600.0
    """After SIGTERM, how long open requests may run on before they are ended with an error."""
    stall_timeout_s: Annotated[float, Field(gt=0)] = 300.0
    """An engine that has work and makes no token for so long is taken out, its requests ended."""
    probe_timeout_s: Annotated[float, Field(gt=0)] = 120.0
    """For one probing request; an engine's first may have to compile."""
    probe_retry_s: Annotated[float, Field(gt=0)] = 30.0
    """Before an engine that failed its probe is probed again."""

    keys_file: Path | None = None
    """API keys (`s1 keys`). None: everybody is let in, see docs/access.md."""
    insecure_no_auth: bool = False
    """Listen on an address that others reach although there are no API keys."""
    redis_url: str | None = None
    """Where gateways keep the quotas they share: redis://…, rediss://… or unix://…. None: in memory."""
    lease_s: Annotated[float, Field(gt=0)] = 30.0
    """In Redis, how long a request counts as under way after its gateway was last heard of."""
    header_timeout_s: Annotated[float, Field(gt=0)] = 20.0
    """For a request's headers, from its first byte or the connection's start."""
    body_timeout_s: Annotated[float, Field(gt=0)] = 30.0
    """For a request's body, as a whole."""
    playground: bool = True
    """Whether browsers get a page to try the server with at `/` (docs/playground.md)."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may call this server; * is all of them."""
    admission: Literal["off", "on"] = "off"
    """Whether requests wait at the gateway until an engine's KV cache has room for their worst case."""
    admission_overcommit: Annotated[float, Field(gt=0)] = 1.0
    """Share of an engine's KV cache that this gateway may promise to requests, each counted at its largest
    possible size. With N gateways, set 1/N."""
    admission_answer_tokens: Annotated[int, Field(ge=1)] = 2048
    """The answer's length that is reckoned with where a request limits its thinking only."""
    admission_queue_size: Annotated[int, Field(ge=0)] = 256
    """Requests that may wait in all."""
    admission_queue_per_key: Annotated[int, Field(ge=1)] = 64
    """Requests of one API key that may wait."""
    admission_queue_timeout_s: Annotated[float, Field(gt=0)] = 30.0
    """How long one may wait before it is refused."""
    observe: Literal["off", "on"] = "on"
    """Metrics of requests, their lines in the log, spans and /s1/requests (docs/observability.md)."""
    metrics_per_key: Literal["off", "on"] = "off"
    """Whether requests and tokens are counted by the name of the API key, too."""
    log_requests: Literal["off", "on"] = "on"
    """A line in the log for every request."""
    log_format: Literal["text", "json"] = "text"
    """How log lines are written."""
    log_content: Literal["off", "on"] = "off"
    """Whether a request's line in the log has its prompt and output."""
    otlp_endpoint: str | None = None
    """Where spans go, by OTLP over HTTP: http://HOST:4318/v1/traces. None: no spans."""
    trace_sample_ratio: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Part of the requests that are traced, where the caller's traceparent doesn't say."""
    stream_granularity: Granularity = "auto"
    """Where a request doesn't say: `auto` lets an event of a stream have as many tokens as leave 15 to 20
    updates a second, `token` is one for each (docs/performance.md)."""
    shrink_above: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Filled part of the KV cache from which new thinking budgets shrink. None: never."""
    shrink_floor_tokens: Annotated[int, Field(ge=0)] = 1024
    """Budgets don't shrink below this."""

    think_more_keep_s: Annotated[float, Field(ge=0, le=86_400)] = 600.0
    """How long a completion that has ended can think on: its token ids are kept in memory. 0: none can."""
    think_more_keep_tokens: Annotated[int, Field(ge=0)] = 1_000_000
    """Tokens kept for that in all, at 4 bytes each; the oldest completions go first. 0: none can think on."""

    @field_validator("engine_urls", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        parts = value.split(",") if isinstance(value, str) else value
        return tuple(str(part).strip().rstrip("/") for part in parts)

    @property
    def family_options(self) -> FamilyOptions:
        """What was said of the engines' markers.

        Raises:
            FamilyError: `read_settings` has checked that it doesn't.
        """
        texts = {name: getattr(self, name) for name in FAMILY_TEXTS}
        return FamilyOptions.read(family=self.family, **texts)

    @field_validator("step_boundary")
    @classmethod
    def _read_newlines(cls, boundary: str) -> str:
        return boundary.replace("\\n", "\n")

    @field_validator("reward_url")
    @classmethod
    def _check_reward(cls, url: str | None) -> str | None:
        if url is not None and (
            not url.startswith(("http://", "https://")) or url.rstrip("/").endswith("/v1")
        ):
            raise ValueError("the reward model's URL is http(s)://HOST:PORT without /v1")
        return None if url is None else url.rstrip("/")

    @field_validator("redis_url")
    @classmethod
    def _check_redis(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("a Redis URL begins with redis://, rediss:// or unix://")
        return url

    @field_validator("otlp_endpoint")
    @classmethod
    def _check_otlp(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("http://", "https://")):
            raise ValueError("an OTLP endpoint is http(s)://HOST:PORT/PATH, usually …:4318/v1/traces")
        return url

    @field_validator("engine_urls")
    @classmethod
    def _check_urls(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for url in urls:
            if not url.startswith(("http://", "https://", DNS_SCHEME)) or url.endswith("/v1"):
                raise ValueError(
                    f"an engine URL is http(s)://HOST:PORT without /v1, or {DNS_SCHEME}NAME:PORT for all "
                    f"addresses of a name. Given: {shown_url(url)}"
                )
        if len(set(urls)) != len(urls):
            raise ValueError("an engine URL is given twice")
        return urls


def read_settings(environ: Mapping[str, str], **overrides: Any) -> Settings:
    """Settings from `S1_GATEWAY_<FIELD>` variables; `overrides` (command line) win, None means not given.

    Raises:
        SettingsError: a variable with this prefix is unknown, or a value is not what its field takes.
    """
    fields: dict[str, Any] = {}
    for variable, value in environ.items():
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
        if name not in Settings.model_fields or variable != variable.upper():
            known = ", ".join(ENVIRONMENT_PREFIX + field.upper() for field in Settings.model_fields)
            raise SettingsError(f"{variable} is not a setting of the gateway; known are {known}")
        fields[name] = value
    given = {name: value for name, value in overrides.items() if value is not None}
    from_environment = fields.keys() - given.keys()
    try:
        settings = Settings(**{**fields, **given})
        _ = settings.family_options
    except ValidationError as error:
        raise SettingsError(_first_problem(error, from_environment=from_environment)) from None
    except FamilyError as error:
        raise SettingsError(_as_variables(str(error), from_environment)) from None
    return settings


def shown_url(url: str) -> str:
    """`url`, malformed or not, in such a way that it can be printed: without user, password and query."""
    before, at, address = url.rpartition("@")
    if at:
        scheme, slashes, _ = before.partition("//")
        address = f"{scheme}//…@{address}" if slashes else f"…@{address}"
    shown, question, _ = address.partition("?")
    return f"{shown}?…" if question else shown


def _shown(name: str, value: Any) -> Any:
    if name not in _URLS:
        return value
    if isinstance(value, tuple):
        return tuple(shown_url(url) for url in value)
    return shown_url(str(value))


def _as_variables(message: str, from_environment: set[str]) -> str:
    """A message that speaks of options, in terms of the variables that were set instead."""
    for name in from_environment:
        message = message.replace("--" + name.replace("_", "-") + " ", f"{ENVIRONMENT_PREFIX}{name.upper()} ")
    return message


def _first_problem(error: ValidationError, *, from_environment: set[str]) -> str:
    detail = error.errors(include_url=False)[0]
    name = str(detail["loc"][0])
    shown = ENVIRONMENT_PREFIX + name.upper() if name in from_environment else name
    given = "" if detail["type"] == "missing" else f" Given: {_shown(name, detail['input'])!r}"
    return f"{shown}: {detail['msg']}.{given}"
