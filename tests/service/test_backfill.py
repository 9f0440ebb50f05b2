"""Tasks for due instants of the past that made none; never a second one for any."""

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest

from schemas.backfill import Backfill, BackfillOutcome, BackfillRequest
from schemas.schedule import Overlap
from schemas.task import TaskStatus
from service.backfill import backfill
from service.broker.port import Delivery
from service.errors import InvalidInput, NotFound
from service.fires import fire_id, fire_task
from service.store.port import TaskFilter
from tests.service.conftest import Engine

HOUR = timedelta(hours=1)


async def back(engine: Engine, start: datetime, end: datetime | None = None, **asked: Any) -> Backfill:
    request = BackfillRequest(start=start, end=end, **asked)
    return await backfill(engine.store, engine.client, engine.registry, "s", request)


async def all_ids(engine: Engine) -> list[str]:
    page = await engine.store.tasks.find(TaskFilter(schedule_id="s"), limit=100)
    return sorted(task.id for task in page.tasks)


def hour(engine: Engine, hours: int = 0) -> datetime:
    return engine.clock.now().replace(minute=0, second=0, microsecond=0) + hours * HOUR


async def test_backfill_twice_makes_no_second_task(engine: Engine) -> None:
    await engine.keep(overlap="allow")
    start = hour(engine, -3)

    first, again = await back(engine, start), await back(engine, start)

    ids = [fire_id("s", start + number * HOUR) for number in range(4)]
    assert (first.created, again.created) == (4, 0)
    assert [fire.outcome for fire in again.fires] == [BackfillOutcome.KNOWN] * 4
    assert await all_ids(engine) == ids
    for number, task in enumerate(await engine.tasks(*ids)):
        assert (task.fire_at, task.schedule_id, task.status) == (start + number * HOUR, "s", TaskStatus.PENDING)
        assert [line.event for line in task.history] == ["backfilled"]
    assert [fire.reason for fire in await engine.explained(start, hour(engine))] == ["backfilled"] * 3


async def test_a_backfilled_instant_that_already_fired_is_not_doubled(engine: Engine) -> None:
    await engine.keep(next_fire_at=hour(engine), overlap="allow")
    await engine.fire()

    done = await back(engine, hour(engine, -1))

    assert [(fire.outcome, fire.state.value) for fire in done.fires] == [("created", "absent"), ("known", "fired")]
    assert len(await all_ids(engine)) == 2


async def test_a_fire_that_comes_after_its_backfill_is_not_doubled(engine: Engine) -> None:
    """Another process backfilled what is due, before any scheduler looked."""
    schedule = await engine.keep(next_fire_at=hour(engine), overlap="allow")
    at = hour(engine)
    await engine.client.place([fire_task(schedule, at, None, engine.clock.now(), retry_at=at)])

    await engine.fire()

    assert await all_ids(engine) == [fire_id("s", at)]
    assert (await engine.look()).last_task_id == fire_id("s", at)
    assert (await engine.look()).firing is None


async def test_what_is_due_is_left_to_the_scheduler(engine: Engine) -> None:
    await engine.keep(next_fire_at=hour(engine), overlap="allow")

    done = await back(engine, hour(engine))

    assert [(fire.outcome, fire.state.value) for fire in done.fires] == [("known", "due")]
    assert await all_ids(engine) == []


async def test_what_may_have_run_is_left_alone_unless_that_is_asked_for(engine: Engine) -> None:
    await engine.keep(next_fire_at=hour(engine, 3), overlap="allow")
    engine.clock.advance(2 * HOUR)  # as if it had fired, and all records were pruned since
    start = hour(engine)

    careful, daring = await back(engine, start), await back(engine, start, unknown=True)

    assert [fire.outcome for fire in careful.fires] == [BackfillOutcome.UNKNOWN]
    assert careful.fires[0].reason is not None
    assert daring.created == 1


async def test_with_overlap_skip_one_task_is_made_at_a_time_oldest_first(engine: Engine) -> None:
    await engine.keep()
    start = hour(engine, -2)

    first = await back(engine, start)
    again = await back(engine, start)
    [task] = await engine.tasks(fire_id("s", start))
    await engine.client.cancel(task.id)
    after_its_end = await back(engine, start)

    assert [fire.outcome.value for fire in first.fires] == ["created", "overlap", "overlap"]
    assert first.fires[1].reason == f"task {task.id} has the same type and body, and is pending or running"
    assert [fire.outcome.value for fire in again.fires] == ["known", "overlap", "overlap"]
    assert [fire.outcome.value for fire in after_its_end.fires] == ["known", "created", "overlap"]
    assert len(await all_ids(engine)) == 2


async def test_a_live_fire_is_in_the_way_of_a_backfill_and_allow_is_not(engine: Engine) -> None:
    await engine.keep(next_fire_at=hour(engine))
    await engine.fire()

    kept_out = await back(engine, hour(engine, -2), hour(engine))
    let_in = await back(engine, hour(engine, -2), hour(engine), overlap=Overlap.ALLOW)

    assert (kept_out.created, let_in.created) == (0, 2)
    assert kept_out.fires[0].reason is not None
    assert fire_id("s", hour(engine)) in kept_out.fires[0].reason


@pytest.mark.parametrize(
    ("overlap", "planned"), [("allow", ["planned"] * 3), ("skip", ["planned", "overlap", "overlap"])]
)
async def test_a_dry_run_says_what_would_be_and_changes_nothing(
    engine: Engine, overlap: str, planned: list[str]
) -> None:
    await engine.keep(overlap=overlap)

    done = await back(engine, hour(engine, -2), dry_run=True)

    assert [fire.outcome.value for fire in done.fires] == planned
    assert (done.dry_run, done.created) == (True, planned.count("planned"))
    assert await all_ids(engine) == []


async def test_a_backfill_is_bounded_and_says_where_to_go_on(engine: Engine) -> None:
    await engine.keep(overlap="allow")
    start = hour(engine, -9)

    first = await back(engine, start, limit=4)
    assert first.continue_from is not None
    rest = await back(engine, first.continue_from, limit=10)

    assert (first.created, rest.created, rest.continue_from) == (4, 6, None)


async def test_a_paused_schedule_is_made_up_for_after_its_resumption(engine: Engine) -> None:
    await engine.keep(overlap="allow")
    await engine.table.set_enabled("s", False)
    engine.clock.advance(3 * HOUR)
    await engine.table.set_enabled("s", True)

    done = await back(engine, hour(engine, -2))

    assert [(fire.outcome.value, fire.state.value) for fire in done.fires] == [("created", "paused")] * 3


async def test_a_backfilled_task_is_published_at_once(engine: Engine) -> None:
    await engine.keep()
    arrived: asyncio.Queue[Delivery] = asyncio.Queue()
    await engine.broker.consume("report.build", 10, arrived.put_nowait)

    await back(engine, hour(engine, -1), hour(engine))

    async with asyncio.timeout(60):
        assert fire_id("s", hour(engine, -1)).encode() in (await arrived.get()).body


async def test_what_cannot_be_backfilled_is_refused(engine: Engine) -> None:
    with pytest.raises(NotFound):
        await back(engine, hour(engine, -1))
    await engine.keep()
    with pytest.raises(InvalidInput, match="is not past"):
        await back(engine, hour(engine, 1))
    with pytest.raises(InvalidInput, match="is not after from"):
        await back(engine, hour(engine), hour(engine, -1))
