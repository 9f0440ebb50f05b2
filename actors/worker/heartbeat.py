"""The heartbeat: a thread with its own connection, so that a handler which blocks the event loop keeps its claim."""

import asyncio
import threading
import time
from collections.abc import Callable, Collection
from datetime import datetime, timedelta

import structlog

from actors.worker.run import Run, Runs, Stop
from schemas.worker import Worker
from service.errors import Unavailable
from service.log_events import LogEvent
from service.metrics import Metrics
from service.store.port import Beat, BeatReply, HeartbeatLink

log = structlog.get_logger()

REPEAT_SECONDS = 1.0


class Heartbeat:
    """Beats every third of the stale-claim timeout; at once again after an error."""

    def __init__(
        self,
        link: HeartbeatLink,
        runs: Runs,
        interval: timedelta,
        describe: Callable[[], Worker],
        on_paused: Callable[[Collection[str], float], None],
        metrics: Metrics,
    ) -> None:
        self._link, self._runs, self._interval = link, runs, interval.total_seconds()
        self._describe, self._on_paused, self._metrics = describe, on_paused, metrics
        self._loop = asyncio.get_running_loop()
        self._markers: dict[str, datetime] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat_for_ever, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    async def stop(self) -> None:
        """Beat no more. Waits for a beat under way, bounded by the link's own time limits."""
        self._stop.set()
        await asyncio.to_thread(self._thread.join, 10)

    def saw_marker(self, task_type: str, at: datetime) -> None:
        """Report this with the next beat (P12)."""
        with self._lock:
            self._markers[task_type] = max(at, self._markers.get(task_type, at))

    async def first(self) -> None:
        """One beat before any work: the worker is known, and the paused types are. If it fails, the link is closed."""
        claims: dict[str, str] = {}
        asked_at = time.monotonic()
        try:
            reply = await asyncio.to_thread(self._link.beat, Beat(self._describe(), claims, {}))
        except BaseException:
            self._link.close()
            raise
        self._apply(claims, reply, asked_at)

    def _beat_for_ever(self) -> None:
        pause = self._interval
        while not self._stop.wait(pause):
            asked_at = time.monotonic()
            # What is taken up between the two looks is in both, under one token.
            perhaps, claims = self._runs.perhaps_claimed(), self._runs.claims(asked_at)
            with self._lock:
                markers, self._markers = self._markers, {}
            try:
                reply = self._link.beat(Beat(self._describe(), perhaps | claims, markers))
            except Exception as error:
                # Whatever it is: without a heartbeat every claim goes stale, and every run is doubled.
                with self._lock:
                    for task_type, at in markers.items():
                        self._markers[task_type] = max(at, self._markers.get(task_type, at))
                self._metrics.heartbeats_failed.add()
                if isinstance(error, Unavailable):
                    log.warning(LogEvent.HEARTBEAT_FAILED, error=str(error), claims=len(claims))
                else:
                    log.exception(LogEvent.HEARTBEAT_CRASHED, error=str(error), claims=len(claims))
                pause = REPEAT_SECONDS
                continue
            pause = self._interval
            self._tell(claims, reply, asked_at)
        self._link.close()

    def _tell(self, claims: dict[str, str], reply: BeatReply, asked_at: float) -> None:
        try:
            self._loop.call_soon_threadsafe(self._apply, claims, reply, asked_at)
        except RuntimeError:
            # The loop is closed: the process is going away.
            self._stop.set()

    def _apply(self, asked: dict[str, str], reply: BeatReply, asked_at: float) -> None:
        """In the loop's thread. A claim that was settled or made anew since the question is not meant; nor is one that
        was under way then: it may have reached the store after the question."""

        def meant(task_id: str) -> Run | None:
            run = self._runs.get(task_id)
            return run if run is not None and run.token == asked.get(task_id) else None

        for task_id in reply.lost:
            run = meant(task_id)
            if run is not None and not run.ended:
                log.warning(LogEvent.CLAIM_LOST, task_type=run.task.task_type, id=task_id, fence=run.task.fence)
                run.stop(Stop.LOST)
        for task_id in reply.cancel:
            run = meant(task_id)
            if run is not None:
                run.cancel_requested = True
                if task_id in reply.forced:
                    run.stop(Stop.CANCEL)
        self._on_paused(reply.paused, asked_at)
