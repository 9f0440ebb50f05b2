"""Handlers of the instance that the tests of the command line talk to."""

import asyncio
from typing import Any

from pydantic import BaseModel, Field

from actors import Context, actor


class Echo(BaseModel):
    text: str = "hello"
    times: int = Field(1, ge=1)


@actor("cli.echo", aliases=["Say It Again"], concurrency=7, timeout="90s")
async def echo(body: Echo) -> dict[str, Any]:
    """Answer with what was sent."""
    return {"text": body.text * body.times}


@actor("cli.fails", max_attempts=1)
async def fails(body: dict[str, Any]) -> None:
    """Fail, always."""
    raise RuntimeError(body.get("why", "it never works"))


@actor("cli.slow", max_attempts=None)
async def slow(body: dict[str, Any], ctx: Context) -> None:
    """Go on until cancelled, telling how far it is."""
    for done in range(1, 10_000):
        await ctx.progress(done, 10_000, "rows")
        await asyncio.sleep(0.02)
