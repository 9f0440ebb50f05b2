"""A context of a run without a worker: what the handlers of the family use of one, and what a test wants to see."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar, cast

import structlog
from structlog.testing import capture_logs

from actors import Context
from actors.maintenance.database import Database
from schemas.base import to_instant
from service.clock import SystemClock
from service.settings import Settings

T = TypeVar("T")


class Double:
    """Conforms to ``Context`` where the family uses it."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self.resources = {"memory": database}
        self.settings = settings
        self.log = structlog.get_logger()
        self.time: datetime | None = None
        self.stop_after: int | None = None
        """Checkpoints until a cancel request is seen."""
        self.checkpoints = 0
        self.progresses: list[tuple[int, int | None]] = []

    def now(self) -> datetime:
        return to_instant(self.time) if self.time else SystemClock().now()

    async def checkpoint(self) -> None:
        self.checkpoints += 1
        if self.stop_after is not None and self.checkpoints > self.stop_after:
            raise asyncio.CancelledError
        await asyncio.sleep(0)

    async def progress(self, done: int, total: int | None = None, message: str | None = None) -> None:
        self.progresses.append((done, total))
        await self.checkpoint()

    async def batches(
        self, items: Iterable[T] | AsyncIterable[T], *, size: int = 100, total: int | None = None
    ) -> AsyncIterator[list[T]]:
        batch: list[T] = []
        done = 0
        async for item in cast("AsyncIterable[T]", items):
            batch.append(item)
            if len(batch) >= size:
                yield batch
                done += len(batch)
                batch = []
                await self.progress(done, total)
        if batch:
            yield batch
            await self.progress(done + len(batch), total)

    def as_context(self) -> Context:
        return cast("Context", self)


def settings_for(folder: Path, **more: Any) -> Settings:
    return Settings(mongodb_url="mongodb://127.0.0.1:1/", data_dir=folder, **more)


__all__ = ["Double", "capture_logs", "settings_for"]
