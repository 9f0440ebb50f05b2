"""Where the peers that keep results keep them: set up afresh for each measurement, and asked how many have finished."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import pymongo

from bench.postgres import programs
from bench.servers import Servers


class Store(ABC):
    """One database of one measurement."""

    def __init__(self, servers: Servers, database: str) -> None:
        self._servers, self._database = servers, database

    @abstractmethod
    async def open(self) -> dict[str, str]:
        """Make it; returns the environment that leads to it."""

    @abstractmethod
    async def close(self) -> None:
        """Delete it."""

    @abstractmethod
    async def finished(self) -> int:
        """How many tasks it holds as finished."""


class MongoResults(Store):
    """A collection in which each finished task is a document that this filter finds."""

    def __init__(self, servers: Servers, database: str, collection: str, finished: dict[str, Any]) -> None:
        super().__init__(servers, database)
        self._client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(servers.mongo.url)
        self._collection, self._finished = self._client[database][collection], finished

    async def open(self) -> dict[str, str]:
        return {}

    async def close(self) -> None:
        self._client.drop_database(self._database)
        self._client.close()

    async def finished(self) -> int:
        return await asyncio.to_thread(self._collection.count_documents, self._finished)


class PostgresJobs(Store):
    """Procrastinate's table of jobs."""

    async def open(self) -> dict[str, str]:
        await self._ask("postgres", f'create database "{self._database}"')
        return {"BENCH_POSTGRES_URL": (await self._servers.postgres()).url_of(self._database)}

    async def close(self) -> None:
        await self._ask("postgres", f'drop database if exists "{self._database}" with (force)')

    async def finished(self) -> int:
        return int(
            await self._ask(self._database, "select count(*) from procrastinate_jobs where status = 'succeeded'")
        )

    async def _ask(self, database: str, statement: str) -> str:
        url = (await self._servers.postgres()).url_of(database)
        return await _said(str(programs() / "psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", "-c", statement, url)


class RedisResults(Store):
    """Each finished task is a key; nobody else has keys here."""

    async def open(self) -> dict[str, str]:
        await self._ask("flushall")
        return {"BENCH_REDIS_URL": (await self._servers.redis()).url}

    async def close(self) -> None:
        await self._ask("flushall")

    async def finished(self) -> int:
        return int(await self._ask("dbsize"))

    async def _ask(self, command: str) -> str:
        return await _said("redis-cli", "-u", (await self._servers.redis()).url, command)


MakeStore = Callable[[Servers, str], Store]
"""Servers and a database name that nobody else has → the store."""


def celery_results(servers: Servers, database: str) -> Store:
    return MongoResults(servers, database, "celery_taskmeta", {"status": "SUCCESS"})


def agenda_jobs(servers: Servers, database: str) -> Store:
    return MongoResults(servers, database, "agendaJobs", {"lastFinishedAt": {"$type": "date"}})


async def _said(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said = (await process.communicate())[0].decode(errors="replace")
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed: {said}")
    return said
