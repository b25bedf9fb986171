"""`s1 reward`: a process-reward model for `weighted_vote`, `best_of` and `rebase`."""

from __future__ import annotations

import os
import shlex
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from server.commands.demo import demo_checkpoint
from server.commands.failing import fail
from server.engine.launch import LaunchError, require_vllm
from server.engine.reward import DEFAULT_STEP_TAG, reward_command, reward_environment, step_tag_id


def reward(
    context: typer.Context,
    model: Annotated[
        str | None, typer.Argument(help="Hub id or directory of a reward model. Default: the demo's.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8002,
    step_tag: Annotated[
        str, typer.Option(help="The token after each step at which the model rates.")
    ] = DEFAULT_STEP_TAG,
) -> None:
    """Serve a process-reward model with vLLM, for gateways (`s1 serve --reward-url`)."""
    console = Console(stderr=True)
    chosen = model or str(demo_checkpoint("tiny-prm"))
    try:
        require_vllm()
        tag_id = step_tag_id(chosen, step_tag)
        extra = tuple(context.obj or ())
        argv = reward_command(chosen, host=host, port=port, tag_id=tag_id, extra_args=extra)
    except LaunchError as error:
        fail(str(error))
    console.print(f"[dim]{escape(shlex.join(argv))}[/dim]", soft_wrap=True)
    boundary = " --step-boundary '\\n'" if model is None else ""
    console.print(f"then: s1 serve --reward-url http://{host}:{port}{boundary}", markup=False, soft_wrap=True)
    os.execve(argv[0], argv, reward_environment(extra))  # noqa: S606
