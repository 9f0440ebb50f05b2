"""Tasks that keep coming while servers fail: from Verger's client, from a foreign publisher, from a schedule."""

import asyncio
import json
import logging
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from types import TracebackType

import pika
from pika.exceptions import AMQPError

from schemas.schedule import Misfire, Overlap, Schedule
from service.errors import Unavailable
from tests.faults.kit.fleet import Fleet
from tests.faults.kit.invariants import Findings, check, check_fires
from tests.promises.installation import Process

PATIENCE = 120.0
PAUSE = 0.1
EVERY = timedelta(seconds=2)
SCHEDULE = "load"
ENDS = {"fault.work": {}, "fault.threaded": {}, "fault.blocks": {}, "fault.flaky": {"failures": 1}}
"""A task of each type that completes."""


class Load:
    """Comes as long as the ``async with`` lasts; ``accepted`` are the tasks whose acceptance was confirmed.

    What is refused, or left unanswered, is counted and not tried again: nothing was promised of it.
    """

    def __init__(self, fleet: Fleet, workers: Sequence[Process], *, seconds: float = 0.2, foreign: bool = True) -> None:
        self._fleet, self._workers, self._seconds = fleet, workers, seconds
        self.accepted: list[str] = []
        self.flaky: set[str] = set()
        """Those that fail once on purpose."""
        self.refused = 0
        self._since = 0.0
        self._stopped = threading.Event()
        self._publisher = threading.Thread(target=self._publish, daemon=True) if foreign else None

    async def __aenter__(self) -> "Load":
        now = self._fleet.store.clock.now().timestamp()
        self._start = datetime.fromtimestamp(now // EVERY.seconds * EVERY.seconds + 2 * EVERY.seconds, UTC)
        schedule = Schedule(
            id=SCHEDULE,
            task_type="fault.work",
            schedule=f"@every {EVERY.seconds}s",
            overlap=Overlap.ALLOW,
            misfire=Misfire.ALL,
            next_fire_at=self._start,
        )
        await self._fleet.store.schedules.write([schedule])
        await self._fleet.client.schedules_changed()
        self._client = asyncio.create_task(self._enqueue())
        if self._publisher is not None:
            self._publisher.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        await self._client
        if self._publisher is not None:
            await asyncio.to_thread(self._publisher.join, PATIENCE)

    async def _enqueue(self) -> None:
        while not self._stopped.is_set():
            try:
                self.accepted += await self._fleet.enqueue(1, self._seconds)
            except Unavailable:
                self.refused += 1
            await asyncio.sleep(PAUSE)

    def _publish(self) -> None:
        """With another client library, in a thread of its own; each message waits for its confirm."""
        logging.getLogger("pika").setLevel(logging.CRITICAL)  # it tells at length of each failure that is meant
        parameters = pika.URLParameters(self._fleet.amqp_url)
        parameters.socket_timeout = parameters.stack_timeout = parameters.blocked_connection_timeout = 5
        parameters.heartbeat = 4
        number = 0
        while not self._stopped.is_set():
            connection = None
            try:
                connection = pika.BlockingConnection(parameters)
                channel = connection.channel()
                channel.confirm_delivery()
                while not self._stopped.wait(PAUSE):
                    number += 1
                    task = {"id": f"foreign-{number}", "taskBody": {"seconds": self._seconds}}
                    lasting = pika.BasicProperties(delivery_mode=2)
                    channel.basic_publish(self._fleet.names.tasks, "fault.work", json.dumps(task).encode(), lasting)
                    self.accepted.append(f"foreign-{number}")
            except (AMQPError, OSError):
                self.refused += 1
                self._stopped.wait(PAUSE)
            finally:
                if connection is not None and connection.is_open:
                    with suppress(AMQPError, OSError):
                        connection.close()

    # ---- waiting ---------------------------------------------------------------------------------

    async def flows(self) -> None:
        """Until every worker has begun runs since this moment, and a task that was accepted since has ended."""
        since, known = time.monotonic(), len(self.accepted)
        pids = {worker.pid for worker in self._workers}

        def flowing() -> bool:
            lines = self._fleet.ledger.lines()
            fresh = set(self.accepted[known:])
            begun = {line.pid for line in lines if line.what == "start" and line.at > since}
            return begun >= pids and any(line.what == "end" and line.task in fresh for line in lines)

        await self._fleet.until(flowing, "every worker to work", PATIENCE)

    async def recovers(self, since: float) -> float:
        """After a fault that was mended at ``since`` (monotonic): until what was accepted before has ended, and all
        goes on. Returns how long the first took."""
        touched = list(self.accepted)
        await self._fleet.ended(touched, PATIENCE)
        took = max(0.0, self._fleet.recovery(since, touched))
        await self.flows()
        return took

    # ---- afterwards ------------------------------------------------------------------------------

    async def check(self) -> Findings:
        """That nothing was lost or doubled, that no fire is missing, and that each type of task still runs."""
        for task_type, body in ENDS.items():
            ids = await self._fleet.enqueue(len(self._workers), task_type=task_type, **body)
            self.accepted += ids
            if task_type == "fault.flaky":
                self.flaky |= set(ids)
        count = (self._fleet.store.clock.now() - self._start) // EVERY
        fires = [
            f"fire:{SCHEDULE}@{(self._start + number * EVERY).isoformat().replace('+00:00', 'Z')}"
            for number in range(count)
        ]
        stored = self._fleet.oplog.read().states  # also what was stored and whose confirmation was lost
        findings = await check(self._fleet, {*self.accepted, *fires, *stored}, seconds=PATIENCE)
        check_fires(self._fleet, SCHEDULE, self._start, EVERY, count)
        failed = [each for each, status in self._fleet.statuses(self.accepted).items() if status != "completed"]
        assert not failed, failed
        return findings
