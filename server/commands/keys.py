"""`s1 keys`: make, list and revoke API keys. A gateway that uses the file takes changes over by itself."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from server.budget.spec import BUDGET_FIELDS
from server.commands.failing import fail
from server.gateway.access.keys import Key, KeysError, Quotas, add_key, new_key, read_keys, remove_key

keys = typer.Typer(name="keys", help="Make, list and revoke API keys (docs/access.md).", no_args_is_help=True)

_LIFETIME = re.compile(r"(?P<count>[1-9][0-9]{0,5})(?P<unit>[hdw])")
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}

File = Annotated[
    Path,
    typer.Option(
        "--file",
        dir_okay=False,
        envvar="S1_GATEWAY_KEYS_FILE",
        help="The keys file, the same as the gateway's --keys-file.",
    ),
]
Quota = Annotated[int | None, typer.Option(min=1, help="Default: no limit.")]


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="Who or what uses it; shown in logs and metrics.")],
    file: File,
    expires: Annotated[
        str | None, typer.Option(help="12h, 30d, 8w, or a date such as 2027-01-31. Default: never.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="A model it may use; may be repeated. Default: all.")
    ] = None,
    cap: Annotated[
        list[str] | None,
        typer.Option(
            help="Most that a budget field may be, such as max_thinking_tokens=4096; may be repeated. "
            f"Fields: {', '.join(BUDGET_FIELDS)}."
        ),
    ] = None,
    requests_per_minute: Quota = None,
    tokens_per_minute: Quota = None,
    thinking_tokens_per_minute: Quota = None,
    thinking_tokens_per_day: Quota = None,
    concurrency: Quota = None,
    admin: Annotated[bool, typer.Option("--admin", help="May see engines and use admin routes.")] = False,
) -> None:
    """Make a key, add it to the file and print it: the only time it can be seen."""
    try:
        quotas = Quotas(
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            thinking_tokens_per_minute=thinking_tokens_per_minute,
            thinking_tokens_per_day=thinking_tokens_per_day,
            concurrency=concurrency,
        )
        record, key = new_key(
            name,
            expires=_expiry(expires),
            models=tuple(model) if model else None,
            caps=_caps(cap or []),
            quotas=quotas,
            admin=admin,
        )
        add_key(file, record)
    except KeysError as error:
        fail(str(error))
    Console(stderr=True).print(
        f"[dim]added {escape(name)} ({record.id}) to {escape(str(file))}; "
        "only a hash of the key is kept, so copy it now[/dim]",
        soft_wrap=True,
    )
    typer.echo(key)


@keys.command("list")
def list_keys(
    file: File, as_json: Annotated[bool, typer.Option("--json", help="One object per line.")] = False
) -> None:
    """Show all keys, without anything that lets anyone in."""
    try:
        records = read_keys(file).keys
    except KeysError as error:
        fail(str(error))
    if as_json:
        for record in records:
            typer.echo(orjson.dumps(record.model_dump(mode="json", exclude={"sha256"})))
        return
    table = Table(box=None, pad_edge=False)
    for column in ("name", "id", "expires", "models", "limits", "admin"):
        table.add_column(column, overflow="fold")
    for record in records:
        table.add_row(*(escape(cell) for cell in _cells(record)))
    Console().print(table)


@keys.command()
def revoke(name_or_id: Annotated[str, typer.Argument(help="The key's name or id.")], file: File) -> None:
    """Remove a key. Requests that are under way go on."""
    try:
        record = remove_key(file, name_or_id)
    except KeysError as error:
        fail(str(error))
    Console(stderr=True).print(f"revoked {escape(record.name)} ({record.id})")


def _expiry(text: str | None) -> datetime | None:
    if text is None:
        return None
    now = datetime.now(UTC).replace(microsecond=0)
    if lifetime := _LIFETIME.fullmatch(text):
        return now + int(lifetime["count"]) * _UNITS[lifetime["unit"]]
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise KeysError(
            f"--expires must be 12h, 30d, 8w or a date such as 2027-01-31. Given: {text}"
        ) from None
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    if moment <= now:
        raise KeysError(f"--expires must be in the future. Given: {text}")
    return moment


def _caps(given: list[str]) -> dict[str, int]:
    caps: dict[str, int] = {}
    for text in given:
        name, _, value = text.partition("=")
        if not value.isdecimal():
            raise KeysError(f"--cap must be FIELD=NUMBER, such as max_thinking_tokens=4096. Given: {text}")
        caps[name] = int(value)
    return caps


def _cells(record: Key) -> list[str]:
    quotas: dict[str, Any] = record.quotas.model_dump(exclude_none=True)
    limits = [f"{name} {value}" for name, value in (*record.caps.items(), *quotas.items())]
    expired = " (expired)" if record.expired(datetime.now(UTC)) else ""
    return [
        record.name,
        record.id,
        "never" if record.expires is None else f"{record.expires:%Y-%m-%d %H:%M}{expired}",
        "all" if record.models is None else ", ".join(record.models),
        "\n".join(limits) or "none",
        "yes" if record.admin else "",
    ]
