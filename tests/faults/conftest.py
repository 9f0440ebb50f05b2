"""A fleet for each test, and the recorder of the matrix."""

from collections.abc import AsyncIterator
from pathlib import Path

import aio_pika
import pytest

from tests.conftest import DatabaseClient
from tests.faults.kit.fleet import Fleet
from tests.faults.kit.record import Recorder


@pytest.fixture
async def fleet(mongo_url: str, amqp_url: str, database: str, prefix: str, tmp_path: Path) -> AsyncIterator[Fleet]:
    made = Fleet(mongo_url, amqp_url, database, prefix, tmp_path)
    try:
        await made.open()
        yield made
    finally:
        await made.close()


@pytest.fixture
async def record(amqp_url: str, database_client: DatabaseClient) -> Recorder:
    connection = await aio_pika.connect(amqp_url)
    try:
        assert connection.transport is not None
        rabbitmq = connection.transport.connection.server_properties["version"]
    finally:
        await connection.close()
    version = rabbitmq.decode() if isinstance(rabbitmq, bytes) else str(rabbitmq)
    return Recorder({"RabbitMQ": version, "MongoDB": database_client.server_info()["version"]})
