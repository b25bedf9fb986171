"""A conversation as it stands: what is sent with the next question, and the commands that change it."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Any

from server.budget.spec import ThinkingBudget

_BUDGET_COMMANDS = {
    "/max": "max_thinking_tokens",
    "/min": "min_thinking_tokens",
    "/waits": "num_waits",
}
_OFF = frozenset({"off", "none", "-"})
HELP = """\
/max N, /min N, /waits N   the thinking budget; `off` instead of N unsets one
/budget                    what is set now
/temperature X             0 to 2, or off
/model NAME                another of the server's models
/more [N]                  think further about the last answer, with N more waits (1)
/retry                     ask the last question again
/clear                     forget the conversation
/help, /exit               this text; leave (as Ctrl-D does)
Ctrl-C stops an answer. A line that begins with a space is never a command."""


class CommandError(ValueError):
    """A command that can't be obeyed; the message says why."""


@dataclass(slots=True)
class Session:
    model: str
    budget: ThinkingBudget = field(default_factory=ThinkingBudget)
    temperature: float | None = None
    max_completion_tokens: int | None = None
    messages: list[dict[str, str]] = field(default_factory=list)
    last_id: str | None = None
    """Of the last answer, which can be thought further about."""

    def body(self, question: str) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [*self.messages, {"role": "user", "content": question}],
            **self.budget.requested(),
        }
        if self.temperature is not None:
            body["temperature"] = self.temperature
        if self.max_completion_tokens is not None:
            body["max_completion_tokens"] = self.max_completion_tokens
        return body

    def answered(self, question: str, answer: str, id: str | None) -> None:
        self.messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        self.last_id = id

    def thought_further(self, answer: str, id: str | None) -> None:
        self.messages[-1] = {"role": "assistant", "content": answer}
        self.last_id = id

    def forget_last(self) -> str:
        """Take the last turn back; returns its question.

        Raises:
            CommandError: there is none.
        """
        if len(self.messages) < 2:
            raise CommandError("nothing has been asked yet")
        question = self.messages[-2]["content"]
        del self.messages[-2:]
        self.last_id = None
        return question

    def clear(self) -> None:
        self.messages.clear()
        self.last_id = None

    def set(self, command: str, argument: str) -> str:
        """Obey a command that changes what is sent; returns what is set now, in words.

        Raises:
            CommandError, BudgetError: it can't be obeyed.
        """
        if command in _BUDGET_COMMANDS:
            fields = self.budget.requested()
            fields[_BUDGET_COMMANDS[command]] = _integer(command, argument)
            self.budget = ThinkingBudget.from_fields(fields)
        elif command == "/temperature":
            self.temperature = _temperature(argument)
        elif command == "/model":
            if not argument:
                raise CommandError("/model takes a name")
            self.model = argument
        elif command != "/budget":
            raise CommandError(f"{command} is not a command.{_nearest(command)} /help lists them")
        return self.words()

    def words(self) -> str:
        budget = ", ".join(f"{name} {value}" for name, value in self.budget.requested().items())
        sampling = "" if self.temperature is None else f" · temperature {self.temperature:g}"
        return f"{self.model} · {budget or 'no thinking budget'}{sampling}"


def count_of(command: str, argument: str) -> int:
    """The number that a command was given, 1 if none. Raises: CommandError."""
    value = _integer(command, argument) if argument else 1
    if value is None or value < 1:
        raise CommandError(f"{command} takes a number from 1. Given: {argument}")
    return value


def _integer(command: str, argument: str) -> int | None:
    if argument in _OFF:
        return None
    try:
        return int(argument)
    except ValueError:
        raise CommandError(
            f"{command} takes a whole number, or off. Given: {argument or 'nothing'}"
        ) from None


def _temperature(argument: str) -> float | None:
    if argument in _OFF:
        return None
    try:
        value = float(argument)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 2:
        raise CommandError(f"/temperature takes a number from 0 to 2, or off. Given: {argument or 'nothing'}")
    return value


_COMMANDS = (
    *_BUDGET_COMMANDS,
    "/budget",
    "/temperature",
    "/model",
    "/more",
    "/retry",
    "/clear",
    "/help",
    "/exit",
)


def _nearest(command: str) -> str:
    found = difflib.get_close_matches(command, _COMMANDS, n=1, cutoff=0.5)
    return f" Did you mean {found[0]}?" if found else ""
