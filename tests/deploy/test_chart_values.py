"""helm/s1-server: wrong values are refused, each with its name."""

from __future__ import annotations

from typing import Any

import helm_python
import pytest

from tests.support.chart import one, render

KEYS = {"auth": {"existingSecret": "s1-keys"}}
DEMO_ENGINE = {"name": "demo", "device": "cpu", "model": {"source": "demo"}}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"gatway": {}}, "gatway"),
        ({"gateway": {"replica": 2}}, "replica"),
        (
            {"gateway": {"settings": {"port": 1}}},
            "gateway.settings.port can't be given: it follows from the pod",
        ),
        ({"gateway": {"settings": {"Admission": "on"}}}, "Admission"),
        ({"gateway": {"settings": {"admision": "on"}}}, "/gateway/settings: additional properties admision"),
        # Unquoted, YAML reads it as true.
        ({"gateway": {"settings": {"admission": True}}}, "/gateway/settings/admission"),
        (
            {"gateway": {"env": [{"name": "S1_GATEWAY_DRAIN_TIMEOUT_S", "value": "1800"}]}},
            "S1_GATEWAY_DRAIN_TIMEOUT_S can't be given: it follows from gateway.drain.timeoutSeconds",
        ),
        (
            {
                "gateway": {
                    "settings": {"workers": 4},
                    "env": [{"name": "S1_GATEWAY_WORKERS", "value": "2"}],
                }
            },
            "gateway.env: S1_GATEWAY_WORKERS is given twice: gateway.settings.workers is there, too",
        ),
        (
            {"gateway": {"autoscaling": {"enabled": True, "minReplicas": 9}}},
            "gateway.autoscaling.minReplicas must be <= maxReplicas = 8. Given: 9",
        ),
        (
            {"engines": [{**DEMO_ENGINE, "autoscaling": {"enabled": True, "minReplicas": 5}}]},
            "engines[demo].autoscaling.minReplicas must be <= maxReplicas = 4. Given: 5",
        ),
        (
            {"engines": [DEMO_ENGINE, {"name": "m", "model": {"name": "x"}}, DEMO_ENGINE]},
            "engines: a name can be given once. Given twice: demo",
        ),
        ({"gateway": {"service": {"sessionAffinity": "Cookie"}}}, "/gateway/service/sessionAffinity"),
        ({"engines": []}, "/engines"),
        ({"engines": [{**DEMO_ENGINE, "gpus": 4}]}, "gpus"),
        ({"engines": [{**DEMO_ENGINE, "device": "tpu"}]}, "/engines/0/device"),
        ({"engines": [{**DEMO_ENGINE, "parallel": {"tensor": 0}}]}, "/engines/0/parallel/tensor"),
        ({"engines": [{**DEMO_ENGINE, "sharedMemory": "lots"}]}, "/engines/0/sharedMemory"),
        ({"httpRoute": {"enabled": True}}, "/httpRoute/parentRefs"),
        ({"auth": {"existingSecret": ""}}, "auth.existingSecret is needed"),
        (
            {"engines": [{"name": "m", "model": {"source": "pvc"}}]},
            "engines[m].model.claimName is needed for source pvc",
        ),
        (
            {"engines": [{"name": "m", "model": {"name": "x"}, "nodes": 3, "parallel": {"tensor": 8}}]},
            "engines[m]: tensor x pipeline x data = 8 GPUs can't be shared out over nodes. Given: 3",
        ),
        (
            {"engines": [{"name": "m", "model": {"name": "x"}, "nodes": 2, "parallel": {"data": 2}}]},
            "engines[m].parallel.data must be 1 over several nodes: use replicas. Given: 2",
        ),
        ({"engines": [{**DEMO_ENGINE, "nodes": 2}]}, "engines[demo]"),
        ({"engines": [{**DEMO_ENGINE, "runner": "v3"}]}, "/engines/0/runner"),
        (
            {"engines": [{**DEMO_ENGINE, "runner": "v2"}]},
            "engines[demo].runner must be v1 or empty for device cpu. Given: v2",
        ),
        ({"inferencePool": {"enabled": True}}, "inferencePool.enabled needs httpRoute.enabled"),
        (
            {"monitoring": {"serviceMonitor": True}},
            "monitoring.serviceMonitor needs auth.adminKey.existingSecret",
        ),
    ],
)
def test_wrong_values_are_refused_by_name(values: dict[str, Any], said: str) -> None:
    with pytest.raises(helm_python.HelmError) as refused:
        render({**KEYS, **values})
    message = str(refused.value).replace("'", "").replace('"', "")
    assert said.replace("'", "") in message


def test_a_setting_may_come_from_a_secret() -> None:
    secret = {"secretKeyRef": {"name": "collector", "key": "url"}}
    env = [{"name": "S1_GATEWAY_OTLP_ENDPOINT", "valueFrom": secret}]
    manifests, _ = render({**KEYS, "gateway": {"env": env}})
    assert env[0] in one(manifests, "Deployment")["spec"]["template"]["spec"]["containers"][0]["env"]
