"""Events over HTTP, as they happen."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from schemas.access import KeyRole
from schemas.event import DETAILS, Event, EventName
from schemas.task import TaskStatus
from service import event_ring
from service.client import NewTask
from tests.actors.api.conftest import KEYS, Api, serving

SECONDS = 60.0


class Stream:
    """One connection: frames as they come."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.aiter_lines()
        self.comments: list[str] = []

    async def frame(self) -> dict[str, Any]:
        """The next event: its ``event``, ``id`` if it has one, and ``data``."""
        fields: dict[str, Any] = {}
        async with asyncio.timeout(SECONDS):
            while True:
                line = await anext(self._lines)
                if line.startswith(":"):
                    self.comments.append(line)
                elif line:
                    name, _, value = line.partition(": ")
                    fields[name] = json.loads(value) if name == "data" else value
                elif "data" in fields:
                    return fields

    async def until(self, name: str) -> list[dict[str, Any]]:
        """Frames up to one of this name."""
        frames = [await self.frame()]
        while frames[-1]["event"] != name:
            frames.append(await self.frame())
        return frames


@asynccontextmanager
async def listening(api: Api, *types: str, last_id: str | None = None) -> AsyncIterator[Stream]:
    headers = {"Last-Event-ID": last_id} if last_id is not None else {}
    params = {"type": list(types)}
    async with api.viewer.stream("GET", "/admin/events", params=params, headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        yield Stream(response)


async def test_what_happens_is_told_as_the_schema_says(api: Api) -> None:
    async with listening(api) as stream:
        task = await api.client.enqueue("api.echo", {"text": "a"})
        frames = await stream.until("task.completed")

    assert [frame["event"] for frame in frames] == ["task.started", "task.completed"]
    for frame in frames:
        event = Event.model_validate(frame["data"])
        assert (event.event, event.task_id) == (frame["event"], task.id)
        DETAILS[EventName(event.event)].model_validate(event.detail)
    assert frames[1]["data"]["detail"]["attempt"] == 1


async def test_only_the_types_that_were_asked_for(api: Api) -> None:
    async with listening(api, "task.failed", "task.cancelled") as stream:
        await api.client.enqueue("api.echo", {})
        failing = await api.client.enqueue("api.fails", {})
        frame = await stream.frame()

    assert (frame["event"], frame["data"]["taskId"]) == ("task.failed", failing.id)
    assert (await api.viewer.get("/admin/events", params={"type": "task.exploded"})).status_code == 422


async def test_a_dropped_connection_is_resumed_without_a_loss(api: Api) -> None:
    async with listening(api, "task.completed") as stream:
        await api.client.enqueue("api.echo", {}, id="first")
        seen = (await stream.frame())["id"]
    meanwhile = [f"meanwhile-{number}" for number in range(20)]
    await api.client.enqueue_many([NewTask("api.echo", {}, each) for each in meanwhile])
    for each in meanwhile:
        await api.client.wait(each)

    async with listening(api, "task.completed", last_id=seen) as stream:
        told = [await stream.frame() for _ in meanwhile]
        await api.client.enqueue("api.echo", {}, id="last")
        last = await stream.frame()

    assert {frame["data"]["taskId"] for frame in told} == set(meanwhile)
    assert last["data"]["taskId"] == "last"


async def test_an_unknown_place_to_go_on_from_is_told(api: Api) -> None:
    async with listening(api, last_id="another-7") as stream:
        frame = await stream.frame()

    assert frame["event"] == "gap"
    assert "id" not in frame
    assert frame["data"]["reason"].startswith("the last event id is not of this process")


async def test_a_slow_reader_costs_the_worker_nothing_and_is_told_what_he_missed(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_ring, "QUEUE_MOST", 50)
    # By hand, with a small window: a client that reads nothing.
    host, port = api.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
    key = KEYS[KeyRole.VIEWER][0]
    writer.write(f"GET /admin/events HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\n\r\n".encode())
    await writer.drain()
    await reader.readuntil(b"retry: 2000")
    assert isinstance(reader, asyncio.StreamReader)
    reader._transport.pause_reading()  # type: ignore[attr-defined]

    begun = time.monotonic()
    burst = [NewTask("api.echo", {"text": "x" * 50}, f"burst-{number}") for number in range(300)]
    await api.client.enqueue_many(burst)
    filler = Event(event="task.started", at=api.store.clock.now(), task_id="f", detail={"attempt": 1, "x": "y" * 4000})
    for _ in range(3000):
        api.app.broker.emit(lambda: filler)
    for task in burst:
        assert (await api.client.wait(task.id or "")).status is TaskStatus.COMPLETED
    took = time.monotonic() - begun

    reader._transport.resume_reading()  # type: ignore[attr-defined]
    async with asyncio.timeout(SECONDS):
        told = b""
        while b"event: gap" not in told:
            told = told[-100:] + await reader.read(65536)
    writer.close()
    assert took < SECONDS


async def test_the_server_stops_although_somebody_listens(mongo_url: str, database: str) -> None:
    async with serving(mongo_url, database) as api, listening(api) as stream:
        begun = time.monotonic()
        assert api.app.api is not None
        await api.app.api.stop()
        stopped = time.monotonic() - begun
        with pytest.raises((StopAsyncIteration, httpx.RemoteProtocolError)):
            await stream.frame()

    assert stopped < 1.5


async def test_listening_needs_a_key(api: Api) -> None:
    assert (await api.stranger.get("/admin/events")).status_code == 401
