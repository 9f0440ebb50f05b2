"""FastStream on RabbitMQ: a durable queue, persistent messages, acknowledged after the handler."""

import asyncio

from faststream import AckPolicy, FastStream
from faststream.rabbit import Channel, RabbitBroker, RabbitQueue

from bench.counting import count, count_from
from bench.peers.place import AMQP_URL, NAP_SECONDS, QUEUE
from bench.sending import Sender, main

broker = RabbitBroker(AMQP_URL, default_channel=Channel(prefetch_count=100))
app = FastStream(broker)
QUEUES = {work: RabbitQueue(f"{QUEUE}.{work}", durable=True) for work in ("noop", "nap", "timed")}


@broker.subscriber(QUEUES["noop"], ack_policy=AckPolicy.NACK_ON_ERROR)
async def noop(planned: float) -> None:
    count()


@broker.subscriber(QUEUES["nap"], ack_policy=AckPolicy.NACK_ON_ERROR)
async def nap(planned: float) -> None:
    await asyncio.sleep(NAP_SECONDS)
    count()


@broker.subscriber(QUEUES["timed"], ack_policy=AckPolicy.NACK_ON_ERROR)
async def timed(planned: float) -> None:
    count_from(planned)


class FastStreamSender(Sender):
    """It has no bulk publish on RabbitMQ: a batch is sent side by side, each message confirmed."""

    async def open(self) -> None:
        await broker.connect()
        for queue in QUEUES.values():
            await broker.declare_queue(queue)

    async def close(self) -> None:
        await broker.stop()

    async def send(self, work: str, planned: float) -> None:
        await broker.publish(planned, QUEUES[work], persist=True)


if __name__ == "__main__":
    main(FastStreamSender())
