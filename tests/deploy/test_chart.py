"""helm/s1-server: every example renders and is valid, and nothing is exposed."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import helm_python
import jsonschema
import pytest
import yaml

from scripts.chart import problems
from server import __version__
from server.engine.selection import choose_runner
from server.gateway.settings import read_settings
from tests.support.chart import (
    CHART,
    CI_VALUES,
    EXAMPLE,
    KUBERNETES,
    SNAPSHOTS,
    Manifest,
    example,
    one,
    pod_specs,
    render,
    rendered,
    snapshot,
    validate,
    values_of,
)

KEYS = {"auth": {"existingSecret": "s1-keys"}}
DEMO_ENGINE = {"name": "demo", "device": "cpu", "model": {"source": "demo"}}


@pytest.fixture(params=CI_VALUES)
def ci_file(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("kubernetes", KUBERNETES)
def test_every_manifest_is_what_its_kind_takes(ci_file: str, kubernetes: str) -> None:
    for manifest in rendered(ci_file):
        validate(manifest, kubernetes)


def test_a_misplaced_field_of_a_custom_resource_is_found() -> None:
    lws = json.loads(json.dumps(one(rendered("two-nodes-tp8-pp2-values.yaml"), "LeaderWorkerSet")))
    lws["spec"]["restartPolicy"] = lws["spec"]["leaderWorkerTemplate"].pop("restartPolicy")
    with pytest.raises(jsonschema.ValidationError, match="restartPolicy"):
        validate(lws, KUBERNETES[0])


def test_helm_lint_has_nothing_to_say(ci_file: str) -> None:
    report = helm_python.lint(CHART, values_of(ci_file), strict=True, kube_version="v1.31.0")
    worse_than_info = [message for message in report["messages"] if message["severity"] > 1]
    assert (worse_than_info, report["errors"]) == ([], [])


def test_the_examples_show_what_a_change_does(ci_file: str) -> None:
    """`python -m tests.support.chart` writes them anew."""
    assert snapshot(ci_file) == (SNAPSHOTS / ci_file.replace("-values", "")).read_text()


def test_the_document_s_example_is_what_is_rendered() -> None:
    """`python -m tests.support.chart` writes it anew."""
    assert example() == EXAMPLE.read_text()


def test_copies_and_readme_are_what_they_come_from() -> None:
    """`python scripts/chart.py` writes them anew."""
    assert problems() == []


def test_the_chart_is_of_this_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == __version__


def test_a_node_can_be_emptied_however_many_gateways_there_are() -> None:
    for gateways in (1, 2):
        manifests, _ = render({**KEYS, "gateway": {"replicas": gateways}})
        budget = one(manifests, "PodDisruptionBudget", "-gateway")["spec"]
        assert budget["maxUnavailable"] == 1 and "minAvailable" not in budget


def test_a_rollout_of_gateways_may_take_as_long_as_the_slowest_engine() -> None:
    engines = [{**DEMO_ENGINE, "startupSeconds": 300}, {"name": "m", "model": {"name": "x"}}]
    manifests, _ = render({**KEYS, "engines": engines, "engineDefaults": {"startupSeconds": 7200}})
    assert one(manifests, "Deployment")["spec"]["progressDeadlineSeconds"] > 7200


def test_false_and_empty_values_win_over_defaults() -> None:
    engine = {**DEMO_ENGINE, "podDisruptionBudget": {"enabled": False}, "tolerations": [], "spread": False}
    manifests, _ = render({**KEYS, "engines": [engine]})
    budgets = [m["metadata"]["name"] for m in manifests if m["kind"] == "PodDisruptionBudget"]
    assert budgets == ["s1-s1-server-gateway"]
    spec = one(manifests, "StatefulSet")["spec"]["template"]["spec"]
    assert "tolerations" not in spec and "topologySpreadConstraints" not in spec


def test_large_numbers_stay_whole() -> None:
    engine = {"name": "m", "model": {"name": "x"}, "maxModelLen": 1048576}
    manifests, _ = render({**KEYS, "engines": [engine], "gateway": {"settings": {"max_body_bytes": 8388608}}})
    assert "1048576" in one(manifests, "StatefulSet")["spec"]["template"]["spec"]["containers"][0]["args"]
    environment = environment_of(one(manifests, "Deployment")["spec"]["template"]["spec"]["containers"][0])
    assert read_settings(environment).max_body_bytes == 8388608


def environment_of(container: dict[str, Any]) -> dict[str, str]:
    """Its variables; one that comes from a Secret has a stand-in."""
    return {e["name"]: e.get("value", "redis://127.0.0.1") for e in container.get("env", [])}


def containers(manifests: tuple[Manifest, ...], name: str) -> list[dict[str, Any]]:
    return [c for spec in pod_specs(manifests).values() for c in spec["containers"] if c["name"] == name]


def test_gateways_know_all_their_settings_and_ask_for_keys(ci_file: str) -> None:
    gateways = containers(rendered(ci_file), "gateway")
    assert gateways
    for container in gateways:
        settings = read_settings(environment_of(container))
        assert settings.keys_file is not None and not settings.insecure_no_auth


def test_every_pod_is_confined(ci_file: str) -> None:
    for name, spec in pod_specs(rendered(ci_file)).items():
        assert spec["automountServiceAccountToken"] is False, name
        # Variables such as S1_GATEWAY_PORT, made for a Service, would be taken for settings.
        assert spec["enableServiceLinks"] is False, name
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not any(spec.get(shared) for shared in ("hostNetwork", "hostPID", "hostIPC")), name
        assert not any("hostPath" in volume for volume in spec.get("volumes", [])), name
        for container in spec["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True, name
            assert security["allowPrivilegeEscalation"] is False, name
            assert security["capabilities"] == {"drop": ["ALL"]}, name


def test_every_mount_has_its_volume(ci_file: str) -> None:
    claims = {"cache"}
    for name, spec in pod_specs(rendered(ci_file)).items():
        volumes = {volume["name"] for volume in spec.get("volumes", [])}
        mounts = {m["name"] for c in spec["containers"] for m in c.get("volumeMounts", [])}
        assert mounts - volumes <= claims and volumes <= mounts, name


def test_files_are_mounted_so_that_changes_arrive() -> None:
    """The kubelet never updates what is mounted by `subPath`."""
    manifests = rendered("everything-values.yaml")
    mounts = {m["name"]: m for c in containers(manifests, "gateway") for m in c["volumeMounts"]}
    environment = environment_of(containers(manifests, "gateway")[0])
    for name in ("POLICY", "KEYS"):
        folder = str(Path(environment[f"S1_GATEWAY_{name}_FILE"]).parent)
        mount = mounts[name.lower()]
        assert mount["mountPath"] == folder and not {"subPath", "subPathExpr"} & mount.keys()


@pytest.mark.parametrize(("service", "kept"), [({}, "None"), ({"sessionAffinity": "ClientIP"}, "ClientIP")])
def test_a_client_keeps_to_a_gateway_where_that_was_said(service: dict[str, str], kept: str) -> None:
    manifests, _ = render({**KEYS, "gateway": {"service": service}})
    assert one(manifests, "Service", "-gateway")["spec"]["sessionAffinity"] == kept


def test_pods_are_given_longer_than_they_drain(ci_file: str) -> None:
    for name, spec in pod_specs(rendered(ci_file)).items():
        for container in spec["containers"]:
            hook = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", [])
            words = shlex.split(" ".join(hook))
            if container["name"] == "gateway":
                settings = read_settings(environment_of(container))
                drained_s = int(words[1]) + settings.drain_delay_s + settings.drain_timeout_s
            elif container["name"] == "engine":
                drained_s = int(words[words.index("--timeout-s") + 1])
            else:
                continue
            assert spec["terminationGracePeriodSeconds"] > drained_s, name


def test_an_engine_may_take_as_long_to_load_as_was_said() -> None:
    engine = {**DEMO_ENGINE, "startupSeconds": 7200}
    manifests, _ = render({**KEYS, "engines": [engine]})
    probe = one(manifests, "StatefulSet")["spec"]["template"]["spec"]["containers"][0]["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 7200


@pytest.mark.parametrize(
    ("values", "chosen"),
    [
        ({}, "v2"),
        ({"runner": "v1"}, "v1"),
        ({"env": [{"name": "VLLM_USE_V2_MODEL_RUNNER", "value": "0"}]}, "v1"),
        ({"env": [{"name": "S1_ENGINE_RUNNER", "value": "v1"}]}, "v1"),
    ],
)
def test_vllm_s_runner_is_chosen_by_value_or_by_either_variable(values: dict[str, Any], chosen: str) -> None:
    manifests, _ = render({**KEYS, "engines": [{"name": "m", "model": {"name": "x"}, **values}]})
    (engine,) = one(manifests, "StatefulSet")["spec"]["template"]["spec"]["containers"]
    assert choose_runner(environment_of(engine), on_gpu=True) == chosen


def test_every_pod_of_an_engine_has_its_runtime_and_no_other_pod() -> None:
    classes = {n: s.get("runtimeClassName") for n, s in pod_specs(rendered("everything-values.yaml")).items()}
    assert len(classes) > 2
    for name, runtime in classes.items():
        assert runtime == ("nvidia" if name.startswith("LeaderWorkerSet/") else None), name
    engines = [{"name": "m", "model": {"name": "x"}}]
    manifests, _ = render({**KEYS, "engineDefaults": {"runtimeClassName": "nvidia"}, "engines": engines})
    assert one(manifests, "StatefulSet")["spec"]["template"]["spec"]["runtimeClassName"] == "nvidia"
    manifests, _ = render({**KEYS, "engines": engines})
    assert "runtimeClassName" not in one(manifests, "StatefulSet")["spec"]["template"]["spec"]


def matches(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


def templates(manifests: tuple[Manifest, ...]) -> dict[str, dict[str, str]]:
    """Labels of every pod that is made."""
    labels = {}
    for m in manifests:
        name = f"{m['kind']}/{m['metadata']['name']}"
        if m["kind"] == "LeaderWorkerSet":
            for role in ("leader", "worker"):
                labels[f"{name}/{role}"] = m["spec"]["leaderWorkerTemplate"][f"{role}Template"]["metadata"][
                    "labels"
                ]
        elif m["kind"] == "Pod":
            labels[name] = m["metadata"]["labels"]
        elif "template" in m.get("spec", {}):
            labels[name] = m["spec"]["template"]["metadata"]["labels"]
    return labels


def test_selectors_find_what_they_are_for(ci_file: str) -> None:
    manifests = rendered(ci_file)
    pods = templates(manifests)
    for m in manifests:
        spec = m.get("spec", {})
        if m["kind"] == "Service":
            found = {name for name, labels in pods.items() if matches(spec["selector"], labels)}
            assert found and not any(name.endswith("/worker") for name in found)
        if m["kind"] in ("PodDisruptionBudget", "StatefulSet", "Deployment", "InferencePool"):
            found = {n for n, labels in pods.items() if matches(spec["selector"]["matchLabels"], labels)}
            assert found, m["metadata"]["name"]
        if m["kind"] == "ServiceMonitor":
            services = [s for s in manifests if s["kind"] == "Service"]
            found_services = [
                s for s in services if matches(spec["selector"]["matchLabels"], s["metadata"]["labels"])
            ]
            ports = {port["name"] for s in found_services for port in s["spec"]["ports"]}
            assert {e["port"] for e in spec["endpoints"]} == ports


def test_the_gateway_asks_for_the_services_that_there_are(ci_file: str) -> None:
    manifests = rendered(ci_file)
    services = {m["metadata"]["name"]: m["spec"] for m in manifests if m["kind"] == "Service"}
    for container in containers(manifests, "gateway"):
        for url in read_settings(environment_of(container)).engine_urls:
            if url == "http://127.0.0.1:8001":
                continue
            host, port = url.removeprefix("dns+http://").split(":")
            service = services[host.removesuffix(".serving.svc")]
            assert service["clusterIP"] == "None" and service["ports"][0]["port"] == int(port)


def test_nothing_but_the_gateway_can_be_reached_from_outside(ci_file: str) -> None:
    manifests = rendered(ci_file)
    outside = {"NodePort", "LoadBalancer"}
    services = [m for m in manifests if m["kind"] == "Service"]
    for service in services:
        is_gateway = service["metadata"]["name"].endswith("-gateway")
        assert is_gateway or service["spec"].get("type", "ClusterIP") not in outside
        assert is_gateway == all(port["targetPort"] == "http" for port in service["spec"]["ports"])
    for m in manifests:
        if m["kind"] == "Ingress":
            backends = [
                p["backend"]["service"]["name"] for r in m["spec"]["rules"] for p in r["http"]["paths"]
            ]
            assert backends == ["s1-s1-server-gateway"]
        if m["kind"] == "HTTPRoute":
            names = {
                (b.get("kind", "Service"), b["name"]) for r in m["spec"]["rules"] for b in r["backendRefs"]
            }
            assert names <= {("Service", "s1-s1-server-gateway"), ("InferencePool", "s1-s1-server")}
        if m["kind"] == "InferencePool":
            assert m["spec"]["targetPorts"] == [{"number": 8000}]


def test_only_gateways_and_prometheus_reach_an_engine(ci_file: str) -> None:
    manifests = rendered(ci_file)
    pods = templates(manifests)
    engines = {name: labels for name, labels in pods.items() if labels.get("s1-server/engine")}
    policies = [m["spec"] for m in manifests if m["kind"] == "NetworkPolicy"]
    for name, labels in engines.items():
        mine = [p for p in policies if matches(p["podSelector"]["matchLabels"], labels)]
        assert len(mine) == 1 and set(mine[0]["policyTypes"]) == {"Ingress", "Egress"}, name
        rules = [r for r in mine[0]["ingress"] if {"port": "http"} not in r.get("ports", [])]
        assert rules and all(r.get("from") for r in rules), name
        for peer in (p for r in rules for p in r["from"]):
            selected = peer.get("podSelector", {}).get("matchLabels", {})
            assert (
                selected.get("app.kubernetes.io/component") == "gateway"
                or selected.get("s1-server/engine") == labels["s1-server/engine"]
                or selected == {"app": "s1-endpoint-picker"}
                or peer
                == {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
            ), name


def test_the_notes_have_a_request_to_paste(ci_file: str) -> None:
    _, notes = render(values_of(ci_file))
    command = shlex.split(notes[notes.index("curl -s") :].split("\n\n")[0])
    body = json.loads(command[command.index("-d") + 1])
    assert body["max_thinking_tokens"] == 256 and body["model"]
    assert "authorization: Bearer $S1_API_KEY" in command


def test_helm_test_is_offered_where_it_has_a_key() -> None:
    without = {**KEYS, "engines": [DEMO_ENGINE]}
    offered = "helm test s1 --namespace serving"
    for more in ({"test": {"keySecret": {"name": "k"}}}, {"auth": {"insecureNoAuth": True}}):
        assert offered in render({**without, **more})[1]
    _, notes = render(without)
    assert offered not in notes and "test.keySecret.name" in notes


def promtool(tmp_path: Path, groups: dict[str, Any]) -> None:
    rules = tmp_path / "rules.yml"
    rules.write_text(yaml.safe_dump(groups))
    tool = shutil.which("promtool")
    assert tool is not None, "promtool is missing: scripts/install.sh dev installs Debian's prometheus"
    done = subprocess.run([tool, "check", "rules", str(rules)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_the_rules(tmp_path: Path) -> None:
    rule = one(rendered("autoscaled-values.yaml"), "PrometheusRule")
    of_a_server = yaml.safe_load((CHART / "files" / "alerts.yml").read_text())["groups"]
    assert rule["spec"]["groups"][:-1] == of_a_server
    promtool(tmp_path, rule["spec"])


def test_metrics_are_scraped_with_an_admin_key_unless_everybody_is_let_in() -> None:
    def authorization(auth: dict[str, Any]) -> Any:
        manifests, _ = render({"auth": auth, "monitoring": {"serviceMonitor": True}})
        (endpoint,) = one(manifests, "ServiceMonitor", "-gateway")["spec"]["endpoints"]
        return endpoint.get("authorization")

    assert authorization({"insecureNoAuth": True}) is None
    assert authorization({"existingSecret": "k", "adminKey": {"existingSecret": "a"}}) == {
        "credentials": {"name": "a", "key": "key"}
    }


@pytest.mark.parametrize("ci", ["autoscaled-values.yaml", "everything-values.yaml"])
def test_prometheus_takes_the_queries_that_scale_engines(tmp_path: Path, ci: str) -> None:
    triggers = one(rendered(ci), "ScaledObject")["spec"]["triggers"]
    queries = [trigger["metadata"]["query"] for trigger in triggers]
    assert "vllm:num_requests_waiting" in queries[0] and "s1_engine_committed_tokens" in queries[1]
    rules = [{"record": f"query:{i}", "expr": query} for i, query in enumerate(queries)]
    promtool(tmp_path, {"groups": [{"name": "queries", "rules": rules}]})


def test_dashboards_are_config_maps() -> None:
    found = [m for m in rendered("autoscaled-values.yaml") if m["kind"] == "ConfigMap"]
    assert len(found) == len(list((CHART / "files" / "dashboards").glob("*.json"))) > 0
    for config_map in found:
        assert config_map["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert all(json.loads(text) for text in config_map["data"].values())


def test_two_nodes_share_their_gpus_and_meet() -> None:
    spec = one(rendered("two-nodes-tp8-pp2-values.yaml"), "LeaderWorkerSet")["spec"]["leaderWorkerTemplate"]
    leader, worker = (spec[f"{role}Template"]["spec"]["containers"][0] for role in ("leader", "worker"))
    assert spec["size"] == 2 and spec["restartPolicy"] == "RecreateGroupOnPodRestart"
    assert leader["resources"]["limits"] == worker["resources"]["limits"] == {"nvidia.com/gpu": 8}
    assert leader["args"][-2:] == ["--distributed-executor-backend", "ray"]
    for container in (leader, worker):
        syntax = subprocess.run(["sh", "-n", "-c", container["args"][0]], capture_output=True, text=True)
        assert syntax.returncode == 0, syntax.stderr
        assert "VLLM_HOST_IP" in {variable["name"] for variable in container["env"]}


def test_no_service_takes_the_name_that_a_group_needs_for_its_own() -> None:
    """LeaderWorkerSet makes a headless Service named as the set, unless there is one."""
    manifests = rendered("two-nodes-tp8-pp2-values.yaml")
    name = one(manifests, "LeaderWorkerSet")["metadata"]["name"]
    assert name not in {m["metadata"]["name"] for m in manifests if m["kind"] == "Service"}


def test_names_stay_within_what_dns_takes() -> None:
    engine = {**DEMO_ENGINE, "name": "n" * 20}
    manifests, _ = render({**KEYS, "engines": [engine]}, name="r" * 53)
    # A pod of a group has two numbers after its set's name.
    assert all(len(m["metadata"]["name"]) <= 63 for m in manifests)
    assert len(one(manifests, "StatefulSet")["metadata"]["name"]) + len("-00-00") <= 63
