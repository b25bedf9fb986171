"""The command `s1`."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from loadtest.cli import loadtest
from server import __version__
from server.budget.families import FamilyError, FamilyOptions
from server.chat.cli import chat
from server.commands.conformance import conformance
from server.commands.demo import demo_checkpoint
from server.commands.failing import fail
from server.commands.family import AnswerPrompt, Family, ThinkEnd, ThinkStart, WaitText
from server.commands.keys import keys
from server.commands.policy import policy as policy_commands
from server.commands.reward import reward
from server.commands.size import size
from server.commands.top import top
from server.engine.launch import (
    EngineOptions,
    LaunchError,
    check_model,
    command,
    engine_environment,
    on_gpu,
    require_vllm,
)
from server.engine.selection import SelectionError, choose_runner
from training.ablate import ablate
from training.curate.cli import app as curate
from training.evaluate.cli import app as evaluate
from training.sft.cli import sft
from training.traces import traces
from training.train import train

app = typer.Typer(
    name="s1",
    help="Serve, train and measure reasoning models with exact thinking budgets.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_ENGINE_COMMANDS = ("serve", "engine", "reward")

Model = Annotated[
    str | None, typer.Argument(help="Hub id or directory of a checkpoint. Default: the demo checkpoint.")
]
ServedName = Annotated[str | None, typer.Option("--served-model-name", help="Name clients use.")]
TensorParallel = Annotated[
    int, typer.Option("--tensor-parallel-size", "-tp", min=1, help="GPUs that share each layer.")
]
PipelineParallel = Annotated[
    int, typer.Option("--pipeline-parallel-size", "-pp", min=1, help="Stages that share the layers.")
]
MaxModelLen = Annotated[int | None, typer.Option(min=1, help="Context length in tokens.")]


def serve(
    context: typer.Context,
    model: Model = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: 127.0.0.1.")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on; 0 lets the system choose. Default: 8000.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Gateway processes that serve the port together. Default: 1.")
    ] = None,
    engine_url: Annotated[
        list[str] | None, typer.Option(help="Use an engine that already runs; may be repeated.")
    ] = None,
    family: Family = None,
    think_start: ThinkStart = None,
    think_end: ThinkEnd = None,
    wait_text: WaitText = None,
    answer_prompt: AnswerPrompt = None,
    reward_url: Annotated[
        str | None, typer.Option(help="A process-reward model (`s1 reward`), for parallel requests.")
    ] = None,
    step_boundary: Annotated[
        str | None, typer.Option(help="Between steps of thinking; \\n is a newline. Default: two of them.")
    ] = None,
    served_model_name: ServedName = None,
    tensor_parallel_size: TensorParallel = 1,
    pipeline_parallel_size: PipelineParallel = 1,
    max_model_len: MaxModelLen = None,
    policy: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False, help="Defaults and caps of thinking budgets; read again when it changes."
        ),
    ] = None,
    keys_file: Annotated[
        Path | None, typer.Option(dir_okay=False, help="API keys, made with `s1 keys create`.")
    ] = None,
    insecure_no_auth: Annotated[
        bool, typer.Option("--insecure-no-auth", help="Without keys, listen where others reach it.")
    ] = False,
    playground: Annotated[
        bool | None, typer.Option(help="The page at / to try the server in a browser. Default: on.")
    ] = None,
    log_file: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Where the engine's log goes. Default: logs/.")
    ] = None,
) -> None:
    """Start an engine and the gateway before it. Whatever follows `--` is handed to vLLM."""
    # The gateway's parts are imported here: the other commands need none of them.
    from server.gateway.access.callers import check_exposure
    from server.gateway.policy_file import read_policy
    from server.gateway.settings import SettingsError, read_settings
    from server.gateway.workers.share import check_workers
    from server.logs import configure_logging
    from server.serve import ServeError, serve_until_stopped

    options = None
    try:
        settings = read_settings(
            os.environ,
            host=host,
            port=port,
            workers=workers,
            engine_urls=engine_url or None,
            policy_file=policy,
            family=family,
            think_start=think_start,
            think_end=think_end,
            wait_text=wait_text,
            answer_prompt=answer_prompt,
            keys_file=keys_file,
            reward_url=reward_url,
            step_boundary=step_boundary,
            insecure_no_auth=insecure_no_auth or None,
            playground=playground,
        )
        check_exposure(settings)
        check_workers(settings)
        if settings.policy_file is not None:
            read_policy(settings.policy_file)
        if not settings.engine_urls:
            require_vllm()
            options = _engine_options(
                context,
                model,
                family=settings.family_options,
                served_model_name=served_model_name,
                tensor_parallel_size=tensor_parallel_size,
                pipeline_parallel_size=pipeline_parallel_size,
                max_model_len=max_model_len,
            )
        else:
            _refuse_engine_settings(context)
    except (LaunchError, SelectionError, SettingsError) as error:
        fail(str(error))
    configure_logging(settings.log_format)
    try:
        serve_until_stopped(settings, options, log_path=log_file or _default_log())
    except (ServeError, SettingsError) as error:
        fail(str(error), code=1)


def engine(
    context: typer.Context,
    model: Model = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8001,
    family: Family = None,
    think_start: ThinkStart = None,
    think_end: ThinkEnd = None,
    wait_text: WaitText = None,
    answer_prompt: AnswerPrompt = None,
    served_model_name: ServedName = None,
    tensor_parallel_size: TensorParallel = 1,
    pipeline_parallel_size: PipelineParallel = 1,
    max_model_len: MaxModelLen = None,
) -> None:
    """Start only an engine with our plugin, for gateways elsewhere (`s1 serve --engine-url`)."""
    try:
        require_vllm()
        options = _engine_options(
            context,
            model,
            family=FamilyOptions.read(
                family=family,
                think_start=think_start,
                think_end=think_end,
                wait_text=wait_text,
                answer_prompt=answer_prompt,
            ),
            served_model_name=served_model_name,
            tensor_parallel_size=tensor_parallel_size,
            pipeline_parallel_size=pipeline_parallel_size,
            max_model_len=max_model_len,
        )
    except (FamilyError, LaunchError, SelectionError) as error:
        fail(str(error))
    run_dir = Path(tempfile.mkdtemp(prefix="s1-engine-"))
    argv = command(options, host=host, port=port)
    Console(stderr=True).print(f"[dim]{escape(shlex.join(argv))}[/dim]", soft_wrap=True)
    os.execve(argv[0], argv, engine_environment(options, run_dir=run_dir, base=os.environ))  # noqa: S606


def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def _engine_options(
    context: typer.Context,
    model: str | None,
    *,
    family: FamilyOptions,
    served_model_name: str | None,
    tensor_parallel_size: int,
    pipeline_parallel_size: int,
    max_model_len: int | None,
) -> EngineOptions:
    demo = demo_checkpoint("tiny-reasoner")
    if model is None and not demo.is_dir():
        raise LaunchError(f"the demo checkpoint is missing at {demo}; name a MODEL")
    if model is not None:
        check_model(model)
    return EngineOptions(
        model=model if model is not None else str(demo),
        served_model_name=served_model_name or (None if model is not None else demo.name),
        family=family,
        tensor_parallel_size=tensor_parallel_size,
        pipeline_parallel_size=pipeline_parallel_size,
        max_model_len=max_model_len,
        runner=choose_runner(os.environ, on_gpu=on_gpu()),
        demo=model is None,
        extra_args=tuple(context.obj or ()),
    )


_OF_AN_ENGINE = {
    "model": "MODEL",
    "served_model_name": "--served-model-name",
    "tensor_parallel_size": "--tensor-parallel-size",
    "pipeline_parallel_size": "--pipeline-parallel-size",
    "max_model_len": "--max-model-len",
    "log_file": "--log-file",
}


def _refuse_engine_settings(context: typer.Context) -> None:
    """An engine that already runs can't be configured from here; never accept and ignore."""
    given = {
        option: context.params[name]
        for name, option in _OF_AN_ENGINE.items()
        if (source := context.get_parameter_source(name)) is not None and source.name != "DEFAULT"
    }
    if context.obj:
        given["engine arguments after --"] = " ".join(context.obj)
    for option, value in given.items():
        raise LaunchError(
            f"{option} can't be combined with --engine-url: that engine runs already. Given: {value}"
        )


def _default_log() -> Path:
    return Path("logs") / f"engine-{os.getpid()}.log"


_PARTS: dict[str, tuple[Callable[..., None], ...]] = {
    "Serve": (serve, chat, top, engine, reward, size, version),
    "Measure": (loadtest, conformance),
    "Train": (train, ablate, sft, traces),
}
for _part, _commands in _PARTS.items():
    for _command in _commands:
        app.command(rich_help_panel=_part)(_command)
app.add_typer(keys, rich_help_panel="Serve")
app.add_typer(policy_commands, rich_help_panel="Serve")
app.add_typer(evaluate, rich_help_panel="Measure")
app.add_typer(curate, rich_help_panel="Train")


def main() -> None:
    """Entry point: keeps what follows `--` for the engine, away from the option parser."""
    arguments, engine_arguments = sys.argv[1:], []
    if arguments and arguments[0] in _ENGINE_COMMANDS and "--" in arguments:
        at = arguments.index("--")
        arguments, engine_arguments = arguments[:at], arguments[at + 1 :]
    app(args=arguments, obj=engine_arguments, prog_name="s1")


if __name__ == "__main__":
    main()
