"""Dramatiq on RabbitMQ, with confirmed deliveries and its default middleware."""

import time

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from bench.counting import count, count_from
from bench.peers.place import AMQP_URL, NAP_SECONDS, QUEUE
from bench.sending import BlockingSender, main

broker = RabbitmqBroker(url=AMQP_URL, confirm_delivery=True)
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name=QUEUE)
def noop(planned: float) -> None:
    count()


@dramatiq.actor(queue_name=QUEUE)
def nap(planned: float) -> None:
    time.sleep(NAP_SECONDS)
    count()


@dramatiq.actor(queue_name=QUEUE)
def timed(planned: float) -> None:
    count_from(planned)


WORKS = {"noop": noop, "nap": nap, "timed": timed}


class DramatiqSender(BlockingSender):
    """It has no bulk publish: a group sends its messages one by one, as is done here."""

    def send_blocking(self, work: str, planned: float) -> None:
        WORKS[work].send(planned)


if __name__ == "__main__":
    main(DramatiqSender())
