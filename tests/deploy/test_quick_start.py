"""The commands of the chart's README, as they are written, before stand-ins for a registry and a cluster."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import helm_python
import pytest
import yaml

from tests.support.chart import CHART, ROOT, pod_specs, render


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quick-start")


@pytest.fixture(scope="module")
def ran(folder: Path) -> list[list[str]]:
    """The words of each command. `s1` is itself; the other tools do nothing."""
    tools, log = folder / "tools", folder / "log"
    tools.mkdir()
    s1 = Path(sys.executable).parent / "s1"
    for name, script in {"docker": "", "kubectl": "", "helm": "", "s1": f'exec {s1} "$@"'}.items():
        tool = tools / name
        tool.write_text(f'#!/bin/sh\necho "{name} $*" >> {log}\n{script}\n')
        tool.chmod(0o755)
    found = re.search(r"```sh\n(.*?)```", (CHART / "README.md").read_text(), re.DOTALL)
    assert found is not None
    environment = {"PATH": f"{tools}:/usr/bin:/bin", "HOME": str(folder)}
    subprocess.run(["sh", "-euc", found[1]], cwd=folder, env=environment, check=True, capture_output=True)
    return [line.split() for line in log.read_text().splitlines()]


def secrets(ran: list[list[str]], folder: Path) -> set[tuple[str, str]]:
    """Name and key of each Secret that was made, of a file with something in it."""
    made = set()
    for words in (words for words in ran if words[:4] == ["kubectl", "create", "secret", "generic"]):
        name, flag, source = words[4:]
        key, _, file = source.rpartition("=")
        assert flag == "--from-file" and (folder / file).stat().st_size > 0
        made.add((name, key or file))
    return made


def test_what_the_pods_take_was_made_before(ran: list[list[str]], folder: Path) -> None:
    install = next(words for words in ran if words[:2] == ["helm", "install"])
    values = yaml.safe_load((ROOT / install[install.index("--values") + 1]).read_text())
    given = [value for flag, value in zip(install, install[1:], strict=False) if flag == "--set"]
    manifests, notes = render(values | helm_python.parse_set_string(",".join(given)), name=install[2])
    pods = list(pod_specs(manifests).values())
    containers = [container for pod in pods for container in pod["containers"]]
    volumes = [volume for pod in pods for volume in pod.get("volumes", [])]

    pushed = {words[2] for words in ran if words[:2] == ["docker", "push"]}
    assert {container["image"] for container in containers} == pushed

    sources = [variable.get("valueFrom", {}) for c in containers for variable in c.get("env", [])]
    keys = [source["secretKeyRef"] for source in sources if "secretKeyRef" in source]
    taken = {(key["name"], key["key"]) for key in keys}
    taken |= {(volume["secret"]["secretName"], "keys.json") for volume in volumes if "secret" in volume}
    assert taken == secrets(ran, folder)
    assert not any({"persistentVolumeClaim", "configMap"} & volume.keys() for volume in volumes)

    test = ["helm", "test", install[2]]
    assert " ".join(test) in notes and ran[-1] == test
