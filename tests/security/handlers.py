"""Handlers that ask for all that a worker may do."""

import asyncio
from typing import Any

from pydantic import BaseModel

from actors import Context, actor
from actors.maintenance.database import memory

__all__ = ["memory"]


class Order(BaseModel):
    fails: bool = False


@actor("secure.work", delays=["100ms"])
async def work(body: Order, ctx: Context) -> dict[str, Any]:
    """Fail the first time; then save, write to the memory database, and enqueue."""
    if ctx.attempt == 1:
        raise RuntimeError("not yet")
    await ctx.progress(1, 2, "half")
    await ctx.save({"half": True})
    notes = ctx.resources["memory"]["notes"]
    await notes.create_index("task")
    await notes.insert_one({"task": ctx.task.id})
    return {"child": (await ctx.enqueue("secure.child", {})).id}


@actor("secure.child")
async def child(body: dict[str, Any]) -> str:
    """Nothing."""
    return "done"


@actor("secure.dies", max_attempts=1)
async def dies(body: dict[str, Any]) -> None:
    """End as a dead letter."""
    raise RuntimeError("it never works")


@actor("secure.waits")
async def waits(body: dict[str, Any], ctx: Context) -> None:
    """Until it is asked to stop."""
    while True:
        await asyncio.sleep(0.05)
        await ctx.checkpoint()
