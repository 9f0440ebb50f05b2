"""Verger's sender: ``stored`` through its client, ``message`` with a plain AMQP client that knows nothing of Verger."""

import json
import os
import sys
from contextlib import AsyncExitStack

import aio_pika

from actors.composition import connect
from bench.sending import Sender, main
from service.client import NewTask
from service.logs import configure_logs
from service.settings import load_settings


class StoredSender(Sender):
    """Its bulk interface is ``enqueue_many``."""

    async def open(self) -> None:
        self._stack = AsyncExitStack()
        connection = await self._stack.enter_async_context(connect(load_settings()))
        self._client = connection.client

    async def close(self) -> None:
        await self._stack.aclose()

    async def send(self, work: str, planned: float) -> None:
        await self._client.enqueue(f"bench.{work}", {"planned": planned})

    async def send_many(self, work: str, count: int) -> None:
        await self._client.enqueue_many([NewTask(f"bench.{work}", {"planned": 0.0}) for _ in range(count)])


class MessageSender(Sender):
    """AMQP has no bulk publish: a batch is sent side by side, each message confirmed."""

    async def open(self) -> None:
        self._connection = await aio_pika.connect(os.environ["VERGER_AMQP_URL"])
        channel = await self._connection.channel()
        self._exchange = await channel.get_exchange(f"{os.environ['VERGER_PREFIX']}.tasks", ensure=False)

    async def close(self) -> None:
        await self._connection.close()

    async def send(self, work: str, planned: float) -> None:
        message = aio_pika.Message(
            json.dumps({"taskBody": {"planned": planned}}).encode(),
            content_type="application/json",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        )
        await self._exchange.publish(message, f"bench.{work}")


SENDERS = {"stored": StoredSender, "message": MessageSender}

if __name__ == "__main__":
    configure_logs(load_settings(log_level="warning"))
    main(SENDERS[sys.argv.pop(1)]())
