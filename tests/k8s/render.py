"""What ``kubectl apply -k`` would send, and the pods it would make."""

import functools
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
WORKLOADS = ("Deployment", "Job")

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The one in C, where there is one: a dashboard is long."""

Manifest = dict[str, Any]


@functools.cache
def _renderer() -> tuple[str, ...]:
    own = ROOT / ".venv" / "bin" / "kustomize"  # where scripts/setup puts it, if the machine has none
    for program, *arguments in (["kustomize", "build"], [str(own), "build"], ["kubectl", "kustomize"]):
        if found := shutil.which(program):
            return (found, *arguments)
    raise RuntimeError("the tests need kustomize or kubectl; run `make setup`")


@functools.cache
def _rendered(folder: Path) -> tuple[Manifest, ...]:
    told = subprocess.run([*_renderer(), str(folder)], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert "deprecated" not in told.stderr, told.stderr
    return tuple(manifest for manifest in yaml.load_all(told.stdout, LOADER) if manifest is not None)


def render(folder: str | Path) -> list[Manifest]:
    """Every object of the kustomization in ``folder``, of ``k8s/`` unless it is absolute. Not to be changed."""
    return list(_rendered(K8S / folder))


def overlay(folder: Path, kustomization: Manifest) -> Path:
    """A kustomization of the test's own; relative paths in it begin at ``k8s/``. Returns its folder."""
    folder.mkdir(parents=True)
    for key in ("resources", "components"):
        # kustomize takes no absolute paths
        up = Path(*[".."] * len(folder.resolve().parts[1:]))
        kustomization[key] = [str(up / (K8S / path).relative_to("/")) for path in kustomization.get(key, [])]
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return folder


def of_kind(manifests: list[Manifest], *kinds: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] in kinds]


def named(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    [found] = [manifest for manifest in of_kind(manifests, kind) if manifest["metadata"]["name"] == name]
    return found


def pod_of(workload: Manifest) -> Manifest:
    """Its pod template."""
    template: Manifest = workload["spec"]["template"]
    return template


@dataclass(frozen=True)
class Container:
    """One container of a workload, and where it was found."""

    workload: Manifest
    spec: Manifest

    @property
    def pod(self) -> Manifest:
        spec: Manifest = pod_of(self.workload)["spec"]
        return spec

    @property
    def where(self) -> str:
        return f"{self.workload['kind']} {self.workload['metadata']['name']}"

    def port(self, name: str | int) -> int:
        """The number of a port that is named, or a number."""
        if isinstance(name, int):
            return name
        [number] = [port["containerPort"] for port in self.spec.get("ports", []) if port["name"] == name]
        return int(number)

    def environment(self, manifests: list[Manifest], secrets: dict[str, dict[str, str]]) -> dict[str, str]:
        """As a kubelet makes it: ConfigMaps, then what is named one by one."""
        found: dict[str, str] = {}
        for source in self.spec.get("envFrom", []):
            found |= named(manifests, "ConfigMap", source["configMapRef"]["name"])["data"]
        for variable in self.spec.get("env", []):
            if "value" in variable:
                found[variable["name"]] = variable["value"]
            else:
                reference = variable["valueFrom"]["secretKeyRef"]
                found[variable["name"]] = secrets[reference["name"]][reference["key"]]
        return found


def containers(manifests: list[Manifest]) -> Iterator[Container]:
    for workload in of_kind(manifests, *WORKLOADS):
        spec = pod_of(workload)["spec"]
        for each in (*spec.get("initContainers", []), *spec["containers"]):
            yield Container(workload, each)
