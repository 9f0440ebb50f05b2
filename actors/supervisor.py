"""Runs actors: a crash is logged and followed by a restart with backoff; too many end the process."""

import asyncio
from collections import deque
from collections.abc import Iterable

import structlog

from actors.base import Actor
from service.log_events import LogEvent

log = structlog.get_logger()

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0
MOST_CRASHES, WITHIN_SECONDS = 10, 120.0


class TooManyCrashes(Exception):
    """An actor cannot be kept running; the process must end, so that the orchestrator sees it."""


class Supervisor:
    """Owns one asyncio task for each actor."""

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[None], Actor] = {}
        self.failed = asyncio.Event()
        """Set when an actor crashed too often."""
        self.reason: TooManyCrashes | None = None

    def start(self, actor: Actor) -> None:
        task = asyncio.create_task(self._keep_running(actor), name=actor.name)
        self._tasks[task] = actor
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    async def _keep_running(self, actor: Actor) -> None:
        crashes: deque[float] = deque(maxlen=MOST_CRASHES)
        loop = asyncio.get_running_loop()
        while True:
            try:
                await actor.run()
                return
            except Exception as error:
                # Whatever it was: an actor's crash is the supervisor's business, and is never silent.
                crashes.append(loop.time())
                recent = [at for at in crashes if at > loop.time() - WITHIN_SECONDS]
                pause = min(FIRST_PAUSE * 2 ** (len(recent) - 1), LONGEST_PAUSE)
                log.exception(LogEvent.ACTOR_CRASHED, actor=actor.name, crashes=len(recent), restart_in_seconds=pause)
                if len(recent) >= MOST_CRASHES:
                    self.reason = TooManyCrashes(
                        f"{actor.name} crashed {len(recent)} times within {WITHIN_SECONDS:.0f} s: {error!r}"
                    )
                    self.failed.set()
                    return
            await asyncio.sleep(pause)

    async def stop(self, seconds: float) -> None:
        """Ask all to stop, wait at most ``seconds``, then cancel what is left."""
        tasks = dict(self._tasks)
        for actor in tasks.values():
            actor.stop()
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=seconds)
        for task in late:
            log.warning(LogEvent.ACTOR_STOP_TIMED_OUT, actor=tasks[task].name)
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=2)


async def first_failure(supervisors: Iterable[Supervisor]) -> Exception:
    """Wait until an actor of any of them cannot be kept running; returns why."""
    waits = {asyncio.create_task(each.failed.wait()): each for each in supervisors}
    try:
        done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    return waits[done.pop()].reason or RuntimeError("an actor failed")
