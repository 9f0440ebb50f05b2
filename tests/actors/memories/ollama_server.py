"""A local server that speaks as much of Ollama's API as the actors use, and can be moody."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Answer = Callable[[dict[str, Any]], web.Response | dict[str, Any]]


@dataclass
class OllamaServer:
    """``chat`` and ``embed`` make the answers; ``asked`` keeps the requests' bodies."""

    chat: Answer
    embed: Answer
    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    silent: bool = False
    """It takes a request and never answers."""
    asking: tuple[asyncio.Event, asyncio.Event] | None = None
    """It sets the first when it is asked, and waits for the second before it answers."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.append(body)
        if self.silent:
            await self.ended.wait()
        if self.asking is not None:
            self.asking[0].set()
            await self.asking[1].wait()
        answer = (self.chat if request.path == "/api/chat" else self.embed)(body)
        return answer if isinstance(answer, web.StreamResponse) else web.json_response(answer)


def say_how_many(body: dict[str, Any]) -> dict[str, Any]:
    texts = json.loads(body["messages"][-1]["content"])
    return {"message": {"role": "assistant", "content": f"A summary of {len(texts)} notes."}, "done": True}


def count_letters(body: dict[str, Any]) -> dict[str, Any]:
    return {"embeddings": [[1.0 + text.count("a"), 1.0 + text.count("e"), float(len(text))] for text in body["input"]]}


@asynccontextmanager
async def ollama_server(chat: Answer = say_how_many, embed: Answer = count_letters) -> AsyncIterator[OllamaServer]:
    server = OllamaServer(chat, embed)
    app = web.Application()
    app.router.add_post("/api/chat", server.handle)
    app.router.add_post("/api/embed", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield server
    finally:
        server.ended.set()
        await runner.cleanup()
