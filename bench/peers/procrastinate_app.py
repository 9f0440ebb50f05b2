"""Procrastinate on PostgreSQL: jobs are rows, and stay after they have succeeded."""

import asyncio

from procrastinate import App, PsycopgConnector

from bench.counting import count, count_from
from bench.peers.place import NAP_SECONDS, POSTGRES_URL
from bench.sending import Sender, main

app = App(connector=PsycopgConnector(conninfo=POSTGRES_URL, max_size=20))


@app.task(name="noop")
async def noop(planned: float) -> None:
    count()


@app.task(name="nap")
async def nap(planned: float) -> None:
    await asyncio.sleep(NAP_SECONDS)
    count()


@app.task(name="timed")
async def timed(planned: float) -> None:
    count_from(planned)


WORKS = {"noop": noop, "nap": nap, "timed": timed}


class ProcrastinateSender(Sender):
    """Its bulk interface is ``batch_defer_async``."""

    async def prepare(self) -> None:
        async with app.open_async():
            await app.schema_manager.apply_schema_async()

    async def open(self) -> None:
        await app.open_async()

    async def close(self) -> None:
        await app.close_async()

    async def send(self, work: str, planned: float) -> None:
        await WORKS[work].defer_async(planned=planned)

    async def send_many(self, work: str, count: int) -> None:
        await WORKS[work].batch_defer_async(*({"planned": 0.0} for _ in range(count)))


if __name__ == "__main__":
    main(ProcrastinateSender())
