"""The real side of the protocol machine: adapters on real servers, and a time that passes when it is told to."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import patch

from pymongo import MongoClient

from schemas.task import Task
from service.broker.names import Names
from service.broker.port import RETRY_AT, Consumer, Delivery, Publication
from service.broker.rabbitmq import RabbitBroker
from service.client import Client
from service.clock import StoreClock
from service.registry import Registry
from service.store.mongo import MongoStore, database as database_module
from service.store.port import HeartbeatLink
from tests.brokers import Inbox
from tests.contract.store.wire import Wire
from tests.faults.protocol.model import Loss, Model

TICK = timedelta(minutes=10)
"""Long beside anything a machine needs, so that a slow one changes nothing: instants are compared as whole ticks."""
TYPE = "machine"
LONG_AGO = timedelta(days=30)
PAST = -10
"""What was due before the beginning is only that."""
_MADE_AT = "machine-tick"
_INSTANTS = ("createdAt", "retryAt", "relayAt", "startedAt", "finishedAt", "processingAt", "cancelRequestedAt")
_FIELDS = ("created_at", "retry_at", "relay_at", "started_at", "finished_at", "processing_at", "cancel_requested_at")


def shifted(task: Task, by: timedelta) -> Task:
    """A reading of a task, as it would be if it had been made that much earlier."""
    moved = {name: getattr(task, name) - by for name in _FIELDS if getattr(task, name) is not None}
    return task.model_copy(update=moved)


class SameClock(StoreClock):
    """Knows the server's time exactly, as all are on one machine: on a busy one an answer is under way for long, clocks
    would differ, and what one puts down as due would not be due yet for the next."""

    def set_from(self, server_time: datetime, asked_at: float, answered_at: float) -> None:
        now = self.monotonic()
        super().set_from(datetime.now(UTC), now, now)


class Bell(RabbitBroker):
    """The real broker, but for its delay queues: what waits in them comes when the machine's time has passed."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.tick = 0
        self.ladder: list[tuple[int, Publication]] = []
        self.ready = 0
        """How many messages there are in the type's queue."""

    async def publish(self, publications: Sequence[Publication]) -> list[bool]:
        dated = [replace(each, headers={**each.headers, _MADE_AT: self.tick}, delay=None) for each in publications]
        for publication, made in zip(publications, dated, strict=True):
            if publication.delay is not None:
                self.ladder.append((self.tick + max(1, round(publication.delay / TICK)), made))
        now = [made for publication, made in zip(publications, dated, strict=True) if publication.delay is None]
        confirmed = await super().publish(now) if now else []
        assert all(confirmed)
        self.ready += sum(not each.dead for each in now)
        return [True] * len(publications)

    async def pass_time(self, ticks: int) -> None:
        self.tick += ticks
        come = [publication for at, publication in self.ladder if at <= self.tick]
        self.ladder = [(at, publication) for at, publication in self.ladder if at > self.tick]
        if come:
            assert all(await super().publish(come))
            self.ready += len(come)

    def as_of_now(self, delivery: Delivery) -> Delivery:
        """With its absolute time moved by the ticks that have passed since it was sent."""
        headers = dict(delivery.headers)
        passed = (self.tick - headers.pop(_MADE_AT, self.tick)) * TICK
        if RETRY_AT in headers:
            headers[RETRY_AT] -= passed // timedelta(milliseconds=1)
        return replace(delivery, headers=headers)


@dataclass
class Actor:
    """A process, as far as the adapters can tell: its own store and client, its own idea of the time."""

    name: str
    store: MongoStore
    client: Client
    link: HeartbeatLink
    skew: int = 0
    """Ticks by which its clock is wrong, until it next hears from the store."""

    def skew_clock(self, ticks: int) -> None:
        anchor, at = self.store.clock._anchor
        self.store.clock._anchor = (anchor + (ticks - self.skew) * TICK, at)
        self.skew = ticks


class World:
    """Everything real. One for all examples; each begins with it empty."""

    def __init__(self, mongo_url: str, wire: Wire, amqp_url: str, database: str, prefix: str) -> None:
        self._mongo_url, self.wire, self._database = mongo_url, wire, database
        self._amqp_url, self._prefix = amqp_url, prefix
        self._client: MongoClient[dict[str, Any]] = MongoClient(
            mongo_url, tz_aware=True, w="majority", readConcernLevel="majority"
        )
        self.raw = self._client[database]
        self.actors: list[Actor] = []
        self.inbox = Inbox()
        self.consumer: Consumer
        self.happened: Counter[str] = Counter()
        """How often what: a walk that met nothing of interest has shown nothing."""

    async def open(self) -> None:
        stores = [MongoStore(self._mongo_url, self._database, SameClock()) for _ in range(2)]
        # The driver would ask again by itself for what the wire loses; here it is ours to find out.
        with patch.dict(database_module.OPTIONS, retryWrites=False):
            stores.append(MongoStore(self.wire.url, self._database, SameClock()))
            wired_link = stores[-1].claims.heartbeat()
        for store in stores:
            await store.open()
        self.bell = Bell(self._amqp_url, Names(self._prefix), stores[0].clock)
        await self.bell.open({TYPE: ()})
        links = [stores[0].claims.heartbeat(), stores[1].claims.heartbeat(), wired_link]
        for number, (store, link) in enumerate(zip(stores, links, strict=True)):
            self.actors.append(Actor(f"w{number}", store, Client(store, self.bell, Registry()), link))
        self.consumer = await self.bell.consume(TYPE, 1000, self.inbox)
        await self.reset()

    async def close(self) -> None:
        for actor in self.actors:
            actor.link.close()
            await actor.store.close()
        await self.bell.close()
        self._client.close()

    async def reset(self) -> None:
        for name in ("tasks", "schedules", "task_types", "workers", "revisions"):
            self.raw[name].delete_many({})
        await self.hand()
        await self.ack(list(self.inbox.waiting))
        self.bell.ladder, self.bell.tick = [], 0
        for actor in self.actors:
            actor.skew_clock(0)
            await actor.store.sync_clock()
        begun = datetime.now(UTC) - LONG_AGO
        self.epoch = datetime.fromtimestamp(begun.timestamp() // 7200 * 7200, UTC)
        """The tick 0 of schedules: so long ago that all their instants are past by the store's clock."""

    # ---- messages ----------------------------------------------------------------------------------------------------

    async def hand(self) -> list[Delivery]:
        """Every message there is, in an order that is always the same."""
        arrived = await self.inbox.take(self.bell.ready)
        self.inbox.waiting[:] = sorted(arrived, key=lambda delivery: (delivery.body, RETRY_AT in delivery.headers))
        return list(self.inbox.waiting)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        await self.consumer.ack(deliveries)
        self._drop(deliveries)
        self.bell.ready -= len(deliveries)

    async def requeue(self, deliveries: Sequence[Delivery]) -> None:
        self._drop(deliveries)
        await self.consumer.requeue(deliveries)

    def _drop(self, deliveries: Sequence[Delivery]) -> None:
        gone = {delivery.tag for delivery in deliveries}
        self.inbox.waiting[:] = [delivery for delivery in self.inbox.waiting if delivery.tag not in gone]

    # ---- time and faults ---------------------------------------------------------------------------------------------

    async def pass_time(self, ticks: int) -> None:
        """All that is stored is so much older."""
        by = int(ticks * TICK / timedelta(milliseconds=1))
        moved: dict[str, Any] = {
            name: {"$cond": [{"$gt": [f"${name}", None]}, {"$subtract": [f"${name}", by]}, "$$REMOVE"]}
            for name in _INSTANTS
        }
        self.raw.tasks.update_many({}, [{"$set": moved}])
        await self.bell.pass_time(ticks)

    def instant(self, tick: int) -> datetime:
        """Of a schedule."""
        return self.epoch + tick * TICK

    def tick_of(self, instant: datetime) -> int:
        return round((instant - self.epoch) / TICK)

    @contextmanager
    def losing(self, loss: Loss | None) -> Iterator[list[str]]:
        """What the wired actor sends meanwhile may be lost, once."""
        self.wire.lost.clear()
        if loss is not None:
            lose = self.wire.lose_replies if loss.executed else self.wire.lose_requests
            lose(loss.command, times=1)
        try:
            yield self.wire.lost
        finally:
            self.wire.mend()
            if loss is not None and self.wire.lost:
                self.happened[f"lost {'reply' if loss.executed else 'request'} of {loss.command}"] += 1

    # ---- looking -----------------------------------------------------------------------------------------------------

    def tasks(self, model: Model) -> dict[str, dict[str, Any]]:
        """What is stored, its instants as ticks."""
        found = self.raw.tasks.find({}).to_list()
        now = datetime.now(UTC)

        def tick(instant: datetime | None) -> int | None:
            return None if instant is None else max(PAST, model.now + round((instant - now) / TICK))

        return {
            task["_id"]: {
                "status": task["status"],
                "attempt": task["attempt"],
                "retries": task["retryCount"],
                "fence": task["fence"],
                "token": task.get("claimToken"),
                "again": task.get("again", False),
                "cancel": "cancelRequestedAt" in task,
                "forced": task.get("cancelForced", False),
                "due": tick(task["retryAt"]),
                "relay": tick(task.get("relayAt")),
                "renewed": tick(task.get("processingAt")),
                "ended": tick(task.get("finishedAt")),
                "key": task.get("liveKey"),
                "ended_key": task.get("endedKey"),
            }
            for task in found
        }

    def schedules(self) -> dict[str, dict[str, Any]]:
        found = self.raw.schedules.find({}).to_list()
        return {
            each["_id"]: {
                "revision": each["revision"],
                "enabled": each["enabled"],
                "next": self.tick_of(each["nextFireAt"]) if "nextFireAt" in each else None,
                "firing": (self.tick_of(each["firing"]["fireAt"]), each["firing"]["by"]) if "firing" in each else None,
                "skipped": {reason: count for reason, count in each.get("skipped", {}).items() if count},
                "last": self.tick_of(each["lastFireAt"]) if "lastFireAt" in each else None,
            }
            for each in found
        }
