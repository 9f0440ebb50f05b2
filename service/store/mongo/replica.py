"""Make a lone ``mongod`` a one-node replica set: what embedded mode and the tests run on."""

import asyncio
from collections.abc import Mapping
from typing import Any

from motor.motor_asyncio import AsyncIOMotorClient
from pymongo.errors import OperationFailure, PyMongoError

from service.errors import ConfigError, StoreUnavailable

NOT_YET_INITIALIZED = 94
NO_REPLICATION_ENABLED = 76
PAUSE_SECONDS = 0.02

Client = AsyncIOMotorClient[dict[str, Any]]


async def ensure_replica_set(
    url: str, host: str, name: str = "verger", *, pid: int | None = None, timeout_seconds: float = 30.0
) -> None:
    """Return once the server at ``url`` is the primary of the one-node set ``name`` under the address ``host``.

    Starts the set if there is none, and moves it if the server was restarted on another port. Changes nothing
    otherwise, so it may be called at every start.

    Args:
        url: connects to the server alone: without ``replicaSet``, which a server that has none yet would fail.
        host: ``host:port``, under which clients find the member.
        pid: touch no server but this process: another one may have taken the port first.

    Raises:
        ConfigError: the server belongs to a set of several nodes, or of another name.
        StoreUnavailable: it did not become primary in time.
    """
    client: Client = AsyncIOMotorClient(url, directConnection=True, serverSelectionTimeoutMS=1000)
    last: PyMongoError | None = None
    try:
        async with asyncio.timeout(timeout_seconds):
            while True:
                try:
                    if await _settled(client, host, name, pid):
                        return
                except PyMongoError as error:  # it is still starting, or was reconfigured under our feet
                    last = error
                await asyncio.sleep(PAUSE_SECONDS)
    except TimeoutError:
        late = f"the mongod at {host} did not become primary within {timeout_seconds:g} s"
        raise StoreUnavailable(f"{late}: {last}" if last else late) from last
    finally:
        client.close()


async def _settled(client: Client, host: str, name: str, pid: int | None) -> bool:
    """One step towards a primary; whether it is there."""
    if pid is not None and (await client.admin.command("serverStatus"))["pid"] != pid:
        return False
    try:
        config = (await client.admin.command("replSetGetConfig"))["config"]
    except OperationFailure as error:
        if error.code == NO_REPLICATION_ENABLED:
            raise ConfigError(f"the mongod at {host} is a standalone; start it with --replSet {name}") from error
        if error.code != NOT_YET_INITIALIZED:
            raise
        # A server that still reads its old configuration answers the same, and refuses this: look again.
        await client.admin.command("replSetInitiate", {"_id": name, "members": [{"_id": 0, "host": host}]})
        return False
    if config["_id"] != name or len(config["members"]) != 1:
        raise ConfigError(
            f"the mongod at {host} belongs to the replica set {config['_id']!r}; give it a data folder of its own"
        )
    if config["members"][0]["host"] != host:
        await _move(client, host, config)
        return False
    return bool((await client.admin.command("hello"))["isWritablePrimary"])


async def _move(client: Client, host: str, config: Mapping[str, Any]) -> None:
    """Give the only member its new address. Forced: a node that is not in its own set cannot be its primary."""
    member = {**config["members"][0], "host": host}
    moved = {**config, "version": config["version"] + 1, "members": [member]}
    await client.admin.command("replSetReconfig", moved, force=True)
