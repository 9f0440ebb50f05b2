"""The servers of the tests do to a client what the tests ask of them."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aio_pika
import pymongo
import pytest
from pamqp.common import FieldTable
from pymongo.errors import PyMongoError

from tests.servers import MongoServer, RabbitServer

PARENT = """
import subprocess, time
from service.child_process import ending_with_parent
print(subprocess.Popen(ending_with_parent("sleep", "60")).pid, flush=True)
time.sleep(60)
"""


async def test_a_killed_mongod_comes_back_on_its_port_with_its_data(mongo_server: MongoServer, database: str) -> None:
    with pymongo.MongoClient[dict[str, Any]](mongo_server.url, serverSelectionTimeoutMS=100) as client:
        client[database]["things"].insert_one({"_id": 1})
        url, pid = mongo_server.url, mongo_server.pid

        mongo_server.kill()

        with pytest.raises(PyMongoError):
            client.admin.command("ping")
        await mongo_server.restart()
        assert (mongo_server.url, mongo_server.alive) == (url, True)
        assert mongo_server.pid != pid
        assert client[database]["things"].count_documents({}) == 1


async def test_a_frozen_mongod_is_silent_until_it_thaws(mongo_server: MongoServer) -> None:
    with pymongo.MongoClient[dict[str, Any]](mongo_server.url) as client:
        client.admin.command("ping")

        mongo_server.freeze()

        with pytest.raises(PyMongoError), pymongo.timeout(0.3):
            client.admin.command("ping")
        mongo_server.thaw()
        assert client.admin.command("ping")["ok"] == 1


def test_mongod_has_fail_points(mongo_url: str) -> None:
    with pymongo.MongoClient[dict[str, Any]](mongo_url) as client:
        fail = {"failCommands": ["ping"], "errorCode": 6}
        client.admin.command("configureFailPoint", "failCommand", mode={"times": 1}, data=fail)

        with pytest.raises(PyMongoError):
            client.admin.command("ping")
        assert client.admin.command("ping")["ok"] == 1


async def test_a_killed_broker_comes_back_on_its_port_with_its_messages(
    rabbit_server: RabbitServer, prefix: str
) -> None:
    queue_name = f"{prefix}.kept"
    arguments: FieldTable = {"x-queue-type": "quorum"}
    async with await aio_pika.connect(rabbit_server.url) as connection:
        channel = await connection.channel()
        await channel.declare_queue(queue_name, durable=True, arguments=arguments)
        message = aio_pika.Message(b"kept", delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await channel.default_exchange.publish(message, queue_name)
        rabbit_server.kill()
    assert not rabbit_server.alive

    await rabbit_server.restart()

    async with await aio_pika.connect(rabbit_server.url) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(queue_name, durable=True, arguments=arguments)
        received = await queue.get(timeout=10)
        assert received is not None
        assert received.body == b"kept"
        await received.ack()


async def test_only_what_bears_the_prefix_is_deleted(rabbit_server: RabbitServer, prefix: str) -> None:
    async with await aio_pika.connect(rabbit_server.url) as connection:
        channel = await connection.channel()
        await channel.declare_exchange(f"{prefix}.exchange", "topic")
        for name in (f"{prefix}.mine", f"{prefix}s.not-mine"):
            await channel.declare_queue(name, durable=True, arguments={"x-queue-type": "quorum"})

        await rabbit_server.delete(prefix)

        assert await rabbit_server.names(prefix) == [f"{prefix}s.not-mine"]
        assert f"{prefix}.exchange" not in await rabbit_server.ctl("list_exchanges", "name")
    await rabbit_server.delete(f"{prefix}s")


def test_a_child_ends_when_its_parent_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        os.kill(child, 0)

        parent.kill()

    deadline = time.monotonic() + 5
    while _runs(child):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _runs(pid: int) -> bool:
    """A zombie does not: where nobody reaps orphans, it stays one."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
