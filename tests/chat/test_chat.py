"""`s1 chat` as a process of its own: piped, and in a terminal."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import re
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from tests.gateway import stand_in
from tests.gateway.serving import eventually, gateway
from tests.gateway.stand_in import Faults, StandIn, running
from tests.gateway.with_keys import KeysForTests

# The command alone: `s1` loads all the others, too.
_RUN = "import typer; from server.chat.cli import chat; typer.run(chat)"
CHAT = [sys.executable, "-c", _RUN]
S1_CHAT = [sys.executable, "-m", "server.cli", "chat"]
THOUGHT = "t0 t1 t2 t3 t4 t5 t6 t7 "


@pytest.fixture
async def engine() -> AsyncIterator[StandIn]:
    async with running(StandIn()) as started:
        yield started


@pytest.fixture
async def url(engine: StandIn) -> AsyncIterator[str]:
    async with gateway(engine.url) as client:
        yield str(client.base_url)


async def piped(
    *arguments: str, given: str = "", key: str | None = None, command: Sequence[str] = CHAT
) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "S1_API_KEY"}
    if key is not None:
        environment["S1_API_KEY"] = key
    return await asyncio.to_thread(
        subprocess.run,
        [*command, *arguments],
        input=given,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


async def test_a_pipe_gets_the_answer_and_the_rest_goes_to_standard_error(url: str, engine: StandIn) -> None:
    flags = ("--url", url, "--max-thinking-tokens", "3")
    done = await piped(*flags, given="6 * 7?\nThink.\n", command=S1_CHAT)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "42.\n"
    assert done.stderr.startswith(
        "t0 t1 t2 \n3 of 3 thinking tokens · cut at the maximum · 4 answer tokens · "
    )
    body = engine.bodies[-1]
    assert body["messages"] == [{"role": "user", "content": "6 * 7?\nThink."}]
    assert body["vllm_xargs"]["max_thinking_tokens"] == 3


async def test_flags_become_the_fields_they_are_named_after(url: str, engine: StandIn) -> None:
    flags = "--min-thinking-tokens 5 --num-waits 2 --temperature 0.5 --max-completion-tokens 100 --model tiny"
    done = await piped("6 * 7?", "--url", f"{url}/v1", *flags.split())
    assert done.returncode == 0, done.stderr
    assert " · 2 waits · ended by the model · " in done.stderr
    body = engine.bodies[-1]
    assert (body["temperature"], body["max_completion_tokens"], body["stream"]) == (0.5, 100, True)
    assert body["vllm_xargs"]["min_thinking_tokens"] == 5
    assert body["vllm_xargs"]["num_waits"] == 2
    assert "max_thinking_tokens" not in body["vllm_xargs"]


@pytest.mark.parametrize(
    ("arguments", "given", "status", "told"),
    [
        (
            ["hi", "--max-thinking-tokens", "2", "--min-thinking-tokens", "3"],
            "",
            2,
            "`min_thinking_tokens` must be",
        ),
        (["hi", "--num-waits", "-1"], "", 2, "`num_waits` must be >= 0. Given: -1"),
        (["hi", "--model", "huge"], "", 1, "huge"),
        (
            ["hi", "--max-completion-tokens", "4", "--num-waits", "1"],
            "",
            1,
            "`max_completion_tokens` must be",
        ),
        ([], "  \n", 1, "standard input is empty"),
    ],
)
async def test_errors_are_one_line_in_plain_words(
    url: str, arguments: list[str], given: str, status: int, told: str
) -> None:
    done = await piped("--url", url, *arguments, given=given)
    assert done.returncode == status
    assert done.stdout == ""
    assert done.stderr.startswith("s1: ") and done.stderr.count("\n") == 1
    assert told in done.stderr


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("printf 'How \\xff many' | {s1}", "standard input is not UTF-8"),
        ("{s1} \"$(printf 'How \\xff many')\"", "the question is not UTF-8"),
        ("{s1} hi > /dev/full", "standard output can't be written: No space left on device"),
    ],
)
async def test_what_cannot_be_read_or_written_is_one_line_too(url: str, script: str, told: str) -> None:
    s1 = shlex.join([*CHAT, "--url", url])
    done = await asyncio.to_thread(
        subprocess.run, ["bash", "-c", script.format(s1=s1)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"s1: {told}"
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


async def test_a_server_that_is_not_there_or_no_server_at_all() -> None:
    done = await piped("hi", "--url", "http://127.0.0.1:1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "s1: nothing answers at http://127.0.0.1:1. `s1 serve` starts a server there\n"
    done = await piped("hi", "--url", "example.com")
    assert (done.returncode, done.stderr) == (1, "s1: --url is http(s)://HOST:PORT. Given: example.com\n")


async def test_a_stream_that_breaks_off_says_so_and_fails(url: str, engine: StandIn) -> None:
    engine.faults = Faults(die_after=3)
    done = await piped("hi", "--url", url, "--num-waits", "1")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "t0 t1 t2 \ns1: the answer broke off: " in done.stderr


async def test_several_models_need_a_choice() -> None:
    async with running(StandIn(models=("small", "large"))) as engine, gateway(engine.url) as client:
        done = await piped("hi", "--url", str(client.base_url))
        assert done.returncode == 1
        assert re.search("--model is needed: .* serves (small, large|large, small)", done.stderr)
        assert (await piped("hi", "--url", str(client.base_url), "--model", "large")).stdout == "42.\n"


async def test_the_key_comes_from_flag_or_environment_and_is_never_shown(
    engine: StandIn, tmp_path: Path
) -> None:
    keys = KeysForTests(tmp_path / "keys.json")
    keys.add("ann")
    secret = keys.secrets["ann"]
    async with gateway(engine.url, keys_file=keys.path) as client:
        url = str(client.base_url)
        done = await piped("hi", "--url", url)
        assert done.returncode == 1
        assert "S1_API_KEY" in done.stderr
        for given in (
            await piped("hi", "--url", url, key=secret),
            await piped("hi", "--url", url, "--key", secret),
        ):
            assert given.stdout == "42.\n"
            assert secret not in given.stderr


_TAKE_TERMINAL = (
    "import fcntl, signal, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "signal.signal(signal.SIGINT, signal.default_int_handler)"
)
"""Ctrl-C reaches only processes whose controlling terminal it is, and that weren't started to ignore it."""


class Terminal:
    """A pseudo-terminal with `s1 chat` on it, read as it writes."""

    def __init__(self, *arguments: str, stdout: int | None = None) -> None:
        """
        Args:
            stdout: a file of the caller's instead of the terminal.
        """
        self._ours, theirs = pty.openpty()
        os.set_blocking(self._ours, False)
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
        environment.pop("NO_COLOR", None)
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"{_TAKE_TERMINAL}; {_RUN}", *arguments],
            stdin=theirs,
            stdout=theirs if stdout is None else stdout,
            stderr=theirs,
            env=environment,
            start_new_session=True,
        )
        os.close(theirs)
        self._bytes = b""
        self.shown = ""
        self._seen = 0

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    async def press_until(self, key: str, text: str) -> None:
        """Press `key` as people do: again, if nothing has come of it for a while."""
        for _ in range(5):
            self.type(key)
            with contextlib.suppress(TimeoutError):
                await self.until(text, within_s=8)
                return
        raise AssertionError(f"{text!r} did not come")

    async def until(self, text: str, *, within_s: float = 60) -> str:
        """Wait for `text`; returns what was written since the last such wait."""

        def found() -> bool:
            with contextlib.suppress(BlockingIOError, OSError):
                # A read may end in the middle of a character.
                self._bytes += os.read(self._ours, 65536)
                self.shown = self._bytes.decode(errors="replace").replace("\r\n", "\n")
            return text in self.shown[self._seen :]

        await eventually(found, within_s=within_s)
        end = self.shown.index(text, self._seen) + len(text)
        fresh, self._seen = self.shown[self._seen : end], end
        return fresh

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._ours)


@pytest.fixture
def terminal(url: str) -> Iterator[Terminal]:
    opened = Terminal("--url", url, "--max-thinking-tokens", "50", "--num-waits", "1")
    yield opened
    opened.close()


async def test_a_conversation(terminal: Terminal, engine: StandIn) -> None:
    opening = await terminal.until("› ")
    assert "tiny · max_thinking_tokens 50, num_waits 1 · /help lists commands" in opening
    terminal.type("6 * 7?\n")
    shown = await terminal.until("› ")
    dim = re.findall(r"\x1b\[2m(t\d |Wait )\x1b\[0m", shown)
    assert "".join(dim).startswith(THOUGHT + "Wait t9 ")
    assert "\n42.\n" in shown
    assert "12 of 50 thinking tokens · 1 wait · ended by the model · 4 answer tokens · " in shown
    terminal.type("/max 3\n")
    assert "tiny · max_thinking_tokens 3, num_waits 1" in await terminal.until("› ")
    terminal.type("and 7 * 6?\n")
    assert "3 of 3 thinking tokens · cut at the maximum" in await terminal.until("› ")
    assert [message["content"] for message in engine.bodies[-1]["messages"]] == [
        "6 * 7?",
        "42.",
        "and 7 * 6?",
    ]
    terminal.type("/clear\n/max off\n/waits off\n/temperature 0\n/budget\n")
    await terminal.until("forgotten")
    await terminal.until("tiny · no thinking budget · temperature 0")
    terminal.type("again?\n")
    await terminal.until("8 thinking tokens · ended by the model")
    assert [message["content"] for message in engine.bodies[-1]["messages"]] == ["again?"]
    terminal.type("/retry\n")
    await terminal.until("8 thinking tokens · ended by the model")
    assert [message["content"] for message in engine.bodies[-1]["messages"]] == ["again?"]
    terminal.type(" /exit\n")
    await terminal.until("8 thinking tokens · ended by the model")
    terminal.type("/exit now\n")
    await eventually(lambda: terminal.process.poll() is not None)
    assert terminal.process.returncode == 0


async def test_a_file_gets_answers_alone_though_questions_are_typed(url: str, tmp_path: Path) -> None:
    with (tmp_path / "answers").open("wb") as answers:
        terminal = Terminal("--url", url, stdout=answers.fileno())
    try:
        await terminal.until("› ")
        terminal.type("6 * 7?\n")
        await terminal.until("ended by the model")
        await terminal.until("› ")
        terminal.type("/exit now\n")
        await eventually(lambda: terminal.process.poll() is not None)
    finally:
        terminal.close()
    assert (tmp_path / "answers").read_text() == "42.\n"


async def test_commands_that_cannot_be_obeyed_change_nothing(terminal: Terminal, engine: StandIn) -> None:
    await terminal.until("› ")
    for typed, told in [
        ("/mx 3", "/mx is not a command. Did you mean /max? /help lists them"),
        ("/max many", "/max takes a whole number, or off. Given: many"),
        ("/min 60", "`min_thinking_tokens` must be <= max_thinking_tokens (50). Given: 60"),
        ("/temperature 3", "/temperature takes a number from 0 to 2, or off. Given: 3"),
        ("/more", "nothing has been answered yet"),
        ("/retry", "nothing has been asked yet"),
    ]:
        terminal.type(f"{typed}\n")
        assert told in await terminal.until("› ")
        assert engine.bodies == []
    terminal.type("/budget\n")
    assert "max_thinking_tokens 50, num_waits 1" in await terminal.until("› ")
    terminal.type("\x04")
    await eventually(lambda: terminal.process.poll() is not None)
    assert terminal.process.returncode == 0


async def test_ctrl_c_stops_an_answer_and_the_engine_hears_of_it(terminal: Terminal, engine: StandIn) -> None:
    await terminal.until("› ")
    engine.faults = Faults(stall_after=3)
    terminal.type("6 * 7?\n")
    await terminal.until("t2")
    await eventually(lambda: engine.stalled == 1)
    await terminal.press_until("\x03", "stopped; this turn is forgotten")
    await eventually(lambda: engine.active == 0)
    assert engine.cancelled == 1
    engine.faults = Faults()
    terminal.type("next?\n")
    await terminal.until("12 of 50 thinking tokens")
    assert [message["content"] for message in engine.bodies[-1]["messages"]] == ["next?"]


async def test_output_cannot_steer_the_terminal(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stand_in, "ANSWER", ("\x1b]0;owned\x07", "[bold]x[/bold]\x9b2J", "\r."))
    await terminal.until("› ")
    terminal.type("6 * 7?\n")
    shown = await terminal.until("ended by the model")
    assert "\ufffd]0;owned\ufffd[bold]x[/bold]\ufffd2J\ufffd." in shown
    assert "\x1b]0" not in shown


async def test_think_more_replaces_the_last_answer(url: str) -> None:
    """Against a server that only has that route."""
    from server.chat.cli import Talk
    from server.chat.client import ChatClient
    from server.chat.screen import Screen
    from server.chat.session import Session

    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        events = [
            {"id": "chatcmpl-2", "choices": [{"delta": {"reasoning": "Wait"}}]},
            {"id": "chatcmpl-2", "choices": [{"delta": {"content": "43"}, "finish_reason": "stop"}]},
        ]
        lines = [f"data: {httpx.Response(200, json=event).text}\n\n" for event in events]
        return httpx.Response(200, text="".join([*lines, "data: [DONE]\n\n"]))

    session = Session("tiny")
    session.answered("6 * 7?", "42", "chatcmpl-1")
    with ChatClient(url) as client:
        client._http = httpx.Client(base_url=url, transport=httpx.MockTransport(answer))
        Talk(client, session, Screen.of_process()).more(2)
    assert asked[0].url.path == "/v1/chat/completions/chatcmpl-1/think_more"
    assert b'"num_waits":2' in asked[0].content.replace(b" ", b"")
    assert session.messages[-1] == {"role": "assistant", "content": "43"}
    assert session.last_id == "chatcmpl-2"


@pytest.mark.parametrize(
    "change",
    [
        (b"data: ", b"data:"),
        (b'"delta"', b'\ndata: "delta"'),
        (b'{"choices"', b'{"error": null, "choices"'),
        (b"data: [DONE]\n\n", b"data: [DONE]"),
        (b"data: [DONE]\n\n", b""),
        (b"\n", b"\r\n"),
    ],
)
def test_every_form_of_event_stream_is_read(change: tuple[bytes, bytes]) -> None:
    from server.chat.client import ChatClient, Reply

    body = b'data: {"choices": [{"delta": {"content": "43"}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
    stream = httpx.MockTransport(lambda request: httpx.Response(200, content=body.replace(*change)))
    with ChatClient("http://x") as client:
        client._http = httpx.Client(base_url="http://x", transport=stream)
        reply = Reply()
        assert [piece.text for piece in client.ask("/", {}, reply)] == ["43"]
    assert (reply.text, reply.finish_reason) == ("43", "stop")
