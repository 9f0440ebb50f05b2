"""The scheduler actor: duties run when they say, and when they are woken."""

import asyncio
import time
from datetime import timedelta

import pytest
import uvloop

from actors.scheduler.duty import NAP, Duty
from actors.scheduler.scheduler import SchedulerActor
from actors.supervisor import Supervisor
from service.errors import StoreUnavailable


class Counted(Duty):
    """Ticks a number of times at once, then naps."""

    name = "counted"

    def __init__(self, times: int, error: Exception | None = None) -> None:
        self.ticks = 0
        self.outages = 0
        self._times, self._error = times, error
        self.ticked = asyncio.Event()
        self.hold: asyncio.Event | None = None

    def outage(self) -> None:
        self.outages += 1

    async def tick(self) -> timedelta:
        self.ticks += 1
        self.ticked.set()
        if self.hold is not None:
            await self.hold.wait()
        if self._error is not None and self.ticks == 1:
            raise self._error
        return timedelta() if self.ticks < self._times else NAP

    async def reaches(self, ticks: int) -> float:
        begun = time.monotonic()
        async with asyncio.timeout(10):
            while self.ticks < ticks:
                self.ticked.clear()
                await self.ticked.wait()
        return time.monotonic() - begun


async def run(actor: SchedulerActor) -> "asyncio.Task[None]":
    return asyncio.create_task(actor.run())


async def test_a_duty_that_says_at_once_runs_again_at_once() -> None:
    duty = Counted(20)
    actor = SchedulerActor([duty])
    running = await run(actor)

    assert await duty.reaches(20) < 5

    actor.stop()
    await running


class Preempted(SchedulerActor):
    """On a busy machine, which takes the processor away right after a duty has said when it wants to run next."""

    def _next(self, name: str, wait: timedelta) -> None:
        super()._next(name, wait)
        time.sleep(0.02)


def test_a_duty_runs_again_at_once_also_when_the_processor_was_away_meanwhile() -> None:
    """Its timer is due before its last run has been counted as ended: the event loop looks at timers first."""

    async def run_twenty() -> float:
        duty = Counted(20)
        actor = Preempted([duty])
        running = await run(actor)
        seconds = await duty.reaches(20)
        actor.stop()
        await running
        return seconds

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(run_twenty()) < 5


async def test_a_duty_never_runs_beside_itself() -> None:
    duty = Counted(1)
    duty.hold = asyncio.Event()
    actor = SchedulerActor([duty])
    running = await run(actor)
    await duty.reaches(1)

    async with asyncio.timeout(10):  # a second run would wait as the first one does
        await actor._tick("counted")
    assert duty.ticks == 1

    duty.hold.set()
    await duty.reaches(2)
    actor.stop()
    await running


async def test_a_duty_woken_while_it_runs_runs_once_more() -> None:
    duty = Counted(1)
    duty.hold = asyncio.Event()
    actor = SchedulerActor([duty])
    running = await run(actor)
    await duty.reaches(1)

    actor.wake("counted")
    duty.hold.set()

    assert await duty.reaches(2) < 5
    actor.stop()
    await running


async def test_a_server_that_is_away_postpones_a_duty_and_all_hear_of_the_store() -> None:
    duty = Counted(1, StoreUnavailable("MongoDB at nowhere does not answer"))
    actor = SchedulerActor([duty])
    running = await run(actor)

    await duty.reaches(2)

    assert duty.outages == 1
    actor.stop()
    await running


async def test_a_fault_of_ours_crashes_the_actor_and_the_supervisor_runs_it_again() -> None:
    duty = Counted(1, ValueError("a fault"))
    actor = SchedulerActor([duty])
    supervisor = Supervisor()
    supervisor.start(actor)

    await duty.reaches(2)

    assert not supervisor.failed.is_set()
    await supervisor.stop(5)


@pytest.mark.parametrize("crashes", [3])
async def test_an_actor_that_crashes_too_often_is_a_failure_of_the_process(
    crashes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.supervisor.MOST_CRASHES", crashes)
    monkeypatch.setattr("actors.supervisor.FIRST_PAUSE", 0.01)

    class Broken(Duty):
        name = "broken"

        async def tick(self) -> timedelta:
            raise ValueError("always")

    supervisor = Supervisor()
    supervisor.start(SchedulerActor([Broken()]))

    async with asyncio.timeout(10):
        await supervisor.failed.wait()
    assert "crashed 3 times" in str(supervisor.reason)
