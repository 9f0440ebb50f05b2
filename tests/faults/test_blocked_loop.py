"""A handler that blocks its worker's event loop for longer than a claim lives."""

from pathlib import Path

from schemas.task import TaskStatus
from tests.faults.kit.fleet import Fleet
from tests.faults.kit.invariants import check
from tests.faults.kit.proxy import CLEAN, Proxy, Toxic
from tests.faults.kit.record import Recorder
from tests.servers import MongoServer

STALE_SECONDS, BLOCKED_SECONDS = 14, 24
LATE = 3.0
"""How long the store's answers are under way: the loop is blocked before that of a claim is there."""


async def test_a_claim_whose_answer_is_under_way_while_the_loop_is_blocked_stays_its_workers(
    fleet: Fleet, record: Recorder, mongo_server: MongoServer, tmp_path: Path
) -> None:
    stale = {"VERGER_STALE_CLAIM_TIMEOUT": f"{STALE_SECONDS}s"}
    await fleet.start("scheduler", environment=stale)
    with Proxy(mongo_server.port) as proxy:
        worker = await fleet.start("worker", environment=stale | {"VERGER_MONGODB_URL": proxy.url(fleet.mongo_url)})
        file = tmp_path / "now"
        blocks = await fleet.client.enqueue("fault.blocks_later", {"seconds": BLOCKED_SECONDS, "file": str(file)})
        await fleet.until(lambda: fleet.started([blocks.id]) == 1, "the run that will block")

        proxy.down = Toxic(latency=LATE)
        late = await fleet.enqueue(2, seconds=1)
        await fleet.until(lambda: set(fleet.statuses(late).values()) == {"running"}, "claims under way")
        file.touch()
        proxy.down = CLEAN  # of what is not under way yet: the heartbeat is not to be late
        await fleet.until(
            lambda: any(line.task == blocks.id for line in fleet.ledger.lines("end")), "the end of the block"
        )
        findings = await check(fleet, [blocks.id, *late])

        [freed] = fleet.ledger.lines("effect", task=blocks.id)
        # Claimed before the loop was blocked, and not started until it was free.
        held = [line for line in fleet.ledger.lines("start") if line.task in late and line.at > freed.at]
        assert held
        ended = [await fleet.task(task_id) for task_id in [blocks.id, *late]]
        assert [(task.status, task.fence) for task in ended] == [(TaskStatus.COMPLETED, 1)] * len(ended)
        assert not worker.events("claim.lost")
    record(
        "Processes",
        "worker: its event loop blocked while answers to claims are under way",
        happened="the heartbeat renewed what was claimed; each ran once",
        bite=f"{len(held)} tasks were claimed and not yet started when the loop was blocked for"
        f" {BLOCKED_SECONDS} s; a claim lives for {STALE_SECONDS} s",
        findings=findings,
    )
