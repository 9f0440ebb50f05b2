"""The production overlay works: its Deployments and its Job, as processes with what the manifests give them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml

from schemas.access import KeyRole
from service.access_keys import create_key
from service.client import NewTask
from service.settings import Settings
from tests.k8s.node import Node, Pod
from tests.k8s.render import Container, containers, of_kind, overlay, render
from tests.promises.installation import Installation

POOL = "verger-worker"
OWN_TYPES = "test.work, test.noop, test.batches"
LONG = 15.0
"""Seconds of a run that is under way when its worker is told to stop; less than the grace."""


@dataclass
class Cluster:
    node: Node
    seen: Installation
    key: str

    def container(self, workload: str) -> Container:
        [found] = [each for each in containers(self.node.manifests) if each.workload["metadata"]["name"] == workload]
        return found

    def start(self, workload: str, replicas: int = 1) -> list[Pod]:
        return [self.node.run(self.container(workload)) for _ in range(replicas)]


@pytest.fixture
async def cluster(mongo_url: str, amqp_url: str, database: str, prefix: str, tmp_path: Path) -> AsyncIterator[Cluster]:
    """An overlay on the production overlay as somebody with handlers of his own would write one."""
    types = next(
        variable["value"]
        for container in containers(render("overlays/production"))
        if container.workload["metadata"]["name"] == POOL
        for variable in container.spec["env"]
        if variable["name"] == "VERGER_TYPES"
    )
    shipped = ",".join(Settings.model_fields["actors"].default)
    own = {"name": "verger", "env": [{"name": "VERGER_TYPES", "value": f"{types}, {OWN_TYPES}"}]}
    folder = overlay(
        tmp_path / "overlay",
        {
            "namespace": "verger",
            "resources": ["overlays/production"],
            "configMapGenerator": [
                {
                    "name": "verger-settings",
                    "behavior": "merge",
                    "literals": [
                        f"VERGER_DATABASE={database}",
                        f"VERGER_MEMORY_DATABASE={database}-memory",
                        f"VERGER_PREFIX={prefix}",
                        f"VERGER_ACTORS={shipped},tests.handlers",
                    ],
                }
            ],
            "patches": [
                {
                    "target": {"kind": "Deployment", "name": f"{POOL}$"},
                    "patch": yaml.safe_dump(
                        {
                            "apiVersion": "apps/v1",
                            "kind": "Deployment",
                            "metadata": {"name": POOL},
                            "spec": {"template": {"spec": {"containers": [own]}}},
                        }
                    ),
                }
            ],
        },
    )
    key, kept = create_key("tester", KeyRole.ADMIN)
    secrets = {
        "verger-servers": {"mongodb-url": mongo_url, "amqp-url": amqp_url},
        "verger-api-keys": {"keys": f"{kept}\n"},
    }
    (tmp_path / "node").mkdir()
    node = Node(render(folder), secrets, tmp_path / "node")
    seen = Installation(mongo_url, amqp_url, database, prefix, tmp_path)
    try:
        await seen.open()
        yield Cluster(node, seen, key)
    finally:
        await node.close()
        await seen.close()


async def test_the_production_overlay_runs_and_is_rolled_under_load_and_nothing_is_lost(cluster: Cluster) -> None:
    node, seen = cluster.node, cluster.seen

    # Everything starts side by side, as after `kubectl apply`: no order is asked for.
    replicas = {"verger-scheduler": 2, "verger-api": 1, POOL: 2}
    started = {
        deployment["metadata"]["name"]: cluster.start(
            deployment["metadata"]["name"], replicas.get(deployment["metadata"]["name"], 1)
        )
        for deployment in of_kind(node.manifests, "Deployment")
    }
    [job] = cluster.start(of_kind(node.manifests, "Job")[0]["metadata"]["name"])
    for pods in started.values():
        for pod in pods:
            await pod.ready()

    # The Job has applied the schedules, and shown its plan.
    assert await job.ended() == 0, job.log()
    said = [line["raw"] for line in job.log() if "raw" in line]
    assert [line for line in said if line.startswith("+ sessions-collect")]
    assert said[-1] == "Applied."
    [schedules] = [each for each in of_kind(node.manifests, "ConfigMap") if "schedules.json" in each["data"]]
    assert seen.schedules.count_documents({}) == schedules["data"]["schedules.json"].count('"id"')

    # The API answers with the key of the Secret, on the port of the Service.
    [api] = started["verger-api"]
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{api.ports['api']}", trust_env=False, verify=False, timeout=60
    ) as http:
        assert (await http.get("/admin/workers")).status_code == 401
        answer = await http.get("/admin/workers", headers={"authorization": f"Bearer {cluster.key}"})
        assert len(answer.json()["workers"]) == 4

    # The workers of one pool are rolled one by one, as a Deployment does, while tasks come in.
    ids: list[str] = []
    load = asyncio.create_task(come_in(seen, ids), name="load")
    old = started[POOL]
    for worker in old:
        [new] = cluster.start(POOL)
        await new.ready()
        await leave(worker, seen, ids)
    load.cancel()
    with suppress(asyncio.CancelledError):
        await load
    await seen.until(lambda: not unfinished(seen, ids), "all tasks to end")

    # Each ran once: nothing was lost, given back or tried again.
    assert len(ids) > 100
    assert seen.tasks.count_documents({"_id": {"$in": ids}, "status": "completed", "attempt": 1}) == len(ids)
    runs = seen.runs()
    assert {task: runs[task] for task in ids} == dict.fromkeys(ids, 1)

    # One dies without grace: the other takes what it had.
    victim, other = [pod for pod in node.pods if pod.container.workload["metadata"]["name"] == POOL and pod.alive]
    tasks = await seen.enqueue_surely(*(NewTask("test.work", {"seconds": 3}) for _ in range(40)))
    ids = [task.id for task in tasks]
    await seen.until(lambda: {victim.pid, other.pid} <= pids(seen, ids), "work in both")
    victim.kill()
    await seen.until(lambda: not unfinished(seen, ids), "all tasks to end, those of the dead one too", 150)
    assert seen.tasks.count_documents({"_id": {"$in": ids}, "status": "completed"}) == len(ids)

    # A kubelet would not have restarted any of them.
    assert not [pod.name for pod in node.pods if pod.kubelet is not None and pod.would_restart]
    told = [pod for pods in (started["verger-scheduler"], [api, other]) for pod in pods]
    await asyncio.gather(*(pod.told() for pod in told))
    assert [await pod.ended() for pod in told] == [0] * len(told)
    errors = [line for pod in node.pods for line in pod.log() if line.get("level") == "error"]
    assert not errors


async def test_the_dev_overlay_is_a_whole_verger_in_one_pod(tmp_path: Path) -> None:
    node = Node(render("overlays/dev"), {}, tmp_path)
    try:
        [pod] = [node.run(container) for container in containers(node.manifests)]
        await pod.ready()

        done = await pod.execute("verger", "enqueue", "sessions.collect", "--wait")
        listed = await pod.execute("verger", "tasks", "list")

        assert "completed" in done
        assert "sessions.collect" in listed
        await pod.told()
        assert await pod.ended() == 0
    finally:
        await node.close()


async def come_in(seen: Installation, ids: list[str]) -> None:
    """Ten tasks, again and again."""
    while True:
        tasks = await seen.enqueue_surely(*(NewTask("test.work", {"seconds": 0.5}) for _ in range(10)))
        ids += [task.id for task in tasks]
        await asyncio.sleep(0.5)


async def leave(worker: Pod, seen: Installation, ids: list[str]) -> None:
    """Told to stop while it runs something long: unready first, and it ends only after that run."""
    held: list[str] = []

    def holds() -> bool:
        return bool(seen.marks(pid=worker.pid, task={"$in": held}))

    while not holds():
        held += [
            task.id for task in await seen.enqueue_surely(*(NewTask("test.work", {"seconds": LONG}) for _ in range(4)))
        ]
        ids += held[-4:]
        with suppress(AssertionError):
            await seen.until(holds, "a long run in this worker", 5)
    mine = [mark["task"] for mark in seen.marks(pid=worker.pid, task={"$in": held})]

    await worker.told()
    answer = await worker.until("readiness", 503)

    assert "draining" in answer.body
    still = [task for task in mine if not seen.marks("end", task=task)]
    assert still
    assert (await worker.ask("liveness")).status == 200
    assert await worker.ended() == 0
    assert all(seen.marks("end", task=task, pid=worker.pid) for task in mine)
    [line] = [line for line in worker.log() if line.get("event") == "worker.stopped"]
    assert (line["released"], line["left_running"]) == (0, 0)


def unfinished(seen: Installation, ids: list[str]) -> int:
    finished = {"$in": ["completed", "failed", "cancelled"]}
    return len(ids) - int(seen.tasks.count_documents({"_id": {"$in": ids}, "status": finished}))


def pids(seen: Installation, ids: list[str]) -> set[int]:
    return {mark["pid"] for mark in seen.marks(task={"$in": ids})}
