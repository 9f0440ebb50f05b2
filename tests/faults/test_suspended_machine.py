"""A whole machine sleeps, scheduler, worker and MongoDB on it, for longer than a claim lives; then all wake at once."""

import asyncio
import signal
from pathlib import Path

from service.store.port import ClaimRequest
from tests.faults.kit.fleet import Fleet
from tests.faults.kit.invariants import check
from tests.faults.kit.record import Recorder
from tests.faults.kit.suspension import Suspension

STALE_SECONDS, SLEPT_SECONDS = 24, 45


def mongod_slept(fleet: Fleet, ids: list[str]) -> None:
    """Its clock has gone on meanwhile, and nobody could renew: every claim is older."""
    age = [{"$set": {"processingAt": {"$subtract": ["$processingAt", SLEPT_SECONDS * 1000]}}}]
    fleet.tasks.update_many({"_id": {"$in": ids}, "status": "running"}, age)


async def test_what_ran_on_a_machine_that_was_suspended_goes_on_and_is_not_rescued(
    fleet: Fleet, record: Recorder, tmp_path: Path
) -> None:
    suspension = Suspension(tmp_path / "slept")
    environment = {"VERGER_STALE_CLAIM_TIMEOUT": f"{STALE_SECONDS}s"} | suspension.environment
    scheduler = await fleet.start("scheduler", environment=environment)
    [alone] = await fleet.enqueue(1)
    await fleet.store.claims.claim([ClaimRequest(alone, None)], "gone")
    mongod_slept(fleet, [alone])  # as old by itself it is no suspension, and taken by a scheduler that is ready to
    await fleet.until(lambda: bool(scheduler.events("task.rescued")), "the rescue of one")
    worker = await fleet.start("worker", environment=environment)
    ids = await fleet.enqueue(8, seconds=25)
    await fleet.until(lambda: fleet.started(ids) == len(ids), "the runs")

    worker.signal(signal.SIGSTOP)  # the scheduler wakes first
    await asyncio.sleep(0.3)  # what the worker had sent has arrived
    suspension.lasted(SLEPT_SECONDS)
    mongod_slept(fleet, ids)
    await fleet.until(lambda: bool(scheduler.events("clock.stepped")), "the scheduler to wake")
    worker.signal(signal.SIGCONT)
    findings = await check(fleet, [alone, *ids])

    assert [line["id"] for line in scheduler.events("task.rescued")] == [alone]
    assert {(await fleet.task(task_id)).fence for task_id in ids} == {1}
    record(
        "Processes",
        f"the machine of scheduler, worker and MongoDB is suspended for {SLEPT_SECONDS} s",
        happened=f"{len(ids)} claims older than the timeout of {STALE_SECONDS} s were renewed; each task ran once",
        bite="a claim as old, without a suspension, was rescued",
        findings=findings,
    )
