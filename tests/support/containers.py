"""Containers without a container runtime: the very processes that a pod or a compose service would start.

Taken from the rendered manifests and from docker-compose.yml: arguments, environment, probes, hooks, ports.
Replaced: where a port is free on this machine, which folder stands for a mount, and the engines' addresses:
there is no cluster's DNS here.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from server.engine.supervisor import free_port

_S1 = (sys.executable, "-m", "server.cli")
_PYTHON = {"python", "python3"}
_FOREIGN = re.compile(r"^(S1_|VLLM_|OMP_|HF_)")


@dataclass(frozen=True)
class Container:
    """One container's part of its pod or service."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    mounts: Mapping[str, str]
    """Volume names to where they are mounted."""
    port: int
    ready: Mapping[str, Any]
    """A probe in Kubernetes' form."""
    alive: Mapping[str, Any]
    pre_stop: tuple[str, ...] = ()
    grace_s: int = 0

    @classmethod
    def of_pod(cls, spec: Mapping[str, Any], name: str) -> Container:
        container = next(c for c in spec["containers"] if c["name"] == name)
        return cls(
            arguments=tuple(container["args"]),
            environment={e["name"]: e["value"] for e in container["env"]},
            mounts={m["name"]: m["mountPath"] for m in container["volumeMounts"]},
            port=container["ports"][0]["containerPort"],
            ready=container["readinessProbe"],
            alive=container["livenessProbe"],
            pre_stop=tuple(container["lifecycle"]["preStop"]["exec"]["command"]),
            grace_s=spec["terminationGracePeriodSeconds"],
        )

    @classmethod
    def of_service(cls, service: Mapping[str, Any], *, port: int) -> Container:
        test = service["healthcheck"]["test"]
        assert test[0] == "CMD"
        probe = {"exec": {"command": test[1:]}}
        volumes = [volume.split(":") for volume in service.get("volumes", [])]
        return cls(
            arguments=tuple(service["command"]),
            environment=service["environment"],
            mounts={"keys" if "keys" in source else source: target for source, target, *_ in volumes},
            port=port,
            ready=probe,
            alive=probe,
            grace_s=int(service["stop_grace_period"].rstrip("s")),
        )


class Process:
    """A container that runs."""

    def __init__(
        self,
        container: Container,
        log: Path,
        *,
        volumes: Mapping[str, Path],
        engine_urls: Sequence[str] = (),
        started: Callable[[list[str]], list[str]] = lambda argv: argv,
    ) -> None:
        """
        Args:
            volumes: the folder that stands for each volume.
            engine_urls: what the cluster's DNS would tell.
            started: from the container's argv to what is started instead.
        """
        self.container, self.log = container, log
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._folders = {container.mounts[v]: str(p) for v, p in volumes.items() if v in container.mounts}
        given = {name: self._local(value) for name, value in container.environment.items()}
        if engine_urls:
            assert given["S1_GATEWAY_ENGINE_URLS"].startswith("dns+http://")
            given["S1_GATEWAY_ENGINE_URLS"] = ",".join(engine_urls)
        # A container sees nothing of the machine's own settings.
        outer = {name: value for name, value in os.environ.items() if not _FOREIGN.match(name)}
        self._environment = {**outer, **given}
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                started([*_S1, *map(self._local, container.arguments)]),
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )

    def _local(self, text: str) -> str:
        """With this machine's port and folders for the container's."""
        for mounted, folder in self._folders.items():
            text = re.sub(rf"^{re.escape(mounted)}(?=/|$)", folder, text)
        port = self.container.port
        return re.sub(rf"(?<![0-9]){port}(?![0-9])", str(self.port), text)

    def passes(self, probe: Mapping[str, Any]) -> bool:
        if "httpGet" in probe:
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(self.url + probe["httpGet"]["path"], timeout=5).status_code == 200
            return False
        return self.run(probe["exec"]["command"]).returncode == 0

    def run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """As `exec` in the container."""
        words = [sys.executable if word in _PYTHON else self._local(word) for word in command]
        return subprocess.run(words, env=self._environment, capture_output=True, text=True, timeout=300)

    def await_probe(self, probe: Mapping[str, Any], *, timeout_s: float = 280) -> None:
        deadline = time.monotonic() + timeout_s
        while not self.passes(probe):
            assert self.process.poll() is None, f"ended before it was ready:\n{self.tail()}"
            assert time.monotonic() < deadline, f"not ready after {timeout_s} s:\n{self.tail()}"
            time.sleep(0.5)

    def stop(self) -> int:
        """preStop, then SIGTERM, as the kubelet does; the exit status within the grace."""
        if self.container.pre_stop:
            hook = self.run(self.container.pre_stop)
            assert hook.returncode == 0, hook.stderr
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=self.container.grace_s)

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


def events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """The JSON events of a stream that came to its end; anything else fails."""
    ended = False
    for line in response.iter_lines():
        if line == "data: [DONE]":
            ended = True
        elif line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))
    assert ended, "the stream has no [DONE]"
