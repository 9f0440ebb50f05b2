"""The worker role: its handler actors, the settler, the heartbeat, the resources; started and drained in order."""

import asyncio
import os
import socket
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from uuid import uuid4

import structlog

from actors.dead_letters import RESOURCE as DEAD_LETTERS
from actors.maintenance.caches import evict
from actors.supervisor import Supervisor
from actors.worker.context import Resources
from actors.worker.handler import HandlerActor, slots_of
from actors.worker.heartbeat import Heartbeat
from actors.worker.run import Runs, Stop
from actors.worker.settler import Settler
from schemas.event import ControlCommand, ControlMessage
from schemas.worker import Worker as WorkerRecord
from service.broker.port import Broker
from service.client import Client
from service.dead_letters import DeadLetters
from service.errors import ConfigError, StoreUnavailable
from service.log_events import LogEvent
from service.metrics import Metrics
from service.registry import Handler, Registry
from service.settings import Settings
from service.store.port import Store
from service.version import VERSION

log = structlog.get_logger()

HANDLER_THREADS = "verger-handler"
"""How the names of threads begin that run plain functions."""
LAST_SECONDS = 4.0
"""How long what was interrupted may take to be written."""


class Worker:
    """Runs handlers until it is drained."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        broker: Broker,
        registry: Registry,
        client: Client,
        metrics: Metrics,
        roles: Collection[str],
    ) -> None:
        self.id = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:6]}"
        self.runs = Runs()
        self.handlers: dict[str, HandlerActor] = {}
        self._settings, self._store, self._broker = settings, store, broker
        self._registry, self._client, self._roles = registry, client, sorted(roles)
        self._metrics = metrics
        self._chosen = _choose(registry, settings.types)
        self._started_at = store.clock.now()
        self._consuming, self._settling = Supervisor(), Supervisor()
        self._stack = AsyncExitStack()
        self._settler = Settler(store, broker, self.runs, metrics, self.id)
        self._heartbeat: Heartbeat | None = None
        self._paused: Collection[str] = ()
        self._hinted_at: dict[str, float] = {}
        """Task type → when the control exchange last told of its pause or its end."""

    @property
    def supervisors(self) -> tuple[Supervisor, ...]:
        return self._consuming, self._settling

    async def start(self) -> None:
        """Beat once, open the resources, then consume. Raises what a resource raises, and StoreUnavailable."""
        heartbeat = Heartbeat(
            self._store.claims.heartbeat(),
            self.runs,
            self._settings.heartbeat,
            self._describe,
            self._set_paused,
            self._metrics,
        )
        # First of all, for it alone is tried again when the store is away.
        await heartbeat.first()
        self._heartbeat = heartbeat
        resources = await self._open_resources()
        own = Resources({DEAD_LETTERS: DeadLetters(self._store, self._client, self._registry)})
        # A thread for every slot: a run never waits for one while its time limit counts.
        slots = sum(slots_of(handler, self._settings) for handler in self._chosen if not handler.is_async)
        threads = ThreadPoolExecutor(max_workers=max(1, slots), thread_name_prefix=HANDLER_THREADS)
        self._stack.callback(threads.shutdown, wait=False, cancel_futures=True)
        for handler in self._chosen:
            self.handlers[handler.task_type] = HandlerActor(
                handler,
                worker=self.id,
                store=self._store,
                broker=self._broker,
                client=self._client,
                metrics=self._metrics,
                settings=self._settings,
                runs=self.runs,
                settler=self._settler,
                heartbeat=heartbeat,
                threads=threads,
                resources=own if handler.internal else resources,
            )
        self._set_paused(self._paused, time.monotonic())
        heartbeat.start()
        self._settling.start(self._settler)
        for actor in self.handlers.values():
            self._consuming.start(actor)
        log.info(LogEvent.WORKER_STARTED, worker=self.id, task_types=[handler.task_type for handler in self._chosen])

    async def _open_resources(self) -> Resources:
        opened = Resources()
        for resource in self._registry.resources.values():
            opened[resource.name] = await self._stack.enter_async_context(
                asynccontextmanager(resource.open)(self._settings)
            )
        return opened

    def measure(self) -> None:
        """Set the gauges of this moment."""
        for task_type, actor in self.handlers.items():
            self._metrics.tasks_running.set(actor.running, task_type)
            self._metrics.slots.set(actor.slots, task_type)

    @property
    def deaf(self) -> list[str]:
        """The task types that this worker should be fed and is not."""
        return [task_type for task_type, actor in self.handlers.items() if actor.deaf]

    async def stop(self) -> None:
        """Drain: consumers first, then what runs may finish within the grace while its claims stay renewed, then it is
        released."""
        begun = time.monotonic()
        # A claim under way still becomes a run: until the handler actors have ended, nobody knows all runs.
        await self._consuming.stop(LAST_SECONDS)
        await self._runs_ended(self._settings.shutdown_grace.total_seconds() - (time.monotonic() - begun))
        interrupted = sum(not run.ended for run in self.runs.values())
        for run in list(self.runs.values()):
            run.stop(Stop.SHUTDOWN)
        await self._runs_ended(LAST_SECONDS)
        stubborn = [run for run in self.runs.values() if not run.ended]
        for run in stubborn:
            self.handlers[run.task.task_type].release(run)
        await self._settling.stop(LAST_SECONDS)
        if self._heartbeat is not None:
            await self._heartbeat.stop()
        try:
            await self._store.workers.forget(self.id)
        except StoreUnavailable as error:
            log.warning(LogEvent.STORE_UNAVAILABLE, error=str(error))
        await self._stack.aclose()
        log.info(
            LogEvent.WORKER_STOPPED,
            worker=self.id,
            released=interrupted,
            left_running=len(stubborn),
            seconds=round(time.monotonic() - begun, 2),
        )

    async def _runs_ended(self, seconds: float) -> None:
        """Until every run's end is written, or the time is up."""
        until = time.monotonic() + seconds
        while self.runs and time.monotonic() < until:
            await asyncio.sleep(0.02)

    # ---- told by others --------------------------------------------------------------------------

    def tell(self, message: ControlMessage) -> None:
        """A hint from the control exchange."""
        actor = self.handlers.get(message.task_type or "")
        match message.command:
            case ControlCommand.CANCEL:
                run = self.runs.get(message.task_id or "")
                if run is not None:
                    run.cancel_requested = True
                    if message.force:
                        run.stop(Stop.CANCEL)
            case ControlCommand.PAUSE | ControlCommand.RESUME:
                if actor is not None:
                    self._hinted_at[actor.handler.task_type] = time.monotonic()
                    actor.set_paused(message.command is ControlCommand.PAUSE)
            case ControlCommand.EVICT:
                evict(message.cache)
            case ControlCommand.SCHEDULES_CHANGED:
                pass

    def _set_paused(self, paused: Collection[str], asked_at: float) -> None:
        """What the store answered to a question of then (monotonic). A hint since is younger; the next beat confirms or
        corrects it."""
        self._paused = paused
        for task_type, actor in self.handlers.items():
            if self._hinted_at.get(task_type, asked_at) <= asked_at:
                actor.set_paused(task_type in paused)

    def _describe(self) -> WorkerRecord:
        return WorkerRecord(
            id=self.id,
            host=socket.gethostname(),
            pid=os.getpid(),
            roles=self._roles,
            task_types=[handler.task_type for handler in self._chosen],
            running=len(self.runs),
            slots=sum(actor.slots for actor in self.handlers.values()),
            started_at=self._started_at,
            seen_at=self._store.clock.now(),
            version=VERSION,
        )


def _choose(registry: Registry, types: Collection[str]) -> list[Handler]:
    if not types:
        return list(registry)
    chosen = [registry.find(name) for name in types]
    for name, handler in zip(types, chosen, strict=True):
        if handler is None:
            known = ", ".join(sorted(handler.task_type for handler in registry))
            raise ConfigError(f"VERGER_TYPES names {name!r}, which no loaded module handles; there are: {known}")
    # Ours are taken by every worker: nobody starts one for them.
    chosen += [handler for handler in registry if handler.internal]
    return list(dict.fromkeys(handler for handler in chosen if handler is not None))
