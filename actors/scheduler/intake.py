"""Intake: what the broker could not deliver is stored first, then decided about."""

from collections.abc import Callable
from datetime import timedelta

import structlog

from actors.burial import bury
from actors.mailbox import Mailbox
from actors.scheduler.duty import NAP, Duty
from schemas.task import Task
from service.broker.port import INTAKE, Broker, Consumer, Delivery
from service.envelope import marker_of, read
from service.errors import InvalidMessage, PayloadRefused
from service.log_events import LogEvent
from service.metrics import Metrics
from service.registry import Registry
from service.settings import Settings
from service.store.port import Store

log = structlog.get_logger()

BATCH = 200
HOLD_SECONDS = 30.0


class Intake(Duty):
    """A task of an unknown type waits for a roll-out; one of a known type is relayed; the rest are dead letters."""

    name = "intake"

    def __init__(
        self,
        store: Store,
        broker: Broker,
        registry: Registry,
        metrics: Metrics,
        settings: Settings,
        wake: Callable[[str], None],
    ) -> None:
        self._store, self._broker, self._registry, self._settings = store, broker, registry, settings
        self._metrics = metrics
        self._wake = wake
        self._mailbox: Mailbox[Delivery] = Mailbox()
        self._consumer: Consumer | None = None

    async def tick(self) -> timedelta:
        if self._consumer is None or not self._consumer.alive:
            self._consumer = await self._broker.consume(INTAKE, BATCH, self._arrived)
        while deliveries := self._mailbox.take(BATCH):
            try:
                await self._store_all(deliveries)
            except BaseException:
                await self._consumer.requeue(deliveries)
                raise
        return NAP

    @property
    def deaf(self) -> bool:
        """Whether the broker does not feed it, although it should."""
        return self._consumer is None or not self._consumer.alive

    def _arrived(self, delivery: Delivery) -> None:
        if not len(self._mailbox):
            self._wake(self.name)
        self._mailbox.put(delivery)

    async def close(self) -> None:
        if self._consumer is not None:
            consumer, self._consumer = self._consumer, None
            await consumer.cancel()
            await consumer.requeue(self._mailbox.take())

    async def _store_all(self, deliveries: list[Delivery]) -> None:
        assert self._consumer is not None
        now = self._store.clock.now()
        monotonic = self._store.clock.monotonic()
        records: list[Task] = []
        invalid: list[tuple[Delivery, InvalidMessage | PayloadRefused]] = []
        held = [delivery for delivery in deliveries if monotonic - delivery.received_at > HOLD_SECONDS]
        fresh = [delivery for delivery in deliveries if monotonic - delivery.received_at <= HOLD_SECONDS]
        for delivery in fresh:
            if marker_of(delivery) is not None:
                continue
            try:
                incoming = read(
                    delivery, self._registry.find(delivery.routing_key), now, self._settings.max_message_bytes
                )
            except (InvalidMessage, PayloadRefused) as error:
                invalid.append((delivery, error))
                continue
            # A message of ours has its record, and relay knows it.
            if incoming.record is not None:
                due = max(now, incoming.record.retry_at)
                records.append(incoming.record.model_copy(update={"relay_at": due}))
        if records:
            for answer in await self._store.tasks.create(records):
                known = self._registry.find(answer.task.task_type) is not None
                if answer.created and not known:
                    log.warning(
                        LogEvent.TASK_UNKNOWN_TYPE,
                        task_type=answer.task.task_type,
                        id=answer.task.id,
                        grace_seconds=self._settings.unknown_type_grace.total_seconds(),
                    )
            self._wake("relay")
        for delivery, problem in invalid:
            await bury(self._store, self._broker, self._metrics, delivery, problem)
        await self._consumer.ack(fresh)
        if held:
            await self._consumer.requeue(held)
