"""helm/s1-server, rendered by Helm's own engine, and its manifests judged by Kubernetes' schemas.

`python -m tests.support.chart` writes the snapshots and the example in docs/ anew.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import helm_python
import jsonschema
import kubernetes_validate
import yaml

from tests.support.cluster import cluster
from tests.support.crds import CRDS

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "s1-server"
CI_VALUES = tuple(sorted(path.name for path in (CHART / "ci").glob("*-values.yaml")))
KUBERNETES = ("1.31.0", "1.37.0")
"""The oldest that Chart.yaml takes, and the newest with schemas."""
SNAPSHOTS = ROOT / "tests" / "deploy" / "snapshots"
EXAMPLE = ROOT / "docs" / "examples" / "two-nodes-tp8-pp2.yaml"

Manifest = dict[str, Any]


def values_of(ci_file: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((CHART / "ci" / ci_file).read_text())
    return loaded


@functools.cache
def _chart() -> helm_python.Chart:
    return helm_python.Chart.load(CHART)


def render(
    values: dict[str, Any],
    *,
    name: str = "s1",
    namespace: str = "serving",
    live: Sequence[Manifest] | None = None,
) -> tuple[list[Manifest], str]:
    """Manifests, and NOTES.txt.

    Args:
        live: what the cluster has, each with its namespace. None: no cluster, as for `helm template`.

    Raises:
        helm_python.HelmError: a value is refused by the schema or by a template.
    """
    if live is None:
        rendered = _chart().render(values, name=name, namespace=namespace)
    else:
        with (
            cluster(live) as kubeconfig,
            helm_python.Config(kubeconfig_content=kubeconfig, namespace=namespace) as helm,
        ):
            rendered = helm.render(_chart(), values, name=name, namespace=namespace)
    notes = next(text for path, text in rendered.items() if path.endswith("NOTES.txt"))
    manifests = [
        manifest
        for path, text in sorted(rendered.items())
        if not path.endswith("NOTES.txt")
        for manifest in yaml.safe_load_all(text)
        if manifest
    ]
    return manifests, notes


@functools.cache
def rendered(ci_file: str) -> tuple[Manifest, ...]:
    return tuple(render(values_of(ci_file))[0])


def one(manifests: tuple[Manifest, ...] | list[Manifest], kind: str, ending: str = "") -> Manifest:
    found = [m for m in manifests if m["kind"] == kind and m["metadata"]["name"].endswith(ending)]
    assert len(found) == 1, f"{len(found)} of kind {kind} ending in {ending!r}"
    return found[0]


def pod_specs(manifests: tuple[Manifest, ...] | list[Manifest]) -> dict[str, dict[str, Any]]:
    """Every pod that the manifests would make, by the name of what makes it."""
    specs: dict[str, dict[str, Any]] = {}
    for manifest in manifests:
        name, spec = f"{manifest['kind']}/{manifest['metadata']['name']}", manifest.get("spec", {})
        if manifest["kind"] == "Pod":
            specs[name] = spec
        elif manifest["kind"] == "LeaderWorkerSet":
            for role in ("leader", "worker"):
                specs[f"{name}/{role}"] = spec["leaderWorkerTemplate"][f"{role}Template"]["spec"]
        elif "template" in spec:
            specs[name] = spec["template"]["spec"]
    return specs


def validate(manifest: Manifest, kubernetes: str) -> None:
    """
    Raises:
        kubernetes_validate.ValidationError, jsonschema.ValidationError: it is not what its kind takes.
    """
    kind = (manifest["apiVersion"], manifest["kind"])
    if kind not in CRDS:
        kubernetes_validate.validate(manifest, kubernetes, strict=True)
        return
    jsonschema.Draft202012Validator(CRDS[kind]).validate(manifest)
    if manifest["kind"] == "LeaderWorkerSet":
        for role in ("leader", "worker"):
            template = manifest["spec"]["leaderWorkerTemplate"][f"{role}Template"]
            pod = {
                "apiVersion": "v1",
                "kind": "PodTemplate",
                "metadata": {"name": role},
                "template": template,
            }
            kubernetes_validate.validate(pod, kubernetes, strict=True)


def snapshot(ci_file: str) -> str:
    """What a reader of a change wants to see: which objects there are, and what their containers run."""
    manifests = rendered(ci_file)
    objects = sorted(f"{m['kind']}/{m['metadata']['name']}" for m in manifests)
    pods = {
        name: {
            "grace_s": spec.get("terminationGracePeriodSeconds"),
            "containers": {c["name"]: _container(c) for c in spec["containers"]},
        }
        for name, spec in pod_specs(manifests).items()
    }
    shown = {"objects": objects, "pods": pods}
    return yaml.safe_dump(json.loads(json.dumps(shown)), sort_keys=True, width=110)


def _container(container: dict[str, Any]) -> dict[str, Any]:
    arguments = [a for a in container.get("args", []) if "\n" not in a]
    return {
        "image": container["image"],
        "args": " ".join(arguments),
        "env": sorted(e["name"] for e in container.get("env", [])),
        "limits": container["resources"].get("limits", {}),
    }


def example() -> str:
    """The engines of two nodes, in full."""
    kinds = ("LeaderWorkerSet", "Service", "NetworkPolicy")
    manifests = [m for m in rendered("two-nodes-tp8-pp2-values.yaml") if m["kind"] in kinds]
    engine = [m for m in manifests if not m["metadata"]["name"].endswith("gateway")]
    command = "helm template s1 . --namespace serving --values ci/two-nodes-tp8-pp2-values.yaml"
    head = f"# In helm/s1-server, {command}: the engine.\n"
    return head + "---\n".join(yaml.dump(m, Dumper=_Readable, sort_keys=False, width=110) for m in engine)


class _Readable(yaml.SafeDumper):
    """Scripts as blocks."""


_Readable.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
    ),
)


def main() -> None:
    SNAPSHOTS.mkdir(exist_ok=True)
    for ci_file in CI_VALUES:
        (SNAPSHOTS / ci_file.replace("-values", "")).write_text(snapshot(ci_file))
    EXAMPLE.parent.mkdir(exist_ok=True)
    EXAMPLE.write_text(example())


if __name__ == "__main__":
    main()
