"""The program that sends tasks, apart from the workers: one for each system, with the same commands for all.

    fill WORK COUNT          queue COUNT tasks, as fast as its bulk interface goes
    one SECONDS              one task after the other, for so long
    bulk SECONDS             batches of 500 through its bulk interface, for so long
    pace RATE SECONDS        open loop: at instants that are planned in advance, RATE a second on average, for so long
                             after a warm-up whose tasks are not asked how late they are
    prepare                  make what must be there before the first task

WORK is ``noop``, ``nap`` or ``timed``. What was measured is printed as a line of JSON. Only the standard library is
used here, since each system has an environment of its own.
"""

import asyncio
import json
import random
import sys
import time
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from typing import Any

BATCH = 500
WARM_UP = 50
WARM_UP_SECONDS = 1.5
SEED = 20261122
BLOCKING_SENDERS = 16
"""Threads that send at once in the open loop, where the client of a system blocks."""
IN_FLIGHT = 2_000
"""Sends under way at once in the open loop; later ones wait, and their waiting counts."""


class Sender(ABC):
    """The client of one system. A task is durable, and confirmed if the system can, when a call returns."""

    async def prepare(self) -> None:
        """Make what must be there before the first task."""

    async def open(self) -> None:
        """Connect."""

    async def close(self) -> None:
        """Disconnect."""

    @abstractmethod
    async def send(self, work: str, planned: float) -> None:
        """One task; ``planned`` (monotonic seconds) is its argument."""

    async def send_many(self, work: str, count: int) -> None:
        """``count`` tasks through the bulk interface; without one: pipelined, or else one by one."""
        await asyncio.gather(*(self.send(work, 0.0) for _ in range(count)))


class BlockingSender(Sender):
    """A client whose calls block: threads stand in for the event loop where sends must overlap."""

    @abstractmethod
    def send_blocking(self, work: str, planned: float) -> None:
        """As ``send``."""

    def send_many_blocking(self, work: str, count: int) -> None:
        """As ``send_many``."""
        for _ in range(count):
            self.send_blocking(work, 0.0)

    async def send(self, work: str, planned: float) -> None:
        self.send_blocking(work, planned)

    async def send_many(self, work: str, count: int) -> None:
        self.send_many_blocking(work, count)


async def _fill(sender: Sender, work: str, count: int) -> dict[str, Any]:
    begun = time.monotonic()
    batches = [min(BATCH, count - done) for done in range(0, count, BATCH)]
    if isinstance(sender, BlockingSender):  # nobody measures this, so it may be quicker than its users have it
        with ThreadPoolExecutor(BLOCKING_SENDERS) as threads:
            list(threads.map(sender.send_many_blocking, [work] * len(batches), batches))
    else:
        for batch in batches:
            await sender.send_many(work, batch)
    return {"count": count, "seconds": time.monotonic() - begun}


async def _one(sender: Sender, seconds: float) -> dict[str, Any]:
    for _ in range(WARM_UP):
        await sender.send("noop", 0.0)
    count, begun = 0, time.monotonic()
    while (now := time.monotonic()) < begun + seconds:
        await sender.send("noop", 0.0)
        count += 1
    return {"count": count, "seconds": now - begun}


async def _bulk(sender: Sender, seconds: float) -> dict[str, Any]:
    await sender.send_many("noop", BATCH)
    count, begun = 0, time.monotonic()
    while (now := time.monotonic()) < begun + seconds:
        await sender.send_many("noop", BATCH)
        count += BATCH
    return {"count": count, "seconds": now - begun}


async def _pace(sender: Sender, rate: float, seconds: float) -> dict[str, Any]:
    chance = random.Random(SEED)
    late: list[float] = []
    room = asyncio.Semaphore(IN_FLIGHT)
    loop = asyncio.get_running_loop()
    threads = ThreadPoolExecutor(BLOCKING_SENDERS)
    planned = time.monotonic() + 0.1
    begin = planned + WARM_UP_SECONDS
    warm_up = 0

    def arguments(planned: float) -> tuple[str, float]:
        if planned < begin:
            return "timed", 0.0
        late.append(time.monotonic() - planned)
        return "timed", planned

    def send_blocking(sender: BlockingSender, planned: float) -> None:
        sender.send_blocking(*arguments(planned))

    async def send(planned: float) -> None:
        try:
            if isinstance(sender, BlockingSender):
                await loop.run_in_executor(threads, send_blocking, sender, planned)
            else:
                await sender.send(*arguments(planned))
        finally:
            room.release()

    async with asyncio.TaskGroup() as sends:
        while (planned := planned + chance.expovariate(rate)) < begin + seconds:
            warm_up += planned < begin
            if (pause := planned - time.monotonic()) > 0:
                await asyncio.sleep(pause)
            await room.acquire()
            sends.create_task(send(planned))
    threads.shutdown()
    late.sort()
    return {
        "count": warm_up + len(late),
        "seconds": time.monotonic() - begin,
        "late_p50": late[len(late) // 2] if late else 0.0,
        "late_p99": late[len(late) * 99 // 100] if late else 0.0,
    }


async def _run(sender: Sender, command: str, arguments: list[str]) -> dict[str, Any]:
    if command == "prepare":
        await sender.prepare()
        return {}
    await sender.open()
    try:
        match command, arguments:
            case "fill", [work, count]:
                return await _fill(sender, work, int(count))
            case "one", [seconds]:
                return await _one(sender, float(seconds))
            case "bulk", [seconds]:
                return await _bulk(sender, float(seconds))
            case "pace", [rate, seconds]:
                return await _pace(sender, float(rate), float(seconds))
            case _:
                raise SystemExit(f"there is no command {command} {' '.join(arguments)}\n\n{__doc__}")
    finally:
        await sender.close()


def main(sender: Sender) -> None:
    """Do what the command line says."""
    print(json.dumps(asyncio.run(_run(sender, sys.argv[1], sys.argv[2:]))), flush=True)
