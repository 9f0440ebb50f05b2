"""Connections that are cut again and again: each time the work goes on, and nothing is left over."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.kit.fleet import Fleet
from tests.faults.kit.invariants import check
from tests.faults.kit.proxy import Proxy
from tests.faults.kit.record import Recorder
from tests.servers import MongoServer, RabbitServer

TIMES = 50
WARM = 15
"""Cuts after which caches and pools are as large as they get."""


@dataclass(frozen=True)
class Size:
    """What a process has open, and how large it is."""

    descriptors: int
    threads: int
    megabytes: float

    @classmethod
    def of(cls, pid: int) -> "Size":
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
        )
        return cls(
            len(list(Path(f"/proc/{pid}/fd").iterdir())), int(status["Threads"]), int(status["VmRSS"].split()[0]) / 1024
        )


@pytest.mark.long
@pytest.mark.parametrize("which", ["RabbitMQ", "MongoDB"])
async def test_50_forced_reconnects_leave_no_descriptor_thread_or_memory_behind(
    fleet: Fleet, record: Recorder, mongo_server: MongoServer, rabbit_server: RabbitServer, which: str
) -> None:
    port = rabbit_server.port if which == "RabbitMQ" else mongo_server.port
    with Proxy(port) as proxy:
        name, url = (
            ("VERGER_AMQP_URL", fleet.amqp_url) if which == "RabbitMQ" else ("VERGER_MONGODB_URL", fleet.mongo_url)
        )
        fleet.environment[name] = proxy.url(url)
        process = await fleet.start("scheduler,worker,api", environment={"VERGER_API_PORT": "0"})
        ids: list[str] = []
        sizes: list[Size] = []
        times: list[float] = []
        for _ in range(TIMES):
            cut_at = fleet.now()
            assert proxy.reset() > 0
            new = await fleet.enqueue(10)
            await fleet.ended(new)
            times.append(fleet.recovery(cut_at, new))
            ids += new
            sizes.append(Size.of(process.pid))
        findings = await check(fleet, ids)

        early, late = sizes[WARM : WARM + 10], sizes[-10:]
        for what in ("descriptors", "threads"):
            before, after = (max(getattr(size, what) for size in part) for part in (early, late))
            assert after <= before + 3, (what, sizes)
        grown = min(size.megabytes for size in late) - min(size.megabytes for size in early)
        assert grown < 8, sizes
        record(
            "Network",
            f"all connections to {which} reset, {TIMES} times",
            happened=f"descriptors {early[0].descriptors} to {late[-1].descriptors}, threads {early[0].threads} to "
            f"{late[-1].threads}, {grown:+.1f} MiB after the first {WARM}",
            bite=f"{proxy.counts['resets']} connections were reset",
            findings=findings,
            recovery=max(times),
        )
