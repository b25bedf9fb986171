"""What the terminal shows: thinking dimmed, the answer, and a line of what became of the budget.

Where standard output is no terminal it gets answers only, as they are; all else goes to standard error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from server.chat.client import Piece

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""All but tab and newline: with the others a model could move the cursor, recolour or rename the terminal."""
_ENDS = {
    "model": "ended by the model",
    "max_thinking_tokens": "cut at the maximum",
    "loop": "left a loop",
    "request": "ended by you",
    "length": "out of completion tokens",
    "stop": "ended by a stop string",
}


class Screen:
    def __init__(self, answers: Console, rest: Console) -> None:
        self._answers = answers
        self._rest = rest
        self._kind: str | None = None
        self._unfinished: Console | None = None
        """Where the last line has no end yet."""

    @classmethod
    def of_process(cls) -> Screen:
        answers = Console(highlight=False, soft_wrap=True)
        rest = answers if answers.is_terminal else Console(stderr=True, highlight=False, soft_wrap=True)
        return cls(answers, rest)

    def read_line(self, prompt: str) -> str:
        """What the person types.

        Raises:
            EOFError, KeyboardInterrupt, UnicodeDecodeError
        """
        if self._rest is self._answers:
            return input(prompt)
        # Python would write the prompt to standard output, which gets answers only.
        self._rest.print(Text(prompt), end="")
        return input()

    def piece(self, piece: Piece) -> None:
        """Show what came; thinking and answer begin on lines of their own."""
        text = piece.text
        if piece.kind != self._kind:
            # Models begin with white space that means nothing here.
            text = text.lstrip()
            if not text:
                return
            self._break()
            self._kind = piece.kind
        console = self._rest if piece.kind == "thinking" else self._answers
        if piece.kind == "answer" and not console.is_terminal:
            console.file.write(text)
            console.file.flush()
        else:
            style = "dim" if piece.kind == "thinking" else ""
            console.print(Text(_harmless(text), style=style), end="")
        self._unfinished = None if text.endswith("\n") else console

    def end(self) -> None:
        """After the last piece."""
        self._break()
        self._kind = None

    def receipt(self, receipt: Mapping[str, Any] | None, *, elapsed_s: float) -> None:
        self.note(f"{receipt_words(receipt)} · {elapsed_s:.1f} s")

    def note(self, text: str) -> None:
        self._rest.print(Text(_harmless(text), style="dim italic"))

    def problem(self, text: str) -> None:
        self._rest.print(Text.assemble(("s1: ", "bold red"), _harmless(text)))

    def _break(self) -> None:
        if self._unfinished is not None:
            self._unfinished.print()
        self._unfinished = None


def _harmless(text: str) -> str:
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)


def receipt_words(receipt: Mapping[str, Any] | None) -> str:
    """One line, such as "58 of 256 thinking tokens · 1 wait · ended by the model"."""
    if receipt is None:
        return "thinking not counted by this server"
    effective = receipt.get("effective")
    of = f" of {effective['max']}" if effective else ""
    parts = [f"{receipt['thinking_tokens']}{of} thinking tokens"]
    if waits := receipt.get("waits"):
        parts.append("1 wait" if waits == 1 else f"{waits} waits")
    ended_by = receipt.get("ended_by")
    if ended_by:
        parts.append(_ENDS.get(ended_by, f"ended by {ended_by}"))
    if clamped := receipt.get("clamped_by"):
        parts.append(f"budget changed by {', '.join(clamped)}")
    if "answer_tokens" in receipt:
        parts.append(f"{receipt['answer_tokens']} answer tokens")
    return " · ".join(parts)
