"""What is checked of bodies that go to the engine as they are: what would cost it too much. Everything else
in them is the engine's to check.

vLLM tells of a malformed list with several complaints for each of its elements, and makes them in the process
that serves everybody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sized
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from server.budget.shown import show
from server.budget.spec import MAX_TOKENS
from server.gateway.chat.chat_request import MAX_CHOICES
from server.gateway.chat.messages import check_messages
from server.gateway.errors import InvalidRequest
from server.gateway.sampling_limits import check_entries
from server.gateway.validation import invalid_request

MOST_FIELDS = 1024
"""Of a body: vLLM takes more than it knows, and tries all of them in each of its types of a request."""
MOST_ELEMENTS = 16_384
"""Tools, texts to embed."""
MOST_TOKEN_IDS = 1_048_576
"""Of a text to be told; about as many as the longest contexts have."""
MOST_EMBEDDED_IDS = 65_536
"""Of all texts to embed: vLLM tries each as a message, too, for some 30 µs. Texts as strings cost nothing."""
_MOST_ID = 2**63 - 1


class _Switches(BaseModel):
    defer_loading: bool | None = None


class _Function(_Switches):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _Tool(_Switches):
    type: Literal["function"] = "function"
    function: _Function


class _Tools(BaseModel):
    tools: Annotated[list[_Tool], Field(fail_fast=True)]


class _Embedding(BaseModel):
    """What vLLM 0.32 takes for embeddings beside the texts: a wrong value would cost an error for each text.

    Source: `vllm/entrypoints/pooling/base/protocol.py`.
    """

    user: str | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = None
    padding: Literal["max_length", "do_not_pad"] | None = None
    truncation_side: Literal["left", "right"] | None = None
    request_id: str = ""
    priority: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] = 0
    mm_processor_kwargs: dict[str, Any] | None = None
    cache_salt: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    add_special_tokens: bool = True
    embed_dtype: Literal["float32", "float16", "bfloat16", "fp8_e4m3", "fp8_e5m2"] = "float32"
    endianness: Literal["native", "big", "little"] = "native"
    dimensions: int | None = None
    use_activation: bool | None = None


class _MessagesEmbedding(_Embedding):
    add_generation_prompt: bool = False
    continue_final_message: bool = False
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    media_io_kwargs: dict[str, Any] | None = None


def check_completion(fields: Mapping[str, Any]) -> int:
    """How many choices are asked for.

    Raises:
        InvalidRequest: as all of these; `param` names the field.
    """
    _check_fields(fields)
    options = fields.get("stream_options")
    if isinstance(options, dict):
        _check_length(options, "stream_options", MOST_FIELDS)
    _check_integer(fields, "max_tokens", 0, MAX_TOKENS)
    prompts = sum(_texts(fields, name, MAX_CHOICES) for name in ("prompt", "prompt_embeds")) or 1
    embeds = fields.get("prompt_embeds")
    if isinstance(embeds, list) and not isinstance(embeds[0], str):
        raise InvalidRequest(
            f"`prompt_embeds` must be a string or an array of strings. Given: {show(embeds)}",
            param="prompt_embeds",
        )
    each = 1
    for name in ("n", "best_of"):
        _check_integer(fields, name, 1, MAX_CHOICES)
        value = fields.get(name, 1)
        if value * prompts > MAX_CHOICES:
            raise InvalidRequest(
                f"`{name}` times the number of prompts must be <= {MAX_CHOICES}. Given: {value} × {prompts}",
                param=name,
            )
        each = max(each, value)
    return each * prompts


def check_embedding(fields: Mapping[str, Any]) -> None:
    _check_fields(fields)
    _texts(fields, "input", MOST_ELEMENTS)
    _check_embedded_ids(fields.get("input"))
    check_messages(fields)
    check_entries(fields, "media_io_kwargs")
    try:
        (_MessagesEmbedding if "messages" in fields else _Embedding).model_validate(fields)
    except ValidationError as error:
        raise invalid_request(error) from None


def check_tokenize(fields: Mapping[str, Any]) -> None:
    _check_fields(fields)
    check_entries(fields, "media_io_kwargs")
    prompt = fields.get("prompt", "")
    if not isinstance(prompt, str):
        raise InvalidRequest(f"`prompt` must be a string. Given: {show(prompt)}", param="prompt")
    check_messages(fields)
    _check_tools(fields.get("tools", []))


def check_detokenize(fields: Mapping[str, Any]) -> None:
    tokens = fields.get("tokens", [])
    if not isinstance(tokens, list):
        raise InvalidRequest(f"`tokens` must be an array of token ids. Given: {show(tokens)}", param="tokens")
    _check_ids(tokens, "tokens")


def _check_fields(fields: Mapping[str, Any]) -> None:
    if len(fields) > MOST_FIELDS:
        raise InvalidRequest(
            f"the body must have at most {MOST_FIELDS} fields. Given: {len(fields)}", param="body"
        )


def _check_embedded_ids(texts: Any) -> None:
    if not isinstance(texts, list) or isinstance(texts[0], str):
        return
    given = sum(map(len, texts)) if isinstance(texts[0], list) else len(texts)
    if given > MOST_EMBEDDED_IDS:
        raise InvalidRequest(
            f"`input` must have at most {MOST_EMBEDDED_IDS} token ids in all. Given: {given}", param="input"
        )


def _check_tools(tools: Any) -> None:
    if isinstance(tools, list):
        _check_length(tools, "tools", MOST_ELEMENTS)
    try:
        _Tools.model_validate({"tools": tools})
    except ValidationError as error:
        raise invalid_request(error) from None


def _texts(fields: Mapping[str, Any], name: str, most: int) -> int:
    """How many are in a field that has one or several, as strings or as token ids; 0 if it is absent."""
    value = fields.get(name)
    if value is None:
        return 0
    if isinstance(value, str):
        return 1
    if not isinstance(value, list) or not value:
        raise InvalidRequest(
            f"`{name}` must be a string, an array of token ids, or a non-empty array of either. "
            f"Given: {show(value)}",
            param=name,
        )
    if not isinstance(value[0], str | list):
        _check_ids(value, name)
        return 1
    _check_length(value, name, most)
    for place, element in enumerate(value):
        where = f"{name}[{place}]"
        if type(element) is not type(value[0]):
            raise InvalidRequest(f"`{where}` must be as `{name}[0]`. Given: {show(element)}", param=where)
        if isinstance(element, list):
            _check_ids(element, where)
    return len(value)


def _check_ids(values: list[Any], field: str) -> None:
    _check_length(values, field, MOST_TOKEN_IDS)
    # true is an integer, too, for Python.
    if not set(map(type, values)) <= {int} or min(values, default=0) < 0:
        place = next(i for i, value in enumerate(values) if type(value) is not int or value < 0)
        where = f"{field}[{place}]"
        raise InvalidRequest(f"`{where}` must be an integer >= 0. Given: {show(values[place])}", param=where)
    if max(values, default=0) > _MOST_ID:
        raise InvalidRequest(
            f"`{field}` must have token ids <= {_MOST_ID}. Given: {max(values)}", param=field
        )


def _check_length(values: Sized, field: str, most: int) -> None:
    if len(values) > most:
        raise InvalidRequest(
            f"`{field}` must have at most {most} elements. Given: {len(values)}", param=field
        )


def _check_integer(fields: Mapping[str, Any], name: str, least: int, most: int) -> None:
    value = fields.get(name, least)
    if type(value) is not int or not least <= value <= most:
        raise InvalidRequest(
            f"`{name}` must be an integer from {least} to {most}. Given: {show(value)}", param=name
        )
