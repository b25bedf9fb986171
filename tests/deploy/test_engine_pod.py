"""An engine's liveness and its way out, against a small server that plays the engine."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import URLError

import pytest

from server.engine import pod
from server.engine.pod import alive, drain, main, read_work


class Engine:
    """Says what it is told to on /health and /metrics."""

    def __init__(self) -> None:
        self.running, self.waiting, self.tokens, self.healthy = 0, 0, 100, True
        self.second_rank = ""
        self.ails: str | None = None
        self.closing = threading.Event()
        engine = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if engine.ails == "hangs":
                    engine.closing.wait(10)
                if engine.ails in ("hangs", "cuts"):
                    return
                if engine.ails == "fails":
                    self.send_error(500)
                    return
                if engine.ails == "babbles":
                    self.wfile.write(b"what?\r\n\r\n")
                    return
                self.send_response(200 if engine.healthy or self.path != "/health" else 503)
                self.end_headers()
                self.wfile.write(engine.metrics().encode() if self.path == "/metrics" else b"")

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def metrics(self) -> str:
        return (
            "# HELP vllm:num_requests_running Number of requests\n"
            f'vllm:num_requests_running{{engine="0",model_name="m"}} {self.running}.0\n'
            f'vllm:num_requests_waiting{{engine="0",model_name="m"}} {self.waiting}.0\n'
            f'vllm:generation_tokens_total{{engine="0",model_name="m"}} {self.tokens}.0\n'
            'vllm:prompt_tokens_total{engine="0",model_name="m"} 1.5e+03\n'
        ) + self.second_rank

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.close()


def test_work_is_read_of_each_core(engine: Engine) -> None:
    engine.running = 3
    first = engine.metrics()
    engine.running, engine.tokens = 0, 200
    work = read_work(first + engine.metrics().replace('engine="0"', 'engine="1"'))
    assert {core: (done.tokens_made, done.running) for core, done in work.items()} == {
        "0": (1600, 3),
        "1": (1700, 0),
    }


def test_an_engine_that_works_and_makes_no_token_is_dead(engine: Engine, tmp_path: Path) -> None:
    state, now = tmp_path / "state", 1000.0

    def look() -> str | None:
        return alive(engine.url, state, stall_s=300, now=lambda: now)

    engine.running = 2
    assert look() is None
    now += 299
    assert look() is None
    now += 1
    assert look() == "2 requests are running and no token was made in 300 s"
    engine.tokens += 1
    assert look() is None
    now += 301
    engine.running = 0
    assert look() is None


def test_a_dead_rank_is_not_hidden_by_one_that_goes_on(engine: Engine, tmp_path: Path) -> None:
    state, now = tmp_path / "state", 1000.0

    def look() -> str | None:
        return alive(engine.url, state, stall_s=300, now=lambda: now)

    def second(running: int, made: int) -> str:
        labels = '{engine="1",model_name="m"}'
        return (
            f"vllm:num_requests_running{labels} {running}.0\nvllm:generation_tokens_total{labels} {made}.0\n"
        )

    engine.running, engine.second_rank = 2, second(40, 7)
    assert look() is None
    now, engine.tokens = now + 300, engine.tokens + 9000
    assert look() == "40 requests are running and no token was made in 300 s (core 1)"
    engine.second_rank = second(40, 8)
    assert look() is None
    now, engine.tokens, engine.second_rank = now + 300, engine.tokens + 9000, second(0, 8)
    assert look() is None


def test_an_engine_that_does_not_answer_is_dead(engine: Engine, tmp_path: Path) -> None:
    engine.healthy = False
    reason = alive(engine.url, tmp_path / "state", stall_s=300)
    assert reason is not None and "503" in reason


def test_a_broken_state_file_begins_anew(engine: Engine, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.write_text("{")
    engine.running = 1
    assert alive(engine.url, state, stall_s=300) is None


class Clock:
    def __init__(self, engine: Engine, *, leaves_at: float) -> None:
        self.now, self._engine, self._leaves_at = 0.0, engine, leaves_at

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.now >= self._leaves_at:
            self._engine.running = self._engine.waiting = 0
            self._engine.ails = None


def test_draining_waits_for_the_last_request(engine: Engine) -> None:
    engine.waiting = 1
    clock = Clock(engine, leaves_at=40)
    assert drain(engine.url, notice_s=15, timeout_s=600, sleep=clock.sleep, clock=clock)
    assert 40 <= clock.now < 42


def test_an_idle_engine_still_waits_until_gateways_have_noticed(engine: Engine) -> None:
    clock = Clock(engine, leaves_at=0)
    assert drain(engine.url, notice_s=15, timeout_s=600, sleep=clock.sleep, clock=clock)
    assert clock.now == 15


def test_draining_ends_with_its_time(engine: Engine) -> None:
    engine.running = 1
    clock = Clock(engine, leaves_at=10_000)
    assert not drain(engine.url, notice_s=15, timeout_s=60, sleep=clock.sleep, clock=clock)
    assert clock.now == pytest.approx(60, abs=1)


@pytest.mark.parametrize("ails", ["hangs", "cuts", "fails", "babbles"])
def test_an_engine_that_is_too_busy_to_answer_is_waited_for(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, ails: str
) -> None:
    monkeypatch.setattr(pod, "_TIMEOUT_S", 0.1)
    engine.running, engine.ails = 3, ails
    clock = Clock(engine, leaves_at=20)
    assert drain(engine.url, notice_s=15, timeout_s=600, sleep=clock.sleep, clock=clock)
    assert clock.now >= 20
    engine.running, engine.ails = 3, ails
    assert not drain(engine.url, notice_s=0, timeout_s=0)


@pytest.mark.parametrize(
    ("error", "gone"),
    [
        (ConnectionRefusedError(), True),
        (socket.gaierror(socket.EAI_NONAME, "no such name"), True),
        (socket.gaierror(socket.EAI_AGAIN, "no answer"), False),
        (TimeoutError(), False),
    ],
)
def test_who_is_gone(monkeypatch: pytest.MonkeyPatch, error: OSError, gone: bool) -> None:
    def get(_: str) -> str:
        raise URLError(error)

    monkeypatch.setattr(pod, "_get", get)
    assert drain("http://engine", notice_s=0, timeout_s=0) is gone


def test_a_dead_engine_is_drained(engine: Engine) -> None:
    assert main(["alive", "--port", str(engine.port)]) == 0
    assert main(["drain", "--port", str(engine.port), "--notice-s", "0", "--timeout-s", "1"]) == 0
