"""From settings to a running process: the only importer of concrete adapters."""

import asyncio
import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import structlog
import uvloop

from actors.control import ControlActor
from actors.embedded import EmbeddedMongo, read_instance, start_mongod
from actors.health import Contact, Health
from actors.health_server import HealthServer
from actors.metrics_page import MetricsPage
from actors.scheduler.duty import NAP, Duty
from actors.scheduler.fire import Fire
from actors.scheduler.intake import Intake
from actors.scheduler.prune import Prune
from actors.scheduler.relay import Relay
from actors.scheduler.rescue import Rescue
from actors.scheduler.scheduler import SchedulerActor
from actors.scheduler.watch import Watch
from actors.supervisor import Supervisor, first_failure
from actors.worker.worker import HANDLER_THREADS, Worker
from schemas.event import ControlCommand, ControlMessage
from service.access_keys import KeyRing, is_loopback
from service.backlog import Backlog
from service.broker.memory import MemoryBroker
from service.broker.names import Names
from service.broker.port import Broker
from service.broker.rabbitmq import RabbitBroker
from service.client import Client
from service.clock import StoreClock
from service.errors import BrokerUnavailable, ConfigError, StoreUnavailable, Unavailable
from service.log_events import LogEvent
from service.metrics import Metrics
from service.registry import Registry, load
from service.settings import MEMORY_BROKER, Settings
from service.store.mongo import MongoStore
from service.version import VERSION

if TYPE_CHECKING:
    from actors.api.server import ApiServer

log = structlog.get_logger()

OWN_ACTORS = ("actors.dead_letters",)
"""Modules with handlers that every process loads."""
EMBEDDED_NAP = timedelta(seconds=1)
"""In embedded mode other processes only write to the store: looking often replaces their messages."""


class Role(StrEnum):
    """What a process does; any set of them."""

    SCHEDULER = "scheduler"
    WORKER = "worker"
    API = "api"


ENGINE = frozenset({Role.SCHEDULER, Role.WORKER})
"""The roles that do the work."""


def make_store(settings: Settings, url: str | None = None, clock: StoreClock | None = None) -> MongoStore:
    """The store of the settings; ``url`` is that of the embedded server."""
    return MongoStore(url or settings.mongodb_url, settings.database, clock)


def make_broker(settings: Settings, clock: StoreClock) -> Broker:
    """The broker of the settings."""
    if settings.amqp_url == MEMORY_BROKER:
        return MemoryBroker(clock)
    return RabbitBroker(settings.amqp_url, Names(settings.prefix), clock)


def load_actors(settings: Settings) -> Registry:
    """The handlers of the settings' modules, and Verger's own. Raises ConfigError."""
    return load((*settings.actors, *OWN_ACTORS))


def task_types(registry: Registry) -> dict[str, tuple[str, ...]]:
    """Task type → aliases: what the broker declares."""
    return {handler.task_type: handler.aliases for handler in registry}


class App:
    """One process: the parts of its roles, started and stopped in order."""

    def __init__(
        self,
        settings: Settings,
        roles: Collection[Role],
        *,
        registry: Registry | None = None,
        clock: StoreClock | None = None,
        nap: timedelta | None = None,
    ) -> None:
        """``registry``, ``clock`` and ``nap``, the longest sleep of fire and relay, replace what the settings say."""
        self.settings, self.roles = settings, frozenset(roles)
        self.registry = registry if registry is not None else load_actors(settings)
        self._clock = clock
        self._nap = nap or (EMBEDDED_NAP if settings.embedded else NAP)
        self._scheduler: SchedulerActor | None = None
        self._mongo: EmbeddedMongo | None = None
        self.api: ApiServer | None = None
        self.name = f"{socket.gethostname()}-{os.getpid()}"
        self.worker: Worker | None = None
        self.metrics = Metrics(handler.task_type for handler in self.registry)
        self.health = Health(self.metrics)
        self.health_server: HealthServer | None = None
        self._intake: Intake | None = None
        self._stack = AsyncExitStack()
        self._supervisor = Supervisor()

    async def start(self) -> None:
        """Connect, trying again while servers are away, then start the roles.

        Raises:
            ConfigError: trying again cannot help.
        """
        self._refuse_split_embedded()
        keys = self._keys() if Role.API in self.roles else None
        mongo = await self._embedded() if self.settings.embedded else None
        self.store = make_store(self.settings, mongo.url if mongo else None, self._clock)
        self._stack.push_async_callback(self.store.close)
        self.broker = make_broker(self.settings, self.store.clock)
        self._stack.push_async_callback(self.broker.close)
        # Before anything is waited for: a process that cannot start can say why.
        self._start_health()
        await _insist("store", self.store.open)
        await _insist("broker", lambda: self.broker.open(task_types(self.registry)))
        self.client = Client(self.store, self.broker, self.registry, max_bytes=self.settings.max_message_bytes)
        control = ControlActor(self.broker)
        self._supervisor.start(control)
        # From here on what was started is stopped in reverse: the worker drains while its claims are still looked
        # after.
        self._stack.push_async_callback(self._supervisor.stop, 5.0)
        if Role.SCHEDULER in self.roles:
            await self._start_scheduler(control)
        if Role.WORKER in self.roles:
            await self._start_worker(control)
        if keys is not None:
            await self._start_api(keys)
        self.health.state = None
        roles = sorted(role.value for role in self.roles)
        types = sum(not handler.internal for handler in self.registry)
        log.info(LogEvent.VERGER_STARTED, version=VERSION, roles=roles, task_types=types)

    async def stop(self) -> None:
        """Drain and close everything; bounded in time."""
        self.health.state = "draining"
        api = asyncio.create_task(self.api.stop(), name="api") if self.api is not None else None
        if self.worker is not None:
            await self.worker.stop()
        if api is not None:
            await api
        await self._stack.aclose()
        log.info(LogEvent.VERGER_STOPPED)

    def wake(self) -> None:
        """Let the scheduler look now at what is due."""
        if self._scheduler is not None:
            for duty in ("fire", "relay"):
                self._scheduler.wake(duty)

    def _refuse_split_embedded(self) -> None:
        if self.settings.amqp_url == MEMORY_BROKER and not self.roles >= ENGINE:
            raise ConfigError(
                "VERGER_AMQP_URL is memory://, which does not leave this process: run all roles in it (verger dev), "
                "or name a RabbitMQ, such as amqp://user:password@host:5672/"
            )

    async def _embedded(self) -> EmbeddedMongo:
        mongo = await start_mongod(self.settings.data_dir, mongod=self.settings.mongod)
        self._stack.push_async_callback(mongo.stop)
        self._mongo = mongo
        return mongo

    def _start_health(self) -> None:
        store, broker, settings = self.store, self.broker, self.settings
        looks_after_queues = self.roles & {Role.SCHEDULER, Role.API}
        backlog = Backlog(store, broker, task_types(self.registry)) if looks_after_queues else None
        self.page = MetricsPage(self.metrics, store, broker, backlog, self.health)
        self.metrics.info.set(1, VERSION, ",".join(sorted(self.roles)))
        self.health.contacts = [Contact("store", store.sync_clock), Contact("broker", broker.ping)]
        self.health.consumers = self._deaf
        self.health.start()
        self._stack.push_async_callback(self.health.stop)
        if backlog is not None:
            self._stack.push_async_callback(backlog.close)
        if settings.health_port is not None:
            server = HealthServer(self.health, self.page.make, settings.health_host, settings.health_port)
            server.start()
            self._stack.push_async_callback(server.stop)
            self.health_server = server

    def _deaf(self) -> list[str]:
        """Consumers that the broker should feed and does not."""
        types = [f"tasks of type {task_type}" for task_type in self.worker.deaf] if self.worker is not None else []
        return [*types, "intake"] if self._intake is not None and self._intake.deaf else types

    async def _start_scheduler(self, control: ControlActor) -> None:
        store, broker, settings = self.store, self.broker, self.settings
        nap = self._nap
        metrics = self.metrics
        rescue = Rescue(store, broker, metrics, settings)
        if settings.embedded:
            # This process alone uses the private server: every worker it knows of is gone.
            dead = [worker.id for worker in await store.workers.alive(store.clock.now() - timedelta(days=3650))]
            adopted = await rescue.adopt(dead)
            for worker_id in dead:
                await store.workers.forget(worker_id)
            if adopted:
                log.info(LogEvent.CLAIMS_ADOPTED, count=adopted)

        def wake(duty: str) -> None:
            scheduler.wake(duty)

        self._intake = Intake(store, broker, self.registry, metrics, settings, wake)
        duties: list[Duty] = [
            Fire(store, broker, self.registry, metrics, self.name, nap),
            Relay(store, broker, self.registry, metrics, settings, nap),
            rescue,
            self._intake,
            Prune(store, broker, settings),
            Watch(store, broker, metrics),
        ]
        self._scheduler = scheduler = SchedulerActor(duties)

        def tell(message: ControlMessage) -> None:
            if message.command is ControlCommand.SCHEDULES_CHANGED:
                scheduler.wake("fire")

        control.listen(tell)
        self._supervisor.start(scheduler)

    async def _start_worker(self, control: ControlActor) -> None:
        worker = Worker(self.settings, self.store, self.broker, self.registry, self.client, self.metrics, self.roles)
        await _insist("store", worker.start)
        control.listen(worker.tell)
        self.page.add(worker.measure)
        self.worker = worker

    def _keys(self) -> KeyRing:
        """Those of the admin API. Raises ConfigError when they are wrong, or there are none and there must be."""
        settings = self.settings
        keys = KeyRing(settings.api_keys, settings.api_keys_file)
        if not keys.keys and not is_loopback(settings.api_host):
            raise ConfigError(
                f"the admin API does not listen on {settings.api_host} without keys: put a line of `verger keys create "
                "NAME --role admin` into the file that VERGER_API_KEYS_FILE names, or set VERGER_API_HOST=127.0.0.1"
            )
        return keys

    async def _start_api(self, keys: KeyRing) -> None:
        # Here, for no other role and no command needs a web framework.
        from actors.api.app import make_api
        from actors.api.parts import Parts
        from actors.api.server import ApiServer
        from actors.maintenance.database import connect as connect_memory

        settings = self.settings
        memory = connect_memory(settings)
        self._stack.callback(memory.close)
        parts = Parts(
            settings,
            self.store,
            self.broker,
            self.registry,
            self.client,
            self.health,
            self.page,
            memory[settings.memory_database],
        )
        server = ApiServer(make_api(parts, keys), settings.api_host, settings.api_port)
        await server.start()
        self.api = server

    async def failed(self) -> Exception:
        """Returns only when an actor cannot be kept running."""
        watched = [self._supervisor, *(self.worker.supervisors if self.worker is not None else ())]
        failing = asyncio.create_task(first_failure(watched), name="failure")
        waits: set[asyncio.Task[Any]] = {failing}
        if self._mongo is not None:
            waits.add(asyncio.create_task(self._mongo.wait(), name="mongod"))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if failing.done():
                return await failing
            return StoreUnavailable(f"the private mongod has ended; see {self.settings.data_dir / 'mongod.log'}")
        finally:
            for wait in waits:
                wait.cancel()


async def _insist(what: str, connect: Callable[[], Awaitable[None]]) -> None:
    """Until it works; each failure is a log line that names the address."""
    pause = 0.5
    while True:
        try:
            return await connect()
        except Unavailable as error:
            log.warning(LogEvent.SERVER_UNAVAILABLE, server=what, error=str(error), again_in_seconds=pause)
        await asyncio.sleep(pause)
        pause = min(pause * 2, 10.0)


async def serve(
    settings: Settings,
    roles: Collection[Role],
    ready: Callable[[App], Awaitable[None]] | None = None,
    *,
    supervised: bool = False,
) -> int:
    """Run until SIGTERM or SIGINT, or until an actor cannot be kept running; returns the exit code.

    A second signal ends the process at once, unless it is ``supervised``: by a parent that tells it what others may
    have told it before. ``ready`` is called once all roles run; what it raises ends them.
    """
    app = App(settings, roles)
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def ask_to_stop(number: signal.Signals) -> None:
        log.info(LogEvent.VERGER_STOPPING, signal=number.name)
        stop.set()
        if supervised:
            # systemd, for one, tells each process of a service. And that the parent has died is told by SIGTERM too.
            return
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ask_to_stop, number)
    stopping = asyncio.create_task(stop.wait(), name="signal")

    async def start_and_watch() -> Exception:
        await app.start()
        # What is loaded by now stays: to look through it for garbage again and again is for nothing.
        gc.collect()
        gc.freeze()
        if ready is not None:
            await ready(app)
        return await app.failed()

    running = asyncio.create_task(start_and_watch(), name="verger")
    try:
        await asyncio.wait((running, stopping), return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            log.error(LogEvent.VERGER_FAILED, error=str(await running))
            return 1
        running.cancel()
        await asyncio.wait((running,))
        return 0
    finally:
        stopping.cancel()
        await app.stop()


def run_and_leave(
    settings: Settings,
    roles: Collection[Role],
    ready: Callable[[App], Awaitable[None]] | None = None,
    *,
    supervised: bool = False,
) -> int:
    """``serve`` in a loop of its own. Returns the exit code; or ends the process itself if a handler's thread does not
    end:
    its task was released, so that it must not run on beside its next run."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        code = runner.run(serve(settings, roles, ready, supervised=supervised))
    left = [thread for thread in threading.enumerate() if thread.name.startswith(HANDLER_THREADS)]
    for thread in left:
        thread.join(0.1)  # an idle one ends at once
    if any(thread.is_alive() for thread in left):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


@dataclass(frozen=True)
class Connection:
    """What a command needs to talk to a running installation."""

    settings: Settings
    store: MongoStore
    broker: Broker
    registry: Registry
    client: Client


@asynccontextmanager
async def connect(settings: Settings, *, publishes: bool = True) -> AsyncIterator[Connection]:
    """Connect as a client: to the running embedded instance, or to the servers of the settings.

    With the broker away, or ``publishes=False``, the client only writes to the store: relay publishes what it finds.

    Raises:
        ConfigError: no embedded instance runs. StoreUnavailable: the store does not answer.
    """
    registry = load_actors(settings)
    url = None
    if settings.embedded:
        instance = read_instance(settings.data_dir)
        if instance is None:
            raise ConfigError(
                f"no instance runs on {settings.data_dir}: start one with `verger dev` (or make run), "
                "or set VERGER_MONGODB_URL"
            )
        url = instance.mongodb_url
    async with AsyncExitStack() as stack:
        store = make_store(settings, url)
        stack.push_async_callback(store.close)
        await store.open()
        broker = make_broker(settings, store.clock)
        stack.push_async_callback(broker.close)
        publishes = publishes and settings.amqp_url != MEMORY_BROKER
        if publishes:
            try:
                await broker.open(task_types(registry))
            except BrokerUnavailable as error:
                log.warning(LogEvent.BROKER_UNAVAILABLE, error=str(error))
                publishes = False
        client = Client(store, broker, registry, max_bytes=settings.max_message_bytes, publishes=publishes)
        yield Connection(settings, store, broker, registry, client)
