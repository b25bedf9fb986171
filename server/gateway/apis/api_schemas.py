"""JSON schemas of the bodies that routes read themselves, for the OpenAPI document.

Fields that all three APIs share come from the chat request's own schema. The readers (`chat_request.py`,
`messages_request.py`, `responses_request.py`) check more than a schema can say.
"""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from server.budget.forms import ANTHROPIC_FORMS, RESPONSES_FORMS, root_schemas
from server.gateway.apis.body_fields import PASSED_ON
from server.gateway.chat.chat_request import MAX_STOP_STRINGS, ChatCompletionRequest
from server.gateway.validation import MOST_LABELS

_CHAT = "ChatCompletionRequest"
_COMPONENTS = "#/components/schemas/"
_TEXT: dict[str, Any] = {"type": "string"}
_OBJECT: dict[str, Any] = {"type": "object"}
_LABELS: dict[str, Any] = {"type": "object", "additionalProperties": _TEXT, "maxProperties": MOST_LABELS}
_BLOCKS: dict[str, Any] = {"type": "array", "items": {"type": "object", "required": ["type"]}}
_TEXT_OR_BLOCKS: dict[str, Any] = {"anyOf": [_TEXT, _BLOCKS]}


def reference(name: str) -> dict[str, Any]:
    """An operation's request body, by the name of its schema."""
    schema = {"$ref": _COMPONENTS + name}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def body_schemas() -> dict[str, Any]:
    """Every body's schema and those that they refer to, by name."""
    _, found = models_json_schema(
        [(ChatCompletionRequest, "validation")], ref_template=_COMPONENTS + "{model}"
    )
    schemas: dict[str, Any] = found["$defs"]
    chat = schemas[_CHAT]["properties"]
    shared = {name: chat[name] for name in sorted(PASSED_ON & chat.keys())}
    messages = {**shared, **_messages(), **root_schemas(ANTHROPIC_FORMS)}
    responses = {**shared, **_responses(), **root_schemas(RESPONSES_FORMS)}
    _more(messages["output_config"], format=_schema_format("schema"))
    _more(responses["reasoning"], summary={"enum": ["auto", "detailed", None]})
    counted = {name: schema for name, schema in messages.items() if name != "max_tokens"}
    return {
        **schemas,
        "MessagesRequest": _body(messages, required=["max_tokens", "messages"]),
        "MessagesCountRequest": _body(counted, required=["messages"]),
        "ResponsesRequest": _body(responses, required=["input"]),
    }


def _body(properties: dict[str, Any], *, required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _more(nullable: dict[str, Any], **members: Any) -> None:
    """Further members of an object that is also a form."""
    nullable["anyOf"][0]["properties"] |= members


def _closed(*required: str, **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def _schema_format(*names: str) -> dict[str, Any]:
    """An answer of a given JSON schema."""
    return _closed("type", *names, type={"enum": ["json_schema"]}, **dict.fromkeys(names, _OBJECT))


def _messages() -> dict[str, Any]:
    turn = _closed("role", "content", role={"enum": ["user", "assistant", "system"]}, content=_TEXT_OR_BLOCKS)
    tool = _closed(
        *("name", "input_schema"),
        name=_TEXT,
        description=_TEXT,
        input_schema=_OBJECT,
        strict={"type": "boolean"},
    )
    choice = _closed(
        "type",
        type={"enum": ["auto", "any", "none", "tool"]},
        name=_TEXT,
        disable_parallel_tool_use={"type": "boolean"},
    )
    return {
        "max_tokens": {
            "type": "integer",
            "minimum": 1,
            "description": "Thinking, markers and answer together.",
        },
        "messages": {"type": "array", "items": turn, "minItems": 1},
        "system": _TEXT_OR_BLOCKS,
        "stop_sequences": {
            "type": "array",
            "items": {"type": "string", "minLength": 1},
            "maxItems": MAX_STOP_STRINGS,
        },
        "tools": {"type": "array", "items": tool},
        "tool_choice": choice,
        "metadata": _closed(user_id=_TEXT),
        "cache_control": _closed("type", type={"enum": ["ephemeral"]}),
    }


def _responses() -> dict[str, Any]:
    tool = _closed(
        *("type", "name"),
        type={"enum": ["function"]},
        name=_TEXT,
        description=_TEXT,
        parameters=_OBJECT,
        strict={"type": "boolean"},
    )
    namespace = _closed(
        *("type", "name", "tools"),
        type={"enum": ["namespace"]},
        name=_TEXT,
        description=_TEXT,
        tools={"type": "array", "items": tool},
    )
    named = _closed("type", "name", type={"enum": ["function"]}, name=_TEXT)
    formats = [_closed("type", type={"enum": ["text", "json_object"]}), _schema_format("schema")]
    formats[1]["properties"] |= {"name": _TEXT, "description": _TEXT, "strict": {"type": "boolean"}}
    formats[1]["required"].append("name")
    items = {"type": "array", "items": {"type": "object"}, "minItems": 1}
    return {
        "input": {"anyOf": [{"type": "string", "minLength": 1}, items]},
        "instructions": _TEXT,
        "max_output_tokens": {
            "type": "integer",
            "minimum": 1,
            "description": "Thinking, markers and answer together.",
        },
        "include_reasoning": {"type": "boolean"},
        "text": _closed(format={"anyOf": formats}),
        "tools": {"type": "array", "items": {"anyOf": [tool, namespace]}},
        "tool_choice": {"anyOf": [{"enum": ["none", "auto", "required"]}, named]},
        "parallel_tool_calls": {"type": "boolean"},
        "user": _TEXT,
        "metadata": _LABELS,
        "client_metadata": _LABELS,
        "prompt_cache_key": _TEXT,
        "include": {"type": "array", "items": {"enum": ["reasoning.encrypted_content"]}, "maxItems": 1},
    }
