"""A replica set of three real ``mongod``, of which a test may kill, restart, depose and cut off any."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import bson
import pymongo
from pymongo.errors import PyMongoError

from service.mongod import REPLICA_SET
from service.store.mongo.database import OPTIONS
from tests.faults.kit.mongo_link import Link, Links
from tests.servers import READY_SECONDS, MongoServer

Client = pymongo.MongoClient[dict[str, Any]]
HEARTBEAT_MILLISECONDS = 500
"""Two seconds by default: three servers on a small machine are late often enough without that."""


async def ask(server: MongoServer, command: str, value: Any = 1, **arguments: Any) -> dict[str, Any] | None:
    """A server's own answer, or None if it gives none."""
    return await asyncio.to_thread(_ask, server.port, {command: value, **arguments})


def _ask(port: int, command: Mapping[str, Any]) -> dict[str, Any] | None:
    with (
        suppress(PyMongoError),
        Client(
            "127.0.0.1", port, directConnection=True, serverSelectionTimeoutMS=2000, socketTimeoutMS=15_000
        ) as client,
    ):
        answer: dict[str, Any] = client.admin.command(dict(command))
        return answer
    return None


@asynccontextmanager
async def failing(
    server: MongoServer, commands: Sequence[str], times: int, **how: Any
) -> AsyncIterator[Callable[[], Awaitable[int]]]:
    """So many of these commands of Verger's fail: ``closeConnection=True``, ``errorCode=…``, ``writeConcernError={…}``.

    What it yields tells how many have.
    """

    async def failed() -> int:
        answer = await ask(server, "getParameter", **{"failpoint.failCommand": 1})
        return int((answer or {"failpoint.failCommand": {"timesEntered": 0}})["failpoint.failCommand"]["timesEntered"])

    before = await failed()
    data = {"failCommands": list(commands), "appName": OPTIONS["appname"], **how}
    set_up = await ask(server, "configureFailPoint", "failCommand", mode={"times": times}, data=data)
    assert set_up is not None, "the server takes no fail points"

    async def since() -> int:
        return await failed() - before

    try:
        yield since
    finally:
        await ask(server, "configureFailPoint", "failCommand", mode="off")


class MongoNode(MongoServer):
    """One member; it serves as soon as it answers, with or without a primary."""

    async def _settled(self) -> None:
        while await ask(self, "ping") is None:
            await asyncio.sleep(0.05)

    async def is_primary(self) -> bool:
        """Whether it takes writes; a member that is dead or frozen does not."""
        answer = await ask(self, "hello") if self.alive and not self._frozen else None
        return answer is not None and bool(answer["isWritablePrimary"])

    def undone(self) -> int:
        """How many of its documents were ever rolled back, since no majority had them: it keeps them in files."""
        files = (self.folder / "data" / "rollback").glob("*/removed.*.bson")
        return sum(len(bson.decode_all(file.read_bytes())) for file in files)


class MongoSet:
    """Three members, each with data and a port of its own, and a link by which the others and the clients come."""

    def __init__(self, folder: Path) -> None:
        self.nodes = [MongoNode(folder / f"member-{n}") for n in range(3)]
        self.links = Links(self.nodes)
        self._stack = ExitStack()
        self._addresses: dict[MongoNode, str] = {}

    @property
    def url(self) -> str:
        return f"mongodb://{','.join(self._addresses.values())}/?replicaSet={REPLICA_SET}"

    def address(self, node: MongoNode) -> str:
        """What the set and its clients know a member by."""
        return self._addresses[node]

    async def ready(self) -> None:
        """Return once it is a set with a primary; starts it if it was not."""
        if self._addresses:
            return
        for node in self.nodes:
            link = self._stack.enter_context(Link(node, self.links))
            self._addresses[node] = f"127.0.0.1:{link.port}"
        for node in self.nodes:
            node.spawn()
        await asyncio.gather(*(node.ready() for node in self.nodes))
        members = [{"_id": number, "host": self.address(node)} for number, node in enumerate(self.nodes)]
        settings = {"heartbeatIntervalMillis": HEARTBEAT_MILLISECONDS}
        config = {"_id": REPLICA_SET, "members": members, "settings": settings}
        assert await ask(self.nodes[0], "replSetInitiate", config) is not None
        await self.healthy()

    async def primary(self) -> MongoNode:
        """The member that takes writes; waits for one."""
        async with asyncio.timeout(READY_SECONDS):
            while True:
                for node in self.nodes:
                    if await node.is_primary():
                        return node
                await asyncio.sleep(0.1)

    async def step_down(self) -> tuple[MongoNode, MongoNode]:
        """Depose the primary; returns it and its successor."""
        deposed = await self.primary()
        await ask(deposed, "replSetStepDown", 30, secondaryCatchUpPeriodSecs=10, force=True)
        async with asyncio.timeout(READY_SECONDS):
            while (successor := await self.primary()) is deposed:
                await asyncio.sleep(0.1)
        return deposed, successor

    async def heal(self) -> None:
        """All members run again and hear each other, with one primary."""
        self.links.mend()
        for node in self.nodes:
            await node.heal()
        await self.healthy()

    async def healthy(self) -> None:
        """Return once there is a primary and both others follow it."""
        async with asyncio.timeout(READY_SECONDS):
            while True:
                answer = await ask(await self.primary(), "replSetGetStatus") or {"members": []}
                if sorted(member["stateStr"] for member in answer["members"]) == ["PRIMARY", "SECONDARY", "SECONDARY"]:
                    return
                await asyncio.sleep(0.1)

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()
        self._stack.close()
