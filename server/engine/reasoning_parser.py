"""vLLM reasoning parser for every family that we enforce: `--reasoning-parser s1_thinking`.

One parser instead of vLLM's own, because a forced exit ends with an answer prompt that must not reach the
content, and because markers may be several tokens long. Its constructor must name `tokenizer`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from vllm.entrypoints.generate.base.protocol import DeltaMessage
from vllm.reasoning import ReasoningParser, ReasoningParserManager

from server.budget.families import Family
from server.budget.markers import encode_marker
from server.engine.config import family_for
from server.engine.splitting import StreamSplitter, find, find_last, split_text

NAME = "s1_thinking"


@ReasoningParserManager.register_module(name=NAME)
class ThinkingParser(ReasoningParser):  # type: ignore[misc]
    def __init__(self, tokenizer: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(tokenizer, *args, **kwargs)
        markers = _markers(tokenizer)
        self._family, self._start, self._end = markers.family, markers.start, markers.end
        self._end_attempt, self._turn_ends, self._eos = markers.end_attempt, markers.turn_ends, markers.eos
        template = kwargs.get("chat_template_kwargs") or {}
        self._no_thinking = template.get("enable_thinking") is False or template.get("thinking") is False
        self._splitter: StreamSplitter | None = None

    @property
    def reasoning_start_str(self) -> str:
        return self._family.think_start

    @property
    def reasoning_end_str(self) -> str:
        return self._family.think_end

    def adjust_request(self, request: Any) -> Any:
        # Markers are special tokens: their text must survive to be found, and is then removed here.
        request.skip_special_tokens = False
        return request

    def is_reasoning_end(self, input_ids: Sequence[int]) -> bool:
        """Whether the last marker of prompt or output closes thinking, in the turn that is written now."""
        end = find_last(input_ids, self._end)
        if end is None or self._turn_ended(input_ids[end + len(self._end) :]):
            return False
        start = find_last(input_ids, self._start)
        return start is None or end > start

    def _turn_ended(self, input_ids: Sequence[int]) -> bool:
        """An end token that comes last is this turn's own."""
        return not self._turn_ends.isdisjoint(input_ids) or not self._eos.isdisjoint(input_ids[:-1])

    def is_reasoning_end_streaming(self, input_ids: Sequence[int], delta_ids: Iterable[int]) -> bool:
        if self._splitter is not None:
            # In the API server: content has begun, so that no marker text can follow.
            return self._splitter.in_content
        delta = len(list(delta_ids))
        tail = list(input_ids[-(delta + len(self._end) - 1) :])
        return find(tail, self._end) is not None

    def extract_content_ids(self, input_ids: list[int]) -> list[int]:
        end = find_last(input_ids, self._end)
        return list(input_ids) if end is None else list(input_ids[end + len(self._end) :])

    def count_reasoning_tokens(self, token_ids: Sequence[int]) -> int:
        """Thinking tokens among generated ids: before the end marker, a start marker and EOS left out."""
        if self._no_thinking:
            return 0
        begin = len(self._start) if tuple(token_ids[: len(self._start)]) == self._start else 0
        end = find(token_ids, self._end, begin)
        if end is None:
            end = len(token_ids)
            while end > begin and token_ids[end - 1] in self._end_attempt:
                end -= 1
        return end - begin

    def extract_reasoning(self, model_output: str, request: Any) -> tuple[str | None, str | None]:
        if self._no_thinking:
            return None, model_output
        pieces = split_text(model_output, self._family)
        return pieces.reasoning, pieces.content

    def extract_reasoning_streaming(
        self,
        previous_text: str,
        current_text: str,
        delta_text: str,
        previous_token_ids: Sequence[int],
        current_token_ids: Sequence[int],
        delta_token_ids: Sequence[int],
    ) -> DeltaMessage | None:
        if self._splitter is None:
            self._splitter = StreamSplitter(self._family, start=self._start, end=self._end)
        pieces = self._splitter.push(current_text, current_token_ids)
        if pieces.reasoning is None and pieces.content is None:
            return None
        return DeltaMessage(reasoning=pieces.reasoning, content=pieces.content)


@dataclass(frozen=True, slots=True)
class _Markers:
    family: Family
    start: tuple[int, ...]
    end: tuple[int, ...]
    end_attempt: frozenset[int]
    turn_ends: frozenset[int]
    eos: frozenset[int]


@lru_cache(maxsize=4)
def _markers(tokenizer: Any) -> _Markers:
    """The family and its ids, once per tokenizer: a parser is made for every request."""
    family = family_for(model=getattr(tokenizer, "name_or_path", ""), tokenizer=tokenizer)
    end = encode_marker(tokenizer, family.think_end)
    eos = frozenset() if tokenizer.eos_token_id is None else frozenset({tokenizer.eos_token_id})
    turn_ends = [encode_marker(tokenizer, text) for text in family.turn_ends]
    return _Markers(
        family,
        start=encode_marker(tokenizer, family.think_start),
        end=end,
        end_attempt=eos | {end[0]},
        turn_ends=frozenset(ids[0] for ids in turn_ends if len(ids) == 1),
        eos=eos,
    )
