"""The alert rules, as Prometheus' own `promtool` judges them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.gateway.app import create_app
from server.gateway.settings import Settings
from tests.support.chart import one, render, rendered, values_of

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "alerts.yml"
TESTS = sorted(Path(__file__).parent.glob("alerts*_test.yml"))
PODS_TEST = Path(__file__).parent / "engine_pods_test.yml"


def promtool(*arguments: str) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_and_configuration_are_valid() -> None:
    promtool("check", "rules", str(RULES))
    promtool("check", "config", str(ROOT / "deploy" / "prometheus.yml"))


def test_alerts_fire_on_their_faults_and_are_quiet_else() -> None:
    promtool("test", "rules", *map(str, TESTS))


def test_every_alert_has_a_fault_that_fires_it_and_a_case_in_which_it_is_quiet() -> None:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"]}
    tests = [test for path in TESTS for test in yaml.safe_load(path.read_text())["tests"]]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == alerts
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == alerts


def test_an_engine_s_pod_that_never_gets_ready_is_told_of(tmp_path: Path) -> None:
    rule = one(rendered("autoscaled-values.yaml"), "PrometheusRule")
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rule["spec"]))
    shutil.copy(PODS_TEST, tmp_path)
    promtool("test", "rules", str(tmp_path / PODS_TEST.name))


@pytest.mark.parametrize("ci_file", ["autoscaled-values.yaml", "two-nodes-tp8-pp2-values.yaml"])
def test_the_rule_about_pods_is_of_all_pods_of_engines_alone(ci_file: str) -> None:
    manifests, _ = render({**values_of(ci_file), "monitoring": {"prometheusRule": True}})
    rule = one(manifests, "PrometheusRule")["spec"]["groups"][-1]["rules"][0]
    patterns = set(re.findall(r'namespace="serving", pod=~"([^"]+)"', rule["expr"]))
    assert len(patterns) == 1 and rule["expr"].count("namespace=") == 2
    pattern = re.compile(patterns.pop())
    for manifest in manifests:
        name = manifest["metadata"]["name"]
        if manifest["kind"] == "StatefulSet":
            assert pattern.fullmatch(f"{name}-0") and pattern.fullmatch(f"{name}-12")
        if manifest["kind"] == "LeaderWorkerSet":
            assert pattern.fullmatch(f"{name}-0") and pattern.fullmatch(f"{name}-0-1")
        if manifest["kind"] == "Deployment":
            assert not pattern.fullmatch(f"{name}-7d4b9c6f5-x2x9z")


def relabelled(rule: dict[str, Any], labels: dict[str, str]) -> dict[str, str]:
    """What Prometheus makes of labels by a rule of the action `replace`."""
    source = ";".join(labels[label] for label in rule["sourceLabels"])
    found = re.fullmatch(rule.get("regex", "(.*)"), source)
    return (
        labels
        if found is None
        else labels | {rule["targetLabel"]: found.expand(rule["replacement"].replace("$", "\\"))}
    )


def test_in_a_pool_an_engine_has_one_name_in_its_gateway_s_metrics_and_its_own() -> None:
    manifests = rendered("everything-values.yaml")
    (gateway,) = one(manifests, "ServiceMonitor", "-gateway")["spec"]["endpoints"]
    (engine,) = one(manifests, "ServiceMonitor", "-engine")["spec"]["endpoints"]
    (of_samples,) = gateway["metricRelabelings"]
    named = next(rule for rule in engine["relabelings"] if rule["targetLabel"] == "engine")
    for address in ("10.0.0.7", "[fd00::7]"):
        own = relabelled(named, {"__address__": f"{address}:8001"})["engine"]
        sample = {"engine": "http://127.0.0.1:8001", "instance": f"{address}:8000"}
        assert relabelled(of_samples, sample)["engine"] == own == f"http://{address}:8001"
        elsewhere = {**sample, "engine": "http://10.0.0.8:8001"}
        assert relabelled(of_samples, elsewhere) == elsewhere


@pytest.fixture(scope="module")
def exposed() -> set[str]:
    """Names of the samples that a gateway has, also of metrics that have none yet."""
    app = create_app(Settings(engine_urls=("http://127.0.0.1:1",)))
    raw, _ = app.state.context.observatory.render("")
    families = dict(re.findall(r"^# TYPE (s1_\S+) (\S+)$", raw.decode(), re.MULTILINE))
    histograms = {name for name, kind in families.items() if kind == "histogram"}
    parts = {f"{name}_{part}" for name in histograms for part in ("bucket", "sum", "count")}
    return {name for name in families if not name.endswith("_created")} - histograms | parts


def test_alerts_and_dashboards_ask_only_for_metrics_that_there_are(exposed: set[str]) -> None:
    """A metric that was renamed would leave its alert silent for ever."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    expressions = [rule["expr"] for group in groups for rule in group["rules"]]
    for path in (ROOT / "deploy" / "grafana").glob("*.json"):
        panels = json.loads(path.read_text())["panels"]
        expressions += [target["expr"] for panel in panels for target in panel.get("targets", ())]
    asked = {name for expression in expressions for name in re.findall(r"\bs1_[a-z_]+", expression)}
    assert len(asked) > 30
    assert asked <= exposed


def test_every_metric_is_documented(exposed: set[str]) -> None:
    documented = set(re.findall(r"`(s1_[a-z_]+)`", (ROOT / "docs" / "observability.md").read_text()))
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exposed}
    assert documented == families
