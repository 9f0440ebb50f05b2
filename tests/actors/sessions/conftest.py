"""The family's databases on the real server."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from motor.motor_asyncio import AsyncIOMotorClient

from actors.maintenance.database import OPTIONS, Client, Database
from tests.actors.sessions.double import Double, settings_for


@pytest.fixture
async def client(mongo_url: str) -> AsyncIterator[Client]:
    options: dict[str, Any] = OPTIONS
    client: Client = AsyncIOMotorClient(mongo_url, **options)
    yield client
    client.close()


@pytest.fixture
def memory(client: Client, database: str) -> Database:
    """A database of its own, dropped afterwards."""
    return client[database]


@pytest.fixture
def context(memory: Database, tmp_path: Path) -> Double:
    return Double(
        memory, settings_for(tmp_path / "data", memory_database=memory.name, database=f"{memory.name}_engine")
    )
