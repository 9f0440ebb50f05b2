"""``kill -9`` at every step of a task's life: nothing is lost, nothing is doubled, and the work goes on by itself."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from schemas.schedule import Misfire, Overlap, Schedule
from service.client import Client
from tests.faults.kit.fleet import Fleet
from tests.faults.kit.invariants import check, check_fires
from tests.faults.kit.record import Recorder

TASKS = 40
SHOWN = "its line in the ledger at that step, exit code -9"


@dataclass(frozen=True)
class Case:
    """Who dies at which step, at what kind of work."""

    step: str
    rule: str
    task_type: str = "fault.work"
    body: dict[str, Any] = field(default_factory=dict)
    survives: int = 0


WORKER = [
    Case("received", "P1", survives=2),
    Case("claimed", "P1", survives=1),
    Case("acknowledged", "P9", survives=1),
    Case("running", "P9", body={"seconds": 0.2}, survives=10),
    Case("effect done", "P6", survives=10),
    Case("finishing", "P6", survives=1),
    Case("finished", "P11", survives=1),
    Case("retry written", "P11", "fault.flaky", {"failures": 1}),
    Case("dead letter written", "P13", "fault.fails"),
    Case("dead letter published", "P13", "fault.fails"),
    Case("child stored", "P11", "fault.parent"),
]
FIRES = [
    Case("fire begun", "P18", survives=2),
    Case("fire inserted", "P18", survives=2),
    Case("fire published", "P18", survives=2),
    Case("fire ended", "P17", survives=2),
]
RELAY = [Case("relay moved", "P11"), Case("relay published", "P12")]
QUICK = {"claimed", "effect done", "fire inserted"}


def cases(of: Sequence[Case]) -> list[Any]:
    """Those that are not quick are long."""
    return [pytest.param(each, id=each.step, marks=[] if each.step in QUICK else [pytest.mark.long]) for each in of]


@pytest.mark.parametrize("case", cases(WORKER))
async def test_a_worker_killed_at_any_step_of_a_task_loses_and_doubles_nothing(
    fleet: Fleet, record: Recorder, case: Case
) -> None:
    await fleet.start("scheduler")
    victim = await fleet.start("worker", dies=case.step, survives=case.survives)
    ids = await fleet.enqueue(TASKS, task_type=case.task_type, **case.body)

    died_at = await fleet.died(victim, case.step)
    await fleet.start("worker")
    await fleet.ended(ids)
    accepted = {*ids, *fleet.oplog.read().states}
    findings = await check(fleet, accepted)
    dead = {"status": "failed", "relayAt": {"$exists": True}}
    await fleet.until(lambda: fleet.tasks.count_documents(dead) == 0, "all dead letters to be on their exchange")
    buried = fleet.now() - died_at if case.task_type == "fault.fails" else 0.0

    again = sum(line.fence > 1 for line in fleet.ledger.lines("start"))
    record(
        "Processes",
        f"worker: kill -9, {case.step} ({case.rule})",
        happened=f"the other worker finished all; {again} runs were of a later claim",
        bite=SHOWN,
        findings=findings,
        recovery=max(fleet.recovery(died_at, accepted), buried),
    )


@pytest.mark.parametrize("case", cases(FIRES))
async def test_a_scheduler_killed_at_any_step_of_a_fire_misses_and_doubles_none(
    fleet: Fleet, record: Recorder, case: Case
) -> None:
    start, every = fleet.store.clock.now().replace(microsecond=0) + timedelta(seconds=5), timedelta(seconds=1)
    schedules = [
        Schedule(
            id=f"s{number}",
            task_type="fault.work",
            schedule="@every 1s",
            overlap=Overlap.ALLOW,
            misfire=Misfire.ALL,
            next_fire_at=start,
        )
        for number in range(5)
    ]
    await fleet.store.schedules.write(schedules)
    await fleet.start("worker")
    victim = await fleet.start("scheduler", dies=case.step, survives=case.survives)

    died_at = await fleet.died(victim, case.step)
    await fleet.start("scheduler")
    await fleet.until(
        lambda: all(
            "firing" not in each and each["nextFireAt"] > start + 10 * every for each in fleet.schedules.find()
        ),
        "ten instants of each schedule",
    )
    death = fleet.store.clock.now() - timedelta(seconds=fleet.now() - died_at)
    due_by_then = [fire["_id"] for fire in fleet.tasks.find({"fireAt": {"$lte": death}}, {"_id": 1})]
    findings = await check(fleet, fleet.oplog.read().states)

    for schedule in schedules:
        check_fires(fleet, schedule.id, start, every, 10)
    record(
        "Processes",
        f"scheduler: kill -9, {case.step} ({case.rule})",
        happened="the other scheduler finished what was open; each instant made its one task",
        bite=SHOWN,
        findings=findings,
        recovery=fleet.recovery(died_at, due_by_then),
    )


@pytest.mark.parametrize("case", cases(RELAY))
async def test_a_scheduler_killed_while_it_relays_loses_and_doubles_nothing(
    fleet: Fleet, record: Recorder, case: Case
) -> None:
    silent = Client(fleet.store, fleet.broker, fleet.registry, publishes=False)
    ids = [(await silent.enqueue("fault.work", {"value": number})).id for number in range(TASKS)]
    await fleet.start("worker")
    victim = await fleet.start("scheduler", dies=case.step)

    died_at = await fleet.died(victim, case.step)
    await fleet.start("scheduler")
    findings = await check(fleet, ids)

    record(
        "Processes",
        f"scheduler: kill -9, {case.step} ({case.rule})",
        happened="the other scheduler published what had no message",
        bite=SHOWN,
        findings=findings,
        recovery=fleet.recovery(died_at, ids),
    )


@pytest.mark.long
async def test_a_scheduler_killed_right_after_a_rescue_leaves_the_rest_to_another(
    fleet: Fleet, record: Recorder
) -> None:
    dying = await fleet.start("worker", dies="running", survives=10)
    rescuer = await fleet.start("scheduler", dies="rescued")
    ids = await fleet.enqueue(TASKS, seconds=0.5)

    await fleet.died(dying, "running")
    died_at = await fleet.died(rescuer, "rescued")
    await fleet.start("scheduler")
    await fleet.start("worker")
    findings = await check(fleet, ids)

    record(
        "Processes",
        "scheduler: kill -9, rescued (P9)",
        happened="another scheduler rescued the rest and published what was rescued",
        bite=SHOWN,
        findings=findings,
        recovery=fleet.recovery(died_at, ids),
    )
