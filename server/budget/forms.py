"""The request fields by which clients limit thinking, as data: where each stands, whose it is, what it takes.

docs/dialects.md and the README's table are made from this list, and so are checks and API schema. Sources:
vLLM 0.32's ChatCompletionRequest; api-docs.deepseek.com/guides/thinking_mode; Alibaba's DashScope reference;
openrouter.ai/docs/use-cases/reasoning-tokens; the types of the anthropic and openai SDKs; SGLang's
`custom_params`; NVIDIA Dynamo's `nvext`; llama.cpp's server README; ai.google.dev/gemini-api/docs/openai.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from server.budget.effort import EFFORTS, NO_EFFORT
from server.budget.spec import MAX_TOKENS

ANTHROPIC_MIN_BUDGET_TOKENS = 1024
THINKING_TYPES = ("enabled", "disabled", "adaptive")
DISPLAYS = ("summarized", "omitted")


class Kind(StrEnum):
    """What a form's value is and says."""

    TOKENS = "tokens"
    """The maximum."""
    TOKENS_OR_UNLIMITED = "tokens or -1"
    """The maximum; -1 is no maximum."""
    EFFORT = "effort"
    EFFORT_OR_NONE = "effort or none"
    SWITCH = "switch"
    """true: think; false: don't."""
    TEMPLATE_SWITCH = "template switch"
    """As SWITCH; a value that isn't a boolean is the chat template's own business."""
    SHOWN = "shown"
    HIDDEN = "hidden"
    ANTHROPIC = "part of Anthropic's form"
    """Read as a whole: its parts depend on each other."""


@dataclass(frozen=True, slots=True)
class Form:
    path: str
    """Dotted, from the root of the request."""
    dialect: str
    kind: Kind
    meaning: str
    schema: Mapping[str, Any]
    """JSON schema of its value."""

    @property
    def root(self) -> str:
        return self.path.partition(".")[0]


def _form(path: str, dialect: str, kind: Kind, meaning: str, **schema: Any) -> Form:
    return Form(path, dialect, kind, meaning, schema or _SCHEMAS[kind])


_SCHEMAS: Mapping[Kind, Mapping[str, Any]] = {
    Kind.TOKENS: {"type": "integer", "minimum": 0, "maximum": MAX_TOKENS},
    Kind.TOKENS_OR_UNLIMITED: {"type": "integer", "minimum": -1, "maximum": MAX_TOKENS},
    Kind.EFFORT: {"enum": list(EFFORTS)},
    Kind.EFFORT_OR_NONE: {"enum": [NO_EFFORT, *EFFORTS]},
    Kind.SWITCH: {"type": "boolean"},
    Kind.TEMPLATE_SWITCH: {"type": "boolean"},
    Kind.SHOWN: {"type": "boolean"},
    Kind.HIDDEN: {"type": "boolean"},
}
_MAXIMUM = "the maximum"
_MAXIMUM_UNLIMITED = "the maximum; -1 is unlimited"
_EFFORT = "the maximum as an effort; none is no thinking"
_SWITCH = "false is no thinking"
_GEMINI_BUDGET = "the maximum; -1 lets the model decide, 0 is no thinking"

FORMS: tuple[Form, ...] = (
    _form("thinking_token_budget", "vLLM", Kind.TOKENS_OR_UNLIMITED, _MAXIMUM_UNLIMITED),
    _form("reasoning_effort", "OpenAI, vLLM, DeepSeek", Kind.EFFORT_OR_NONE, _EFFORT),
    _form("include_reasoning", "vLLM", Kind.SHOWN, "false hides the thinking, which still counts"),
    _form("enable_thinking", "Qwen", Kind.SWITCH, _SWITCH),
    _form("thinking_budget", "Qwen", Kind.TOKENS, _MAXIMUM),
    _form("chat_template_kwargs.enable_thinking", "Qwen", Kind.TEMPLATE_SWITCH, _SWITCH),
    _form("chat_template_kwargs.thinking", "DeepSeek", Kind.TEMPLATE_SWITCH, _SWITCH),
    _form("chat_template_kwargs.thinking_budget", "Qwen", Kind.TOKENS_OR_UNLIMITED, _MAXIMUM_UNLIMITED),
    _form("reasoning.max_tokens", "OpenRouter", Kind.TOKENS, _MAXIMUM),
    _form("reasoning.effort", "OpenRouter, OpenAI Responses", Kind.EFFORT_OR_NONE, _EFFORT),
    _form("reasoning.enabled", "OpenRouter", Kind.SWITCH, _SWITCH),
    _form("reasoning.exclude", "OpenRouter", Kind.HIDDEN, "true hides the thinking, which still counts"),
    _form(
        "thinking.type",
        "DeepSeek, Anthropic",
        Kind.ANTHROPIC,
        "disabled is no thinking; adaptive leaves it to `output_config.effort`",
        enum=list(THINKING_TYPES),
    ),
    _form(
        "thinking.budget_tokens",
        "Anthropic",
        Kind.ANTHROPIC,
        "the maximum, with type enabled; less than `max_tokens`",
        type="integer",
        minimum=ANTHROPIC_MIN_BUDGET_TOKENS,
        maximum=MAX_TOKENS,
    ),
    _form(
        "thinking.display",
        "Anthropic",
        Kind.ANTHROPIC,
        "omitted hides the thinking, which still counts",
        enum=list(DISPLAYS),
    ),
    _form(
        "output_config.effort",
        "Anthropic",
        Kind.ANTHROPIC,
        "the maximum as an effort, unless `thinking` sets it",
        enum=list(EFFORTS),
    ),
    _form("custom_params.thinking_budget", "SGLang", Kind.TOKENS, _MAXIMUM),
    _form("nvext.max_thinking_tokens", "NVIDIA NIM, Dynamo", Kind.TOKENS, _MAXIMUM),
    _form("reasoning_budget_tokens", "llama.cpp", Kind.TOKENS_OR_UNLIMITED, _MAXIMUM_UNLIMITED),
    _form("thinking_budget_tokens", "llama.cpp", Kind.TOKENS_OR_UNLIMITED, _MAXIMUM_UNLIMITED),
    *(
        form
        for names, prefix in (
            (("thinkingBudget", "thinkingLevel", "includeThoughts"), "generationConfig.thinkingConfig"),
            (("thinking_budget", "thinking_level", "include_thoughts"), "extra_body.google.thinking_config"),
        )
        for form in (
            _form(f"{prefix}.{names[0]}", "Gemini", Kind.TOKENS_OR_UNLIMITED, _GEMINI_BUDGET),
            _form(f"{prefix}.{names[1]}", "Gemini", Kind.EFFORT, "the maximum as an effort"),
            _form(
                f"{prefix}.{names[2]}", "Gemini", Kind.SHOWN, "false hides the thinking, which still counts"
            ),
        )
    ),
)

OPEN_OBJECTS = frozenset({"chat_template_kwargs"})
"""Objects with members that aren't ours to know."""

ANTHROPIC_FORMS = tuple(form for form in FORMS if form.kind is Kind.ANTHROPIC)
RESPONSES_FORMS = tuple(form for form in FORMS if form.path == "reasoning.effort")
ALIAS_ROOTS = frozenset(form.root for form in FORMS)


def members(forms: tuple[Form, ...]) -> Mapping[str, frozenset[str]]:
    """The known members of every object that is part of a form, by the object's path."""
    known: dict[str, set[str]] = {}
    for form in forms:
        for parent, name in _steps(form.path):
            known.setdefault(parent, set()).add(name)
    return {path: frozenset(names) for path, names in known.items() if path not in OPEN_OBJECTS}


def root_schemas(forms: tuple[Form, ...] = FORMS) -> dict[str, dict[str, Any]]:
    """JSON schema of every root field that is one of `forms` or holds one; null means absent."""
    roots: dict[str, dict[str, Any]] = {}
    for form in forms:
        whole = {**form.schema, "description": f"{form.dialect}: {form.meaning}."}
        *parents, name = form.path.split(".")
        properties = roots
        for parent in parents:
            closed = {} if parent in OPEN_OBJECTS else {"additionalProperties": False}
            held = properties.setdefault(parent, {"type": "object", "properties": {}, **closed})
            properties = held["properties"]
        properties[name] = whole
    return {name: {"anyOf": [schema, {"type": "null"}]} for name, schema in roots.items()}


def _steps(path: str) -> Iterator[tuple[str, str]]:
    parts = path.split(".")
    for depth in range(1, len(parts)):
        yield ".".join(parts[:depth]), parts[depth]
