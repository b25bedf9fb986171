"""What a request may cost at worst, as far as it can be known before an engine has seen it. Pure.

The gateway has no tokenizer: the prompt is estimated from its bytes, the rest follows from the request's own
limits and the engine's context.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from server.budget.spec import ThinkingBudget
from server.gateway.chat.chat_call import ChatCall

_BYTES_PER_TOKEN = 3
"""Below the 3.5 to 4.5 that current tokenizers reach on English, so that the estimate is rather too high."""
_TOKENS_PER_MESSAGE = 8
_TOKENS_PER_MEDIUM = 1024
"""For an image or a sound, whose bytes say nothing of its tokens."""
_PROMPT_FIELDS = ("messages", "tools", "documents")
_MEDIA = frozenset({"image_url", "input_audio", "audio_url", "video_url", "file", "image_embeds"})


@dataclass(frozen=True, slots=True)
class Demand:
    """Units: tokens."""

    prompt: int
    """Estimated; choices share it."""
    asked: int | None
    """The request's own limit of a choice's completion tokens."""
    context: int | None
    """The engine's limit of prompt and completion together."""
    choices: int

    @classmethod
    def of_chat(cls, call: ChatCall, *, context: int | None) -> Demand:
        prompt = 0 if call.continues is None else len(call.continues.prompt) + len(call.continues.output)
        prompt += sum(estimate_tokens(call.fields[name]) for name in _PROMPT_FIELDS if name in call.fields)
        return cls(prompt, call.room[1] if call.room is not None else None, context, call.num_generations)

    @property
    def completion(self) -> int | None:
        """Most completion tokens of one choice; None if nothing limits them."""
        # The prompt's share of the context is left out: it is only estimated, and this has to be a limit.
        return _least(self.asked, self.context)

    def thinking(self, budget: ThinkingBudget) -> int | None:
        """Most thinking tokens of one choice; None if nothing limits them."""
        return _least(budget.max_thinking_tokens, self.completion)

    @property
    def total(self) -> int | None:
        """Most tokens of the whole request."""
        return None if self.completion is None else self.prompt + self.completion * self.choices

    def held(self, budget: ThinkingBudget, *, answer_tokens: int) -> int | None:
        """What the request may come to hold in an engine's cache.

        Args:
            answer_tokens: the answer's assumed length if the request limits its thinking only.
        """
        completion = self.completion
        if completion is None:
            return None
        if self.asked is None and budget.max_thinking_tokens is not None:
            completion = min(completion, budget.max_thinking_tokens + answer_tokens)
        whole = self.prompt + completion
        return (whole if self.context is None else min(whole, self.context)) * self.choices


def _least(*limits: int | None) -> int | None:
    given = [limit for limit in limits if limit is not None]
    return min(given) if given else None


def estimate_tokens(whole: object) -> int:
    """Tokens of a piece of a request's JSON."""
    tokens = 0
    parts: list[object] = [whole]
    # Not by recursion: a client chooses how deep its JSON is.
    while parts:
        part = parts.pop()
        if isinstance(part, str):
            tokens += -(-len(part.encode(errors="replace")) // _BYTES_PER_TOKEN)
        elif isinstance(part, Mapping):
            tokens += _TOKENS_PER_MESSAGE
            for name, value in part.items():
                if name in _MEDIA and value is not None:
                    tokens += _TOKENS_PER_MEDIUM
                else:
                    parts.append(value)
        elif isinstance(part, list):
            parts.extend(part)
        elif part is not None:
            tokens += 1
    return tokens
