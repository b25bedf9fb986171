"""Where commands print, and how one ends in a line that says why."""

from dataclasses import dataclass, field
from typing import NoReturn

import typer
from rich.console import Console
from rich.markup import escape


@dataclass(frozen=True, slots=True)
class Terminal:
    """Results go to standard output, progress and errors to standard error."""

    console: Console = field(default_factory=Console)
    errors: Console = field(default_factory=lambda: Console(stderr=True))


def fail(terminal: Terminal, message: str, status: int) -> NoReturn:
    """Raises typer.Exit with `status`, after the message in one line."""
    line = " ".join(message.split())
    terminal.errors.print(f"[bold red]s1:[/bold red] {escape(line)}", soft_wrap=True, highlight=False)
    raise typer.Exit(status)
