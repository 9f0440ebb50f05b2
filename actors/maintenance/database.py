"""The connection of the maintenance actors, and the resource ``memory``: the database that they work on."""

from collections.abc import AsyncIterator
from typing import Any

from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorCollection, AsyncIOMotorDatabase

from actors import resource
from actors.embedded import read_instance
from service.errors import ConfigError
from service.settings import Settings

Document = dict[str, Any]
Client = AsyncIOMotorClient[Document]
Collection = AsyncIOMotorCollection[Document]
Database = AsyncIOMotorDatabase[Document]

OPTIONS: dict[str, Any] = {
    "w": "majority",
    "readConcernLevel": "majority",
    "tz_aware": True,
    "connectTimeoutMS": 4000,
    "serverSelectionTimeoutMS": 10_000,
    "appname": "verger-maintenance",
}


def connect(settings: Settings) -> Client:
    """A client of the server that the settings name, or of the embedded one that runs on their data folder.

    Raises:
        ConfigError: the settings say embedded, and none runs.
    """
    url = settings.mongodb_url
    if settings.embedded:
        instance = read_instance(settings.data_dir)
        if instance is None:
            raise ConfigError(
                f"no embedded MongoDB runs on {str(settings.data_dir)!r}; start `verger dev`, or set VERGER_MONGODB_URL"
            )
        url = instance.mongodb_url
    return AsyncIOMotorClient(url, **OPTIONS)


@resource("memory")
async def memory(settings: Settings) -> AsyncIterator[Database]:
    """The database ``VERGER_MEMORY_DATABASE``."""
    client = connect(settings)
    try:
        yield client[settings.memory_database]
    finally:
        client.close()
