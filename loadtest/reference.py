"""Budget forcing without our plugin: s1's own way, round after round, on any engine that takes token ids.

Stop at an end token, drop it, append Wait, send everything again. Written from the rules in docs/budget.md
and independent of the code under test, which it is the measure of. It asks for one round at a time and does
not know how rounds are run: over HTTP (`tests/e2e/reference.py`) or in batches (`loadtest.gpu_check`).
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

from server.budget.markers import MarkerIds

MAX_BLANK_ANSWER_TOKENS = 8
"""Rule 5. Repeated here, since a measure must not take its numbers from what it measures."""


@dataclass(frozen=True)
class Settings:
    """A budget and what else a request asks for."""

    max_thinking_tokens: int
    min_thinking_tokens: int = 0
    num_waits: int = 0
    max_completion_tokens: int = 400
    wait_ids: tuple[tuple[int, ...], ...] = ()
    """The request's own wait texts, used in turn; empty: the family's."""
    sampling: dict[str, Any] = field(default_factory=dict)
    """Greedy sampling parameters that do not depend on where prompt ends and output begins."""
    landing_tokens: int = 0

    def as_request(self) -> dict[str, int]:
        """The budget's fields, in a request to an engine with our plugin."""
        return {
            "max_thinking_tokens": self.max_thinking_tokens,
            "min_thinking_tokens": self.min_thinking_tokens,
            "num_waits": self.num_waits,
            "landing_tokens": self.landing_tokens,
        }


@dataclass(frozen=True)
class Round:
    """One request to an engine: greedy, with the settings' own sampling parameters."""

    prompt: list[int]
    max_tokens: int
    stops: frozenset[int]
    first_not_stop: bool
    """The first token can't be one of `stops`."""
    begins_at: int
    """Position in the output of the first token that this round generates."""


@dataclass(frozen=True)
class Fresh:
    """What came of a round: tokens up to the one it stopped at, which is not among them."""

    token_ids: list[int]
    stop: int | None

    @classmethod
    def of(cls, token_ids: list[int], finish_reason: str | None) -> Fresh:
        """From vLLM's answer, whose last token is the one it stopped at."""
        return cls(token_ids[:-1], token_ids[-1]) if finish_reason == "stop" else cls(token_ids, None)


@dataclass(frozen=True)
class Outcome:
    """What the rules demand of one request."""

    token_ids: list[int]
    """All output ids, EOS included."""
    thinking_tokens: int
    waits: int
    ended_by: str
    chosen: frozenset[int]
    """Output positions at which the model chose; what stands there may still have replaced its choice."""


Procedure = Generator[Round, Fresh, Outcome]


def procedure(ids: MarkerIds, prompt: list[int], settings: Settings) -> Procedure:
    """The rounds of one request: yields each, is sent what came of it, and returns the outcome."""
    return _Request(ids, prompt, settings).run()


class _Request:
    def __init__(self, ids: MarkerIds, prompt: list[int], settings: Settings) -> None:
        self.ids = ids
        self.prompt = prompt
        self.settings = settings
        self.output: list[int] = [] if ids.opened(prompt) else list(ids.start)
        self.chosen: set[int] = set()
        self.thinking = 0
        self.waits = 0

    def run(self) -> Procedure:
        ids, maximum = self.ids, self.settings.max_thinking_tokens
        ended_by_model = yield from self._think()
        if ended_by_model:
            self.output += ids.end
        else:
            last = self.output[-1:] if self.thinking else []
            full = self.thinking >= maximum - 1
            if maximum > 0 and (full or not set(last) & ids.line_end):
                self.output.append(ids.newline)
                self.thinking += 1
            self.output += [*ids.end, *ids.answer_prompt]
        yield from self._answer()
        return Outcome(
            token_ids=self.output,
            thinking_tokens=self.thinking,
            waits=self.waits,
            ended_by="model" if ended_by_model else "max_thinking_tokens",
            chosen=frozenset(self.chosen),
        )

    def _think(self) -> Generator[Round, Fresh, bool]:
        """Think up to the last place of the budget, which is the newline's. Whether the model ended it."""
        room = max(self.settings.max_thinking_tokens - 1, 0)
        while self.thinking < room:
            fresh = yield self._round(
                room - self.thinking, self.ids.end_attempt, first_not_stop=self.waits > 0
            )
            kept = self._until_landing(fresh.token_ids)
            landed = len(kept) < len(fresh.token_ids) or self._lands(kept)
            self._take(kept, also_stop=fresh.stop is not None and not landed)
            self.thinking += len(kept)
            if fresh.stop is None or landed:
                return False
            if self.waits >= self.settings.num_waits and self.thinking >= self.settings.min_thinking_tokens:
                return True
            texts = self.settings.wait_ids or (self.ids.wait,)
            wait = texts[self.waits % len(texts)][: room - self.thinking]
            self.output += wait
            self.thinking += len(wait)
            self.waits += 1
        return False

    def _until_landing(self, token_ids: list[int]) -> list[int]:
        """Rule 6: up to the first sentence end of the landing zone."""
        for i in range(len(token_ids)):
            if self._lands(token_ids[: i + 1]):
                return token_ids[: i + 1]
        return token_ids

    def _lands(self, token_ids: list[int]) -> bool:
        landing, settings = self.settings.landing_tokens, self.settings
        begin = max(settings.max_thinking_tokens - landing, settings.min_thinking_tokens)
        near = self.thinking + len(token_ids) >= begin
        return bool(landing and near and token_ids and token_ids[-1] in self.ids.sentence_end)

    def _answer(self) -> Generator[Round, Fresh, None]:
        ids, begin = self.ids, len(self.output)
        while len(self.output) < self.settings.max_completion_tokens:
            room = self.settings.max_completion_tokens - len(self.output)
            visible = any(token not in ids.blank for token in self.output[begin:])
            too_blank = len(self.output) - begin >= MAX_BLANK_ANSWER_TOKENS
            if visible:
                fresh = yield self._round(room, self._answer_ends(), first_not_stop=False)
            else:
                stops = ids.not_first_in_answer | (ids.blank if too_blank else frozenset())
                fresh = yield self._round(1, stops, first_not_stop=True)
            self._take(fresh.token_ids, also_stop=fresh.stop is not None)
            if fresh.stop is not None:
                self.output.append(fresh.stop if fresh.stop in ids.eos else ids.eos_token)
                return

    def _answer_ends(self) -> frozenset[int]:
        markers = frozenset({self.ids.start[0], self.ids.end[0]})
        return self.ids.eos | (markers if self.ids.family.marker_ends_answer else frozenset())

    def _round(self, max_tokens: int, stops: frozenset[int], *, first_not_stop: bool) -> Round:
        return Round(self.prompt + self.output, max_tokens, stops, first_not_stop, len(self.output))

    def _take(self, token_ids: list[int], *, also_stop: bool) -> None:
        begin = len(self.output)
        self.chosen |= set(range(begin, begin + len(token_ids) + also_stop))
        self.output += token_ids
