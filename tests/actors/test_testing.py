"""What authors of handlers test with: no waiting, a real store."""

from datetime import UTC, datetime, timedelta

import pytest

from actors.testing import sandbox
from schemas.schedule import Misfire, Overlap, Schedule
from schemas.task import TaskStatus


async def test_a_delayed_task_runs_when_the_clock_is_moved(mongo_url: str) -> None:
    async with sandbox(["tests.handlers"], mongodb_url=mongo_url) as verger:
        task = await verger.client.enqueue("test.noop", {"n": 1}, delay="50m")
        later = await verger.client.enqueue("test.noop", {"n": 2}, delay="3d")
        await verger.run_until_idle()
        assert (await verger.client.get(task.id)).status is TaskStatus.PENDING

        await verger.advance(minutes=50)
        await verger.run_until_idle()
        assert (await verger.client.get(task.id)).status is TaskStatus.COMPLETED
        assert (await verger.client.get(later.id)).status is TaskStatus.PENDING

        await verger.advance(timedelta(days=3))
        await verger.run_until_idle()
        assert (await verger.client.get(later.id)).status is TaskStatus.COMPLETED


async def test_retries_follow_the_moved_clock_and_dead_letters_are_told(mongo_url: str) -> None:
    async with sandbox(["tests.handlers"], mongodb_url=mongo_url, concurrency=2) as verger:
        task = await verger.client.enqueue("test.flaky", {"failures": 10})
        for _ in range(5):
            await verger.run_until_idle()
            await verger.advance(seconds=1)
        await verger.run_until_idle()

        assert (await verger.client.get(task.id)).attempt == 5
        assert await verger.failed() == [f"test.flaky {task.id}: exhausted: not yet"]


@pytest.mark.parametrize(("misfire", "runs"), [(Misfire.COALESCE, 1), (Misfire.ALL, 12), (Misfire.SKIP, 0)])
async def test_a_schedule_that_slept_an_hour_follows_its_misfire_policy(
    mongo_url: str, misfire: Misfire, runs: int
) -> None:
    async with sandbox(["tests.handlers"], mongodb_url=mongo_url) as verger:
        store = verger.app.store
        now = verger.clock.now()
        next_quarter = datetime.fromtimestamp((now.timestamp() // 300 + 1) * 300, UTC)
        await store.schedules.write(
            [
                Schedule(
                    id="five",
                    task_type="test.noop",
                    schedule="*/5 * * * *",
                    misfire=misfire,
                    overlap=Overlap.ALLOW,
                    next_fire_at=next_quarter,
                )
            ]
        )

        await verger.advance(next_quarter - now + timedelta(minutes=57))
        await verger.run_until_idle()

        assert (await store.tasks.counts()).get("test.noop", {}).get(TaskStatus.COMPLETED, 0) == runs
