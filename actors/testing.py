"""For authors of handlers: run them in a test, on a real store, without waiting.

async with sandbox(["myapp.jobs"]) as verger:
    task = await verger.client.enqueue("report.build", {"customer": "ada"}, delay="1h")
    await verger.advance(hours=1)
    await verger.run_until_idle()
    assert (await verger.client.get(task.id)).result == {"rows": 3}
"""

import asyncio
import secrets
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from actors.composition import ENGINE, App, make_store
from actors.embedded import start_mongod
from schemas.task import Task, TaskStatus
from service.broker.memory import MemoryBroker
from service.client import Client
from service.settings import MEMORY_BROKER, load_settings
from service.store.port import TaskFilter
from service.testing import SettableClock


@dataclass(frozen=True)
class Verger:
    """A whole installation inside the test's event loop: scheduler, worker, the in-process broker, a real store."""

    app: App
    clock: SettableClock

    @property
    def client(self) -> Client:
        return self.app.client

    async def advance(self, span: timedelta | None = None, **parts: float) -> None:
        """Move the clock forward (``hours=1``, or a timedelta): delayed tasks and schedules fall due."""
        self.clock.advance(span if span is not None else timedelta(**parts))
        broker = self.app.broker
        assert isinstance(broker, MemoryBroker)
        broker.release_delayed()
        self.app.wake()

    async def run_until_idle(self, seconds: float = 30) -> None:
        """Until nothing is due and nothing runs.

        Raises:
            TimeoutError: still at work after ``seconds``; names what.
        """
        busy: str | None = None
        try:
            async with asyncio.timeout(seconds):
                while busy := await self._busy():
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise TimeoutError(f"not idle after {seconds:g} s: {busy}") from None

    async def _busy(self) -> str | None:
        store, now = self.app.store, self.clock.now()
        for schedule in await store.schedules.all():
            if schedule.firing is not None or (schedule.next_fire_at is not None and schedule.next_fire_at <= now):
                return f"schedule {schedule.id} is due"
        # In the order of creation, which never changes: what is released and claimed again meanwhile is not missed.
        async for task in self._every():
            due = task.status is TaskStatus.PENDING and task.retry_at <= self.clock.now()
            if due or task.status is TaskStatus.RUNNING:
                return f"{task.task_type} {task.id} is {task.status.value}"
        for task in await store.upkeep.dead_due(now + timedelta(days=1), 1):
            return f"{task.task_type} {task.id} is on its way to the dead letters"
        return None

    async def _every(self) -> AsyncIterator[Task]:
        cursor: str | None = None
        while True:
            page = await self.app.store.tasks.find(TaskFilter(), limit=1000, cursor=cursor)
            for task in page.tasks:
                yield task
            if (cursor := page.cursor) is None:
                return

    async def failed(self) -> Sequence[str]:
        """One line for each dead letter: what a test that expects none asserts on."""
        page = await self.app.store.tasks.find(TaskFilter(status=TaskStatus.FAILED), limit=100)
        return [
            f"{task.task_type} {task.id}: {task.reason}: {task.last_error and task.last_error.message}"
            for task in page.tasks
        ]


@asynccontextmanager
async def sandbox(modules: Sequence[str], *, mongodb_url: str | None = None, **settings: Any) -> AsyncIterator[Verger]:
    """Start an installation with the handlers of ``modules``, on a database of its own that is dropped afterwards.

    Args:
        mongodb_url: A replica set that runs already; None starts a private one (about two seconds: share it between
        tests).
        settings: Fields of ``Settings``, such as ``concurrency=1``.
    """
    async with AsyncExitStack() as stack:
        if mongodb_url is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="verger-test-")))
            mongo = await start_mongod(folder)
            stack.push_async_callback(mongo.stop)
            mongodb_url = mongo.url
        clock = SettableClock()
        options: dict[str, Any] = {
            "database": f"verger_test_{secrets.token_hex(4)}",
            "shutdown_grace": timedelta(seconds=2),
            **settings,
        }
        app = App(
            load_settings(mongodb_url=mongodb_url, amqp_url=MEMORY_BROKER, actors=tuple(modules), **options),
            ENGINE,
            clock=clock,
            nap=timedelta(milliseconds=100),
        )
        await app.start()
        try:
            yield Verger(app, clock)
        finally:
            await app.stop()
            # Afterwards, by a connection of its own: what still beats would make the database anew.
            store = make_store(app.settings)
            await store.drop()
            await store.close()


__all__ = ["Verger", "sandbox"]
