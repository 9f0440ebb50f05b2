"""Processes that stop for longer than anybody waits, and then go on as if nothing had happened (SIGSTOP, SIGCONT)."""

import random
import signal
from datetime import timedelta

import pytest

from schemas.schedule import Misfire, Overlap, Schedule
from tests.faults.kit.fleet import Fleet
from tests.faults.kit.invariants import check, check_fires
from tests.faults.kit.record import Recorder
from tests.promises.installation import STALE_SECONDS

QUICK = "fault.work"


@pytest.mark.parametrize(
    "task_type",
    [
        QUICK,
        pytest.param("fault.threaded", marks=pytest.mark.long),
        pytest.param("fault.blocks", marks=pytest.mark.long),
    ],
)
async def test_a_worker_that_wakes_after_its_claims_were_taken_changes_nothing(
    fleet: Fleet, record: Recorder, task_type: str
) -> None:
    await fleet.start("scheduler")
    zombie = await fleet.start("worker")
    ids = await fleet.enqueue(8, seconds=2.5, task_type=task_type)
    await fleet.until(lambda: fleet.started(pid=zombie.pid) > 0, "the first runs")

    zombie.signal(signal.SIGSTOP)
    stopped_at = fleet.now()
    held = {line.task for line in fleet.ledger.lines("start", pid=zombie.pid)}
    held -= {line.task for line in fleet.ledger.lines("end")}
    other = await fleet.start("worker")
    # It wakes while the runs that replaced its own are under way, and ends its own at once: their time is up.
    await fleet.until(
        lambda: held <= {line.task for line in fleet.ledger.lines("start", pid=other.pid)}, "the other to run them too"
    )
    zombie.signal(signal.SIGCONT)
    await fleet.until(lambda: bool(zombie.events("task.refused")), "an end of the zombie to be refused")
    findings = await check(fleet, ids)

    refused, lost = len(zombie.events("task.refused")), len(zombie.events("claim.lost"))
    record(
        "Processes",
        f"worker: stopped past the stale-claim timeout, then continued ({task_type})",
        happened=f"{len(held)} runs taken over; what the zombie wrote was refused",
        bite=f"the zombie's lines: {refused} `task.refused`, {lost} `claim.lost`",
        findings=findings,
        recovery=fleet.recovery(stopped_at, held),
    )


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_workers_that_stop_and_go_at_random_under_load_double_nothing(
    fleet: Fleet, record: Recorder, seed: int
) -> None:
    chance = random.Random(seed)
    await fleet.start("scheduler")
    workers = [await fleet.start("worker") for _ in range(3)]
    ids = await fleet.enqueue(1500, seconds=1)  # for longer than all naps

    naps = 0
    begun = fleet.now()
    while naps < 6:
        sleeper = chance.choice(workers)
        sleeper.signal(signal.SIGSTOP)
        awake = fleet.now() + STALE_SECONDS + chance.uniform(0, 3)
        await fleet.until(lambda until=awake: fleet.now() > until, "the nap to end")  # type: ignore[misc]
        sleeper.signal(signal.SIGCONT)
        naps += 1
    woken_at = fleet.now()
    findings = await check(fleet, ids, seconds=180)

    again = sum(line.fence > 1 for line in fleet.ledger.lines("start"))
    assert again > 0
    record(
        "Processes",
        "workers: stopped and continued at random, six times",
        happened=f"{again} runs were taken over in {woken_at - begun:.0f} s",
        bite="runs of a later claim in the ledger",
        findings=findings,
        recovery=fleet.recovery(woken_at, ids),
        seed=seed,
    )


@pytest.mark.long
async def test_a_scheduler_that_wakes_after_its_fires_were_taken_over_fires_nothing_twice(
    fleet: Fleet, record: Recorder
) -> None:
    start, every = fleet.store.clock.now().replace(microsecond=0) + timedelta(seconds=5), timedelta(seconds=1)
    names = [f"s{number}" for number in range(20)]
    await fleet.store.schedules.write(
        [
            Schedule(
                id=name,
                task_type="fault.work",
                schedule="@every 1s",
                overlap=Overlap.ALLOW,
                misfire=Misfire.ALL,
                next_fire_at=start,
            )
            for name in names
        ]
    )
    await fleet.start("worker")
    zombie = await fleet.start("scheduler")
    await fleet.until(lambda: fleet.started() >= len(names), "the first fires")

    zombie.signal(signal.SIGSTOP)
    other = await fleet.start("scheduler")
    before = fleet.started()
    await fleet.until(lambda: fleet.started() >= before + 7 * len(names), "seven more fires of each")
    fired = len(other.events("schedule.fired"))
    assert fired >= 6 * len(names)
    zombie.signal(signal.SIGCONT)
    other.signal(signal.SIGSTOP)
    again = fleet.started()
    await fleet.until(lambda: fleet.started() >= again + 7 * len(names), "and again with the two exchanged")
    other.signal(signal.SIGCONT)
    done = fleet.started()
    await fleet.until(lambda: fleet.started() >= done + len(names), "both together")
    await fleet.until(
        lambda: all("firing" not in each for each in fleet.schedules.find({"nextFireAt": {"$gt": start + 14 * every}})),
        "no open fire",
    )
    findings = await check(fleet, fleet.oplog.read().states)

    for name in names:
        check_fires(fleet, name, start, every, 14)
    record(
        "Processes",
        "scheduler: stopped for 7 s and more, then continued (P18)",
        happened="the other one fired meanwhile; each instant made its one task",
        bite=f"{fired} lines `schedule.fired` of the other while the one was stopped",
        findings=findings,
    )
