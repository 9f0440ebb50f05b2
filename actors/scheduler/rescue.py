"""Rescue: the only exit from running by others (P9)."""

import asyncio
from collections.abc import Collection, Sequence
from datetime import timedelta

import structlog

from actors.scheduler.duty import NAP, Duty, until
from schemas.event import Event, EventName
from schemas.task import Task, TaskStatus
from service.broker.port import Broker
from service.clock import suspended
from service.envelope import dead_letter, for_stored
from service.log_events import LogEvent
from service.metrics import Metrics
from service.settings import Settings
from service.states import RELAY_SLACK, rescue
from service.store.port import RelayMove, RunEnd, Store

log = structlog.get_logger()

BATCH = 200
AT_ONCE = 8
"""Writes under way together."""
MARGIN = timedelta(seconds=2)
"""Beyond one heartbeat: how long healthy workers get to renew after an outage."""
SLOW_SECONDS = 1.0
"""An answer that took so long hid an outage, for the driver repeats reads by itself; or a suspension."""


class Rescue(Duty):
    """It waits one heartbeat and a margin after its start, and after the first success that follows a store error, a
    suspension of the machine, with which workers and store may have slept, or a jump of the store's clock: meanwhile
    healthy workers could not renew, and their runs must not be doubled."""

    name = "rescue"

    def __init__(self, store: Store, broker: Broker, metrics: Metrics, settings: Settings) -> None:
        self._store, self._broker, self._metrics = store, broker, metrics
        self._stale_after, self._wait = settings.stale_claim_timeout, settings.heartbeat + MARGIN
        self._failed = False
        self._seen = self._clocks()
        self._ready_at = store.clock.monotonic() + self._wait.total_seconds()

    def outage(self) -> None:
        self._failed = True

    async def tick(self) -> timedelta:
        begun = self._store.clock.monotonic()
        self._failed |= self._jumped()
        if self._failed:
            await self._store.sync_clock()
            self._jumped()
            # Counted from the first answer, not from the last error.
            self._failed = False
            self._ready_at = self._store.clock.monotonic() + self._wait.total_seconds()
        left = self._ready_at - begun
        if left > 0:
            return timedelta(seconds=left)
        stale, next_at = await self._store.upkeep.stale_claims(self._stale_after, BATCH)
        if self._jumped() or self._store.clock.monotonic() - begun > SLOW_SECONDS:
            self._failed = True
            return timedelta()
        await self._rescue(stale)
        # A claim made just after this look must not be found later than a look at its own time would find it.
        nap = min(NAP, self._stale_after)
        return until(next_at, self._store.clock.now(), shortest=timedelta(milliseconds=100), nap=nap)

    def _clocks(self) -> tuple[float, float]:
        """What this machine has slept, and how far the store's clock is from it, each plus a constant."""
        clock = self._store.clock
        return suspended(), clock.now().timestamp() - clock.monotonic()

    def _jumped(self) -> bool:
        """Whether the machine was suspended, or the store's clock went on by itself, since the last look: that of a
        virtual machine which was paused from outside is set when it runs again."""
        before, self._seen = self._seen, self._clocks()
        return any(now - then > SLOW_SECONDS for now, then in zip(self._seen, before, strict=True))

    async def adopt(self, dead: Collection[str]) -> int:
        """Rescue the claims of workers that are known to be gone, at once."""
        count = await self._store.upkeep.rescue_workers(dead) if dead else 0
        while count and (stale := (await self._store.upkeep.stale_claims(self._stale_after, BATCH))[0]):
            await self._rescue(stale)
        return count

    async def _rescue(self, stale: Sequence[Task]) -> None:
        """All of a dead worker's claims together: one after another they would be late."""
        gate = asyncio.Semaphore(AT_ONCE)

        async def take(task: Task) -> Task | None:
            async with gate:
                return await self._take(task)

        answers = await asyncio.gather(*map(take, stale), return_exceptions=True)
        # Published by rescue itself, whatever the queue holds: relay would wait behind a backlog.
        await self._publish([answer for answer in answers if isinstance(answer, Task)])
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer

    async def _take(self, task: Task) -> Task | None:
        """The task as it is once its claim was taken away; None: somebody else was quicker, or it is alive after
        all."""
        now = self._store.clock.now()
        move = rescue(task, now)
        due = None if move.status is TaskStatus.CANCELLED else now + RELAY_SLACK
        if not await self._store.upkeep.rescue(task, move, self._stale_after, due):
            return None
        fields = {"task_type": task.task_type, "id": task.id, "attempt": task.attempt}
        self._metrics.rescues.add(self._metrics.type(task.task_type))
        log.warning(LogEvent.TASK_RESCUED, **fields, worker=task.claimed_by, status=move.status.value)
        if move.status is TaskStatus.FAILED:
            self._metrics.dead_letters.add(self._metrics.type(task.task_type))
            log.error(LogEvent.TASK_FAILED, **fields, status="dead_letter", reason=move.reason)
        self._broker.emit(
            lambda: Event(
                event=EventName.TASK_RESCUED,
                at=now,
                task_id=task.id,
                task_type=task.task_type,
                schedule_id=task.schedule_id,
                worker=task.claimed_by,
                detail={"attempt": task.attempt, "status": move.status.value},
            )
        )
        return task.model_copy(
            update={
                "status": move.status,
                "relay_at": due,
                "retry_at": move.retry_at or task.retry_at,
                "last_error": move.error or task.last_error,
                "reason": move.reason,
            }
        )

    async def _publish(self, taken: Sequence[Task]) -> None:
        now = self._store.clock.now()
        pending = [task for task in taken if task.status is TaskStatus.PENDING]
        dead = [task for task in taken if task.status is TaskStatus.FAILED]
        messages = [*(for_stored(task, now) for task in pending), *map(dead_letter, dead)]
        confirmed = await self._broker.publish(messages) if messages else []
        ends = [
            RunEnd(task.schedule_id, task.id, task.status, now, 0)
            for task in taken
            if task.schedule_id is not None and task.status.finished
        ]
        if ends:
            await self._store.schedules.record_runs(ends)
        there = [task for task, sure in zip(dead, confirmed[len(pending) :], strict=True) if sure]
        if there:
            await self._store.upkeep.relay_move([RelayMove(task, None) for task in there])
