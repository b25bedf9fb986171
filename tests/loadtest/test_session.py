"""What `s1 loadtest` refuses before it measures, and what it keeps when something ends it early."""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from loadtest.client.arrivals import ArrivalsError, planned
from loadtest.client.session import Plan, SessionError, run_session
from loadtest.stand_in import running
from loadtest.stand_in_engine import Options
from loadtest.stand_in_script import Script
from tests.gateway.serving import eventually

NOWHERE = "http://127.0.0.1:9"


def refused(**options: Any) -> str:
    with pytest.raises(SessionError) as caught:
        run_session(Plan(**{"url": NOWHERE, "command": "", "rate": 1.0, **options}), Console(quiet=True))
    return str(caught.value)


def test_an_output_that_cannot_be_written_is_refused_before_the_run(tmp_path: Path) -> None:
    assert ".html" in refused(output=tmp_path / "rep.html")
    (tmp_path / "file").touch()
    assert "--output" in refused(output=tmp_path / "file" / "rep.json")
    assert "--output" in refused(output=tmp_path)
    assert "can't be reached" in refused(output=tmp_path / "new" / "rep.json")
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), -1.0])
def test_a_rate_that_is_no_number_is_refused(rate: float) -> None:
    assert "--rate must be" in refused(rate=rate)
    with pytest.raises(ArrivalsError, match="--rate"):
        planned("poisson", rate=rate, duration_s=1, seed=0)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            '{"at_s": 1, "max_thinking_tokens": null}',
            ":1: `max_thinking_tokens` must be a whole .* Given: null",
        ),
        ('{"at_s": 1, "prompt_words": -3}', "`prompt_words` must be"),
        ('{"at_s": NaN}', "`at_s` must be seconds from 0. Given: nan"),
        ('{"at_s": 1, "class": null}', "one of short. Given: None"),
        ('{"at_s": 1, "class": "long"}', "one of short. Given: 'long'"),
        ("", "no request"),
    ],
)
def test_a_trace_with_a_mistake_is_refused_before_the_run(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(line)
    with pytest.raises(SessionError, match=said):
        run_session(Plan(url=NOWHERE, command="", arrivals=f"trace:{path}"), Console(quiet=True))


def test_a_trace_is_replayed_to_its_end_and_what_is_left_out_is_said(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(f'{{"at_s": {at_s}}}\n' for at_s in (0, 0.1, 0.3)))
    told = io.StringIO()
    with running(Options()) as urls:
        plan = Plan(url=urls[0], command="", arrivals=f"trace:{path}", processes=1)
        assert run_session(plan, Console(file=told))["figures"]["run"]["all"]["requests"] == 3
        assert "left out" not in told.getvalue()
        plan = Plan(url=urls[0], command="", arrivals=f"trace:{path}", processes=1, duration_s=0.2)
        assert run_session(plan, Console(file=told))["figures"]["run"]["all"]["requests"] == 2
    assert "1 of the trace's 3 requests come after --duration-s (0.2)" in told.getvalue()


def test_what_a_server_said_of_an_error_is_told() -> None:
    told = io.StringIO()
    with running(Options(faults={"refuse": 1.0})) as urls:
        assert refused(url=urls[0]).endswith("503: the stand-in refuses")
    with running(Options(faults={"refuse": 0.5}, seed=2)) as urls:
        plan = Plan(url=urls[0], command="", concurrency=4, duration_s=0.3, processes=1)
        found = run_session(plan, Console(file=told))
    assert found["figures"]["run"]["all"]["error_messages"] == {"HTTP 503": "the stand-in refuses"}
    assert "HTTP 503: the stand-in refuses\n" in told.getvalue()


async def test_ctrl_c_reports_what_was_measured(tmp_path: Path) -> None:
    output = tmp_path / "report.json"
    with running(Options(Script(thinking=20, answer=8), itl_s=0.001)) as urls:
        command = [sys.executable, "-m", "server.cli", "loadtest", urls[0], "--concurrency", "4"]
        command += [
            "--duration-s",
            "300",
            "--processes",
            "2",
            "--budget-fields",
            "none",
            "--output",
            str(output),
        ]
        with (tmp_path / "err").open("w") as errors:
            process = subprocess.Popen(command, stderr=errors, start_new_session=True)  # noqa: ASYNC220
        try:

            def answered() -> bool:
                text = httpx.get(f"{urls[0]}/metrics").text
                return (
                    int(text.partition("vllm:generation_tokens_total{")[2].split()[1].split("\n")[0]) > 2000
                )

            await eventually(answered, within_s=60)
            # As a terminal does: to the whole group.
            os.killpg(process.pid, signal.SIGINT)
            process.wait(60)
        finally:
            if process.poll() is None:
                process.kill()
    said = (tmp_path / "err").read_text()
    assert process.returncode == 130
    assert "Traceback" not in said and "Interrupted: this is what came until then" in said
    found = json.loads(output.read_text())
    figures = found["figures"]["run"]["all"]
    assert found["interrupted"] is True
    assert figures["requests"] > 20 and figures["errors"] == {}
    assert 0 < figures["window_s"] < 300 and figures["requests_per_s"] > 0


_FEW_FILES = """
import resource, sys
from rich.console import Console
from loadtest.client import session
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
plan = session.Plan(url=sys.argv[1], command="", concurrency=60, duration_s=0.5, processes=1)
if __name__ == "__main__":
    print("\\n".join(session.run_session(plan, Console(quiet=True))["warnings"]))
"""


def test_a_client_without_descriptors_does_not_blame_the_server(tmp_path: Path) -> None:
    program = tmp_path / "few.py"
    program.write_text(_FEW_FILES)
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] > 40
    with running(Options(itl_s=0.01)) as urls:
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run(
            [sys.executable, str(program), urls[0]], capture_output=True, text=True, env=environment
        )
    assert "The client was the limit: no file descriptor left for a connection (ulimit -n)" in done.stdout, (
        done.stderr
    )
