"""The command `s1 chat`."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Annotated

import typer

from server.budget.spec import BudgetError, ThinkingBudget
from server.chat.client import CHAT_PATH, ChatClient, ChatError, Reply
from server.chat.screen import Screen
from server.chat.session import HELP, CommandError, Session, count_of

DEFAULT_URL = "http://127.0.0.1:8000"
_PROMPT = "› "
_INTERRUPTED = 130
"""What shells make of SIGINT."""


def chat(
    question: Annotated[
        str | None,
        typer.Argument(help="Ask this and leave; without it, what is piped in, or a conversation."),
    ] = None,
    url: Annotated[str, typer.Option(help="The server.")] = DEFAULT_URL,
    model: Annotated[str | None, typer.Option(help="Default: the only one that is served.")] = None,
    key: Annotated[
        str | None,
        typer.Option(
            "--api-key", "--key", envvar="S1_API_KEY", show_envvar=True, help="API key.", show_default=False
        ),
    ] = None,
    max_thinking_tokens: Annotated[int | None, typer.Option(help="Think at most so many tokens.")] = None,
    min_thinking_tokens: Annotated[int | None, typer.Option(help="Think at least so many.")] = None,
    num_waits: Annotated[
        int | None, typer.Option(help="Attempts to end the thinking that become a wait.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=2, help="Default: the model's own.")] = None,
    max_completion_tokens: Annotated[int | None, typer.Option(min=1, help="Thinking and answer.")] = None,
) -> None:
    """Talk to a served model; its thinking is shown dimmed, under the budget you give.

    Where standard output is no terminal it gets answers only; thinking and receipts go to standard error.
    """
    screen = Screen.of_process()
    fields = {
        "max_thinking_tokens": max_thinking_tokens,
        "min_thinking_tokens": min_thinking_tokens,
        "num_waits": num_waits,
    }
    try:
        budget = ThinkingBudget.from_fields(fields)
    except BudgetError as error:
        screen.problem(str(error))
        raise typer.Exit(2) from None
    try:
        with ChatClient(url, key=key) as client:
            session = Session(model or _only_model(client), budget, temperature, max_completion_tokens)
            _talk(Talk(client, session, screen), question)
    except ChatError as error:
        screen.problem(str(error))
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(_INTERRUPTED) from None
    except BrokenPipeError:
        # Whoever read has had enough; typer ends quietly then.
        raise
    except OSError as error:
        screen.problem(f"standard output can't be written: {error.strerror}")
        # What is left of it would fail once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None


def _talk(talk: Talk, question: str | None) -> None:
    if question is None and not sys.stdin.isatty():
        question = _piped_in()
    if question is None:
        talk.converse()
    elif not question.strip():
        raise ChatError("there is no question: standard input is empty")
    else:
        talk.ask(question.strip())


def _piped_in() -> str:
    """Raises: ChatError."""
    try:
        return io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8").read()
    except UnicodeDecodeError:
        raise ChatError("standard input is not UTF-8") from None


def _only_model(client: ChatClient) -> str:
    """Raises: ChatError."""
    served = client.models()
    if not served:
        raise ChatError(f"{client.url} serves no model now; its engine may be starting")
    if len(served) > 1:
        raise ChatError(f"--model is needed: {client.url} serves {', '.join(served)}")
    return served[0]


class Talk:
    def __init__(self, client: ChatClient, session: Session, screen: Screen) -> None:
        self._client = client
        self._session = session
        self._screen = screen

    def ask(self, question: str) -> None:
        """Ask, show, and remember what was answered; a turn that fails is forgotten.

        Raises:
            ChatError, KeyboardInterrupt
        """
        reply = self._stream(CHAT_PATH, self._session.body(question))
        self._session.answered(question, reply.text.strip(), reply.id)

    def more(self, num_waits: int) -> None:
        """Think further about the last answer.

        Raises:
            ChatError, CommandError, KeyboardInterrupt
        """
        if self._session.last_id is None:
            raise CommandError("nothing has been answered yet")
        body = {"num_waits": num_waits}
        reply = self._stream(f"{CHAT_PATH}/{self._session.last_id}/think_more", body)
        self._session.thought_further(reply.text.strip(), reply.id)

    def converse(self) -> None:
        """Until the person leaves."""
        # Line editing and earlier lines, where Python was built with it.
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401
        self._screen.note(f"{self._session.words()} · /help lists commands")
        while (line := self._read_line()) is not None:
            if line.strip():
                self._guarded(lambda line=line: self._obey(line))  # type: ignore[misc]

    def _read_line(self) -> str | None:
        """None when the person leaves."""
        while True:
            try:
                line = self._screen.read_line(_PROMPT)
            except EOFError:
                self._screen.note("")
                return None
            except KeyboardInterrupt:
                self._screen.note("\nCtrl-D or /exit leaves")
                continue
            except UnicodeDecodeError:
                self._screen.problem("that line is not UTF-8")
                continue
            return None if line.partition(" ")[0] in ("/exit", "/quit") else line

    def _guarded(self, act: Callable[[], None]) -> None:
        try:
            act()
        except (ChatError, CommandError, BudgetError) as error:
            self._screen.problem(str(error))
        except KeyboardInterrupt:
            self._screen.note("stopped; this turn is forgotten")

    def _obey(self, line: str) -> None:
        if not line.startswith("/"):
            self.ask(line.strip())
            return
        command, _, argument = line.strip().partition(" ")
        argument = argument.strip()
        if command == "/help":
            self._screen.note(HELP)
        elif command == "/clear":
            self._session.clear()
            self._screen.note("forgotten")
        elif command == "/retry":
            self._retry()
        elif command == "/more":
            self.more(count_of(command, argument))
        else:
            self._screen.note(self._session.set(command, argument))

    def _retry(self) -> None:
        """Raises: as `ask`; the last turn is kept then."""
        kept = list(self._session.messages), self._session.last_id
        try:
            self.ask(self._session.forget_last())
        except (ChatError, KeyboardInterrupt):
            self._session.messages, self._session.last_id = kept
            raise

    def _stream(self, path: str, body: Mapping[str, object]) -> Reply:
        reply, started = Reply(), time.monotonic()
        with contextlib.closing(self._client.ask(path, body, reply)) as pieces:
            try:
                for piece in pieces:
                    self._screen.piece(piece)
            finally:
                self._screen.end()
        self._screen.receipt(reply.receipt, elapsed_s=time.monotonic() - started)
        return reply
