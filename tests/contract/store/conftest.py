"""The conformance suite of the store port: every adapter passes every test."""

import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field

import pytest

from service.store.mongo import MongoStore
from service.store.port import Store
from tests.conftest import DatabaseClient


@dataclass
class Adapter:
    """One kind of store, empty."""

    make: Callable[[], Store]
    made: list[Store] = field(default_factory=list)

    def bare(self) -> Store:
        """A process of its own on this store, not open yet; closed after the test."""
        store = self.make()
        self.made.append(store)
        return store

    async def open(self) -> Store:
        store = self.bare()
        await store.open()
        return store


@pytest.fixture(scope="session")
def shared_database(database_client: DatabaseClient) -> Iterator[str]:
    """One database for all tests that do not mind: to create collections and indexes takes longer than most tests."""
    name = f"test_{secrets.token_hex(4)}"
    yield name
    database_client.drop_database(name)


@pytest.fixture
def emptied_database(mongo_url: str, shared_database: str, database_client: DatabaseClient) -> str:
    database = database_client[shared_database]
    for collection in database.list_collection_names():
        database[collection].delete_many({})
    return shared_database


@pytest.fixture(params=["mongodb"])
def bare_adapter(request: pytest.FixtureRequest) -> Adapter:
    # Asked for here, so that a missing server fails only its own tests.
    url, database = request.getfixturevalue("mongo_url"), request.getfixturevalue("emptied_database")
    return Adapter(lambda: MongoStore(url, database))


@pytest.fixture
async def adapter(bare_adapter: Adapter) -> AsyncIterator[Adapter]:
    yield bare_adapter
    for store in bare_adapter.made:
        await store.close()


@pytest.fixture
async def store(adapter: Adapter) -> Store:
    return await adapter.open()
