"""``verger run --processes``: several on one machine keep every promise, whichever of them is told or killed."""

import os
import signal
import socket
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from service.child_process import free_port
from service.client import NewTask
from tests.promises.installation import PATIENT, Installation, Process

GONE_SECONDS = 60.0
"""The grace of a child, and what its end takes."""


def runs(pid: int) -> bool:
    """Whether a process does; one that nobody has buried does not."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    return False


async def both_work(installation: Installation, process: Process, count: int, seconds: float) -> list[str]:
    """Give it tasks until each child runs some; returns the ids."""
    tasks = await installation.client.enqueue_many([NewTask("test.work", {"seconds": seconds}) for _ in range(count)])
    await installation.until(
        lambda: {mark["pid"] for mark in installation.marks()} >= set(process.children), "work in each child"
    )
    return [task.id for task in tasks]


async def test_the_children_share_a_burst_and_sigterm_ends_them_all(installation: Installation) -> None:
    parent = await installation.start(
        "scheduler,worker", processes=2, environment=PATIENT | {"VERGER_CONCURRENCY": "5"}
    )
    children = parent.children

    await both_work(installation, parent, 60, 0.2)
    await installation.all_finished(60)

    assert len(children) == 2
    assert {mark["pid"] for mark in installation.marks()} == set(children)
    assert installation.tasks.count_documents({"status": "completed", "fence": 1}) == 60
    parent.signal(signal.SIGTERM)
    assert await parent.ended() == 0
    assert not any(map(runs, children))
    # Each line came whole, and none of them is about a process that died.
    assert [line for line in parent.log() if line.get("level") == "error" or "raw" in line] == []


@pytest.mark.parametrize("how", ["told", "told by others too", "killed"])
async def test_when_the_parent_is_told_or_killed_the_children_finish_what_they_run_and_burn_no_attempt(
    installation: Installation, how: str
) -> None:
    """By others too: systemd tells every process of a service."""
    parent = await installation.start(processes=2, environment=PATIENT | {"VERGER_CONCURRENCY": "5"})
    children = parent.children
    ids = await both_work(installation, parent, 100, 1)

    if how == "killed":
        parent.kill()
    else:
        parent.signal(signal.SIGTERM)
    if how == "told by others too":
        await installation.until(lambda: len(parent.events("verger.stopping")) == 2, "the children to be told")
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGTERM)
    if how != "killed":
        assert await parent.ended() == 0
    await installation.until(lambda: not any(map(runs, children)), "the children to end", GONE_SECONDS)

    assert [line["left_running"] for line in parent.events("worker.stopped")] == [0, 0]
    ended = {mark["task"] for mark in installation.marks("end")}
    assert installation.runs() == dict.fromkeys(ended, 1)
    assert installation.tasks.count_documents({"status": "completed"}) == len(ended) < 100
    assert installation.tasks.count_documents({"status": "running"}) == 0

    await installation.start("scheduler,worker", environment=PATIENT)
    await installation.all_finished(100)
    assert installation.runs() == dict.fromkeys(ids, 1)
    assert installation.tasks.count_documents({"status": "completed", "attempt": 1}) == 100


async def test_told_a_second_time_all_end_at_once(installation: Installation) -> None:
    parent = await installation.start(processes=2, environment={"VERGER_SHUTDOWN_GRACE": "60s"})
    children = parent.children
    await both_work(installation, parent, 40, 60)

    parent.signal(signal.SIGTERM)
    await installation.until(lambda: len(parent.events("verger.stopping")) == 2, "the children to be told")
    parent.signal(signal.SIGTERM)

    assert await parent.ended() == 128 + signal.SIGTERM
    assert not any(map(runs, children))


async def test_a_killed_child_comes_back_and_the_work_goes_on(installation: Installation) -> None:
    await installation.start("scheduler")
    parent = await installation.start(processes=2)
    killed, other = parent.children
    ids = await both_work(installation, parent, 40, 2)

    os.kill(killed, signal.SIGKILL)
    await installation.until(lambda: len(parent.events("verger.started")) == 3, "another child")

    [died] = parent.events("process.died")
    assert (died["pid"], died["signal"], died["restarts"]) == (killed, "SIGKILL", 1)
    assert died["restart_in_seconds"] < 1
    await installation.all_finished(40)
    assert installation.tasks.count_documents({"_id": {"$in": ids}, "status": "completed"}) == 40
    [new] = set(parent.children) - {other}
    await both_work(installation, parent, 40, 1)
    assert installation.marks(pid=new)
    assert parent.alive


def two_free_ports() -> int:
    """The first of two that follow each other."""
    while True:
        port = free_port()
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port + 1))
            return port


async def test_each_child_answers_probes_on_a_port_of_its_own(installation: Installation) -> None:
    port = two_free_ports()
    health = {"VERGER_HEALTH_PORT": str(port), "VERGER_HEALTH_HOST": "127.0.0.1"}
    parent = await installation.start(processes=2, environment=health)

    listening = sorted(line["port"] for line in parent.events("health.listening"))
    assert listening == [port, port + 1]
    async with httpx.AsyncClient(trust_env=False, verify=False) as http:
        for each in listening:
            assert (await http.get(f"http://127.0.0.1:{each}/healthz")).status_code == 200
            page = (await http.get(f"http://127.0.0.1:{each}/metrics")).text
            assert 'verger_slots{type="test.noop"}' in page
