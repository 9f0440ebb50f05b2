"""The scheduler actor: APScheduler drives its duties; each says itself when it wants to run next."""

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger

from actors.base import Actor
from actors.mailbox import Mailbox
from actors.scheduler.duty import NAP, Duty
from service.errors import StoreUnavailable, Unavailable
from service.log_events import LogEvent

log = structlog.get_logger()

FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=0.5), timedelta(seconds=5)
CLOCK_STEP_SECONDS = 2.0
AT_ONCE = timedelta(milliseconds=5)
AT_A_TIME = 3
"""Runs of a duty as APScheduler counts them: one, one that has just ended, and one that finds it running."""


class SchedulerActor(Actor):
    """Duties never overlap themselves; none waits for another."""

    name = "scheduler"

    def __init__(self, duties: Sequence[Duty]) -> None:
        self._duties = {duty.name: duty for duty in duties}
        self._mailbox: Mailbox[BaseException] = Mailbox()
        self._stopping = False
        self._running: set[str] = set()
        self._wanted: set[str] = set()
        self._failures: dict[str, int] = {}
        self._ticks: set[asyncio.Task[None]] = set()
        self._scheduler: AsyncIOScheduler | None = None

    def stop(self) -> None:
        self._stopping = True
        self._mailbox.ring()

    def wake(self, name: str) -> None:
        """Let a duty look now, or right after its present look."""
        if name in self._running:
            self._wanted.add(name)
        else:
            self._next(name, timedelta())

    async def run(self) -> None:
        # The default grace of one second would silently drop a duty that is late; so would a limit of one at a time: a
        # run counts until the loop comes to it, and its next one's timer may be due before.
        scheduler = AsyncIOScheduler(
            timezone=UTC, job_defaults={"coalesce": True, "max_instances": AT_A_TIME, "misfire_grace_time": None}
        )
        for name in self._duties:
            scheduler.add_job(
                self._tick,
                IntervalTrigger(seconds=int(NAP.total_seconds()), timezone=UTC),
                args=[name],
                id=name,
                next_run_time=datetime.now(UTC),
            )
        scheduler.start()
        self._scheduler = scheduler
        log.info(LogEvent.SCHEDULER_STARTED, duties=sorted(self._duties))
        try:
            await self._watch_clock()
        finally:
            self._scheduler = None
            scheduler.shutdown(wait=False)
            for tick in self._ticks:
                tick.cancel()
            if self._ticks:
                await asyncio.wait(self._ticks, timeout=5)
            for duty in self._duties.values():
                await duty.close()
        log.info(LogEvent.SCHEDULER_STOPPED)

    async def _watch_clock(self) -> None:
        """Until told to stop. APScheduler waits by the wall clock: when that steps back, it would oversleep."""
        offset = time.time() - time.monotonic()
        while not self._stopping:
            await self._mailbox.wait(5.0)
            for crash in self._mailbox.take():
                raise crash
            if abs(time.time() - time.monotonic() - offset) > CLOCK_STEP_SECONDS:
                offset = time.time() - time.monotonic()
                log.warning(LogEvent.CLOCK_STEPPED)
                for name in self._duties:
                    self._next(name, timedelta())

    async def _tick(self, name: str) -> None:
        if name in self._running:
            self._wanted.add(name)
            return
        tick = asyncio.current_task()
        assert tick is not None
        self._ticks.add(tick)
        self._running.add(name)
        try:
            wait = await self._look(self._duties[name])
        finally:
            self._running.discard(name)
            self._ticks.discard(tick)
        if name in self._wanted:
            self._wanted.discard(name)
            wait = timedelta()
        self._next(name, wait)

    async def _look(self, duty: Duty) -> timedelta:
        try:
            wait = await duty.tick()
        except Unavailable as error:
            failures = self._failures[duty.name] = self._failures.get(duty.name, 0) + 1
            pause = min(FIRST_PAUSE * 2.0 ** min(failures - 1, 8), LONGEST_PAUSE)
            log.warning(
                LogEvent.DUTY_POSTPONED, duty=duty.name, error=str(error), again_in_seconds=pause.total_seconds()
            )
            if isinstance(error, StoreUnavailable):
                for other in self._duties.values():
                    other.outage()
            return pause
        except Exception as error:
            # A fault of ours: the actor crashes, and the supervisor decides.
            self._mailbox.put(error)
            return NAP
        self._failures.pop(duty.name, None)
        return wait

    def _next(self, name: str, wait: timedelta) -> None:
        """The interval trigger is the longest sleep; this only brings the next run forward.

        Never to this very moment: others have their turn in between.
        """
        if self._scheduler is not None and wait < NAP:
            self._scheduler.modify_job(name, next_run_time=datetime.now(UTC) + max(wait, AT_ONCE))
