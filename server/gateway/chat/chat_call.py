"""What a chat request asks for, checked, and the engine requests it becomes. Pure: no I/O."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self

import orjson
from pydantic import BaseModel, ValidationError

from server.budget.aliases import Asked, read_chat
from server.budget.forms import ALIAS_ROOTS, OPEN_OBJECTS
from server.budget.receipt import EngineReceipt, Origin
from server.budget.shown import cut, did_you_mean, show
from server.budget.spec import BUDGET_FIELDS, ThinkingBudget
from server.gateway.chat.bursts import Burst
from server.gateway.chat.chat_conflicts import check_conflicts
from server.gateway.chat.chat_fields import (
    ASKS_FOR_NOTHING,
    ENGINE_IGNORES,
    KNOWN_FIELDS,
    UNSUPPORTED_OPENAI_FIELDS,
    WITHOUT_EFFECT,
)
from server.gateway.chat.chat_request import ROLES, ChatCompletionRequest, StreamOptions
from server.gateway.chat.granularity import STREAM_GRANULARITY, Granularity
from server.gateway.chat.messages import check_messages
from server.gateway.errors import BodyTooLarge, InvalidRequest
from server.gateway.parallel.fields import (
    PARALLEL,
    ParallelField,
    ParallelSpec,
    check_combination,
    shared_budget,
)
from server.gateway.sampling_limits import check_sampling_limits
from server.gateway.validation import check_labels, check_members_known, invalid_request

_NOT_FORWARDED = frozenset(BUDGET_FIELDS) | {"request_id", "n", "return_token_ids"}
_MOST_BODIES_BYTES = 128 * 1024 * 1024
"""That engines get of one request, for all its choices."""
_OWN = ("seed", "vllm_xargs")
"""Fields in which the choices of a request differ."""
_SWITCHES = ("enable_thinking", "thinking")
"""What chat templates that can be told whether to think call it."""
_CLOSED: Mapping[str, type[BaseModel]] = {"stream_options": StreamOptions, PARALLEL: ParallelField}
"""Objects whose unknown members are refused."""


class Continued(Protocol):
    """A choice of an earlier completion: token ids of its prompt and its output."""

    @property
    def prompt(self) -> Sequence[int]: ...
    @property
    def output(self) -> Sequence[int]: ...
    @property
    def thinking_end(self) -> int | None:
        """Output position one past the last thinking token, where it is known."""
        ...


@dataclass(frozen=True, slots=True)
class ChatCall:
    """A client's request, valid as far as it can be known without an engine."""

    fields: dict[str, Any]
    """The client's own JSON; fields that are null are left out, as null means absent, and what other
    dialects say of thinking is translated for the engine."""
    asked: Asked
    budget: ThinkingBudget
    """What is to be enforced: as asked until the policy is applied."""
    origin: Origin
    roots: frozenset[str] = frozenset()
    """The fields of the client's own JSON, in its own dialect."""
    parallel: ParallelSpec | None = None
    continues: Continued | None = None
    """Set: there are no messages; the thinking of another completion goes on."""
    granularity: Granularity | None = None
    """Of its stream; None: as the server says."""

    def limited(self, budget: ThinkingBudget, *, by: tuple[str, ...]) -> Self:
        """The same request with what limits outside of it leave of its budget; `by` is for the receipt."""
        if budget is self.budget and not by:
            return self
        origin = replace(self.origin, clamped_by=(*self.origin.clamped_by, *by))
        return replace(self, budget=budget, origin=origin)

    @property
    def model(self) -> str | None:
        return self.fields.get("model")

    @property
    def num_choices(self) -> int:
        return int(self.fields.get("n", 1))

    @property
    def num_generations(self) -> int:
        """How often the engine is to answer: once per choice, or once per branch."""
        return self.num_choices if self.parallel is None else self.parallel.width

    @property
    def stream(self) -> bool:
        return self.fields.get("stream", False) is True

    @property
    def hides_reasoning(self) -> bool:
        return self.asked.hides_thinking

    @property
    def wants_reasoning_details(self) -> bool:
        """OpenRouter's clients read the thinking there."""
        return "reasoning" in self.roots

    @property
    def wants_usage_chunk(self) -> bool:
        return self.fields.get("stream_options", {}).get("include_usage") is True

    @property
    def beam_search(self) -> bool:
        return self.fields.get("use_beam_search") is True

    @property
    def answer_is_constrained(self) -> bool:
        """Whether a grammar or a tool parser reads the answer: a forced answer prompt would break it."""
        format_type = self.fields.get("response_format", {}).get("type", "text")
        return format_type != "text" or "tools" in self.fields or "structured_outputs" in self.fields

    @property
    def room(self) -> tuple[str, int] | None:
        """The field that limits the completion tokens and its value."""
        for name in ("max_completion_tokens", "max_tokens"):
            if name in self.fields:
                return name, self.fields[name]
        return None


@dataclass(frozen=True, slots=True)
class EngineCall:
    """One request to an engine."""

    index: int | None
    """The index its only choice has for the client; None leaves the engine's own (beam search)."""
    body: bytes
    """The JSON that is sent, or what is this choice's own of it: then it goes on from `shared`."""
    request_id: str
    receipt_id: str | None
    """Set if the request has a budget."""
    budget: ThinkingBudget
    origin: Origin = field(default_factory=Origin)
    returns_ids: bool = False
    """Whether the client gets the token ids, and with them the receipt's positions."""
    asks_ids: bool = False
    """Whether the engine is asked for token ids."""
    hides_ids: bool = False
    """They are for the gateway alone."""
    stream_interval: int = 1
    """Tokens that the engine was asked for in an event of a stream."""
    shared: bytes = b""
    """What the bodies of a request's choices begin with: the messages are in memory once, not for each."""
    brought: list[EngineReceipt] = field(default_factory=list)
    """The engine's record of this choice, if it has come along with the answer."""

    @property
    def fields(self) -> dict[str, Any]:
        """What the engine is asked, parsed anew."""
        parsed: dict[str, Any] = orjson.loads(self.shared + self.body)
        return parsed

    def asking_for_ids(self) -> Self:
        """This call, in such a way that the gateway gets its token ids."""
        if self.asks_ids:
            return self
        body = self.body[:-1] + b',"return_token_ids":true}'
        return replace(self, body=body, asks_ids=True, hides_ids=True)

    burst: Burst = field(default_factory=Burst)
    """Shared by the calls of a request."""


def parse_chat(fields: Mapping[str, Any]) -> ChatCall:
    """Check a request body.

    Raises:
        InvalidRequest, BudgetError: a field is unknown, of the wrong type, out of its limits, or contradicts
            another; `param` names it.
    """
    _check_names(fields)
    check_sampling_limits(fields)
    check_messages(fields, roles=ROLES)
    check_labels(fields.get("metadata"), "metadata")
    for name, model in _CLOSED.items():
        check_members_known(fields.get(name), model, name)
    try:
        ChatCompletionRequest.model_validate(fields)
    except ValidationError as error:
        raise invalid_request(error) from None
    given = {
        name: value
        for name, value in fields.items()
        if value is not None and name not in UNSUPPORTED_OPENAI_FIELDS | WITHOUT_EFFECT
    }
    asked = read_chat(given)
    check_conflicts(given, asked.budget, hides_thinking=asked.hides_thinking)
    parallel = ParallelSpec.of(given)
    if parallel is not None:
        check_combination(parallel, given)
        asked = shared_budget(parallel, asked)
        given.pop(PARALLEL)
    granularity: Granularity | None = given.pop(STREAM_GRANULARITY, None)
    origin = Origin(asked.budget.requested(), asked.requested_as)
    roots = frozenset(given)
    return ChatCall(
        _engine_fields(given, asked),
        asked,
        asked.budget,
        origin,
        roots,
        parallel,
        granularity=granularity,
    )


def engine_calls(
    call: ChatCall,
    *,
    model: str,
    request_id: str,
    wants_prompt_ids: bool = False,
    keeps_ids: bool = False,
) -> list[EngineCall]:
    """One engine request per choice or branch: each has its own budget and its own receipt.

    Args:
        wants_prompt_ids: the first chunk has to have `prompt_token_ids`; it has to be an engine that can.
        keeps_ids: the gateway needs the token ids, whether the client gets them or not.

    Raises:
        BodyTooLarge: so many bodies of that size are more than a gateway should hold at once.
    """
    searches = call.parallel is not None and call.parallel.method == "rebase"
    count = 1 if call.beam_search or searches else call.num_generations
    asked = call.fields.get("return_token_ids") is True or wants_prompt_ids
    ids = _TokenIds(asked or keeps_ids, hidden=not asked)
    body = _common_body(call, ids, model)
    if count == 1:
        return [_engine_call(call, ids, 0, request_id, Burst(), body, b"")]
    own = {name: body.pop(name) for name in _OWN if name in body}
    shared = orjson.dumps(body)[:-1]
    body_bytes = len(shared) + len(orjson.dumps(own))
    if body_bytes * count > _MOST_BODIES_BYTES:
        raise _too_many(call, body_bytes)
    burst = Burst()
    return [
        _engine_call(call, ids, index, f"{request_id}-{index}", burst, own, shared) for index in range(count)
    ]


def _too_many(call: ChatCall, body_bytes: int) -> BodyTooLarge:
    parallel = call.parallel
    name, given = ("n", call.num_choices) if parallel is None else ("parallel.width", parallel.width)
    return BodyTooLarge(
        f"`{name}` must be <= {_MOST_BODIES_BYTES // body_bytes} with a body of {body_bytes} bytes, which an "
        f"engine gets once for each. Given: {given}",
        param=name,
    )


@dataclass(frozen=True, slots=True)
class _TokenIds:
    asked: bool
    hidden: bool


def _common_body(call: ChatCall, ids: _TokenIds, model: str) -> dict[str, Any]:
    """What all choices ask for."""
    body = {name: value for name, value in call.fields.items() if name not in _NOT_FORWARDED}
    # Without it vLLM lets the grammar begin inside the thinking; we hide the reasoning ourselves.
    body |= {"model": model, "include_reasoning": True}
    if ids.asked:
        body["return_token_ids"] = True
    if call.beam_search:
        body["n"] = call.num_choices
    if call.parallel is not None:
        # Only the chosen branch is streamed, once it is known.
        body = {name: value for name, value in body.items() if name not in ("stream", "stream_options")}
    elif call.stream:
        body["stream_options"] = _engine_stream_options(call) | {"include_usage": True}
    return body


def _engine_call(
    call: ChatCall,
    ids: _TokenIds,
    index: int,
    request_id: str,
    burst: Burst,
    body: dict[str, Any],
    shared: bytes,
) -> EngineCall:
    """
    Args:
        body: without what is in `shared`.
        shared: JSON of all choices, without its closing brace; may be empty.
    """
    own = dict(body)
    if "seed" in own:
        # As vLLM seeds the choices of one request.
        own["seed"] += index
    receipt_id = None
    if call.budget.is_set:
        receipt_id = secrets.token_hex(16)
        own["vllm_xargs"] = own.get("vllm_xargs", {}) | _xargs(call, receipt_id)
    text = orjson.dumps(own)
    if shared:
        text = b"," + text[1:] if own else b"}"
    return EngineCall(
        index=None if call.beam_search else index,
        body=text,
        shared=shared,
        request_id=request_id,
        receipt_id=receipt_id,
        budget=call.budget,
        origin=call.origin,
        returns_ids=call.fields.get("return_token_ids") is True and not call.hides_reasoning,
        burst=burst,
        asks_ids=ids.asked,
        hides_ids=ids.asked and ids.hidden,
        stream_interval=call.fields.get("stream_interval", 1),
    )


def _xargs(call: ChatCall, receipt_id: str) -> dict[str, Any]:
    xargs: dict[str, Any] = {**call.budget.requested(), "receipt_id": receipt_id}
    if call.answer_is_constrained:
        xargs["answer_prompt"] = 0
    return xargs


def _check_names(fields: Mapping[str, Any]) -> None:
    for name, value in fields.items():
        if name in KNOWN_FIELDS:
            if name in ENGINE_IGNORES and value:
                raise InvalidRequest(
                    f"`{name}` has no effect on chat completions. Given: {show(value)}", param=name
                )
        elif name not in UNSUPPORTED_OPENAI_FIELDS:
            shown = cut(name)
            raise InvalidRequest(
                f"`{shown}` is not a field of chat completions.{did_you_mean(name, KNOWN_FIELDS)}",
                param=shown,
            )
        elif value is not None and value not in ASKS_FOR_NOTHING.get(name, ()):
            raise InvalidRequest(
                f"`{name}` is not supported by this server. Given: {show(value)}", param=name
            )


def _engine_stream_options(call: ChatCall) -> dict[str, Any]:
    """Without what asks for nothing and what the engine doesn't know."""
    options = call.fields.get("stream_options", {})
    return {name: value for name, value in options.items() if name != "include_obfuscation"}


def _engine_fields(given: Mapping[str, Any], asked: Asked) -> dict[str, Any]:
    """The request without other dialects' fields: an effort and a wish to think go to the chat template.

    A template is told of an effort, and of thinking that was asked for. It isn't told to leave thinking out:
    the budget does that, for every template, and the engine's parser would take a switched-off request's
    forced marker for content.
    """
    fields = {name: value for name, value in given.items() if name not in ALIAS_ROOTS - OPEN_OBJECTS}
    if asked.hides_thinking:
        # The gateway hides it, but not what an engine's own chat route calls it: see check_chat_fields.
        fields["include_reasoning"] = False
    kwargs = dict(given.get("chat_template_kwargs", {}))
    if asked.thinking is False:
        kwargs = {
            name: value for name, value in kwargs.items() if name not in _SWITCHES or value is not False
        }
    elif asked.effort is not None:
        fields["reasoning_effort"] = asked.effort
    if asked.thinking:
        kwargs = dict.fromkeys(_SWITCHES, True) | kwargs
    if kwargs or "chat_template_kwargs" in fields:
        fields["chat_template_kwargs"] = kwargs
    return fields
