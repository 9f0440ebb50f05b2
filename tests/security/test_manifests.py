"""With the patches of docs/permissions.md, each role reads a Secret of its own."""

from pathlib import Path
from typing import Any

import yaml

from tests.k8s.render import overlay, render
from tests.security.page import kubernetes_patches

COMPONENT = "app.kubernetes.io/component"


def test_each_role_reads_the_urls_of_its_own_user(tmp_path: Path) -> None:
    worker = kubernetes_patches()
    job = worker.replace("kind: Deployment, labelSelector: app.kubernetes.io/component=worker", "kind: Job")
    job = job.replace("apps/v1", "batch/v1").replace("kind: Deployment", "kind: Job").replace("worker", "operator")
    data = worker.replace(f"{COMPONENT}=worker", "verger/pool=data").replace("servers-worker", "servers-data")
    all_of_them = [worker, data, worker.replace("worker", "scheduler"), worker.replace("worker", "api"), job]
    patches = [patch for each in all_of_them for patch in yaml.safe_load(each)["patches"]]
    folder = overlay(tmp_path / "overlay", {"resources": ["overlays/production"], "patches": patches})

    read: dict[str, set[str]] = {}
    for manifest in render(folder):
        if manifest["kind"] in ("Deployment", "Job"):
            labels = manifest["metadata"]["labels"]
            role = labels.get("verger/pool", labels[COMPONENT])
            read.setdefault(role, set()).update(servers_of(manifest))

    assert read == {
        "scheduler": {"verger-servers-scheduler"},
        "general": {"verger-servers-worker"},
        "outbound": {"verger-servers-worker"},
        "data": {"verger-servers-data"},
        "api": {"verger-servers-api"},
        "schedules": {"verger-servers-operator"},
    }


def servers_of(manifest: dict[str, Any]) -> set[str]:
    """The Secrets that name the servers, of all containers."""
    spec = manifest["spec"]["template"]["spec"]
    containers = [*spec["containers"], *spec.get("initContainers", ())]
    named = [
        each["valueFrom"]["secretKeyRef"]
        for container in containers
        for each in container["env"]
        if "valueFrom" in each
    ]
    return {each["name"] for each in named if each.get("key") in ("mongodb-url", "amqp-url")}
