"""What befalls the network between a process and a server, under a load of real processes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from itertools import pairwise

import httpx
import pytest

from tests.faults.kit.fleet import Fleet
from tests.faults.kit.load import PATIENCE, Load
from tests.faults.kit.proxy import Proxy, Toxic
from tests.faults.kit.record import Recorder
from tests.faults.kit.trial import ran_again
from tests.servers import MongoServer, RabbitServer

CUT = 8.0
"""Longer than a claim lives without a heartbeat here, and than an operation or a confirm may take."""
BAD = 5.0
CREATED, UNAVAILABLE = 201, 503

Fault = Callable[[Proxy], Awaitable[str]]


async def black_hole(proxy: Proxy) -> str:
    """black hole for 8 s"""
    return await cut(proxy, Toxic(black_hole=True), Toxic(black_hole=True))


async def deaf(proxy: Proxy) -> str:
    """black hole for 8 s, from the server alone"""
    return await cut(proxy, Toxic(), Toxic(black_hole=True))


async def mute(proxy: Proxy) -> str:
    """black hole for 8 s, towards the server alone"""
    return await cut(proxy, Toxic(black_hole=True), Toxic())


async def reset(proxy: Proxy) -> str:
    """all connections reset while replies are under way"""
    before = proxy.counts["held"]
    proxy.down = Toxic(black_hole=True)
    async with asyncio.timeout(PATIENCE):
        while proxy.counts["held"] == before:
            await asyncio.sleep(0.05)
    resets, held = proxy.reset(), proxy.counts["held"] - before
    proxy.clear()
    return f"{resets} connections reset, {held} replies lost with them"


async def refused(proxy: Proxy) -> str:
    """connections refused for 5 s"""
    before = proxy.counts["refused"]
    proxy.refuse()
    await asyncio.sleep(BAD)
    proxy.clear()
    assert proxy.counts["refused"] > before
    return f"{proxy.counts['refused'] - before} attempts refused"


async def slow(proxy: Proxy) -> str:
    """latency of 200 to 400 ms"""
    return await bad(proxy, Toxic(latency=0.2, jitter=0.2), "delayed")


async def sliced(proxy: Proxy) -> str:
    """slices of 7 bytes"""
    return await bad(proxy, Toxic(slice=7), "sliced")


async def narrow(proxy: Proxy) -> str:
    """4 kB/s for each connection"""
    return await bad(proxy, Toxic(slice=64, bandwidth=4096), "sliced")


async def cut(proxy: Proxy, up: Toxic, down: Toxic) -> str:
    before = proxy.counts["held"]
    proxy.up, proxy.down = up, down
    await asyncio.sleep(CUT)
    proxy.clear()
    assert proxy.counts["held"] > before
    return f"{proxy.counts['held'] - before} chunks held up"


async def bad(proxy: Proxy, toxic: Toxic, count: str) -> str:
    before = proxy.counts[count]
    proxy.set(toxic)
    await asyncio.sleep(BAD)
    proxy.clear()
    assert proxy.counts[count] > before
    return f"{proxy.counts[count] - before} chunks {count}"


@asynccontextmanager
async def callers(fleet: Fleet, behind: Mapping[str, str], load: Load) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Tasks come through an API too, as long as this lasts; yields what waits until that takes another one."""
    api = await fleet.start("api", environment={**behind, "VERGER_API_PORT": "0"})
    [address] = [line["url"] for line in api.events("api.started")]
    taken: list[str] = []
    stopped = asyncio.Event()

    async def goes_on() -> None:
        before = len(taken)
        await fleet.until(lambda: len(taken) > before, "the API to take a task", PATIENCE)

    async def call() -> None:
        async with httpx.AsyncClient(base_url=address, trust_env=False, timeout=PATIENCE) as http:
            while not stopped.is_set():
                answer = await http.post("/admin/tasks/fault.work", json={"seconds": 0.2})
                assert answer.status_code in (CREATED, UNAVAILABLE), answer.text
                if answer.status_code == CREATED:
                    taken.append(answer.json()["task"]["id"])
                    load.accepted.append(taken[-1])
                await asyncio.sleep(0.1)

    calling = asyncio.create_task(call())
    try:
        yield goes_on
    finally:
        stopped.set()
        await calling


FAULTS: list[Fault] = [black_hole, deaf, mute, reset, refused, slow, sliced, narrow]


@pytest.mark.long
@pytest.mark.parametrize("server", ["store", "broker"])
@pytest.mark.parametrize("role", ["worker", "scheduler", "api"])
async def test_a_bad_network_loses_nothing_and_accepts_no_end_twice(
    fleet: Fleet,
    record: Recorder,
    mongo_server: MongoServer,
    rabbit_server: RabbitServer,
    role: str,
    server: str,
) -> None:
    with Proxy((mongo_server if server == "store" else rabbit_server).port) as proxy:
        url = proxy.url(fleet.mongo_url if server == "store" else fleet.amqp_url)
        behind = {"VERGER_MONGODB_URL" if server == "store" else "VERGER_AMQP_URL": url}
        await fleet.start("scheduler", environment=behind if role == "scheduler" else None)
        workers = [await fleet.start("worker", environment=behind if role == "worker" else None)]
        workers.append(await fleet.start("worker"))
        bites: list[tuple[Fault, str, float]] = []
        stored = [0]  # how many tasks there were after each fault
        async with AsyncExitStack() as stack:
            load = await stack.enter_async_context(Load(fleet, workers))
            goes_on: Callable[[], Awaitable[None]] = load.flows
            if role == "api":
                goes_on = await stack.enter_async_context(callers(fleet, behind, load))
            await goes_on()
            for fault in FAULTS:
                bite = await fault(proxy)
                bites.append((fault, bite, await load.recovers(fleet.now())))
                stored.append(len(fleet.oplog.read().states))
                await goes_on()
        findings = await load.check()
        again = len(ran_again(fleet, load))
    stored[-1] = findings.tasks  # with what was asked for after the last
    for (fault, bite, took), (before, after) in zip(bites, pairwise(stored), strict=True):
        record(
            "Network",
            f"{role} and {server}: {(fault.__doc__ or '').strip()}",
            happened=f"all completed; {again} tasks ran again under all {len(FAULTS)} faults of this pair",
            bite=bite,
            findings=replace(findings, tasks=after - before),
            recovery=took,
        )
