"""Fixtures over the real servers. A server that is missing is an error, never a skip."""

import logging
import secrets
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymongo
import pytest
import structlog
from hypothesis import HealthCheck, settings

from service.logs import bind
from tests.servers import MongoServer, RabbitServer, Server, server_data

DatabaseClient = pymongo.MongoClient[dict[str, Any]]


def pytest_configure(config: pytest.Config) -> None:
    # What tests start hears Ctrl-C, although a shell that put the run into the background lets it ignore that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # A cancelled run ends like an interrupted one: with its fixtures undone.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # No examples are refused for the pace of the machine. They are the same in each run, but new ones in a long run.
    settings.register_profile("usual", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
    settings.register_profile("long", settings.get_profile("usual"), derandomize=False)
    settings.load_profile("long" if config.getoption("--long") else "usual")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run also what takes long: the whole fault matrix")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--long"):
        return
    left_out = [item for item in items if item.get_closest_marker("long") is not None]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


@pytest.fixture
def logs_as_before() -> Iterator[None]:
    """The set-up of the logs is the process's."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    bind({})


@dataclass
class Servers:
    mongo: MongoServer
    rabbit: RabbitServer


@pytest.fixture(scope="session")
def servers(request: pytest.FixtureRequest) -> Iterator[Servers]:
    """Both servers; those that this run is going to need boot side by side."""
    needed = {name for item in request.session.items for name in getattr(item, "fixturenames", ())}
    with ExitStack() as undo:
        folder = Path(undo.enter_context(server_data()))
        mongo, rabbit = MongoServer(folder / "mongo"), RabbitServer(folder / "rabbit")
        starting: list[tuple[str, Server]] = [("mongo_server", mongo), ("rabbit_server", rabbit)]
        for fixture, server in starting:
            undo.callback(server.stop)
            if fixture in needed:
                server.spawn()
        yield Servers(mongo, rabbit)


@pytest.fixture
async def mongo_server(servers: Servers) -> AsyncIterator[MongoServer]:
    """The server itself, for tests that kill or freeze it; it serves again before the next test."""
    await servers.mongo.ready()
    yield servers.mongo
    await servers.mongo.heal()


@pytest.fixture
async def rabbit_server(servers: Servers) -> AsyncIterator[RabbitServer]:
    """The broker itself, for tests that kill or freeze it; it serves again before the next test."""
    await servers.rabbit.ready()
    yield servers.rabbit
    await servers.rabbit.heal()


@pytest.fixture
def mongo_url(mongo_server: MongoServer) -> str:
    return mongo_server.url


@pytest.fixture
def amqp_url(rabbit_server: RabbitServer) -> str:
    return rabbit_server.url


@pytest.fixture(scope="session")
def database_client(servers: Servers) -> Iterator[DatabaseClient]:
    with pymongo.MongoClient[dict[str, Any]](servers.mongo.url) as client:
        yield client


@pytest.fixture
async def database(mongo_server: MongoServer, database_client: DatabaseClient) -> AsyncIterator[str]:
    """A name of its own; all databases whose names begin with it are dropped afterwards."""
    name = f"test_{secrets.token_hex(4)}"
    yield name
    await mongo_server.heal()
    for each in database_client.list_database_names():
        if each.startswith(name):
            database_client.drop_database(each)


@pytest.fixture
async def prefix(rabbit_server: RabbitServer) -> AsyncIterator[str]:
    """A topology prefix of its own; its queues and exchanges are deleted afterwards."""
    name = f"test-{secrets.token_hex(4)}"
    yield name
    await rabbit_server.heal()
    await rabbit_server.delete(name)
