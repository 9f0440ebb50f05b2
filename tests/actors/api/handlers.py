"""Handlers of the installations that the tests of the admin API talk to."""

import asyncio
from typing import Any

from pydantic import BaseModel, Field

from actors import Context, actor


class Echo(BaseModel):
    text: str = "hello"
    times: int = Field(1, ge=1, le=100)


@actor("api.echo", aliases=["Say It"], concurrency=7)
async def echo(body: Echo) -> dict[str, Any]:
    """Answer with what was sent."""
    return {"text": body.text * body.times}


@actor("api.fails", max_attempts=1)
async def fails(body: dict[str, Any]) -> None:
    """Fail, always."""
    raise RuntimeError(body.get("why", "it never works"))


@actor("api.slow", max_attempts=1)
async def slow(body: dict[str, Any], ctx: Context) -> None:
    """Go on until cancelled; a stubborn one never looks whether it is."""
    while True:
        await asyncio.sleep(0.02)
        if not body.get("stubborn"):
            await ctx.checkpoint()
