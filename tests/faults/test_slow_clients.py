"""2,000 clients that hold on to the API, or to the probes' port: everybody else is served."""

import resource
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.faults.kit.fleet import Fleet
from tests.faults.kit.invariants import check
from tests.faults.kit.record import Recorder
from tests.faults.kit.slow_client import SlowClients
from tests.promises.installation import PATIENCE, Process

COUNT = 2000
DESCRIPTORS = 1024
"""What a process may open on most machines, unless somebody says otherwise."""
PATIENT_SECONDS = 5.0
"""What three requests of others may take in the middle: a slow machine stays below, and who queues behind 2,000 does
not."""


@pytest.mark.long
@pytest.mark.parametrize("door", ["api", "health"])
async def test_2000_slow_clients_keep_nobody_else_waiting(fleet: Fleet, record: Recorder, door: str) -> None:
    ports = {"VERGER_API_PORT": "0", "VERGER_HEALTH_PORT": "0", "VERGER_HEALTH_HOST": "127.0.0.1"}
    process = await fleet.start("scheduler,worker,api", environment=ports)
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    [api] = [line["url"] for line in process.events("api.started")]
    [health] = [f"http://127.0.0.1:{line['port']}" for line in process.events("health.listening")]
    attacked = urlsplit(api if door == "api" else health).port
    assert attacked is not None

    waits: list[float] = []
    ids: list[str] = []
    with SlowClients(attacked, COUNT) as slow:
        await fleet.until(lambda: slow.counts["greeted"] >= COUNT, "all to hold on", 3 * PATIENCE)
        begun = time.monotonic()
        # A connection for each question: nobody lives off one that was there before.
        while len(waits) < 20 or time.monotonic() - begun < 10:
            async with httpx.AsyncClient(trust_env=False, timeout=60) as http:
                asked = time.monotonic()
                assert (await http.get(f"{health}/healthz")).status_code == 200
                assert (await http.get(f"{api}/healthz")).status_code == 200
                made = await http.post(f"{api}/admin/tasks/fault.work", json={})
                assert made.status_code == 201, made.text
                ids.append(made.json()["task"]["id"])
                waits.append(time.monotonic() - asked)
        opened = len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
        threads = len(list(Path(f"/proc/{process.pid}/task").iterdir()))
    findings = await check(fleet, ids)

    assert opened < DESCRIPTORS
    assert threads < 200
    assert quiet(process) == []
    waits.sort()
    usual = waits[len(waits) // 2]
    assert usual < PATIENT_SECONDS, waits
    record(
        "API",
        f"{COUNT:,} slow clients on the port of the {'API' if door == 'api' else 'probes'}: mute, dripping heads, "
        "dripping bodies, deaf",
        happened=f"three requests of others took {usual:.2f} s, at most {waits[-1]:.2f} s; "
        f"{opened} descriptors, {threads} threads",
        bite=f"{slow.counts['opened']:,} connections, {slow.counts['closed']:,} of them closed by the server",
        findings=findings,
    )


def quiet(process: Process) -> list[object]:
    """What no slow client may make it say."""
    return [line for line in process.log() if "raw" in line or line.get("level") in ("error", "critical")]
