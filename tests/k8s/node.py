"""A node for tests: runs the containers of manifests as processes of this machine, and probes them as a kubelet does.

What a container runtime gives to a pod is given by other means: its volumes are folders, under which its paths are
looked for; its ports are free ones of this machine, since all pods here have one network; its image is this checkout.
Everything else, its arguments and its environment, is what the manifests say.
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from service.child_process import ending_with_parent, free_port
from tests.k8s.dockerfile import DOCKERFILE
from tests.k8s.render import ROOT, Container, Manifest, named

PATIENCE = 120.0
"""How long anything may take here: a bound of hangs, not of the machine's pace."""


@dataclass
class Asked:
    """One answer to a probe."""

    at: float
    kind: str
    status: int
    """0: none."""
    body: str


@dataclass
class Pod:
    """One container that runs."""

    name: str
    container: Container
    ports: dict[str, int]
    log_file: Path
    process: "subprocess.Popen[bytes]"
    environment: dict[str, str]
    answers: list[Asked] = field(default_factory=list)
    kubelet: "asyncio.Task[None] | None" = None

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def log(self) -> list[dict[str, Any]]:
        """Its log lines; what is no JSON is a line ``{"raw": …}``."""
        lines = []
        for line in self.log_file.read_text().splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                lines.append({"raw": line})
        return lines

    async def ask(self, kind: str) -> Asked:
        """What its ``startup``, ``liveness`` or ``readiness`` probe says now."""
        probe = self.container.spec[f"{kind}Probe"]
        where = probe["httpGet"]
        url = f"http://127.0.0.1:{self.ports[where['port']]}{where['path']}"
        try:
            async with httpx.AsyncClient(trust_env=False, verify=False, timeout=PATIENCE) as http:
                answer = await http.get(url)
                asked = Asked(time.monotonic(), kind, answer.status_code, answer.text)
        except httpx.TransportError as error:
            asked = Asked(time.monotonic(), kind, 0, repr(error))
        self.answers.append(asked)
        return asked

    async def until(self, kind: str, status: int) -> Asked:
        """The first answer with this status."""
        deadline = time.monotonic() + PATIENCE
        while (asked := await self.ask(kind)).status != status:
            if not self.alive or time.monotonic() > deadline:
                lines = "\n".join(self.log_file.read_text().splitlines()[-10:])
                raise AssertionError(f"{self.name} is not {status} for its {kind} probe but {asked}:\n{lines}")
            await asyncio.sleep(0.1)
        return asked

    async def ready(self) -> None:
        """Started, then ready; from then on its liveness is asked as often as its probe says."""
        await self.until("startup", 200)
        await self.until("readiness", 200)
        self.kubelet = self.kubelet or asyncio.create_task(self._watch(), name=f"kubelet of {self.name}")

    async def _watch(self) -> None:
        while self.alive:
            await self.ask("liveness")
            await asyncio.sleep(self.container.spec["livenessProbe"]["periodSeconds"])

    @property
    def would_restart(self) -> bool:
        """Whether so many probes in a row said that it does not live, while it did."""
        said = [asked.status for asked in self.answers if asked.kind == "liveness"]
        limit = self.container.spec["livenessProbe"]["failureThreshold"]
        return any(all(status == 503 for status in said[at : at + limit]) for at in range(len(said) - limit + 1))

    async def told(self) -> None:
        """Its preStop hook, then SIGTERM."""
        await asyncio.sleep(
            self.container.spec.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        )
        self.process.send_signal(signal.SIGTERM)

    async def ended(self) -> int:
        """Its exit code. A kubelet would kill it when its grace is over; here that is a failure."""
        seconds = float(self.container.pod["terminationGracePeriodSeconds"])
        return await asyncio.wait_for(asyncio.to_thread(self.process.wait), seconds)

    async def execute(self, *command: str) -> str:
        """What ``kubectl exec`` prints: in its environment, beside it."""
        process = await asyncio.create_subprocess_exec(
            *_command(command[1:], self.environment, command[0]),
            env=self.environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
        assert process.returncode == 0, said.decode()
        return said.decode()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Node:
    """Runs containers of these manifests until it is closed."""

    def __init__(self, manifests: list[Manifest], secrets: dict[str, dict[str, str]], folder: Path) -> None:
        self.manifests, self.secrets, self.folder = manifests, secrets, folder
        self.pods: list[Pod] = []

    def run(self, container: Container) -> Pod:
        """Start one more pod of its workload."""
        name = f"{container.workload['metadata']['name']}-{len(self.pods)}"
        paths = self._volumes(container, self.folder / name)
        ports = {port["name"]: free_port() for port in container.spec.get("ports", [])}
        taken = {str(container.port(port)): str(number) for port, number in ports.items()}
        environment = container.environment(self.manifests, self.secrets)
        for variable, value in environment.items():
            if variable.endswith("_PORT"):
                # One that no probe and no Service asks may be anybody's on this machine, too.
                environment[variable] = taken.get(value) or str(free_port())
            elif value.startswith("/"):
                environment[variable] = _found(value, paths)
        environment |= {
            **DOCKERFILE.environment({}, only="PYTHON"),
            "PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),  # as an image of one's own with handlers of one's own
            "TMPDIR": str(paths["/tmp"]),
        }
        arguments = [_found(value, paths) if value.startswith("/") else value for value in container.spec["args"]]
        log = self.folder / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ending_with_parent(*_command(arguments, environment)),
                cwd=paths["/tmp"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        pod = Pod(name, container, ports, log, process, environment)
        self.pods.append(pod)
        return pod

    def _volumes(self, container: Container, folder: Path) -> dict[str, Path]:
        """Where it mounts what → where that is here."""
        made: dict[str, Path] = {}
        for volume in container.pod["volumes"]:
            here = folder / volume["name"]
            if "persistentVolumeClaim" in volume:
                here = self.folder / "volumes" / volume["persistentVolumeClaim"]["claimName"]
            here.mkdir(parents=True, exist_ok=True)
            if "configMap" in volume:
                _fill(here, named(self.manifests, "ConfigMap", volume["configMap"]["name"])["data"])
            elif "secret" in volume:
                secret = volume["secret"]
                assert secret.get("optional") or secret["secretName"] in self.secrets
                _fill(here, self.secrets.get(secret["secretName"], {}))
            made[volume["name"]] = here
        mounts = {}
        for mount in container.spec["volumeMounts"]:
            here = made[mount["name"]] / mount.get("subPath", "")
            here.mkdir(exist_ok=True)
            mounts[mount["mountPath"]] = here
        return mounts

    async def close(self) -> None:
        for pod in self.pods:
            if pod.kubelet is not None:
                pod.kubelet.cancel()
            pod.kill()


def _fill(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).write_text(text)


def _found(path: str, mounts: dict[str, Path]) -> str:
    """Where a path of the pod is here: under the innermost volume that holds it."""
    for mount in sorted(mounts, key=len, reverse=True):
        if Path(path).is_relative_to(mount):
            return str(mounts[mount] / Path(path).relative_to(mount))
    raise AssertionError(f"no volume holds {path}")


def _command(arguments: Sequence[str], environment: Mapping[str, str], program: str | None = None) -> list[str]:
    """The entry point of the image, or another program, with its arguments."""
    name = program or DOCKERFILE.entrypoint[0]
    found = shutil.which(name, path=environment["PATH"])
    assert found is not None, f"{name} is not installed"
    return [found, *arguments]
