"""End markers of ordinary tokens: seen in the text of the thinking once they are complete, then taken back.

Such a marker (`</think>` where the vocabulary has no such token, or a sentence) can't be told from a thought
by its first token, so no sampler can intercept it. Rounds can: what they have sampled is not yet output.
Tokens that may still become the marker are *held*: they count as thinking tokens until it is complete, and
are taken back then. docs/families.md states the rules.
"""

from __future__ import annotations

from dataclasses import replace

from server.budget.machine import BudgetMachine, Phase


class EndWatch:
    """Stands between what is sampled and a `BudgetMachine`; passes everything on if the marker is a token."""

    def __init__(self, machine: BudgetMachine) -> None:
        self._machine = machine
        self._ids = machine.ids
        self._marker_came = False
        self.held: list[int] = []
        """Sampled tokens, not yet given to the machine: the marker may begin in the first of them."""

    @property
    def held_text(self) -> str:
        return "".join(self._ids.texts[token] for token in self.held)

    def begin_round(self) -> None:
        self._marker_came = False

    @property
    def cuts_round(self) -> bool:
        """The engine can't know where the thinking ends: what it samples after that is to be dropped."""
        return self._ids.end_is_text and (self._marker_came or self._machine.forced is not None)

    def take(self, sampled: int) -> list[int]:
        """Take a sampled token while the machine forces nothing; the tokens that now stand in the output."""
        if not self._ids.end_is_text or self._machine.phase is not Phase.THINKING:
            return [self._machine.commit(sampled)]
        if sampled in self._ids.end_attempt:
            passed = self._pass_on(len(self.held))
            return passed if self._machine.forced is not None else [*passed, self._machine.commit(sampled)]
        self.held.append(sampled)
        marker = self._ids.family.think_end
        text = self.held_text
        begin = text.find(marker)
        if begin >= 0:
            return self._end(self._token_at(begin))
        begun = next(n for n in range(min(len(marker), len(text)), -1, -1) if text.endswith(marker[:n]))
        passed = self._pass_on(self._token_at(len(text) - begun) if begun else len(self.held))
        if self._machine.thinking_tokens + len(self.held) >= self._machine.budget.max - 1:
            passed += self._pass_on(len(self.held))
        return passed

    def certain(self, text: str) -> str:
        """`text`, which ends with what is held, without it."""
        return text[: max(0, len(text) - len(self.held_text))]

    def _token_at(self, character: int) -> int:
        """Which held token has this character of the held text."""
        for index, token in enumerate(self.held):
            character -= len(self._ids.texts[token])
            if character < 0:
                return index
        return len(self.held)

    def _pass_on(self, count: int) -> list[int]:
        """Give the machine the first `count` held tokens: thoughts. What follows a forced exit is dropped."""
        passed = []
        for token in self.held[:count]:
            passed.append(self._machine.commit(token))
            if self._machine.forced is not None:
                count = len(self.held)
                break
        del self.held[:count]
        return passed

    def _end(self, first: int) -> list[int]:
        """The marker is complete, from held token `first` on: an end attempt."""
        marker = tuple(self.held[first:])
        passed = self._pass_on(first)
        if self._machine.forced is not None:
            return passed
        self.held.clear()
        self._marker_came = True
        if len(marker) <= len(self._ids.end):
            # An end that stands is left as the model wrote it; a longer one might not fit the room.
            self._machine.ids = replace(self._ids, end=marker)
        passed.append(self._machine.commit(self._ids.eos_token))
        if self._machine.phase is Phase.THINKING:
            self._machine.ids = self._ids
        return passed
