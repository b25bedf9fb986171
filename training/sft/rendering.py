"""A question with its trace and answer becomes token ids, and labels that say which tokens are learned.

Pure: text and a tokenizer in, ids and labels out. What comes before the think marker is context (label
``IGNORED``); the think marker and all that follows is learned, up to and with the token that ends the turn.
Source of the s1 form: "s1: Simple test-time scaling", appendix D, and its ``data/tokenization.py`` and
``train/sft.py``; the other two are the chat templates of Qwen3 and DeepSeek-R1.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from server.budget.families import FAMILIES

IGNORED = -100
"""The label of a token that carries no loss, as ``torch.nn.functional.cross_entropy`` has it."""

Message = Mapping[str, Any]


class RenderingError(ValueError):
    """A part of a sample cannot be rendered; ``field`` names the part."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field} {problem}")
        self.field = field
        self.problem = problem


@dataclass(frozen=True, slots=True)
class TraceFormat:
    """How a model family writes one assistant turn with thinking, as text."""

    name: str
    think_start: str
    think_end: str
    turn_end: str
    opening: str
    """From the think marker to the first character of the trace."""
    middle: str
    """From the last character of the trace to the first of the answer."""
    after_turn: str = ""
    """Follows the token that ends the turn; learned as well."""
    reserved: tuple[str, ...] = ()
    """Texts that would end or open something if they occurred inside a question, trace or answer."""
    step_header: re.Pattern[str] | None = None
    """Headers that replace the think marker: the trace then begins with one, and may hold more."""


_STEP_HEADER = re.compile(r"<\|im_start\|>\d+ steps left\n")

TRACE_FORMATS: dict[str, TraceFormat] = {
    trace_format.name: trace_format
    for trace_format in (
        TraceFormat(
            "s1",
            think_start="<|im_start|>think",
            think_end="<|im_start|>answer",
            turn_end="<|im_end|>",
            opening="<|im_start|>think\n",
            middle="\n<|im_start|>answer\n",
            after_turn="\n",  # Qwen's template writes it, and s1's collator masks nothing after the prompt
            reserved=("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
        ),
        TraceFormat(
            "s1_steps",
            think_start="<|im_start|>",
            think_end="<|im_start|>answer",
            turn_end="<|im_end|>",
            opening="",
            middle="\n<|im_start|>answer\n",
            after_turn="\n",
            reserved=("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
            step_header=_STEP_HEADER,
        ),
        TraceFormat(
            "qwen3",
            think_start="<think>",
            think_end="</think>",
            turn_end="<|im_end|>",
            opening="<think>\n",
            middle="\n</think>\n\n",
            reserved=("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<think>", "</think>"),
        ),
        TraceFormat(
            "deepseek_r1",
            think_start="<think>",
            think_end="</think>",
            turn_end="<｜end▁of▁sentence｜>",
            opening="<think>\n",
            middle="\n</think>\n\n",
            reserved=("<｜", "<think>", "</think>"),
        ),
    )
}


class ChatTokenizer(Protocol):
    """The part of a fast Hugging Face tokenizer that is needed here."""

    chat_template: Any

    def __call__(self, text: str, **options: Any) -> Any: ...
    def apply_chat_template(self, conversation: list[Message], **options: Any) -> Any: ...
    def decode(self, token_ids: list[int], **options: Any) -> str: ...


@dataclass(frozen=True, slots=True)
class Rendered:
    """One sample as text: ``prompt`` is context, ``completion`` is learned.

    ``forced`` is the part of ``completion`` that a server wrote and the model must not learn, from and to.
    """

    prompt: str
    completion: str
    forced: tuple[int, int] | None = None

    @property
    def text(self) -> str:
        return self.prompt + self.completion

    @property
    def parts(self) -> tuple[str, ...]:
        """What is tokenized apart: a server joins what it forces by ids, whatever the text would give."""
        if self.forced is None:
            return (self.text,)
        begin, end = self.forced
        return (self.prompt + self.completion[:begin], self.completion[begin:end], self.completion[end:])


@dataclass(frozen=True, slots=True)
class Example:
    """One sample as tokens; ``labels`` are the ids themselves where they are learned, else ``IGNORED``."""

    input_ids: list[int]
    labels: list[int]

    @property
    def num_learned(self) -> int:
        return sum(label != IGNORED for label in self.labels)


@dataclass(frozen=True, slots=True)
class TokenView:
    """One token as a reader sees it."""

    token_id: int
    text: str
    learned: bool


def render_turn(
    tokenizer: ChatTokenizer,
    trace_format: TraceFormat,
    *,
    question: str,
    thinking: str,
    answer: str,
    system_prompt: str | None = None,
    answer_prefix: str = "",
) -> Rendered:
    """A single question with its trace and answer.

    Raises:
        RenderingError: a part is empty, or holds a text that is reserved in this format.
    """
    messages: list[Message] = [{"role": "system", "content": system_prompt}] if system_prompt else []
    messages.append({"role": "user", "content": _checked("question", question, trace_format)})
    return Rendered(
        prompt_text(tokenizer, trace_format, messages),
        completion_text(trace_format, thinking, answer, answer_prefix=answer_prefix),
    )


def render_messages(
    tokenizer: ChatTokenizer,
    trace_format: TraceFormat,
    messages: Sequence[Message],
    *,
    answer_prefix: str = "",
) -> Rendered:
    """A conversation that ends with an assistant message; only that last message is learned.

    Its trace stands in ``reasoning``, ``reasoning_content`` or ``thinking``, or in the content between
    the format's markers. With ``ended_by: max_thinking_tokens``, as a server's receipt says it, the trace was
    cut, and what the server then wrote is not learned.
    """
    if not messages or messages[-1].get("role") != "assistant":
        raise RenderingError("messages", "must end with a message of role assistant")
    *context, last = messages
    if not any(message.get("role") == "user" for message in context):
        raise RenderingError("messages", "must hold a message of role user before the last one")
    for at, message in enumerate(context):
        if message.get("role") != "assistant":
            _checked(f"messages[{at}].content", message.get("content"), trace_format)
    thinking, answer = _split_message(last, trace_format)
    if _was_cut(last):
        return _cut_turn(prompt_text(tokenizer, trace_format, context), trace_format, thinking, answer)
    return Rendered(
        prompt_text(tokenizer, trace_format, context),
        completion_text(trace_format, thinking, answer, answer_prefix=answer_prefix),
    )


def split_text(trace_format: TraceFormat, text: str) -> Rendered:
    """An already rendered sample, divided before its last think marker."""
    if trace_format.step_header is not None:
        raise RenderingError("text", f"can't be divided in format {trace_format.name}; give columns instead")
    at = text.rfind(trace_format.think_start)
    if at < 0:
        raise RenderingError("text", f"has no think marker {trace_format.think_start!r}")
    prompt, completion = text[:at], text[at:]
    if not prompt.strip():
        raise RenderingError("text", "has nothing before the think marker")
    if completion.count(trace_format.think_end) != 1:
        found = completion.count(trace_format.think_end)
        raise RenderingError(
            "text", f"must have {trace_format.think_end!r} once after the think marker, has {found}"
        )
    if not completion.rstrip().endswith(trace_format.turn_end):
        raise RenderingError(
            "text", f"must end with {trace_format.turn_end!r}, or the model never learns to stop"
        )
    thinking, answer = completion.removeprefix(trace_format.think_start).split(trace_format.think_end)
    _not_empty("text", thinking, "has an empty trace")
    _not_empty("text", answer.replace(trace_format.turn_end, ""), "has an empty answer")
    return Rendered(prompt, completion)


def prompt_text(tokenizer: ChatTokenizer, trace_format: TraceFormat, messages: Sequence[Message]) -> str:
    """The conversation up to the assistant's header; a think marker that the template opens is left out."""
    if not tokenizer.chat_template:
        raise RenderingError("tokenizer", "has no chat template")
    options = {"add_generation_prompt": True, "tokenize": False}
    text: str = tokenizer.apply_chat_template(list(messages), **options)
    bare = text.rstrip()
    for marker in ("<think>", "<|im_start|>think"):
        if bare.endswith(marker):
            return bare.removesuffix(marker)
    return text


def completion_text(trace_format: TraceFormat, thinking: str, answer: str, *, answer_prefix: str = "") -> str:
    """The learned part; ``answer_prefix`` is put before an answer that does not already contain it."""
    trace = _checked_trace(thinking, trace_format)
    said = _checked("answer", answer, trace_format).strip()
    if answer_prefix and answer_prefix.strip() not in said:
        said = answer_prefix + said
    return "".join(
        (
            trace_format.opening,
            trace,
            trace_format.middle,
            said,
            trace_format.turn_end,
            trace_format.after_turn,
        )
    )


def _was_cut(message: Message) -> bool:
    ended_by = message.get("ended_by", "model")
    if ended_by not in ("model", "max_thinking_tokens"):
        problem = f"must be model or max_thinking_tokens, is {ended_by!r}"
        raise RenderingError("messages[-1].ended_by", problem)
    return bool(ended_by == "max_thinking_tokens")


def _cut_turn(prompt: str, trace_format: TraceFormat, thinking: str, answer: str) -> Rendered:
    """As the engine forces an early exit (docs/budget.md, rule 1). The trace may be empty or end anywhere."""
    if trace_format.step_header is not None:
        raise RenderingError("messages[-1].ended_by", f"can't be used with format {trace_format.name}")
    for reserved in trace_format.reserved:
        if reserved in thinking:
            raise RenderingError("thinking", f"contains {reserved!r}, which means something else")
    learned = trace_format.opening + thinking
    newline = "" if learned.endswith("\n") else "\n"
    answer_prompt = FAMILIES[trace_format.name].answer_prompt
    forced = f"{newline}{trace_format.think_end}{answer_prompt}"
    space = "" if answer_prompt.endswith("\n") else " "
    said = _checked("answer", answer, trace_format).strip()
    completion = learned + forced + space + said + trace_format.turn_end + trace_format.after_turn
    return Rendered(prompt, completion, (len(learned), len(learned) + len(forced)))


def tokenize(tokenizer: ChatTokenizer, rendered: Rendered) -> Example:
    """Ids of the whole text at once, as the server tokenizes it; labels from the completion's first token on.

    Raises:
        RenderingError: a token spans the border, so that no mask can be right.
    """
    before, *rest = rendered.parts
    example = _tokenize_before(tokenizer, before, len(rendered.prompt))
    for number, part in enumerate(rest):
        ids = list(tokenizer(part, add_special_tokens=False)["input_ids"])
        example.input_ids.extend(ids)
        example.labels.extend([IGNORED] * len(ids) if number == 0 else ids)
    return example


def _tokenize_before(tokenizer: ChatTokenizer, text: str, border: int) -> Example:
    """Labels from the token that begins at ``border`` on."""
    encoding = tokenizer(
        text, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False
    )
    ids: list[int] = list(encoding["input_ids"])
    first = len(ids)
    for at, (begin, end) in enumerate(encoding["offset_mapping"]):
        if begin < border < end:
            spanning = tokenizer.decode([ids[at]])
            raise RenderingError("text", f"has a token, {spanning!r}, that spans prompt and think marker")
        if begin >= border:
            first = at
            break
    return Example(ids, [IGNORED] * first + ids[first:])


def explain(tokenizer: ChatTokenizer, example: Example) -> list[TokenView]:
    """Every token with its text and whether it is learned."""
    return [
        TokenView(token_id, tokenizer.decode([token_id], skip_special_tokens=False), label != IGNORED)
        for token_id, label in zip(example.input_ids, example.labels, strict=True)
    ]


def _split_message(message: Message, trace_format: TraceFormat) -> tuple[str, str]:
    content = message.get("content")
    if not isinstance(content, str):
        raise RenderingError("messages[-1].content", f"must be text, is {type(content).__name__}")
    for field in ("reasoning", "reasoning_content", "thinking"):
        if isinstance(message.get(field), str):
            return message[field], content
    before, start, rest = content.partition(trace_format.think_start)
    thinking, end, answer = rest.partition(trace_format.think_end)
    if not start or not end or before.strip():
        raise RenderingError(
            "messages[-1]",
            "has no trace: give it in `reasoning`, `reasoning_content` or `thinking`, or in the content as "
            f"{trace_format.think_start!r} … {trace_format.think_end!r}",
        )
    return thinking, answer


def _checked_trace(thinking: Any, trace_format: TraceFormat) -> str:
    if trace_format.step_header is None:
        return _checked("thinking", thinking, trace_format).strip()
    trace = _checked("thinking", thinking, None).strip()
    if trace_format.step_header.match(trace) is None:
        raise RenderingError("thinking", "must begin with a step header, as training.conditional writes it")
    _checked("thinking", trace_format.step_header.sub("", trace), trace_format)
    return trace


def _checked(field: str, text: Any, trace_format: TraceFormat | None) -> str:
    if text is None:
        raise RenderingError(field, "is missing")
    if not isinstance(text, str):
        raise RenderingError(field, f"must be text, is {type(text).__name__}")
    _not_empty(field, text, "is empty")
    for reserved in trace_format.reserved if trace_format else ():
        if reserved in text:
            raise RenderingError(field, f"contains {reserved!r}, which means something else in this format")
    return text


def _not_empty(field: str, text: str, problem: str) -> None:
    if not text.strip():
        raise RenderingError(field, problem)
