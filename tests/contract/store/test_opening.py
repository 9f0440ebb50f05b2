"""Opening a store: what is missing is made, what cannot serve is refused with the fix."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from service.child_process import free_port
from service.errors import ConfigError, StoreUnavailable
from service.store.mongo import MongoStore
from service.store.port import Claimed
from tests.conftest import DatabaseClient
from tests.contract.store.steps import HOUR, SECOND, a_task, foreign, now
from tests.servers import MongoServer, server_data


class Standalone(MongoServer):
    """A mongod that is no replica set."""

    def _command(self) -> list[str]:
        command = super()._command()
        at = command.index("--replSet")
        return [*command[:at], *command[at + 2 :]]

    async def _settled(self) -> None:
        return None


@pytest.fixture
async def standalone() -> AsyncIterator[MongoServer]:
    with server_data() as folder:
        server = Standalone(Path(folder))
        server.spawn()
        await server.ready()
        yield server
        server.stop()


async def test_processes_open_an_empty_database_at_once(mongo_url: str, database: str) -> None:
    stores = [MongoStore(mongo_url, database) for _ in range(6)]
    try:
        await asyncio.gather(*(store.open() for store in stores))

        answers = await asyncio.gather(*(store.claims.claim([foreign(a_task())], "w") for store in stores))
        assert sum(isinstance(answer, Claimed) for [answer] in answers) == 1
    finally:
        for store in stores:
            await store.close()


async def test_what_is_there_is_left_alone(
    mongo_url: str, emptied_database: str, database_client: DatabaseClient
) -> None:
    store = MongoStore(mongo_url, emptied_database)
    await store.open()
    await store.tasks.create([a_task()])
    indexes = database_client[emptied_database]["tasks"].index_information()

    await store.open()

    assert await store.tasks.get("a") is not None
    assert database_client[emptied_database]["tasks"].index_information() == indexes
    await store.close()


async def test_opening_sets_the_clock(mongo_url: str, emptied_database: str) -> None:
    store = MongoStore(mongo_url, emptied_database)
    store.clock.set_from(now() + HOUR, 0, 0)

    await store.open()

    assert abs(store.clock.now() - now()) < 5 * SECOND
    await store.close()


async def test_a_standalone_server_is_refused_with_the_command_that_fixes_it(standalone: MongoServer) -> None:
    store = MongoStore(f"mongodb://127.0.0.1:{standalone.port}/", "verger")

    with pytest.raises(ConfigError, match="rs.initiate"):
        await store.open()
    await store.close()


async def test_an_old_server_is_refused(mongo_url: str, emptied_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.store.mongo.store.MINIMUM_VERSION", (99, 0))
    store = MongoStore(mongo_url, emptied_database)

    with pytest.raises(ConfigError, match="or later"):
        await store.open()
    await store.close()


async def test_a_server_that_is_not_there_is_said_so_in_time_without_the_password() -> None:
    port = free_port()
    store = MongoStore(f"mongodb://me:secret@127.0.0.1:{port}/?replicaSet=rs0&appName=secret", "verger")
    started = time.monotonic()

    with pytest.raises(StoreUnavailable) as caught:
        await store.open()

    assert time.monotonic() - started < 20
    assert f"mongodb://me:***@127.0.0.1:{port}/" in str(caught.value)
    assert "secret" not in str(caught.value)
    await store.close()


@pytest.mark.parametrize(
    "url",
    [
        "mongodb://me:sec/ret@h:1/",
        "mongodb://me:sec@ret@h:1/",
        "mongodb://me:secret@h:notaport/",
        "mongodb://me:secret@/",
        "http://me:secret@h:1/",
    ],
)
def test_an_address_that_is_none_is_said_so_without_the_password(url: str) -> None:
    with pytest.raises(ConfigError, match="VERGER_MONGODB_URL") as caught:
        MongoStore(url, "verger")

    assert "sec" not in str(caught.value)


@pytest.mark.parametrize("code", [11, 13, 18])
async def test_a_user_without_rights_is_told_what_to_look_at(
    mongo_url: str, emptied_database: str, database_client: DatabaseClient, code: int
) -> None:
    store = MongoStore(mongo_url, emptied_database)
    data = {"failCommands": ["createIndexes"], "errorCode": code, "appName": "verger"}
    database_client.admin.command("configureFailPoint", "failCommand", mode={"times": 1}, data=data)

    with pytest.raises(ConfigError, match="user, password and roles"):
        await store.open()
    await store.close()


async def test_a_store_may_be_closed_twice(mongo_url: str, emptied_database: str) -> None:
    store = MongoStore(mongo_url, emptied_database)
    await store.open()
    await store.close()
    await store.close()
