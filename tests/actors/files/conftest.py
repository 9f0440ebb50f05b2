"""The family on a database of its own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from actors.maintenance.database import Client, Database
from tests.actors.families import Family, connect


@pytest.fixture
async def client(mongo_url: str) -> AsyncIterator[Client]:
    client = connect(mongo_url)
    yield client
    client.close()


@pytest.fixture
def memory(client: Client, database: str) -> Database:
    return client[database]


@pytest.fixture
def family(mongo_url: str, memory: Database, tmp_path: Path) -> Family:
    return Family(("actors.files",), mongo_url, memory, {"data_dir": tmp_path})
