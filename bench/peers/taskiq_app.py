"""taskiq on RabbitMQ through taskiq-aio-pika; with Redis as its result backend, or without."""

import asyncio

from taskiq_aio_pika import AioPikaBroker, Exchange, Queue
from taskiq_redis import RedisAsyncResultBackend

from bench.counting import count, count_from
from bench.peers.place import AMQP_URL, DATABASE, NAP_SECONDS, QUEUE, REDIS_URL, STORES_RESULTS
from bench.sending import Sender, main

# qos is as much as a worker runs at once; the default of 10 would leave it idle.
broker = AioPikaBroker(
    AMQP_URL,
    qos=100,
    exchange=Exchange(name=f"{DATABASE}.exchange"),
    task_queues=[Queue(name=QUEUE)],
    dead_letter_queue=Queue(name=f"{DATABASE}.dead"),
)
if STORES_RESULTS:
    broker = broker.with_result_backend(RedisAsyncResultBackend(REDIS_URL))


@broker.task("noop")
async def noop(planned: float) -> None:
    count()


@broker.task("nap")
async def nap(planned: float) -> None:
    await asyncio.sleep(NAP_SECONDS)
    count()


@broker.task("timed")
async def timed(planned: float) -> None:
    count_from(planned)


WORKS = {"noop": noop, "nap": nap, "timed": timed}


class TaskiqSender(Sender):
    """It has no bulk publish: a batch is sent side by side, each message confirmed."""

    async def open(self) -> None:
        await broker.startup()

    async def close(self) -> None:
        await broker.shutdown()

    async def send(self, work: str, planned: float) -> None:
        await WORKS[work].kiq(planned)


if __name__ == "__main__":
    main(TaskiqSender())
