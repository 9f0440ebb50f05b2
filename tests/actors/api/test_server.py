"""The server: it listens where it is told, and it stops in order and in time."""

import asyncio
import signal
import socket
import time
from contextlib import suppress
from typing import Any

import httpx
import pytest
from fastapi import Request
from fastapi.responses import StreamingResponse

from actors.api import connection, server
from service.errors import ConfigError
from tests.actors.api.conftest import Api, serving


async def test_signals_stay_with_whoever_had_them(mongo_url: str, database: str) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    async with serving(mongo_url, database):
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


async def test_an_answer_under_way_is_finished_and_nothing_new_is_taken(api: Api) -> None:
    assert api.app.api is not None
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> dict[str, bool]:
        begun.set()
        await go_on.wait()
        return {"done": True}

    api.app.api.app.get("/admin/slow")(slow)
    asking = asyncio.create_task(api.viewer.get("/admin/slow"))
    await begun.wait()

    stopping = asyncio.create_task(api.app.api.stop())
    await asyncio.sleep(0)
    with pytest.raises(httpx.ConnectError):
        await api.stranger.get("/healthz")
    go_on.set()

    assert (await asking).json() == {"done": True}
    await stopping


async def test_an_answer_that_takes_too_long_is_cut(
    api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert api.app.api is not None
    monkeypatch.setattr(server, "GRACE_SECONDS", 0.1)
    begun = asyncio.Event()

    async def endless() -> None:
        begun.set()
        await asyncio.Event().wait()

    api.app.api.app.get("/admin/endless")(endless)
    asking = asyncio.create_task(api.viewer.get("/admin/endless"))
    await begun.wait()
    at = time.monotonic()

    await api.app.api.stop()

    assert time.monotonic() - at < 10
    await asyncio.gather(asking, return_exceptions=True)
    said = capsys.readouterr()
    assert "api.stopped" in said.out + said.err
    assert "cut=1" in said.out + said.err


async def test_an_answer_without_an_end_is_told_that_the_server_stops(api: Api) -> None:
    assert api.app.api is not None

    async def stream(request: Request) -> StreamingResponse:
        async def lines() -> Any:
            yield b"begun"
            await request.app.state.closing.wait()
            yield b"ended"

        return StreamingResponse(lines())

    api.app.api.app.get("/admin/stream")(stream)
    async with api.viewer.stream("GET", "/admin/stream") as answer:
        parts = answer.aiter_bytes()
        assert await anext(parts) == b"begun"
        stopping = asyncio.create_task(api.app.api.stop())
        assert await anext(parts) == b"ended"
        await stopping


async def test_a_port_that_is_taken_is_said(mongo_url: str, database: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]

        with pytest.raises(ConfigError, match=f"VERGER_API_PORT={port}: Address already in use"):
            async with serving(mongo_url, database, api_port=port):
                pass


async def test_a_host_that_is_none_is_said(mongo_url: str, database: str) -> None:
    with pytest.raises(ConfigError, match=r"VERGER_API_HOST=nowhere\.invalid"):
        async with serving(mongo_url, database, api_host="nowhere.invalid"):
            pass


async def test_what_is_no_http_is_refused_and_logged_as_everything_is(
    api: Api, capfd: pytest.CaptureFixture[str]
) -> None:
    host, port = api.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))

    writer.write(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n")

    assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
    writer.close()
    assert (await api.viewer.get("/admin/tasks")).status_code == 200


async def test_clients_that_keep_it_waiting_make_way_for_who_comes(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MOST", 8)
    host, port = api.url.removeprefix("http://").split(":")
    streams = [await asyncio.open_connection(host, int(port)) for _ in range(30)]
    for number, (_, writer) in enumerate(streams):
        writer.write((b"", b"GET / HTTP/1.1\r\nX-Slow: ", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n")[number % 3])

    async with httpx.AsyncClient(base_url=api.url, trust_env=False) as http:
        assert (await http.get("/healthz")).status_code == 200

    cut = 0
    for reader, _ in streams[:22]:
        with suppress(ConnectionError):
            async with asyncio.timeout(60):
                await reader.read()
        cut += 1
    assert cut == 22
    for _, writer in streams:
        writer.close()


async def test_where_all_are_being_answered_the_new_client_is_cut(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    assert api.app.api is not None
    monkeypatch.setattr(connection, "MOST", 1)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> dict[str, bool]:
        begun.set()
        await go_on.wait()
        return {"done": True}

    api.app.api.app.get("/admin/slow")(slow)
    asking = asyncio.create_task(api.viewer.get("/admin/slow"))
    await begun.wait()

    with pytest.raises(httpx.TransportError):
        await api.stranger.get("/healthz")
    go_on.set()

    assert (await asking).json() == {"done": True}
