"""helm/s1-server over a release that runs: an autoscaler's number stays, what can't be changed is said."""

from __future__ import annotations

import copy
from typing import Any

import helm_python
import pytest

from tests.support.chart import Manifest, one, render

KEYS = {"auth": {"existingSecret": "s1-keys"}}
ONE_NODE = {"name": "m", "model": {"name": "x"}}
TWO_NODES = {**ONE_NODE, "nodes": 2, "parallel": {"tensor": 16}}


def values(engine: dict[str, Any], autoscaling: dict[str, Any], replicas: int = 2) -> dict[str, Any]:
    """Gateways and engines that are scaled alike."""
    return {
        **KEYS,
        "gateway": {"replicas": replicas, "autoscaling": autoscaling},
        "engines": [{**engine, "replicas": replicas, "autoscaling": autoscaling}],
    }


def running(manifests: list[Manifest], replicas: int) -> list[Manifest]:
    """What was applied, as the cluster has it after it was scaled."""
    scaled = [m for m in copy.deepcopy(manifests) if "replicas" in m.get("spec", {})]
    for manifest in scaled:
        manifest["metadata"]["namespace"] = "serving"
        manifest["spec"]["replicas"] = replicas
    return scaled


def numbers(manifests: list[Manifest]) -> dict[str, Any]:
    kinds = ("Deployment", "StatefulSet", "LeaderWorkerSet")
    return {m["kind"]: m["spec"].get("replicas") for m in manifests if m["kind"] in kinds}


@pytest.mark.parametrize(("engine", "kind"), [(ONE_NODE, "StatefulSet"), (TWO_NODES, "LeaderWorkerSet")])
def test_an_upgrade_leaves_the_autoscaler_s_number_as_it_is(engine: dict[str, Any], kind: str) -> None:
    before, _ = render(values(engine, {"enabled": False}))
    autoscaled = values(engine, {"enabled": True, "minReplicas": 1, "maxReplicas": 8})
    after, _ = render(autoscaled, live=running(before, 5))
    assert numbers(after) == {"Deployment": 5, kind: 5}
    later, _ = render(autoscaled, live=running(after, 7))
    assert numbers(later) == {"Deployment": 7, kind: 7}


def test_engines_that_were_scaled_to_none_stay_so() -> None:
    autoscaled = values(ONE_NODE, {"enabled": True, "minReplicas": 1})
    before, _ = render(autoscaled)
    after, _ = render(autoscaled, live=running(before, 0))
    assert numbers(after) == {"Deployment": 0, "StatefulSet": 0}


@pytest.mark.parametrize("live", [None, []])
@pytest.mark.parametrize(("replicas", "first"), [(1, 2), (3, 3), (9, 4)])
def test_the_first_number_is_the_one_given_within_the_autoscaler_s_limits(
    live: list[Manifest] | None, replicas: int, first: int
) -> None:
    limits = {"enabled": True, "minReplicas": 2, "maxReplicas": 4}
    manifests, _ = render(values(ONE_NODE, limits, replicas), live=live)
    assert numbers(manifests) == {"Deployment": first, "StatefulSet": first}


def test_without_an_autoscaler_the_number_is_the_one_given() -> None:
    given = values(ONE_NODE, {"enabled": False}, replicas=3)
    before, _ = render(given)
    after, _ = render(given, live=running(before, 7))
    assert numbers(after) == {"Deployment": 3, "StatefulSet": 3}


PERSISTENT = {"persistent": True, "size": "200Gi", "storageClassName": "fast"}


def cached(cache: dict[str, Any]) -> dict[str, Any]:
    return {**KEYS, "engines": [{**ONE_NODE, "cache": cache}]}


@pytest.mark.parametrize(
    ("before", "after", "given"),
    [
        (PERSISTENT, {**PERSISTENT, "size": "300Gi"}, "cache.size: 300Gi"),
        (PERSISTENT, {**PERSISTENT, "storageClassName": "slow"}, "cache.storageClassName: slow"),
        (PERSISTENT, {**PERSISTENT, "persistent": False}, "cache.persistent: false"),
        ({**PERSISTENT, "persistent": False}, PERSISTENT, "cache.persistent: true"),
    ],
)
def test_claims_that_kubernetes_would_not_change_are_refused_with_the_way_out(
    before: dict[str, Any], after: dict[str, Any], given: str
) -> None:
    made, _ = render(cached(before))
    live = running(made, 1)
    render(cached(before), live=live)
    with pytest.raises(helm_python.HelmError) as refused:
        render(cached(after), live=live)
    message = str(refused.value)
    assert f"engines[m].{given}" in message
    assert "kubectl --namespace serving delete statefulset s1-s1-server-m --cascade=orphan" in message
    without = [m for m in live if m["kind"] != "StatefulSet"]
    render(cached(after), live=without)


def test_a_size_that_the_cluster_writes_otherwise_is_the_same() -> None:
    made, _ = render(cached({**PERSISTENT, "size": "1024Gi"}))
    live = running(made, 1)
    claim = one(live, "StatefulSet")["spec"]["volumeClaimTemplates"][0]
    claim["spec"]["resources"]["requests"]["storage"] = "1Ti"
    render(cached({**PERSISTENT, "size": "1024Gi"}), live=live)
    render(cached({**PERSISTENT, "size": "1.0Ti"}), live=live)
    with pytest.raises(helm_python.HelmError, match="1Ti"):
        render(cached({**PERSISTENT, "size": "1T"}), live=live)
