"""A whole chat completion: the engines' answers, one per choice, as one response."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from server.gateway.chat.chat_call import EngineCall
from server.gateway.chat.gather import run_all
from server.gateway.chat.receipts import Finish, merged_usage, reasoning_details, receipt_for
from server.gateway.chat.streaming import StreamShape
from server.gateway.engines.engine import ChatEngine
from server.gateway.errors import EngineMisbehaved


async def complete_chat(
    engine: ChatEngine, calls: Sequence[EngineCall], shape: StreamShape
) -> dict[str, Any]:
    with engine.occupied(len(calls)):
        answers = await run_all([answer_call(engine, call, shape.hides_reasoning) for call in calls])
    choices = [choice for answer in answers for choice in answer["choices"]]
    if shape.reasoning_details:
        for choice in choices:
            choice["message"]["reasoning_details"] = reasoning_details(choice["message"]["reasoning"])
    merged = answers[0] | {"id": shape.id, "created": shape.created, "choices": choices}
    receipts = [choice["thinking_budget"] for choice in choices]
    merged["usage"] = merged_usage([answer["usage"] for answer in answers], receipts)
    if len(answers) > 1:
        # The engine's timings are of one choice; vLLM leaves them out for several.
        merged.pop("metrics", None)
    return merged


async def answer_call(engine: ChatEngine, call: EngineCall, hides_reasoning: bool = False) -> dict[str, Any]:
    """The completion of one engine call, with a receipt on each choice.

    Raises:
        EngineRefused, EngineDied, EngineMisbehaved, ReceiptMissing
    """
    answer = await engine.complete(call)
    if call.hides_ids:
        answer.pop("prompt_token_ids", None)
    try:
        for choice in answer["choices"]:
            await _finish(engine, call, choice, answer["usage"], hides_reasoning)
    except (KeyError, TypeError, AttributeError) as error:
        raise EngineMisbehaved(f"the engine's chat completion can't be read: {error!r}") from error
    return answer


async def _finish(
    engine: ChatEngine, call: EngineCall, choice: dict[str, Any], usage: dict[str, Any], hides_reasoning: bool
) -> None:
    message = choice["message"]
    if message.get("reasoning") is None:
        # The name that llama.cpp and SGLang give it.
        message["reasoning"] = message.get("reasoning_content")
    finish = Finish(
        finish_reason=choice["finish_reason"],
        stop_reason=choice.get("stop_reason"),
        has_answer=bool(message.get("content") or message.get("tool_calls")),
    )
    choice["thinking_budget"] = await receipt_for(engine, call, finish, usage)
    if call.index is not None:
        choice["index"] = call.index
    if call.hides_ids:
        choice["token_ids"] = None
    if hides_reasoning:
        message["reasoning"] = None
        # They spell the thinking out.
        choice["logprobs"] = choice["token_ids"] = None
    message["reasoning_content"] = message.get("reasoning")
