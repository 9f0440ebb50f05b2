"""Promises hold with wrong clocks: ten minutes fast or slow, nothing runs early, nothing runs twice, nothing is rescued
alive."""

from datetime import UTC, datetime, timedelta

import pytest

from schemas.schedule import Overlap, Schedule
from schemas.task import TaskStatus
from tests.promises.installation import STALE_SECONDS, Installation
from tests.promises.wrong_clock import faked


@pytest.mark.parametrize(("scheduler_off", "worker_off"), [(600, -600), (-600, 600)])
async def test_clocks_ten_minutes_fast_and_slow_change_nothing(
    installation: Installation, scheduler_off: int, worker_off: int
) -> None:
    scheduler = await installation.start("scheduler", environment=faked(FAKETIME=f"{scheduler_off:+d}s"))
    worker = await installation.start("worker", environment=faked(FAKETIME=f"{worker_off:+d}s"))
    now = installation.store.clock.now()
    start = datetime.fromtimestamp(now.timestamp() // 2 * 2 + 4, UTC)
    schedule = Schedule(
        id="two", task_type="test.noop", schedule="@every 2s", overlap=Overlap.ALLOW, next_fire_at=start
    )
    await installation.store.schedules.write([schedule])
    await installation.client.schedules_changed()

    long = await installation.client.enqueue("test.work", {"seconds": 2.5 * STALE_SECONDS})
    delayed = await installation.client.enqueue("test.work", {}, delay="3s")
    flaky = await installation.client.enqueue("test.flaky", {"failures": 2})
    for task in (long, delayed, flaky):
        await installation.status(task.id, TaskStatus.COMPLETED)

    done = await installation.task(delayed.id)
    assert done.started_at is not None
    assert timedelta() <= done.started_at - done.retry_at < timedelta(seconds=20)
    assert (await installation.task(long.id)).fence == 1
    assert (await installation.task(flaky.id)).fence == 3
    fired = {"scheduleId": "two", "status": "completed"}
    await installation.until(lambda: installation.tasks.count_documents(fired) >= 3, "three fires")
    fires = list(installation.tasks.find(fired).sort("fireAt", 1))
    assert [fire["fireAt"] for fire in fires] == [start + timedelta(seconds=2 * n) for n in range(len(fires))]
    assert all(timedelta() <= fire["startedAt"] - fire["fireAt"] < timedelta(seconds=20) for fire in fires)
    assert not [line for process in (scheduler, worker) for line in process.log() if "raw" in line]  # no thread failed
