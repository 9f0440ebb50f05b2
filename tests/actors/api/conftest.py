"""An installation whose admin API is served on a real socket, and clients of every role."""

import os
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx
import pytest

from actors.api.openapi import document
from actors.composition import App, Role
from schemas.access import KeyRole
from service.access_keys import create_key
from service.client import Client
from service.settings import MEMORY_BROKER, Settings
from service.store.port import Store

HANDLERS = "tests.actors.api.handlers"
KEYS = {role: create_key(f"the-{role.value}", role) for role in KeyRole}
"""Role → key, and what is kept of it."""


@dataclass(frozen=True)
class Api:
    """The API of one installation, which runs in the loop of the test."""

    app: App
    viewer: httpx.AsyncClient
    operator: httpx.AsyncClient
    admin: httpx.AsyncClient
    stranger: httpx.AsyncClient
    """Without a key."""

    @property
    def client(self) -> Client:
        return self.app.client

    @property
    def store(self) -> Store:
        return self.app.store

    @property
    def url(self) -> str:
        assert self.app.api is not None
        return self.app.api.url

    def of(self, role: KeyRole) -> httpx.AsyncClient:
        return {KeyRole.VIEWER: self.viewer, KeyRole.OPERATOR: self.operator, KeyRole.ADMIN: self.admin}[role]


async def is_documented(answer: httpx.Response) -> None:
    """Whatever a test asks, the answer is one that the OpenAPI document names, with the content that it names."""
    path, method = answer.request.url.path, answer.request.method.lower()
    operations = document()["paths"].items()
    fitting = [known for known, methods in operations if method in methods and _pattern(known).fullmatch(path)]
    if not fitting:
        return
    operation = max(fitting, key=lambda known: len(re.sub(r"{\w+}", "", known)))
    said = document()["paths"][operation][method]["responses"]
    assert str(answer.status_code) in said, f"{method} {path} answers {answer.status_code}, which is not documented"
    if answer.status_code == 204:
        return
    kind = answer.headers.get("content-type", "").partition(";")[0]
    named = said[str(answer.status_code)].get("content", {})
    assert not kind or kind in named, f"{method} {path} answers {kind}, which is not documented"


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\{\w+\\}", ".+", re.escape(path)))


@asynccontextmanager
async def serving(mongo_url: str, database: str, **settings: Any) -> AsyncIterator[Api]:
    """Start an installation with all roles, the broker inside it; ``settings`` are fields of ``Settings``."""
    options: dict[str, Any] = {
        "mongodb_url": mongo_url,
        "amqp_url": MEMORY_BROKER,
        "database": database,
        "actors": (HANDLERS,),
        "api_port": 0,
        "api_keys": tuple(str(kept) for _, kept in KEYS.values()),
        "shutdown_grace": timedelta(seconds=1),
        "stale_claim_timeout": timedelta(seconds=3),
        **settings,
    }
    app = App(Settings(**options), list(Role), nap=timedelta(milliseconds=100))
    async with AsyncExitStack() as stack:
        stack.push_async_callback(app.stop)
        await app.start()
        assert app.api is not None

        async def client(key: str | None) -> httpx.AsyncClient:
            assert app.api is not None
            headers = {} if key is None else {"Authorization": f"Bearer {key}"}
            made = httpx.AsyncClient(
                base_url=app.api.url,
                headers=headers,
                timeout=20,
                trust_env=False,
                verify=False,  # no TLS here: to read the certificates of the system takes 40 ms
                event_hooks={"response": [is_documented]},
            )
            return await stack.enter_async_context(made)

        viewer, operator, admin = [await client(KEYS[role][0]) for role in KeyRole]
        yield Api(app, viewer, operator, admin, await client(None))


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of the tests' own."""
    for name in os.environ:
        if name.startswith("VERGER_") and name != "VERGER_MONGOD":
            monkeypatch.delenv(name)


@pytest.fixture
async def api(mongo_url: str, database: str) -> AsyncIterator[Api]:
    """An installation with a key for each role."""
    async with serving(mongo_url, database) as api:
        yield api
