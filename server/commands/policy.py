"""`s1 policy`: look at a policy file before it is in force."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from server.budget.effort import EFFORTS
from server.budget.policy import Policy, Rung, apply_policy, given_fields
from server.budget.spec import BUDGET_FIELDS, ThinkingBudget
from server.commands.failing import fail

policy = typer.Typer(name="policy", help="Defaults and caps of thinking budgets.", no_args_is_help=True)
_OTHERS = "any other model"


@policy.command()
def check(file: Annotated[Path, typer.Argument(help="The policy, as YAML.")]) -> None:
    """Print what a policy file makes effective, or what is wrong with it and where."""
    from server.gateway.policy_file import PolicyFileError, read_policy

    try:
        read = read_policy(file)
    except PolicyFileError as error:
        fail(str(error))
    for line in describe(read):
        typer.echo(line)


@policy.command()
def schema() -> None:
    """Print the JSON schema of policy files (docs/policy.schema.json)."""
    typer.echo(policy_schema(), nl=False)


def policy_schema() -> str:
    document = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Policy.model_json_schema()}
    return json.dumps(document, indent=2) + "\n"


def describe(read: Policy) -> list[str]:
    """What is effective for every model and key that the file names, one line each."""
    lines = []
    for model in [*read.models, _OTHERS]:
        for key in [None, *read.keys]:
            held = f"{model}, key {key}" if key is not None else model
            lines += [f"{held}:", *_effective(read.server, read.models.get(model), read.keys.get(key or ""))]
        efforts = read.efforts(model)
        lines.append("  efforts: " + ", ".join(f"{effort} {efforts[effort]}" for effort in EFFORTS))
        lines.append(f"  earlier thinking: {read.preserve_thinking(model)}")
    return lines


def _effective(server: Rung, model: Rung | None, key: Rung | None) -> list[str]:
    rungs = [rung for rung in (server, model, key) if rung is not None]
    without = apply_policy(ThinkingBudget(), server=server, model=model, key=key).budget.requested()
    strict = next((rung.strict for rung in reversed(rungs) if rung.strict is not None), False)
    lines = [f"  a request without a budget: {_listed(without) or 'no budget'}"]
    for kind, pick in (("cap", min), ("floor", max)):
        limits: dict[str, Any] = {}
        for rung in rungs:
            for name, value in given_fields(getattr(rung, kind)).items():
                limits[name] = pick(limits.get(name, value), value)
        if limits:
            lines.append(f"  {kind}: {_listed(limits)} ({'refused' if strict else 'clamped'} beyond)")
    return lines


def _listed(fields: dict[str, Any]) -> str:
    return ", ".join(f"{name} {fields[name]}" for name in BUDGET_FIELDS if name in fields)
