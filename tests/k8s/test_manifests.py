"""Each overlay and component builds, and every object is what its schema says, in each Kubernetes that is supported."""

import json
from copy import deepcopy
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest

from tests.k8s.render import K8S, ROOT, Manifest, named, overlay, render

VERSIONS = ("1.30", "1.31", "1.32", "1.33", "1.34", "1.35", "1.36", "1.37")
OLDEST, NEWEST = VERSIONS[0], VERSIONS[-1]
BUILDS = [
    *(("overlays/production", version) for version in VERSIONS),
    *((folder, version) for folder in ("base", "overlays/dev") for version in (OLDEST, NEWEST)),
]
COMPONENTS = tuple(path.parent.name for path in sorted((K8S / "components").glob("*/kustomization.yaml")))
SCHEMAS = Path(__file__).parent / "schemas"


def check(manifest: Manifest, version: str) -> None:
    """Raises what is wrong with it."""
    kind, api = manifest["kind"].lower(), manifest["apiVersion"].replace("/", "-")
    schema = SCHEMAS / f"{kind}-{api}.json"
    if schema.exists():
        jsonschema.validate(manifest, json.loads(schema.read_text()))
    else:
        kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize(("folder", "version"), BUILDS)
def test_every_object_is_valid(folder: str, version: str) -> None:
    for manifest in render(folder):
        check(manifest, version)


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_component_goes_with_the_production_overlay(component: str, tmp_path: Path) -> None:
    folder = overlay(
        tmp_path / "own", {"resources": ["overlays/production"], "components": [f"components/{component}"]}
    )

    manifests = render(folder)

    for manifest in manifests:
        check(manifest, NEWEST)
    ways = [named(manifests, "NetworkPolicy", name) for name in ("verger-to-mongodb", "verger-to-rabbitmq")]
    assert any("to" in rule for way in ways for rule in way["spec"]["egress"])


def test_the_documentation_names_the_versions_that_are_checked() -> None:
    page = (ROOT / "docs" / "kubernetes.md").read_text()

    assert f"Kubernetes {OLDEST} to {NEWEST}" in page


@pytest.mark.parametrize(
    ("kind", "name", "field"),
    [
        ("Deployment", "verger-worker", "replica"),
        ("ScaledObject", "verger-worker", "minReplicas"),
        ("PodMonitor", "verger", "endpoints"),
        ("NetworkPolicy", "verger-to-dns", "egres"),
    ],
)
def test_a_field_that_is_written_wrongly_is_found(kind: str, name: str, field: str) -> None:
    manifest = deepcopy(named(render("overlays/production"), kind, name))
    check(manifest, NEWEST)

    manifest["spec"][field] = 1

    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        check(manifest, NEWEST)
