"""Three wire forms of one question and its reply: OpenAI-compatible, Anthropic, Gemini; as plain JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from training.endpoints.errors import RequestRefused

_ANTHROPIC_VERSION = "2023-06-01"
_ANTHROPIC_MIN_ANSWER_TOKENS = 1024
_ANTHROPIC_MIN_THINKING_TOKENS = 1024


class MalformedReply(ValueError):
    """The reply lacks what every reply of this API has."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to answer. `extra` is merged into the request's body and wins over everything else."""

    max_tokens: int
    temperature: float | None = None
    seed: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reply:
    """A model's answer. Token counts and `thinking_budget`, our receipt, are None where the API has none."""

    answer: str
    thinking: str = ""
    thinking_tokens: int | None = None
    completion_tokens: int | None = None
    finish_reason: str | None = None
    thinking_budget: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Wire:
    """One API: where a request goes, how it is signed, what it says, and how the reply reads."""

    path: Callable[[str], str]
    headers: Callable[[str | None], dict[str, str]]
    body: Callable[[str, str, Sampling], dict[str, Any]]
    reply: Callable[[Any], Reply]
    """Raises MalformedReply, or RequestRefused for a reply that says why there is no answer."""


def _bearer(key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


def _openai_body(limit_field: str) -> Callable[[str, str, Sampling], dict[str, Any]]:
    def body(model: str, prompt: str, sampling: Sampling) -> dict[str, Any]:
        optional = {"temperature": sampling.temperature, "seed": sampling.seed}
        return {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            limit_field: sampling.max_tokens,
            **{name: value for name, value in optional.items() if value is not None},
            **sampling.extra,
        }

    return body


def _openai_reply(payload: Any) -> Reply:
    try:
        choice = payload["choices"][0]
        message = choice["message"]
        if "content" not in message:
            raise MalformedReply("message.content is missing")
        thinking = message.get("reasoning") or message.get("reasoning_content") or ""
        usage = payload.get("usage") or {}
        details = usage.get("completion_tokens_details") or {}
        return Reply(
            answer=message["content"] or "",
            thinking=thinking,
            thinking_tokens=details.get("reasoning_tokens"),
            completion_tokens=usage.get("completion_tokens"),
            finish_reason=choice.get("finish_reason"),
            thinking_budget=choice.get("thinking_budget"),
        )
    except (LookupError, TypeError, AttributeError) as error:
        raise MalformedReply(f"no choices[0].message: {error!r}") from error


def _anthropic_body(model: str, prompt: str, sampling: Sampling) -> dict[str, Any]:
    """Thinking is on wherever the limit has room for it; the API wants a temperature of 1 then."""
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": sampling.max_tokens,
        "messages": [{"role": "user", "content": prompt}],
    }
    room = sampling.max_tokens - _ANTHROPIC_MIN_ANSWER_TOKENS
    if room >= _ANTHROPIC_MIN_THINKING_TOKENS and "thinking" not in sampling.extra:
        body["thinking"] = {"type": "enabled", "budget_tokens": room}
    elif sampling.temperature is not None:
        body["temperature"] = sampling.temperature
    return {**body, **sampling.extra}


def _anthropic_reply(payload: Any) -> Reply:
    try:
        blocks = payload["content"]
        usage = payload.get("usage") or {}
        return Reply(
            answer="".join(block["text"] for block in blocks if block["type"] == "text"),
            thinking="".join(block["thinking"] for block in blocks if block["type"] == "thinking"),
            completion_tokens=usage.get("output_tokens"),
            finish_reason=payload.get("stop_reason"),
        )
    except (LookupError, TypeError, AttributeError) as error:
        raise MalformedReply(f"no content blocks: {error!r}") from error


def _gemini_body(model: str, prompt: str, sampling: Sampling) -> dict[str, Any]:
    optional = {"temperature": sampling.temperature, "seed": sampling.seed}
    return {
        "contents": [{"role": "user", "parts": [{"text": prompt}]}],
        "generationConfig": {
            "maxOutputTokens": sampling.max_tokens,
            "thinkingConfig": {"includeThoughts": True},
            **{name: value for name, value in optional.items() if value is not None},
        },
        **sampling.extra,
    }


def _gemini_reply(payload: Any) -> Reply:
    try:
        blocked = (payload.get("promptFeedback") or {}).get("blockReason")
        if blocked:
            raise RequestRefused(f"the prompt was blocked: {blocked}")
        candidate = payload["candidates"][0]
        parts = (candidate.get("content") or {}).get("parts") or []
        usage = payload.get("usageMetadata") or {}
        return Reply(
            answer="".join(part.get("text", "") for part in parts if not part.get("thought")),
            thinking="".join(part.get("text", "") for part in parts if part.get("thought")),
            thinking_tokens=usage.get("thoughtsTokenCount"),
            completion_tokens=usage.get("candidatesTokenCount"),
            finish_reason=candidate.get("finishReason"),
        )
    except (LookupError, TypeError, AttributeError) as error:
        raise MalformedReply(f"no candidates: {error!r}") from error


def _chat_path(_: str) -> str:
    return "chat/completions"


WIRES: Mapping[str, Wire] = {
    "openai": Wire(_chat_path, _bearer, _openai_body("max_completion_tokens"), _openai_reply),
    "openai-max-tokens": Wire(_chat_path, _bearer, _openai_body("max_tokens"), _openai_reply),
    "anthropic": Wire(
        lambda _: "messages",
        lambda key: {"anthropic-version": _ANTHROPIC_VERSION, **({"x-api-key": key} if key else {})},
        _anthropic_body,
        _anthropic_reply,
    ),
    "gemini": Wire(
        lambda model: f"models/{model}:generateContent",
        lambda key: {"x-goog-api-key": key} if key else {},
        _gemini_body,
        _gemini_reply,
    ),
}
"""By the name that `--api` takes. `openai-max-tokens` is for servers that know only the older field."""
