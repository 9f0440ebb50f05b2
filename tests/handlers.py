"""Handlers for tests. Each run leaves marks in the collection ``marks`` beside the engine's own: what really
happened."""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from motor.motor_asyncio import AsyncIOMotorClient
from opentelemetry import trace
from pydantic import BaseModel

from actors import Context, Discard, Retry, Snooze, actor, resource
from service.settings import Settings


@resource("marks")
async def marks(settings: Settings) -> AsyncIterator[Any]:
    client: AsyncIOMotorClient[dict[str, Any]] = AsyncIOMotorClient(settings.mongodb_url, w="majority")
    yield client[settings.database]["marks"]
    client.close()


async def mark(ctx: Context, what: str) -> None:
    await ctx.resources["marks"].insert_one(
        {
            "task": ctx.task.id,
            "type": ctx.task.task_type,
            "what": what,
            "attempt": ctx.attempt,
            "fence": ctx.fence,
            "pid": os.getpid(),
            "at": datetime.now(UTC),
        }
    )


class Work(BaseModel):
    seconds: float = 0
    value: Any = None


@actor("test.work", aliases=["Test Alias"])
async def work(body: Work, ctx: Context) -> dict[str, Any]:
    """Wait, then answer with what was sent."""
    await mark(ctx, "start")
    await asyncio.sleep(body.seconds)
    await mark(ctx, "end")
    return {"value": body.value}


@actor("test.noop")
async def noop(body: dict[str, Any]) -> None:
    """Nothing."""


@actor("test.fails", max_attempts=3, delays=["1s", "2s"])
async def fails(body: dict[str, Any], ctx: Context) -> None:
    """Fail always."""
    await mark(ctx, "start")
    raise RuntimeError("it never works")


@actor("test.flaky", max_attempts=5, delays=["100ms"])
async def flaky(body: dict[str, Any], ctx: Context) -> str:
    """Fail as often as ``failures`` says, then succeed."""
    await mark(ctx, "start")
    if ctx.task.retry_count < body.get("failures", 1):
        raise ValueError("not yet")
    return "at last"


@actor("test.steers")
async def steers(body: dict[str, Any], ctx: Context) -> str:
    """Raise the signal that the body names, the first time."""
    await mark(ctx, "start")
    if ctx.fence == 1:
        match body.get("signal"):
            case "retry":
                raise Retry("again please", after="1s")
            case "snooze":
                raise Snooze("not now", after=body.get("seconds", 1))
            case "discard":
                raise Discard("pointless")
    return "done"


@actor("test.blocks")
async def blocks(body: dict[str, Any], ctx: Context) -> None:
    """Block the event loop."""
    await mark(ctx, "start")
    time.sleep(body["seconds"])
    await mark(ctx, "end")


@actor("test.kills", max_attempts=2)
async def kills(body: dict[str, Any], ctx: Context) -> None:
    """Kill the own process."""
    await mark(ctx, "start")
    os.kill(os.getpid(), 9)


@actor("test.threaded", timeout="30s")
def threaded(body: Work, ctx: Context) -> str:
    """Run in a thread."""
    ctx.from_thread(mark(ctx, "start"))
    trace.get_tracer("tests").start_span("in the thread").end()
    until = time.monotonic() + body.seconds
    while time.monotonic() < until and not ctx.cancel_requested:
        time.sleep(0.02)
    ctx.from_thread(mark(ctx, "end"))
    return "stopped" if ctx.cancel_requested else "ended"


@actor("test.deaf")
def deaf(body: Work, ctx: Context) -> None:
    """Run in a thread, and hear nothing."""
    ctx.from_thread(mark(ctx, "start"))
    time.sleep(body.seconds)


@actor("test.batches", concurrency=4)
async def batches(body: dict[str, Any], ctx: Context) -> dict[str, Any]:
    """Work through ``rows`` in batches, saving a checkpoint after each."""
    await mark(ctx, "start")
    begin = ctx.task.checkpoint or 0
    done = begin
    async for batch in ctx.batches(range(begin, body["rows"]), size=body.get("size", 10), total=body["rows"] - begin):
        await asyncio.sleep(body.get("seconds", 0))
        done += len(batch)
        await ctx.save(done)
    return {"rows": done, "begun_at": begin}


@actor("test.short", timeout="1s", max_attempts=1)
async def short(body: Work, ctx: Context) -> None:
    """Longer than it may."""
    await mark(ctx, "start")
    await asyncio.sleep(body.seconds)


@actor("test.single", concurrency=1, unique=True)
async def single(body: Work, ctx: Context) -> None:
    """One at a time, one for each body."""
    await mark(ctx, "start")
    await asyncio.sleep(body.seconds)
    await mark(ctx, "end")


class BadText(Exception):
    """Cannot even be printed."""

    def __str__(self) -> str:
        raise ValueError("no text")


async def leave_badly() -> None:
    try:
        await asyncio.sleep(60)
    finally:
        raise RuntimeError("cleaning up failed")


@actor("test.stops")
def stops(body: dict[str, Any]) -> Any:
    """Let StopIteration out."""
    return next(iter(()))


@actor("test.odd", non_retryable=[LookupError], delays=["1h"])
async def odd(body: dict[str, Any], ctx: Context) -> Any:
    """Do what handlers should not."""
    match body["kind"]:
        case "huge":
            return "x" * 1_000_000
        case "exit":
            raise SystemExit(3)
        case "bad text":
            raise BadText
        case "surrogate":
            raise RuntimeError("\ud800\0")
        case "generator":
            raise StopAsyncIteration
        case "group":
            async with asyncio.TaskGroup() as group:
                group.create_task(leave_badly())
                await mark(ctx, "start")
                await asyncio.sleep(60)
        case "strange reason":
            raise Discard("\ud800\0" + "x" * 200_000)
        case "hopeless":
            raise KeyError("gone")
        case "numbers":
            return {"event": 1, "self": 2, "level": 3, "exc_info": 4, "id": 5, "method_name": 6, "rows": 7}
        case "tells":
            secret = body["api_key"]
            ctx.log.info("login.tried", api_key=secret, request={"headers": {"x-authorization": secret}})
            logging.getLogger("tests.handlers").info("login with password=%s", secret, extra={"cookie": secret})
            raise RuntimeError(f"login failed: token={secret} at https://ada:{secret}@example.org/")
        case "resource":
            return ctx.resources["absent"]
        case "enqueue":
            return (await ctx.enqueue("test.noop", {})).id
    return None
