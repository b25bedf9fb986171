"""How a command ends that can't do what it was asked."""

from __future__ import annotations

from typing import NoReturn

import typer
from rich.console import Console
from rich.markup import escape


def fail(message: str, code: int = 2) -> NoReturn:
    """Print `message` on stderr and exit with `code`; 2 is for what the caller has to change."""
    told = f"[bold red]s1:[/bold red] {escape(message)}"
    Console(stderr=True).print(told, soft_wrap=True, highlight=False)
    raise typer.Exit(code)
