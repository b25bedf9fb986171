"""The options that name or describe a model's thinking markers, the same for every command."""

from __future__ import annotations

from typing import Annotated

import typer

from server.budget.families import FAMILIES, NO_FAMILY

Family = Annotated[
    str | None,
    typer.Option(
        help=f"Thinking markers: {', '.join(FAMILIES)}, or {NO_FAMILY} to serve without thinking budgets. "
        "Default: found from the model."
    ),
]
ThinkStart = Annotated[
    str | None,
    typer.Option(help=r"Text that opens thinking, for a model of no known family; \n is a newline."),
]
ThinkEnd = Annotated[str | None, typer.Option(help="Text that ends thinking and begins the answer.")]
WaitText = Annotated[str | None, typer.Option(help="Text that replaces an attempt to end. Default: Wait.")]
AnswerPrompt = Annotated[
    str | None, typer.Option(help="Text forced after an early end; no part of the answer. Default: none.")
]
