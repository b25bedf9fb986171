"""A Kubernetes API that answers what Helm's `lookup` asks: kinds, and one object at a time."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_KINDS = {
    "apps/v1": {"deployments": "Deployment", "statefulsets": "StatefulSet"},
    "leaderworkerset.x-k8s.io/v1": {"leaderworkersets": "LeaderWorkerSet"},
}

_ABSENT = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}


@contextmanager
def cluster(objects: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A cluster in which these manifests are what runs; gives its kubeconfig."""
    answers = {f"/apis/{api}": _resources(api) for api in _KINDS} | {_path(o): o for o in objects}

    class Api(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = answers.get(self.path.split("?")[0])
            body = json.dumps(found or _ABSENT).encode()
            self.send_response(200 if found else 404)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        try:
            yield _kubeconfig(f"http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
            serving.join()


def _resources(api: str) -> dict[str, Any]:
    resources = [
        {"name": plural, "singularName": kind.lower(), "namespaced": True, "kind": kind, "verbs": ["get"]}
        for plural, kind in _KINDS[api].items()
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api, "resources": resources}


def _path(manifest: dict[str, Any]) -> str:
    api, metadata = manifest["apiVersion"], manifest["metadata"]
    (plural,) = (plural for plural, kind in _KINDS[api].items() if kind == manifest["kind"])
    return f"/apis/{api}/namespaces/{metadata['namespace']}/{plural}/{metadata['name']}"


def _kubeconfig(url: str) -> str:
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": url}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "c",
        }
    )
