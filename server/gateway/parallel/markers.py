"""How thinking opens and ends in one model, as token ids, for continuing it step by step over completions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from server.budget.families import FAMILIES
from server.budget.markers import MarkerIds
from server.gateway.engines.engine import Engine
from server.gateway.errors import EngineMisbehaved
from server.gateway.rounds.completions_vllm import VllmCompletions


@dataclass(frozen=True, slots=True)
class ThinkingMarkers:
    start: list[int]
    end: list[int]
    forced_end: list[int]
    """The end marker with the answer prompt behind it."""
    newline: list[int]
    answer_prompt: str
    answer_stops: frozenset[int]
    """Turn tokens that end an answer, beside the model's own end tokens."""
    banned: frozenset[int] = frozenset()
    """Ids beyond the tokenizer's vocabulary, where they are known."""

    @classmethod
    async def learn(cls, completions: VllmCompletions, engine: Engine) -> ThinkingMarkers:
        """What rounds know of the engine, or what the plugin's own words are as tokens.

        Raises:
            EngineMisbehaved: the engine doesn't say what its markers are.
            EngineRefused, EngineDied
        """
        if engine.status.rounds is not None:
            return cls._of_ids(engine.status.rounds.ids)
        description = engine.budget_description
        if description is None or not description.think_start or not description.think_end:
            raise EngineMisbehaved("the engine doesn't say how its model's thinking begins and ends")
        start, end = (
            await completions.encode(description.think_start),
            await completions.encode(description.think_end),
        )
        prompt = description.answer_prompt or ""
        family = FAMILIES.get(description.family)
        return cls(
            start=start,
            end=end,
            forced_end=end + (await completions.encode(prompt) if prompt else []),
            newline=await completions.encode("\n"),
            answer_prompt=prompt,
            answer_stops=frozenset({start[0], end[0]})
            if family is not None and family.marker_ends_answer
            else frozenset(),
        )

    @classmethod
    def _of_ids(cls, ids: MarkerIds) -> ThinkingMarkers:
        turns = {ids.start[0], ids.end[0]} if ids.family.marker_ends_answer else set()
        return cls(
            start=list(ids.start),
            end=list(ids.end),
            forced_end=[*ids.end, *ids.answer_prompt],
            newline=[ids.newline],
            answer_prompt=ids.family.answer_prompt,
            answer_stops=frozenset(turns),
            banned=ids.unknown,
        )

    def opened(self, prompt_ids: Sequence[int]) -> bool:
        """Whether the prompt ends inside open thinking."""
        return _last(prompt_ids, self.start) > _last(prompt_ids, self.end)

    def answer_text(self, text: str) -> str:
        """An answer without the prompt for it, if the model wrote that by itself."""
        return text.strip().removeprefix(self.answer_prompt.strip()).strip()


def _last(ids: Sequence[int], wanted: Sequence[int]) -> int:
    for at in range(len(ids) - len(wanted), -1, -1):
        if list(ids[at : at + len(wanted)]) == list(wanted):
            return at
    return -1
