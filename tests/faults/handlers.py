"""Handlers of the fault tests. Each run writes to the ledger, which no fault of a server reaches."""

import asyncio
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from actors import Context, actor
from tests.faults.kit import ledger


class Work(BaseModel):
    seconds: float = 0
    value: Any = None
    padding: str = ""


def note(ctx: Context, what: str) -> None:
    ledger.write(what, ctx.task.id, ctx.fence, ctx.attempt)


@actor("fault.work")
async def work(body: Work, ctx: Context) -> dict[str, Any]:
    """Wait, do one thing to the world, and answer with the fence under which it was done."""
    note(ctx, "start")
    await asyncio.sleep(body.seconds)
    note(ctx, "effect")
    await asyncio.sleep(0)
    note(ctx, "end")
    return {"fence": ctx.fence, "value": body.value}


@actor("fault.threaded", concurrency=8)
def threaded(body: Work, ctx: Context) -> dict[str, Any]:
    """The same in a thread, which hears of no cancellation."""
    note(ctx, "start")
    time.sleep(body.seconds)
    note(ctx, "effect")
    note(ctx, "end")
    return {"fence": ctx.fence, "value": body.value}


@actor("fault.blocks", concurrency=1)
async def blocks(body: Work, ctx: Context) -> dict[str, Any]:
    """The same, and nothing else happens in its process meanwhile."""
    note(ctx, "start")
    time.sleep(body.seconds)
    note(ctx, "effect")
    note(ctx, "end")
    return {"fence": ctx.fence, "value": body.value}


class Blocking(Work):
    file: str


@actor("fault.blocks_later")
async def blocks_later(body: Blocking, ctx: Context) -> dict[str, Any]:
    """Like ``fault.blocks``, but it waits for a file to appear before it blocks."""
    note(ctx, "start")
    while not Path(body.file).exists():
        await asyncio.sleep(0.01)
    time.sleep(body.seconds)
    note(ctx, "effect")
    note(ctx, "end")
    return {"fence": ctx.fence}


class Flaky(BaseModel):
    failures: int = 1


@actor("fault.flaky", max_attempts=8, delays=["200ms"])
async def flaky(body: Flaky, ctx: Context) -> dict[str, Any]:
    """Fail so often, then work."""
    note(ctx, "start")
    if ctx.task.retry_count < body.failures:
        raise ValueError("not yet")
    note(ctx, "effect")
    note(ctx, "end")
    return {"fence": ctx.fence}


@actor("fault.fails", max_attempts=2, delays=["200ms"])
async def fails(body: dict[str, Any], ctx: Context) -> None:
    """Fail always."""
    note(ctx, "start")
    raise RuntimeError("it never works")


@actor("fault.parent")
async def parent(body: dict[str, Any], ctx: Context) -> dict[str, Any]:
    """Enqueue one more task, whose id is known before."""
    note(ctx, "start")
    await ctx.enqueue("fault.work", {}, id=f"{ctx.task.id}-child")
    note(ctx, "effect")
    note(ctx, "end")
    return {"fence": ctx.fence}
