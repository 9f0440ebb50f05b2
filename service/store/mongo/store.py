"""The MongoDB store: opens, checks the server, and holds the parts of the port."""

import asyncio
from datetime import datetime

from pymongo import timeout
from pymongo.errors import PyMongoError

from schemas.base import to_instant
from service.clock import StoreClock
from service.errors import ConfigError
from service.settings import hide_password
from service.store.mongo.audit import MongoAudit
from service.store.mongo.claims import MongoClaims
from service.store.mongo.database import GOODBYE_SECONDS, Database, Document, translate
from service.store.mongo.dead_letters import MongoDeadLetters
from service.store.mongo.indexes import ensure_indexes
from service.store.mongo.schedules import MongoSchedules
from service.store.mongo.tasks import MongoTasks
from service.store.mongo.upkeep import MongoUpkeep
from service.store.mongo.workers import MongoWorkers
from service.store.port import Store

MINIMUM_VERSION = (6, 0)


class MongoStore(Store):
    """See the port. One client with its own pool for everything but the heartbeat."""

    def __init__(self, url: str, database: str, clock: StoreClock | None = None) -> None:
        self.clock = clock or StoreClock()
        self._database = Database(url, database)
        self.claims = MongoClaims(self._database, self.clock)
        self.tasks = MongoTasks(self._database, self.clock)
        self.dead = MongoDeadLetters(self._database, self.clock)
        self.upkeep = MongoUpkeep(self._database, self.clock)
        self.schedules = MongoSchedules(self._database, self.clock)
        self.workers = MongoWorkers(self._database)
        self.audit = MongoAudit(self._database)

    @property
    def address(self) -> str:
        """Where it is, without the password."""
        return hide_password(self._database.url)

    @property
    def errors(self) -> int:
        return self._database.errors

    async def open(self) -> None:
        hello = await self.check()
        self._check_set(hello)
        await ensure_indexes(self._database)

    async def check(self) -> Document:
        """The server's greeting, its version checked and the clock set. Raises StoreUnavailable or ConfigError."""
        try:
            info = await self._database.client.server_info()
        except PyMongoError as error:
            raise translate(error, self._database.url) from error
        hello = await self._hello()  # second: an answer that waited for the connection would set the clock ahead
        if tuple(info["versionArray"][:2]) < MINIMUM_VERSION:
            raise ConfigError(f"MongoDB at {self.address} is {info['version']}; Verger needs 6.0 or later")
        return {**hello, "version": info["version"]}

    def _check_set(self, hello: Document) -> None:
        if "setName" not in hello and hello.get("msg") != "isdbgrid":
            raise ConfigError(
                f"MongoDB at {self.address} is a standalone server; Verger needs a replica set (one node will do): "
                "start mongod with --replSet rs0 and run mongosh --eval 'rs.initiate()' once"
            )

    async def close(self) -> None:
        # The driver says goodbye to the server, which may not be there any more: in a thread, and not for long.
        await asyncio.to_thread(self._say_goodbye)

    def _say_goodbye(self) -> None:
        with timeout(GOODBYE_SECONDS):
            self._database.client.close()

    async def drop(self) -> None:
        """Delete the whole database. For tests."""
        await self._database.repeat(lambda: self._database.client.drop_database(self._database.name))

    async def sync_clock(self) -> datetime:
        told: datetime = (await self._hello())["localTime"]
        return to_instant(told)

    async def _hello(self) -> Document:
        async def hello() -> Document:
            asked = self.clock.monotonic()
            answer: Document = await self._database.client.admin.command("hello")
            self.clock.set_from(answer["localTime"], asked, self.clock.monotonic())
            return answer

        return await self._database.once(hello)
