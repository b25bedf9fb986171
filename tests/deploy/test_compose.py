"""What docker-compose.yml starts, and that nothing but the gateway can be reached."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from server import __version__
from server.engine.selection import choose_runner
from server.gateway.settings import read_settings
from tests.support.compose import ROOT, compose, services

ENVIRONMENT = {"GRAFANA_PASSWORD": "test-only"}
PROFILES = {"gpu": "engine", "cpu": "engine-cpu"}


@pytest.fixture(params=PROFILES)
def profile(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_profile_starts_one_engine(profile: str) -> None:
    assert set(services(profile, ENVIRONMENT)) == {"gateway", PROFILES[profile], "prometheus", "grafana"}


def test_only_the_gateway_is_published_and_on_loopback_unless_told_otherwise(profile: str) -> None:
    started = services(profile, ENVIRONMENT)
    published = {name: service["ports"] for name, service in started.items() if service.get("ports")}
    assert published == {"gateway": ["127.0.0.1:8000:8000"]}
    assert not any(service.get("network_mode") == "host" for service in started.values())


def test_engines_share_no_network_with_the_outside_but_for_what_they_fetch(profile: str) -> None:
    started, networks = services(profile, ENVIRONMENT), compose(ENVIRONMENT)["networks"]
    assert networks["back"] == {"internal": True}
    engine = set(started[PROFILES[profile]]["networks"])
    assert "back" in engine and engine <= {"back", "egress"}
    assert all("egress" not in s["networks"] for name, s in started.items() if name != PROFILES[profile])
    assert all(set(started[name]["networks"]) == {"back"} for name in ("prometheus", "grafana"))


def test_every_container_is_confined(profile: str) -> None:
    for name, service in services(profile, ENVIRONMENT).items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service.get("ipc", "private") == "private", name
        assert not service.get("privileged"), name


def test_the_gateway_asks_for_keys_and_knows_its_settings() -> None:
    environment = services("gpu", ENVIRONMENT)["gateway"]["environment"]
    settings = read_settings(environment)
    assert str(settings.keys_file) == "/etc/s1/keys.json" and not settings.insecure_no_auth
    assert settings.engine_urls == ("dns+http://engine:8001",)


@pytest.mark.parametrize("asked", ["", "v1", "v2"])
def test_the_engine_s_runner_is_what_the_environment_says(asked: str) -> None:
    environment = services("gpu", {**ENVIRONMENT, "S1_ENGINE_RUNNER": asked})["engine"]["environment"]
    assert choose_runner(environment, on_gpu=True) == (asked or "v2")


def test_the_name_that_the_gateway_asks_is_an_engine(profile: str) -> None:
    engine = services(profile, ENVIRONMENT)[PROFILES[profile]]
    aliases = {PROFILES[profile]}
    if isinstance(engine["networks"], dict):
        aliases |= set(engine["networks"]["back"]["aliases"])
    assert "engine" in aliases


def test_containers_are_given_longer_than_they_drain(profile: str) -> None:
    started = services(profile, ENVIRONMENT)
    grace_s = {
        name: int(started[name]["stop_grace_period"].rstrip("s")) for name in ("gateway", PROFILES[profile])
    }
    environment = read_settings(started["gateway"]["environment"])
    assert grace_s["gateway"] > environment.drain_delay_s + environment.drain_timeout_s
    command = started[PROFILES[profile]]["command"]
    assert grace_s[PROFILES[profile]] > int(command[command.index("--shutdown-timeout") + 1])


def test_a_gateway_has_as_much_memory_as_in_the_chart() -> None:
    values = yaml.safe_load((ROOT / "helm" / "s1-server" / "values.yaml").read_text())
    limit = values["gateway"]["resources"]["limits"]["memory"]
    assert services("gpu", ENVIRONMENT)["gateway"]["mem_limit"] == limit.replace("Gi", "g")


def test_a_missing_password_stops_compose() -> None:
    with pytest.raises(KeyError, match="GRAFANA_PASSWORD"):
        compose({})


def test_the_example_names_every_variable_with_its_default() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    defaults = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", text))
    asked = set(re.findall(r"\$\{(\w+)", text))
    example = dict(
        line.lstrip("#").split("=", 1)
        for line in (ROOT / ".env.example").read_text().splitlines()
        if re.match(r"#?[A-Z0-9_]+=", line)
    )
    assert example.keys() - {"COMPOSE_PROFILES"} == asked
    assert {name: example[name] for name in defaults} == defaults


def test_images_have_a_version_never_latest() -> None:
    for service in compose(ENVIRONMENT)["services"].values():
        name, _, tag = service["image"].rpartition(":")
        assert name and tag and tag != "latest"
        if "build" in service:
            assert tag == __version__


def test_every_mounted_file_is_there() -> None:
    for service in services("gpu", ENVIRONMENT).values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./deploy/") and not source.endswith(("/grafana", "/prometheus")):
                assert (ROOT / source).is_file(), source


def test_prometheus_takes_its_configuration(tmp_path: Path) -> None:
    configuration: dict[str, Any] = yaml.safe_load((ROOT / "deploy/compose/prometheus.yml").read_text())
    gateway, engine = configuration["scrape_configs"]
    assert gateway["dns_sd_configs"][0]["names"] == ["gateway"]
    assert gateway["dns_sd_configs"][0]["port"] == 8000
    assert engine["http_sd_configs"][0]["url"] == "http://gateway:8000/s1/scrape_targets"
    key = tmp_path / "metrics.key"
    key.write_text("s1-test-only")
    text = (ROOT / "deploy/compose/prometheus.yml").read_text()
    local = text.replace("/etc/prometheus/metrics.key", str(key))
    local = local.replace("/etc/prometheus/rules", str(ROOT / "deploy" / "prometheus"))
    (tmp_path / "prometheus.yml").write_text(local)
    promtool = shutil.which("promtool")
    assert promtool is not None, "promtool is missing: scripts/install.sh dev installs Debian's prometheus"
    done = subprocess.run(
        [promtool, "check", "config", str(tmp_path / "prometheus.yml")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
