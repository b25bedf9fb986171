"""Schemas of the custom resources that the chart makes.

Reduced: written from each project's API reference, with the fields that the chart uses and no others, so that
a misspelt or misplaced one is found. They are not the projects' own files.

- LeaderWorkerSet v1: lws.sigs.k8s.io, API reference `leaderworkerset.x-k8s.io/v1`
- ServiceMonitor, PrometheusRule v1: prometheus-operator.dev, API reference `monitoring.coreos.com/v1`
- HTTPRoute v1: gateway-api.sigs.k8s.io, `gateway.networking.k8s.io/v1`
- InferencePool v1: gateway-api-inference-extension.sigs.k8s.io, `inference.networking.k8s.io/v1`
- ScaledObject: keda.sh, `keda.sh/v1alpha1`
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

_STRING: Schema = {"type": "string", "minLength": 1}
_STRINGS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
_POSITIVE: Schema = {"type": "integer", "minimum": 1}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65535}
_DURATION: Schema = {"type": "string", "pattern": "^([0-9]{1,5}(h|m|s|ms)){1,4}$"}


def _object(required: str = "", /, **properties: Schema) -> Schema:
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "required": required.split(),
    }


def _list(items: Schema, *, least: int = 0) -> Schema:
    return {"type": "array", "items": items, "minItems": least}


def _enum(*values: str) -> Schema:
    return {"enum": list(values)}


def _resource(spec: Schema) -> Schema:
    metadata = _object("name labels", name=_STRING, labels=_STRINGS, annotations=_STRINGS)
    return _object(
        "apiVersion kind metadata spec", apiVersion=_STRING, kind=_STRING, metadata=metadata, spec=spec
    )


_POD_TEMPLATE: Schema = {"type": "object", "required": ["metadata", "spec"]}
"""Judged apart, by Kubernetes' own schema."""

_LEADER_WORKER_SET = _object(
    "leaderWorkerTemplate",
    replicas=_COUNT,
    startupPolicy=_enum("LeaderCreated", "LeaderReady"),
    rolloutStrategy=_object(
        "type",
        type=_enum("RollingUpdate"),
        rollingUpdateConfiguration=_object(maxUnavailable=_COUNT, maxSurge=_COUNT),
    ),
    leaderWorkerTemplate=_object(
        "workerTemplate",
        size=_POSITIVE,
        restartPolicy=_enum("RecreateGroupOnPodRestart", "None"),
        leaderTemplate=_POD_TEMPLATE,
        workerTemplate=_POD_TEMPLATE,
    ),
)
_RELABELING = _object(
    sourceLabels=_list(_STRING),
    targetLabel=_STRING,
    replacement={"type": "string"},
    regex=_STRING,
    action=_STRING,
)
_SERVICE_MONITOR = _object(
    "selector endpoints",
    selector=_object("matchLabels", matchLabels=_STRINGS),
    endpoints=_list(
        _object(
            "port",
            port=_STRING,
            path=_STRING,
            interval=_DURATION,
            authorization=_object(
                "credentials", type=_STRING, credentials=_object("name key", name=_STRING, key=_STRING)
            ),
            relabelings=_list(_RELABELING),
            metricRelabelings=_list(_RELABELING),
        ),
        least=1,
    ),
)
_RULE = _object(
    "alert expr",
    alert=_STRING,
    expr=_STRING,
    **{"for": _DURATION, "labels": _STRINGS, "annotations": _STRINGS, "keep_firing_for": _DURATION},
)
_PROMETHEUS_RULE = _object(
    "groups",
    groups=_list(_object("name rules", name=_STRING, interval=_DURATION, rules=_list(_RULE)), least=1),
)
_HTTP_ROUTE = _object(
    "parentRefs rules",
    parentRefs=_list(
        _object(
            "name",
            group=_STRING,
            kind=_STRING,
            name=_STRING,
            namespace=_STRING,
            sectionName=_STRING,
            port=_PORT,
        ),
        least=1,
    ),
    hostnames=_list(_STRING),
    rules=_list(
        _object(
            matches=_list(_object(path=_object(type=_enum("Exact", "PathPrefix"), value=_STRING))),
            timeouts=_object(request=_DURATION, backendRequest=_DURATION),
            backendRefs=_list(
                _object("name", group=_STRING, kind=_STRING, name=_STRING, port=_PORT, weight=_COUNT)
            ),
        ),
        least=1,
    ),
)
_INFERENCE_POOL = _object(
    "selector targetPorts endpointPickerRef",
    selector=_object("matchLabels", matchLabels=_STRINGS),
    targetPorts=_list(_object("number", number=_PORT), least=1),
    endpointPickerRef=_object(
        "name port",
        group=_STRING,
        kind=_STRING,
        name=_STRING,
        port=_object("number", number=_PORT),
        failureMode=_enum("FailOpen", "FailClose"),
    ),
)
_SCALED_OBJECT = _object(
    "scaleTargetRef triggers",
    scaleTargetRef=_object("name", apiVersion=_STRING, kind=_STRING, name=_STRING),
    minReplicaCount=_COUNT,
    maxReplicaCount=_POSITIVE,
    pollingInterval=_POSITIVE,
    cooldownPeriod=_COUNT,
    advanced=_object(
        horizontalPodAutoscalerConfig=_object(
            behavior=_object(scaleDown=_object(stabilizationWindowSeconds=_COUNT))
        )
    ),
    triggers=_list(
        _object(
            "type metadata",
            type=_enum("prometheus"),
            metadata=_object(
                "serverAddress query threshold", serverAddress=_STRING, query=_STRING, threshold=_STRING
            ),
        ),
        least=1,
    ),
)

CRDS: dict[tuple[str, str], Schema] = {
    ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet"): _resource(_LEADER_WORKER_SET),
    ("monitoring.coreos.com/v1", "ServiceMonitor"): _resource(_SERVICE_MONITOR),
    ("monitoring.coreos.com/v1", "PrometheusRule"): _resource(_PROMETHEUS_RULE),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): _resource(_HTTP_ROUTE),
    ("inference.networking.k8s.io/v1", "InferencePool"): _resource(_INFERENCE_POOL),
    ("keda.sh/v1alpha1", "ScaledObject"): _resource(_SCALED_OBJECT),
}
