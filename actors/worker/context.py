"""What a handler sees of its run."""

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Iterable, Mapping
from datetime import datetime
from typing import Any, TypeVar

import structlog
from pydantic import BaseModel

from actors.worker.run import Run, Stop
from schemas.task import Progress, Task
from service.client import Client
from service.errors import ConfigError
from service.payload import check_size, check_storable
from service.settings import Settings
from service.store.port import Store

T = TypeVar("T")

PROGRESS_SECONDS = 0.5
"""Progress is written at most this often for each task."""
ETA_BATCHES = 10


class Resources(dict[str, Any]):
    """What the worker opened at its start, by name."""

    def __missing__(self, name: str) -> Any:
        raise ConfigError(f"no resource {name!r} is loaded; there are: {', '.join(self) or 'none'}")


class Context:
    """Bound to one run. Its methods belong to the event loop; a handler in a thread calls them through
    ``from_thread``."""

    def __init__(
        self, run: Run, store: Store, client: Client, settings: Settings, resources: Mapping[str, Any]
    ) -> None:
        self._run, self._store, self._client = run, store, client
        self._loop = asyncio.get_running_loop()
        self._written_at = float("-inf")
        self._rates: deque[tuple[float, float]] = deque(maxlen=ETA_BATCHES)
        self._last_done: tuple[float, int] | None = None
        self.settings = settings
        self.resources = resources
        self._log: Any = None

    @property
    def task(self) -> Task:
        """As it was claimed; ``task.checkpoint`` is what an earlier attempt saved."""
        return self._run.task

    @property
    def fence(self) -> int:
        """Grows with each claim of this task: hand it on to refuse the writes of an older run."""
        return self._run.task.fence

    @property
    def attempt(self) -> int:
        return self._run.task.attempt

    @property
    def log(self) -> Any:
        """A structlog logger that knows the task."""
        if self._log is None:
            task = self._run.task
            self._log = structlog.get_logger().bind(task_type=task.task_type, id=task.id, attempt=task.attempt)
        return self._log

    @property
    def cancel_requested(self) -> bool:
        """Whether this run should stop: for handlers in threads, which cannot be interrupted."""
        return self._run.cancel_requested or self._run.stopped is not None

    async def checkpoint(self) -> None:
        """A good place to stop: raises CancelledError if someone asked."""
        if self._run.cancel_requested:
            self._run.stop(Stop.CANCEL)
        await asyncio.sleep(0)

    async def progress(self, done: int, total: int | None = None, message: str | None = None) -> None:
        """Say how far it is; written at most twice a second, always at the end. A place to stop, like ``checkpoint``.

        The ETA is what is left, divided by the mean rate of the last 10 calls.
        """
        now = self._loop.time()
        eta = self._eta(now, done, total)
        last = total is not None and done >= total
        if last or now - self._written_at >= PROGRESS_SECONDS:
            self._written_at = now
            await self._save(
                progress=Progress(
                    progress=min(1.0, done / total) if total else 0.0,
                    eta_ms=eta,
                    done_count=done,
                    total_count=total,
                    message=message[:500] if message else None,
                    at=self.now(),
                ),
                checkpoint=None,
                keep=False,
            )
        await self.checkpoint()

    def _eta(self, now: float, done: int, total: int | None) -> int | None:
        if self._last_done is None:
            # What an earlier attempt did says nothing of this one's pace.
            self._last_done = (now, done) if self.task.checkpoint is not None else (self._run.started, 0)
        at, before = self._last_done
        if done > before and now > at:
            self._rates.append((now - at, done - before))
            self._last_done = (now, done)
        if total is None or not self._rates:
            return None
        seconds = sum(span for span, _ in self._rates)
        return round(max(0, total - done) * seconds / sum(count for _, count in self._rates) * 1000)

    async def batches(
        self, items: Iterable[T] | AsyncIterable[T], *, size: int = 100, total: int | None = None
    ) -> AsyncIterator[list[T]]:
        """Items in lists of ``size``; after each one progress is noted, and a cancel request stops the run."""
        done = 0
        batch: list[T] = []
        async for item in _each(items):
            batch.append(item)
            if len(batch) >= size:
                yield batch
                done += len(batch)
                batch = []
                await self.progress(done, total)
        if batch:
            yield batch
            done += len(batch)
        await self.progress(done, total if total is not None else done)

    async def save(self, checkpoint: Any) -> None:
        """Keep a JSON value that the next attempt finds in ``ctx.task.checkpoint``. Raises PayloadRefused."""
        check_storable(checkpoint, "checkpoint")
        check_size(checkpoint, "checkpoint", self.settings.max_message_bytes)
        await self._save(progress=None, checkpoint=checkpoint, keep=True)

    async def _save(self, *, progress: Progress | None, checkpoint: Any, keep: bool) -> None:
        kept = await self._store.claims.save(
            self._run.id, self._run.token, progress=progress, checkpoint=checkpoint, keep_checkpoint=keep
        )
        if not kept:
            # Someone else may run it already: nothing that this run does counts any more.
            self._run.stop(Stop.LOST)
            await asyncio.sleep(0)

    async def enqueue(self, task_type: str, body: dict[str, Any] | BaseModel | None = None, **options: Any) -> Task:
        """As ``Client.enqueue``; the new task continues the trace of this one."""
        options.setdefault("traceparent", self._run.task.traceparent)
        return await self._client.enqueue(task_type, body, **options)

    async def evict_caches(self, cache: str | None = None) -> None:
        """As ``Client.evict_caches``."""
        await self._client.evict_caches(cache)

    def now(self) -> datetime:
        """The store's time."""
        return self._store.clock.now()

    def from_thread(self, awaitable: Awaitable[T], seconds: float | None = 60) -> T:
        """Run one of the methods above from a handler in a thread: ``ctx.from_thread(ctx.progress(1, 10))``."""

        async def await_it() -> T:
            return await awaitable

        return asyncio.run_coroutine_threadsafe(await_it(), self._loop).result(seconds)


async def _each(items: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
