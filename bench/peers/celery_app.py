"""Celery: prefork workers, late acknowledgement, confirmed publishes; results in MongoDB, or nowhere."""

import time

from celery import Celery

from bench.counting import count, count_from
from bench.peers.place import AMQP_URL, DATABASE, MONGO_URL, NAP_SECONDS, QUEUE, STORES_RESULTS
from bench.sending import BlockingSender, main

app = Celery("bench", broker=AMQP_URL, backend=MONGO_URL.replace("/?", f"/{DATABASE}?") if STORES_RESULTS else None)
app.conf.update(
    task_acks_late=True,
    task_default_queue=QUEUE,
    task_ignore_result=not STORES_RESULTS,
    # Its guide to optimizing names 50 and 150 for many short tasks.
    worker_prefetch_multiplier=100,
    broker_transport_options={"confirm_publish": True},
)


@app.task(name="noop")
def noop(planned: float) -> None:
    count()


@app.task(name="nap")
def nap(planned: float) -> None:
    time.sleep(NAP_SECONDS)
    count()


@app.task(name="timed")
def timed(planned: float) -> None:
    count_from(planned)


class CelerySender(BlockingSender):
    """It has no bulk publish; for many, one producer is kept instead of taken from the pool for each."""

    def send_blocking(self, work: str, planned: float) -> None:
        app.tasks[work].apply_async((planned,))

    def send_many_blocking(self, work: str, count: int) -> None:
        task = app.tasks[work]
        with app.producer_or_acquire() as producer:
            for _ in range(count):
                task.apply_async((0.0,), producer=producer)


if __name__ == "__main__":
    main(CelerySender())
