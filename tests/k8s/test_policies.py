"""What a reviewer would ask of the manifests, and whether they say what the code does."""

import asyncio
import ipaddress
import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from actors.composition import Role
from actors.health import Health
from actors.health_server import HealthServer
from schemas.schedule import ScheduleFile
from service.metrics import Metrics
from service.registry import Registry, load
from service.schedule_entry import Rules
from service.schedule_file import read_file
from service.settings import API_PORT, Settings, load_settings
from service.timetable import plan
from service.version import VERSION
from tests.k8s.render import K8S, ROOT, Container, Manifest, containers, named, of_kind, overlay, pod_of, render

OVERLAYS = ("base", "overlays/dev", "overlays/production")
PRODUCTION = "overlays/production"
END_SECONDS = 20
"""What the end of a worker takes at most, after the grace: see ``Worker.stop`` and ``App.stop``."""
SECRETS = {
    "verger-servers": {
        "mongodb-url": "mongodb://ada:hidden@mongo:27017/?replicaSet=rs0",
        "amqp-url": "amqps://ada:hidden@rabbit:5671/",
    }
}


EACH = pytest.mark.parametrize("folder", OVERLAYS)


def settings_of(folder: str, container: Container, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Those that its process would have. Fails if it would not start with them."""
    for name in list(os.environ):
        if name.upper().startswith("VERGER_"):
            monkeypatch.delenv(name)
    for name, value in container.environment(render(folder), SECRETS).items():
        monkeypatch.setenv(name, value)
    return load_settings()


# ---- one container ------------------------------------------------------------------------------


@EACH
def test_it_is_restricted(folder: str) -> None:
    for container in containers(render(folder)):
        own, pod = container.spec["securityContext"], container.pod["securityContext"]

        assert own == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert pod["runAsNonRoot"] is True
        assert pod["runAsUser"] == pod["runAsGroup"] == pod["fsGroup"] == 65532
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(container.pod)
        kinds = {kind for volume in container.pod["volumes"] for kind in volume if kind != "name"}
        assert kinds <= {"emptyDir", "configMap", "secret", "persistentVolumeClaim"}


@EACH
def test_it_has_no_token(folder: str) -> None:
    for container in containers(render(folder)):
        assert container.pod["automountServiceAccountToken"] is False
        account = container.pod.get("serviceAccountName")
        assert (
            account is None or named(render(folder), "ServiceAccount", account)["automountServiceAccountToken"] is False
        )


@EACH
def test_its_image_is_pinned_to_this_version(folder: str) -> None:
    for container in containers(render(folder)):
        _, _, tag = container.spec["image"].rpartition(":")

        assert tag in (VERSION, f"{VERSION}-dev")


@EACH
def test_it_asks_for_what_it_needs_and_has_limits(folder: str) -> None:
    for container in containers(render(folder)):
        resources = container.spec["resources"]

        assert set(resources["requests"]) == set(resources["limits"]) == {"cpu", "memory", "ephemeral-storage"}
        assert all("sizeLimit" in volume["emptyDir"] for volume in container.pod["volumes"] if "emptyDir" in volume)


@EACH
def test_it_writes_only_where_a_volume_is(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for container in containers(render(folder)):
        settings = settings_of(folder, container, monkeypatch)
        mounts = {mount["mountPath"]: mount for mount in container.spec["volumeMounts"]}

        assert {"/tmp", str(settings.data_dir)} <= set(mounts)
        assert not {mounts["/tmp"].get("readOnly"), mounts[str(settings.data_dir)].get("readOnly")} - {None}
        assert {mount["name"] for mount in mounts.values()} == {volume["name"] for volume in container.pod["volumes"]}
        for path in (settings.claude_projects, settings.secrets_dir, settings.api_keys_file):
            assert path is None or {str(path), *map(str, path.parents)} & set(mounts)


@EACH
def test_its_settings_are_settings(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for container in containers(render(folder)):
        settings = settings_of(folder, container, monkeypatch)

        load(settings.actors)
        for name in container.environment(render(folder), SECRETS):
            assert name.removeprefix("VERGER_").lower() in Settings.model_fields


@EACH
def test_its_probes_ask_ports_and_paths_that_are_there(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for container in containers(render(folder)):
        if container.workload["kind"] == "Job":
            continue
        settings = settings_of(folder, container, monkeypatch)
        asked = {kind: container.spec[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}

        assert {kind: get["path"] for kind, get in asked.items()} == {
            "startup": "/healthz",
            "liveness": "/healthz",
            "readiness": "/readyz",
        }
        assert {container.port(get["port"]) for get in asked.values()} == {settings.health_port}
        names = [port["name"] for port in container.spec["ports"]]
        assert ("api" in names) == (container.spec["args"][:3] == ["run", "--roles", "api"])
        if "api" in names:
            assert container.port("api") == settings.api_port == API_PORT


@EACH
def test_it_has_time_to_end(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for container in containers(render(folder)):
        settings = settings_of(folder, container, monkeypatch)
        given = timedelta(seconds=container.pod["terminationGracePeriodSeconds"])
        before = container.spec.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        needed = timedelta(seconds=END_SECONDS + before)
        if container.spec["args"] in (["run", "--roles", "worker"],) or container.spec["args"][0] == "dev":
            needed += settings.shutdown_grace

        assert given >= needed


@EACH
def test_it_runs_what_the_command_line_knows(folder: str) -> None:
    for container in containers(render(folder)):
        match container.spec["args"]:
            case ["run", "--roles", roles]:
                assert [Role(role) for role in roles.split(",")]
            case ["dev", "--demo", "--schedules", path] | ["schedules", "apply", path, "--prune"]:
                assert path == "/config/schedules.json"
            case other:
                pytest.fail(f"it runs {other}")


# ---- all of them --------------------------------------------------------------------------------


@EACH
def test_nothing_secret_is_in_the_manifests(folder: str) -> None:
    manifests = render(folder)

    assert not of_kind(manifests, "Secret")
    for settings in of_kind(manifests, "ConfigMap"):
        for name, value in settings["data"].items():
            assert not re.search(r"://[^/\s]*@|password|secret|token|vgr_", value, re.IGNORECASE), name
            assert not re.search(r"_URL|KEYS$|PASSWORD|TOKEN", name)


@EACH
def test_selectors_match_their_own_pods_and_no_others(folder: str) -> None:
    manifests = render(folder)
    pods = {workload["metadata"]["name"]: pod_of(workload)["metadata"]["labels"] for workload in workloads(manifests)}

    def selected(selector: dict[str, str]) -> set[str]:
        return {name for name, labels in pods.items() if selector.items() <= labels.items()}

    for deployment in of_kind(manifests, "Deployment"):
        name = deployment["metadata"]["name"]
        assert selected(deployment["spec"]["selector"]["matchLabels"]) == {name}
        # With two of them, a node cannot be drained.
        budgets = [
            budget
            for budget in of_kind(manifests, "PodDisruptionBudget")
            if name in selected(budget["spec"]["selector"]["matchLabels"])
        ]
        assert [budget["spec"]["maxUnavailable"] for budget in budgets] == ([1] if folder != "overlays/dev" else [])
    for service in of_kind(manifests, "Service"):
        [name] = selected(service["spec"]["selector"])
        [container] = [each for each in containers(manifests) if each.workload["metadata"]["name"] == name]
        assert [container.port(port["targetPort"]) for port in service["spec"]["ports"]] == [API_PORT]
    for monitor in of_kind(manifests, "PodMonitor"):
        assert selected(monitor["spec"]["selector"]["matchLabels"]) == set(pods)
        assert {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]} == {"health"}
    for policy in of_kind(manifests, "NetworkPolicy"):
        assert selected(policy["spec"]["podSelector"]["matchLabels"]), policy["metadata"]["name"]


@EACH
def test_every_reference_leads_somewhere(folder: str) -> None:
    manifests = render(folder)
    known = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests}
    example = (K8S / "base" / "secret.example.yaml").read_text()

    for container in containers(manifests):
        for volume in container.pod["volumes"]:
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in known
            if "persistentVolumeClaim" in volume:
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in known
            if "secret" in volume:
                assert f"name: {volume['secret']['secretName']} " in example
        if "priorityClassName" in container.pod:
            assert ("PriorityClass", container.pod["priorityClassName"]) in known
        for variable in container.spec.get("env", []):
            for reference in [variable["valueFrom"]["secretKeyRef"]] if "valueFrom" in variable else []:
                assert f"name: {reference['name']} " in example
                assert f"\n  {reference['key']}: " in example
    for scaler in of_kind(manifests, "ScaledObject", "HorizontalPodAutoscaler"):
        target = named(manifests, "Deployment", scaler["spec"]["scaleTargetRef"]["name"])
        # Else each `kubectl apply` would undo what the scaler did.
        assert "replicas" not in target["spec"]


def workloads(manifests: list[Manifest]) -> list[Manifest]:
    return [container.workload for container in containers(manifests)]


# ---- schedules, pools, scaling ------------------------------------------------------------------


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    [worker] = [each for each in containers(render("base")) if each.where == "Deployment verger-worker"]
    return load(settings_of("base", worker, monkeypatch).actors)


def pools(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[str, ...]]:
    """Deployment → the task types it takes."""
    return {
        container.workload["metadata"]["name"]: settings_of(PRODUCTION, container, monkeypatch).types
        for container in containers(render(PRODUCTION))
        if container.spec["args"] == ["run", "--roles", "worker"]
    }


def test_each_task_type_is_taken_by_one_pool(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = sorted(task_type for types in pools(monkeypatch).values() for task_type in types)

    assert taken == sorted(handler.task_type for handler in registry if not handler.internal)


def test_a_pool_is_scaled_on_the_backlog_of_its_own_types(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    scaled = of_kind(render(PRODUCTION), "ScaledObject")

    assert len(scaled) == len(pools(monkeypatch)) - 1
    for scaler in scaled:
        [trigger] = scaler["spec"]["triggers"]
        asked = re.fullmatch(
            r'max\((\w+)\{namespace="verger",type=~"(.+)"\}\)', trigger["metadata"]["query"], re.DOTALL
        )
        assert asked
        metric, types = asked.groups()
        assert metric == "verger_backlog_seconds"
        assert f"| `{metric}` |" in page
        matched = {handler.task_type for handler in registry if re.fullmatch(types, handler.task_type)}
        assert matched == set(pools(monkeypatch)[scaler["spec"]["scaleTargetRef"]["name"]])


def test_the_schedules_are_ones_that_would_be_applied(registry: Registry) -> None:
    [settings] = [each for each in of_kind(render("base"), "ConfigMap") if "schedules.json" in each["data"]]
    file: ScheduleFile = read_file(settings["data"]["schedules.json"].encode())

    planned = plan(
        file,
        [],
        "schedules.json",
        True,
        rules=Rules(registry, max_bytes=Settings.model_fields["max_message_bytes"].default),
        now=datetime.now(UTC),
    )

    assert len(planned.create) == len(file.schedules) > 0


def test_other_schedules_are_another_job(tmp_path: Path) -> None:
    def job(text: str, name: str) -> str:
        folder = overlay(tmp_path / name, {"resources": ["base"]})
        (folder / "schedules.json").write_text(text)
        kustomization = folder / "kustomization.yaml"
        kustomization.write_text(
            kustomization.read_text()
            + "configMapGenerator: [{name: verger-schedules, behavior: replace, files: [schedules.json]}]\n"
        )
        [made] = of_kind(render(folder), "Job")
        [volume] = [each for each in pod_of(made)["spec"]["volumes"] if each["name"] == "schedules"]
        assert volume["configMap"]["name"] == made["metadata"]["name"]
        return str(made["metadata"]["name"])

    assert job('{"schedules": []}', "a") != job('{"schedules": [] }', "b")


# ---- the network --------------------------------------------------------------------------------


def test_nobody_talks_unless_it_is_said() -> None:
    policies = {policy["metadata"]["name"]: policy["spec"] for policy in of_kind(render(PRODUCTION), "NetworkPolicy")}
    nothing = policies.pop("verger-nothing-else")

    assert nothing["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in nothing
    assert "egress" not in nothing
    for name, policy in policies.items():
        for rule in (*policy.get("egress", []), *policy.get("ingress", [])):
            assert rule["ports"], name


def test_only_the_pool_that_calls_others_reaches_the_internet_and_nothing_private() -> None:
    manifests = render(PRODUCTION)
    policy = named(manifests, "NetworkPolicy", "verger-to-internet")["spec"]
    chosen = policy["podSelector"]["matchLabels"].items()
    [rule] = policy["egress"]
    blocks = [each["ipBlock"] for each in rule["to"]]

    def reached(address: str) -> bool:
        ip = ipaddress.ip_address(address)
        return any(
            ip in ipaddress.ip_network(block["cidr"])
            and not any(ip in ipaddress.ip_network(hole) for hole in block["except"])
            for block in blocks
        )

    assert {
        each["metadata"]["name"]
        for each in workloads(manifests)
        if chosen <= pod_of(each)["metadata"]["labels"].items()
    } == {"verger-worker-outbound"}
    assert rule["ports"] == [{"protocol": "TCP", "port": 443}]
    for block in blocks:
        network = ipaddress.ip_network(block["cidr"])
        holes = [ipaddress.ip_network(hole) for hole in block["except"]]
        assert all(hole.network_address in network and hole.broadcast_address in network for hole in holes)
    for address in ("93.184.216.34", "8.8.8.8", "2606:4700::1111"):
        assert reached(address)
    for address in (
        "10.1.2.3", "172.16.0.1", "192.168.1.1", "127.0.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "255.255.255.255", "::1", "fd00::1", "fe80::1", "ff02::1", "64:ff9b::7f00:1", "2002:7f00:1::", "fd00:ec2::254",
    ):  # fmt: skip
        assert not reached(address), address


# ---- the code -----------------------------------------------------------------------------------


async def test_the_paths_of_the_probes_are_those_that_the_port_answers() -> None:
    async def page() -> bytes:
        return b""

    server = HealthServer(Health(Metrics([])), page, "127.0.0.1", 0)

    answers = {path: (await asyncio.to_thread(server.answer, path))[0] for path in ("/healthz", "/readyz", "/metrics")}

    assert 404 not in answers.values()
    assert (await asyncio.to_thread(server.answer, "/ready"))[0] == 404


# ---- the documentation --------------------------------------------------------------------------


@pytest.mark.parametrize("page", ["README.md", "docs/kubernetes.md"])
def test_the_commands_of_the_documentation_name_what_is_there(page: str, registry: Registry) -> None:
    text = (ROOT / page).read_text()
    there = {each["metadata"]["name"] for folder in OVERLAYS for each in of_kind(render(folder), "Deployment")}

    for folder in re.findall(r"kubectl apply -k (\S+)", text):
        assert folder == "." or (ROOT / folder / "kustomization.yaml").exists(), folder
    assert set(re.findall(r"deploy/([\w-]+)", text)) <= there
    tried = set(re.findall(r"exec \S+ -- verger enqueue (\S+)", text))
    assert tried <= {handler.task_type for handler in registry}
    for image in re.findall(r"verger:(\d\S*)", text):
        assert image in (VERSION, f"{VERSION}-dev")
