"""A process of some roles in the loop of a test, and a client of its health port."""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx

from actors.composition import App, Role
from service.settings import Settings


@dataclass(frozen=True)
class Probed:
    """One process and its small port."""

    app: App
    http: httpx.AsyncClient

    async def status(self, path: str) -> int:
        return (await self.http.get(path)).status_code

    async def problems(self, path: str = "/readyz") -> dict[str, str]:
        """Part → problem, as a probe's answer names them."""
        return problems_of(await self.http.get(path))


def problems_of(answer: httpx.Response) -> dict[str, str]:
    body = answer.json()
    assert answer.status_code == (503 if body.get("problems") else 200), answer.text
    return {each["part"]: each["problem"] for each in body.get("problems", [])}


@asynccontextmanager
async def probed(
    mongo_url: str, amqp_url: str, database: str, prefix: str, roles: Collection[Role], **settings: Any
) -> AsyncIterator[Probed]:
    """Start it on the tests' servers; ``settings`` are fields of ``Settings``."""
    options: dict[str, Any] = {
        "mongodb_url": mongo_url,
        "amqp_url": amqp_url,
        "database": database,
        "prefix": prefix,
        "actors": ("tests.handlers",),
        "health_port": 0,
        "api_port": 0,
        "health_host": "127.0.0.1",
        "stale_claim_timeout": timedelta(seconds=3),
        "shutdown_grace": timedelta(seconds=5),
        **settings,
    }
    app = App(Settings(**options), roles)
    await app.start()
    try:
        assert app.health_server is not None
        url = f"http://127.0.0.1:{app.health_server.port}"
        async with httpx.AsyncClient(base_url=url, timeout=20, trust_env=False, verify=False) as http:
            yield Probed(app, http)
    finally:
        if app.health.state != "draining":  # the test has stopped it
            await app.stop()
