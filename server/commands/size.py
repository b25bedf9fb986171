"""`s1 size`: how many requests with which thinking budgets fit on given GPUs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from server.commands.failing import fail
from server.sizing import GIB, GPU_GIB, Layout, ModelShape, Sizing, SizingError, size_of_cache, size_on_gpus


def size(
    model: Annotated[str, typer.Argument(help="s1.1-32b, s1.1-7b, …, or the directory of a checkpoint.")],
    gpus: Annotated[int, typer.Option(min=1, help="How many, over all nodes.")] = 1,
    gpu: Annotated[
        str, typer.Option(help=f"{', '.join(GPU_GIB)}, or the GiB that the driver reports.")
    ] = "h100",
    tensor_parallel_size: Annotated[int | None, typer.Option("--tensor-parallel-size", "-tp", min=1)] = None,
    pipeline_parallel_size: Annotated[int, typer.Option("--pipeline-parallel-size", "-pp", min=1)] = 1,
    max_model_len: Annotated[
        int | None, typer.Option(min=1, help="Context in tokens. Default: the model's.")
    ] = None,
    thinking_tokens: Annotated[
        list[int] | None, typer.Option(min=0, help="A thinking budget; may be repeated.")
    ] = None,
    prompt_tokens: Annotated[int, typer.Option(min=1)] = 512,
    answer_tokens: Annotated[int, typer.Option(min=1)] = 2048,
    gpu_memory_utilization: Annotated[float, typer.Option(min=0.01, max=1.0, help="As vLLM's.")] = 0.92,
    working_gib: Annotated[
        float, typer.Option(min=0, help="Assumed for activations, CUDA graphs and communicators, per GPU.")
    ] = 5.0,
    kv_cache_gib: Annotated[
        float | None,
        typer.Option(min=0.001, help="The KV cache's size, if it is known: on a CPU, or from a log."),
    ] = None,
    kv_cache_dtype: Annotated[str, typer.Option(help="auto is the model's; fp8 halves it.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """What fits: KV-cache tokens, and requests at once for each thinking budget."""
    try:
        shape = ModelShape.from_directory(Path(model)) if Path(model).is_dir() else ModelShape.known(model)
        layout = Layout.over(gpus, tensor=tensor_parallel_size, pipeline=pipeline_parallel_size)
        if kv_cache_gib is not None:
            sizing = size_of_cache(shape, layout, kv_gib=kv_cache_gib, kv_dtype=kv_cache_dtype)
        else:
            sizing = size_on_gpus(
                shape,
                layout,
                gpu_gib=gpu_memory_gib(gpu),
                gpu_memory_utilization=gpu_memory_utilization,
                working_gib=working_gib,
                kv_dtype=kv_cache_dtype,
            )
        context = checked_context(sizing, max_model_len)
        rows = [
            budget_row(sizing, budget, context=context, others=prompt_tokens + answer_tokens)
            for budget in thinking_tokens or (1024, 4096, 16384)
        ]
    except SizingError as error:
        fail(str(error))
    if as_json:
        typer.echo(json.dumps(summary(sizing, context=context) | {"budgets": rows}))
        return
    for line in report(sizing, rows, context=context):
        typer.echo(line)


def gpu_memory_gib(gpu: str) -> float:
    """
    Raises:
        SizingError: neither a known name nor a number.
    """
    if gpu in GPU_GIB:
        return GPU_GIB[gpu]
    try:
        gib = float(gpu)
    except ValueError:
        gib = -1
    if gib <= 0:
        raise SizingError(f"--gpu must be one of {', '.join(GPU_GIB)} or a number of GiB. Given: {gpu}")
    return gib


def checked_context(sizing: Sizing, max_model_len: int | None) -> int:
    """
    Raises:
        SizingError: longer than the model's own, or than the cache, with which vLLM doesn't start.
    """
    own = sizing.model.max_model_len
    context = max_model_len if max_model_len is not None else own
    if context > own:
        raise SizingError(f"--max-model-len must be <= {own}, the model's own. Given: {context}")
    if context > sizing.kv_cache_tokens:
        raise SizingError(
            f"--max-model-len must be <= {sizing.kv_cache_tokens}, the tokens that the KV cache holds: vLLM "
            f"doesn't start otherwise. Given: {context}"
        )
    return context


def budget_row(sizing: Sizing, budget: int, *, context: int, others: int) -> dict[str, int]:
    """
    Raises:
        SizingError: prompt, thinking and answer don't fit the context.
    """
    tokens = budget + others
    if tokens > context:
        raise SizingError(
            f"--thinking-tokens must be <= {max(0, context - others)}, so that {others} tokens of prompt and "
            f"answer fit the context of {context}. Given: {budget}"
        )
    return {
        "thinking_tokens": budget,
        "request_tokens": tokens,
        "concurrent_requests": sizing.concurrent(tokens=tokens),
    }


def summary(sizing: Sizing, *, context: int) -> dict[str, Any]:
    layout = sizing.layout
    return {
        "model": sizing.model.name,
        "tensor_parallel_size": layout.tensor,
        "pipeline_parallel_size": layout.pipeline,
        "replicas": layout.data,
        "max_model_len": context,
        "weights_gib_per_gpu": round(sizing.weight_bytes_per_gpu / GIB, 2),
        "kv_cache_gib_per_gpu": round(sizing.kv_bytes_per_gpu / GIB, 2),
        "kv_cache_bytes_per_token": sizing.kv_bytes_per_token,
        "kv_cache_tokens": sizing.kv_cache_tokens * layout.data,
        "whole_contexts": sizing.concurrent(tokens=context),
    }


def report(sizing: Sizing, rows: list[dict[str, int]], *, context: int) -> list[str]:
    fields = summary(sizing, context=context)
    layout = sizing.layout
    return [
        f"{fields['model']}: tensor {layout.tensor} x pipeline {layout.pipeline} x {layout.data} replica(s)",
        f"  per GPU: {fields['weights_gib_per_gpu']:.1f} GiB weights, "
        f"{fields['kv_cache_gib_per_gpu']:.1f} GiB KV cache",
        f"  KV cache: {fields['kv_cache_tokens']:,} tokens, {fields['whole_contexts']} whole contexts of "
        f"{context:,}",
        "",
        "| thinking budget | tokens of a request | requests at once |",
        "|---|---|---|",
        *(
            f"| {row['thinking_tokens']:,} | {row['request_tokens']:,} | {row['concurrent_requests']:,} |"
            for row in rows
        ),
    ]
