"""`s1 curate difficulty` and `s1 traces` against `s1 serve`, which is killed and started again in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.commands import manifest, rows, s1_ok
from tests.support.engines import DEMO, EXACT, serving
from tests.support.question_files import write_jsonl
from training.evaluate.suite import held_out_questions

pytestmark = pytest.mark.engine

NUM_QUESTIONS = 24
ANSWERED_BEFORE_THE_KILL = 14


@dataclass
class CountingProxy:
    """Forwards to `target` and counts the bodies that were answered; holds what comes after `hold_after`."""

    target: str
    hold_after: int
    url: str = ""
    answered: Counter[bytes] = field(default_factory=Counter)
    holding: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)


def _handler(proxy: CountingProxy, client: httpx.Client) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with proxy.lock:
                full = proxy.answered.total() >= proxy.hold_after
            if full:
                proxy.holding.set()
                proxy.release.wait()
            try:
                headers = {"Content-Type": "application/json"}
                reply = client.post(f"{proxy.target}{self.path}", content=body, headers=headers)
            except httpx.TransportError:
                self.close_connection = True
                return
            if reply.status_code == 200:
                with proxy.lock:
                    proxy.answered[body] += 1
            self.send_response(reply.status_code)
            self.send_header("Content-Length", str(len(reply.content)))
            self.end_headers()
            self.wfile.write(reply.content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


@contextmanager
def counting_proxy(target: str, hold_after: int) -> Iterator[CountingProxy]:
    proxy = CountingProxy(target, hold_after)
    with httpx.Client(timeout=120) as client:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(proxy, client))
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield proxy
        finally:
            proxy.release.set()
            server.shutdown()
            server.server_close()
            thread.join()


def run_both(folder: Path, url: str) -> list[subprocess.Popen[str]]:
    """Both stages at once, each with a body of its own, so that the proxy can tell their calls apart."""
    common = ["--concurrency", "2", "--retry-for", "0", "--max-tokens", "160", "--temperature", "0"]
    pool, model = str(folder / "pool"), f"{DEMO.name}@{url}/v1"
    commands = [
        ["curate", "difficulty", pool, "--solver", model, "--extra", '{"max_thinking_tokens": 48}'],
        ["traces", pool, "--teacher", model, "--extra", '{"max_thinking_tokens": 64}'],
    ]
    environment = {**os.environ, "NO_COLOR": "1"}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "server.cli", *command, *common, "--out", str(folder / command[0])],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for command in commands
    ]


def test_a_killed_server_costs_no_call_twice(tmp_path: Path) -> None:
    questions = [{"question": q.text, "answer": q.truth} for q in held_out_questions(NUM_QUESTIONS)]
    path = write_jsonl(tmp_path / "tiny.jsonl", questions)
    s1_ok("curate", "collect", "--source", path, "--near-duplicates", "0", "--out", tmp_path / "pool")
    assert len(rows(tmp_path / "pool")) == NUM_QUESTIONS

    with (
        serving(tmp_path, *EXACT, name="first") as server,
        counting_proxy(server.url, ANSWERED_BEFORE_THE_KILL) as proxy,
    ):
        stages = run_both(tmp_path, proxy.url)
        assert proxy.holding.wait(120)
        os.killpg(server.process.pid, signal.SIGKILL)
        server.process.wait()
        proxy.release.set()
        for stage in stages:
            _, errors = stage.communicate(timeout=120)
            last = errors.splitlines()[-1]
            assert stage.returncode == 1, errors
            assert last.startswith(f"s1: {DEMO.name} at {proxy.url}/v1 does not answer"), errors
            assert last.endswith("Run the same command to go on.")
    before = dict(proxy.answered)
    assert ANSWERED_BEFORE_THE_KILL <= len(before) < 2 * NUM_QUESTIONS

    with (
        serving(tmp_path, *EXACT, name="second") as server,
        counting_proxy(server.url, hold_after=sys.maxsize) as proxy,
    ):
        for stage in run_both(tmp_path, proxy.url):
            output, errors = stage.communicate(timeout=240)
            assert stage.returncode == 0, output + errors
    assert set(proxy.answered.values()) == {1}
    assert not before.keys() & proxy.answered.keys(), "asked again"
    assert len(before) + len(proxy.answered) == 2 * NUM_QUESTIONS

    notes = manifest(tmp_path / "curate")["notes"]
    solved = notes["solved_by"][DEMO.name]
    assert notes["graded_by"] == {"math-verify": NUM_QUESTIONS}
    assert len(rows(tmp_path / "curate")) == NUM_QUESTIONS - solved
    traces = rows(tmp_path / "traces")
    assert len(traces) == NUM_QUESTIONS
    assert all(0 < trace["thinking_tokens"] <= 64 and trace["thinking"] for trace in traces)
    assert all(trace["trace_answer"] and trace["trace_correct"] is not None for trace in traces)
    assert sum(trace["trace_correct"] for trace in traces) > 0
