"""A completion that thinks on: its prompt and thinking as the prompt of another, which begins with a wait."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from server.budget.aliases import read_chat
from server.budget.markers import MarkerIds
from server.budget.receipt import Origin
from server.budget.spec import BUDGET_FIELDS, BUDGET_LIMITS, MAX_WAITS
from server.gateway.chat.chat_call import ChatCall, Continued
from server.gateway.chat.chat_request import StreamOptions
from server.gateway.engines.engine import Engine, RoundsSupport
from server.gateway.errors import Conflict, EngineMisbehaved, EngineRefused, InvalidRequest
from server.gateway.live.kept_thinking import Kept, KeptChoice
from server.gateway.rounds.completions_vllm import VllmCompletions
from server.gateway.validation import check_members_known, invalid_request


def _budget_field(name: str, description: str = "As in a chat completion's request.") -> Any:
    """Only documented here: `ThinkingBudget.from_fields` checks it."""
    low, high = BUDGET_LIMITS[name]
    integer: dict[str, Any] = {"type": "integer", "minimum": low, "maximum": high}
    extra: dict[str, Any] = {"anyOf": [integer, {"type": "null"}]}
    return Field(None, description=description, json_schema_extra=extra)


class ThinkMoreRequest(BaseModel):
    """What may be said of a continuation; the rest is as in the request that it continues."""

    model_config = ConfigDict(strict=True, extra="forbid")

    num_waits: Annotated[int, Field(ge=1, le=MAX_WAITS)] = Field(
        1, description="Waits of the continuation; its thinking begins with the first."
    )
    max_thinking_tokens: Any = _budget_field("max_thinking_tokens", "Of the continuation alone.")
    min_thinking_tokens: Any = _budget_field("min_thinking_tokens", "Of the continuation alone.")
    answer_reserve_tokens: Any = _budget_field("answer_reserve_tokens")
    landing_tokens: Any = _budget_field("landing_tokens")
    loop_guard_tokens: Any = _budget_field("loop_guard_tokens")
    max_thinking_ms: Any = _budget_field("max_thinking_ms")
    wait_text: Any = Field(None, description="As in a chat completion's request.")
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    choice: Annotated[int, Field(ge=0)] = 0
    """Index of the choice to think on from."""
    stream: bool = False
    stream_options: StreamOptions | None = None
    return_token_ids: bool = False


def continuation(body: Mapping[str, Any], kept: Kept, *, id: str) -> ChatCall:
    """The request that thinks on from `kept`, the completion with this id.

    Raises:
        InvalidRequest, BudgetError: a field of `body` is unknown or out of its limits.
        Conflict: this completion can't think on.
    """
    given = {name: value for name, value in body.items() if value is not None}
    check_members_known(given, ThinkMoreRequest)
    check_members_known(given.get("stream_options"), StreamOptions, "stream_options")
    try:
        asked_for = ThinkMoreRequest.model_validate(given)
    except ValidationError as error:
        raise invalid_request(error) from None
    if asked_for.stream_options is not None and not asked_for.stream:
        raise InvalidRequest("`stream_options` needs `stream` to be true", param="stream_options")
    if kept.refusal is not None:
        raise Conflict(f"`{id}` can't think on: {kept.refusal}", code="cannot_think_more")
    source = kept.choices.get(asked_for.choice)
    if source is None:
        raise InvalidRequest(
            f"`choice` must be one of {sorted(kept.choices)}. Given: {asked_for.choice}", param="choice"
        )
    fields = {**kept.fields, "model": kept.model, "messages": [], **given, "num_waits": asked_for.num_waits}
    fields.pop("choice", None)
    if "seed" in kept.fields:
        fields["seed"] = kept.fields["seed"] + asked_for.choice
    asked = read_chat({name: fields[name] for name in BUDGET_FIELDS if name in fields})
    asked = replace(asked, hides_thinking=kept.hides_reasoning)
    origin = Origin(asked.budget.requested(), continues=_told_of(kept, source, id))
    return ChatCall(fields, asked, asked.budget, origin, continues=source)


def _told_of(kept: Kept, source: KeptChoice, id: str) -> dict[str, Any]:
    """What the receipt says of the thinking before."""
    before = {
        "thinking_tokens": kept.earlier_thinking_tokens + (source.thinking_tokens or 0),
        "waits": kept.earlier_waits + source.waits,
    }
    return {"id": id, **before}


async def support_of(engine: Engine) -> RoundsSupport:
    """What the gateway needs to force `engine` by itself; one with the plugin tells its markers.

    Raises:
        Conflict: it doesn't: it is older than this gateway.
        EngineDied, EngineMisbehaved
    """
    if engine.status.rounds is not None:
        return engine.status.rounds
    description = engine.status.description
    try:
        ids = MarkerIds.from_json(await engine.get("/s1/markers"))
    except EngineRefused as error:
        if error.status >= 500:
            raise
        raise Conflict("this engine can't think on: it doesn't tell its markers") from error
    except (KeyError, TypeError) as error:
        raise EngineMisbehaved(f"the engine's /s1/markers can't be read: {error!r}") from error
    if description is None:
        raise Conflict("this engine can't think on: it has no thinking budgets")
    return RoundsSupport(ids, description, VllmCompletions)


def thought_so_far(source: Continued, ids: MarkerIds) -> list[int]:
    """Prompt and thinking, as token ids.

    Raises:
        Conflict: it has no thinking that can be told from its answer.
    """
    output = list(source.output)
    end = source.thinking_end
    if end is None:
        width = len(ids.end)
        end = next((i for i in range(len(output)) if tuple(output[i : i + width]) == ids.end), len(output))
        while end and output[end - 1] in ids.end_attempt:
            end -= 1
    whole = [*source.prompt, *output[:end]]
    if not ids.opened(whole):
        raise Conflict("this completion has no thinking to go on from", code="cannot_think_more")
    return whole
