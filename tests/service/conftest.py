"""The engine at rest, over a real store, with a clock that is set by hand and a scheduler that is ticked by hand."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest

from actors import actor
from actors.scheduler.fire import Fire
from schemas.event import Event
from schemas.explanation import DueInstant
from schemas.schedule import Schedule, ScheduleEntry
from schemas.task import Task
from service.broker.memory import MemoryBroker
from service.client import Client
from service.explain import explain
from service.metrics import Metrics
from service.registry import Registry
from service.schedule_entry import Rules, to_schedule
from service.store.mongo import MongoStore
from service.store.port import Store
from service.testing import SettableClock
from service.timetable import Timetable
from tests.contract.store.conftest import emptied_database, shared_database

__all__ = ["emptied_database", "shared_database"]


@actor("report.build", aliases=["Build Report"])
async def build_report(body: dict[str, Any]) -> None:
    """Build a report."""


@dataclass(frozen=True)
class Engine:
    """What the functions of ``service`` take."""

    store: Store
    broker: MemoryBroker
    client: Client
    registry: Registry
    clock: SettableClock
    events: list[Event]

    @property
    def table(self) -> Timetable:
        return Timetable(self.store.schedules, self.client, self.clock, Rules(self.registry))

    async def keep(self, schedule_id: str = "s", *, next_fire_at: datetime | None = None, **entry: Any) -> Schedule:
        """A schedule of reports; ``next_fire_at`` moves its first fire, also into the past."""
        usual: dict[str, Any] = {"task_type": "report.build", "schedule": "@hourly"}
        made = to_schedule(
            ScheduleEntry(id=schedule_id, **(usual | entry)), Rules(self.registry), self.clock.now(), source="test"
        )
        if next_fire_at is not None:
            made = made.model_copy(update={"next_fire_at": next_fire_at})
        await self.store.schedules.write([made])
        return await self.look(schedule_id)

    async def look(self, schedule_id: str = "s") -> Schedule:
        schedule = await self.store.schedules.get(schedule_id)
        assert schedule is not None
        return schedule

    async def fire(self) -> None:
        """A scheduler looks."""
        await Fire(self.store, self.broker, self.registry, Metrics(), "s1").tick()

    async def explained(self, start: datetime, end: datetime, schedule_id: str = "s") -> list[DueInstant]:
        return (await explain(self.store, schedule_id, start, end, 100)).fires

    async def tasks(self, *task_ids: str) -> list[Task]:
        found = await self.store.tasks.get_many(task_ids)
        return [found[task_id] for task_id in task_ids if task_id in found]


@pytest.fixture
async def engine(mongo_url: str, emptied_database: str) -> AsyncIterator[Engine]:
    clock, registry = SettableClock(), Registry([build_report])
    async with AsyncExitStack() as stack:
        store = MongoStore(mongo_url, emptied_database, clock)
        stack.push_async_callback(store.close)
        await store.open()
        clock.advance(_until_half_past_noon(clock.now()))
        broker = MemoryBroker(clock)
        stack.push_async_callback(broker.close)
        await broker.open({"report.build": ()})
        events: list[Event] = []
        await broker.listen(events.append, lambda: None)
        yield Engine(store, broker, Client(store, broker, registry), registry, clock, events)


def _until_half_past_noon(now: datetime) -> timedelta:
    """Tests move the clock by hours, and count hours and days: none may run over the end of either by chance."""
    noon = now.replace(hour=12, minute=30, second=0, microsecond=0)
    return (noon - now) % timedelta(days=1)
