"""Promises about schedules: exactly one task for each fire, however many schedulers run, and none missing."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from schemas.schedule import Misfire, Overlap, Schedule
from tests.promises.installation import Installation


def every(seconds: int, schedule_id: str, start: datetime, **fields: Any) -> Schedule:
    return Schedule(
        id=schedule_id,
        task_type="test.noop",
        task_body={"schedule": schedule_id},
        schedule=f"@every {seconds}s",
        overlap=Overlap.ALLOW,
        next_fire_at=start,
        **fields,
    )


async def test_three_schedulers_of_which_one_is_killed_fire_each_fire_exactly_once(installation: Installation) -> None:
    schedulers = [await installation.start("scheduler") for _ in range(3)]
    await installation.start("worker")
    now = installation.store.clock.now().replace(microsecond=0)
    start, end = now + timedelta(seconds=2), now + timedelta(seconds=22)
    await installation.store.schedules.write([every(1, f"s{n:02}", start) for n in range(20)])
    await installation.client.schedules_changed()

    await installation.until(
        lambda: installation.store.clock.now() > start + timedelta(seconds=8), "eight seconds of fires"
    )
    schedulers[1].kill()
    await installation.until(
        lambda: installation.store.clock.now() > end + timedelta(seconds=6), "the rest of the fires"
    )

    expected = {
        f"fire:s{n:02}@{(start + timedelta(seconds=k)).isoformat().replace('+00:00', 'Z')}"
        for n in range(20)
        for k in range(20)
    }
    fired = [task["_id"] for task in installation.tasks.find({"fireAt": {"$lt": end}}, {"_id": 1})]
    assert set(fired) == expected
    assert len(fired) == len(expected)
    await installation.until(
        lambda: (
            installation.tasks.count_documents({"fireAt": {"$lt": end}, "status": "completed", "fence": 1})
            == len(expected)
        ),
        "all of them to have run once",
    )


@pytest.mark.parametrize(
    ("misfire", "runs", "skipped"),
    [(Misfire.COALESCE, 1, {"coalesced": 11}), (Misfire.ALL, 12, {}), (Misfire.SKIP, 0, {"misfire": 12})],
)
async def test_after_an_hour_of_downtime_the_misfire_policy_decides(
    installation: Installation, misfire: Misfire, runs: int, skipped: dict[str, int]
) -> None:
    """Every five minutes, down since just before a fire: twelve were due."""
    now = installation.store.clock.now()
    last = datetime.fromtimestamp(now.timestamp() // 300 * 300, UTC)
    if now - last > timedelta(seconds=285):
        await asyncio.sleep(20)  # the thirteenth would fall due during the test
        last += timedelta(seconds=300)
    first = last - timedelta(minutes=55)
    await installation.store.schedules.write([every(300, "five", first, misfire=misfire)])

    await installation.start("scheduler,worker")
    await installation.until(
        lambda: installation.schedules.find_one({"_id": "five"})["nextFireAt"] > last, "the schedule to go on"
    )
    await installation.until(lambda: installation.tasks.count_documents({"status": "completed"}) == runs, "the runs")

    schedule = await installation.store.schedules.get("five")
    assert schedule is not None
    assert schedule.next_fire_at == last + timedelta(minutes=5)
    assert schedule.skipped == skipped
    assert installation.tasks.count_documents({}) == runs


async def test_p19_a_fire_whose_predecessor_still_runs_is_skipped_and_counted(installation: Installation) -> None:
    start = installation.store.clock.now().replace(microsecond=0) + timedelta(seconds=2)
    schedule = Schedule(
        id="slow", task_type="test.work", task_body={"seconds": 2.5}, schedule="@every 1s", next_fire_at=start
    )
    await installation.store.schedules.write([schedule])
    await installation.start("scheduler,worker")

    await installation.until(lambda: len(installation.marks("end")) == 2, "two runs")
    stored = await installation.store.schedules.get("slow")

    assert stored is not None
    assert stored.skipped["overlap"] >= 2
    starts, ends = installation.marks("start"), installation.marks("end")
    assert all(end["at"] <= begin["at"] for begin, end in zip(starts[1:], ends, strict=False))


async def test_p18_a_fire_left_open_by_a_dead_scheduler_is_finished_by_another(installation: Installation) -> None:
    fire_at = installation.store.clock.now().replace(microsecond=0) - timedelta(minutes=1)
    await installation.store.schedules.write([every(3600, "left", fire_at + timedelta(hours=1))])
    installation.schedules.update_one(
        {"_id": "left"}, {"$set": {"firing": {"fireAt": fire_at, "at": fire_at, "by": "a scheduler that died"}}}
    )

    await installation.start("scheduler,worker")
    await installation.until(lambda: "firing" not in installation.schedules.find_one({"_id": "left"}), "the take-over")

    task_id = f"fire:left@{fire_at.isoformat().replace('+00:00', 'Z')}"
    assert [task["_id"] for task in installation.tasks.find()] == [task_id]
    await installation.until(lambda: installation.tasks.count_documents({"status": "completed"}) == 1, "the run")
    stored = await installation.store.schedules.get("left")
    assert stored is not None
    assert stored.last_task_id == task_id


async def test_a_run_is_noted_on_its_schedule(installation: Installation) -> None:
    start = installation.store.clock.now().replace(microsecond=0)
    await installation.store.schedules.write([every(3600, "noted", start)])
    await installation.start("scheduler,worker")

    await installation.until(
        lambda: "lastSuccessAt" in installation.schedules.find_one({"_id": "noted"}), "the success to be noted"
    )
    stored = await installation.store.schedules.get("noted")
    assert stored is not None
    assert (stored.last_status, stored.last_fire_at) == ("completed", start)
