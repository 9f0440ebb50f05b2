"""One actor for each task type: consume, claim, acknowledge, run. The broker's message ends with the claim."""

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import Executor
from typing import Any

import structlog

from actors.base import Actor
from actors.mailbox import Mailbox
from actors.worker.context import Context
from actors.worker.execution import execute, stopped, timed_out
from actors.worker.heartbeat import Heartbeat
from actors.worker.run import STUBBORN_SECONDS, Run, Runs, Stop
from actors.worker.settler import Settler
from schemas.event import Event, EventName
from schemas.outcome import Outcome
from schemas.task import Task
from service.broker.port import DELAY_LADDER, Broker, Consumer, Delivery, Publication
from service.client import Client
from service.envelope import Incoming, clean, dead_letter, early, for_stored, invalid_task, marker_of, read
from service.errors import BrokerUnavailable, InvalidMessage, PayloadRefused, StoreUnavailable
from service.registry import Handler
from service.settings import Settings
from service.states import RELAY_SLACK
from service.store.port import Claimed, ClaimRequest, Deduplicated, NotDone, Rejected, RelayMove, Store

log = structlog.get_logger()

HOLD_SECONDS = 30.0
"""A delivery held longer without a claim is requeued: its id may have run and been pruned meanwhile (P10)."""
SATURATED_SECONDS = 1.0
"""No slot freed for so long: what is buffered goes back, for workers that idle."""
THREAD_SLOTS = 8
"""Slots of a plain function that does not say how many."""
MOST_CLAIMED = 250
"""How many one bulk claim takes."""


def slots_of(handler: Handler, settings: Settings) -> int:
    """How many runs of a type one worker has at once; a plain function takes a thread each, so fewer unless it says
    so."""
    if handler.concurrency is not None:
        return handler.concurrency
    return settings.concurrency if handler.is_async else min(settings.concurrency, THREAD_SLOTS)


class HandlerActor(Actor):
    """Free slots bound what is claimed; prefetch is about their number."""

    def __init__(
        self,
        handler: Handler,
        *,
        worker: str,
        store: Store,
        broker: Broker,
        client: Client,
        settings: Settings,
        runs: Runs,
        settler: Settler,
        heartbeat: Heartbeat,
        threads: Executor,
        resources: Mapping[str, Any],
    ) -> None:
        self.name = f"handler {handler.task_type}"
        self.handler = handler
        self.slots = slots_of(handler, settings)
        self._worker, self._store, self._broker, self._client = worker, store, broker, client
        self._settings, self._runs, self._settler, self._heartbeat = settings, runs, settler, heartbeat
        self._threads, self._resources = threads, resources
        self._mailbox: Mailbox[Delivery] = Mailbox()
        self._consumer: Consumer | None = None
        self._jobs: set[asyncio.Task[None]] = set()
        self._freed_at = time.monotonic()
        self._paused = False
        self._stopping = False

    # ---- told by others --------------------------------------------------------------------------

    def stop(self) -> None:
        self._stopping = True
        self._mailbox.ring()

    def set_paused(self, paused: bool) -> None:
        if paused != self._paused:
            self._paused = paused
            log.info("type.paused" if paused else "type.resumed", task_type=self.handler.task_type)
            self._mailbox.ring()

    @property
    def running(self) -> int:
        return len(self._jobs)

    # ---- the loop --------------------------------------------------------------------------------

    @property
    def _free(self) -> int:
        # Ends that wait for the store count too: a store that is away must not let work pile up in memory.
        return min(self.slots - len(self._jobs), 2 * self.slots + MOST_CLAIMED - self._settler.backlog)

    async def run(self) -> None:
        try:
            while not self._stopping:
                if self._paused or self._saturated:
                    await self._detach()
                    await self._mailbox.wait(5.0 if self._paused else SATURATED_SECONDS)
                    continue
                if not await self._attach():
                    continue
                if not len(self._mailbox):
                    await self._mailbox.wait(5.0)
                elif self._free <= 0:
                    await self._mailbox.wait(SATURATED_SECONDS)
                else:
                    await self._work_off(self._mailbox.take(min(self._free, MOST_CLAIMED)))
        finally:
            await self._detach()

    @property
    def _saturated(self) -> bool:
        return self._free <= 0 and time.monotonic() - self._freed_at > SATURATED_SECONDS

    async def _attach(self) -> bool:
        if self._consumer is not None:
            return True
        try:
            prefetch = min(self.slots * 2, 1000)
            self._consumer = await self._broker.consume(self.handler.task_type, prefetch, self._mailbox.put)
        except BrokerUnavailable as error:
            log.warning("broker.unavailable", error=str(error), task_type=self.handler.task_type)
            await self._mailbox.wait(2.0)
            return False
        return True

    async def _detach(self) -> None:
        """Take no more, and give back what is in hand."""
        if self._consumer is not None:
            consumer, self._consumer = self._consumer, None
            await consumer.cancel()
            await consumer.requeue(self._mailbox.take())

    # ---- deliveries ------------------------------------------------------------------------------

    async def _work_off(self, deliveries: list[Delivery]) -> None:
        consumer = self._consumer
        assert consumer is not None
        try:
            await self._claim(consumer, await self._sort(consumer, deliveries))
        except StoreUnavailable as error:
            # Not acknowledged: nothing is lost. Taking no more until the store answers spares a loop of requeues.
            log.warning("store.unavailable", error=str(error), task_type=self.handler.task_type)
            await self._detach()
            await consumer.requeue(deliveries)
            await self._mailbox.wait(1.0)

    async def _sort(self, consumer: Consumer, deliveries: list[Delivery]) -> dict[str, tuple[Delivery, Incoming]]:
        """Markers, the invalid, the early, the held and the running are dealt with; the rest is to be claimed, ids
        distinct (P8)."""
        now = self._store.clock.now()
        monotonic = self._store.clock.monotonic()
        ready: dict[str, tuple[Delivery, Incoming]] = {}
        done: list[Delivery] = []
        held: list[Delivery] = []
        waiting: list[tuple[Delivery, Incoming]] = []
        for delivery in deliveries:
            if (marker := marker_of(delivery)) is not None:
                self._heartbeat.saw_marker(self.handler.task_type, marker)
                done.append(delivery)
                continue
            if monotonic - delivery.received_at > HOLD_SECONDS:
                held.append(delivery)
                continue
            try:
                incoming = read(delivery, self.handler, now, self._settings.max_message_bytes)
            except (InvalidMessage, PayloadRefused) as error:
                await self._bury(delivery, error)
                done.append(delivery)
                continue
            if incoming.retry_at is not None and incoming.retry_at > now:
                waiting.append((delivery, incoming))
            elif incoming.id in self._runs:
                # Another message for what runs here: relay brings it back if that is not its end (P10).
                done.append(delivery)
            elif incoming.id in ready:
                self._mailbox.put(delivery)
            else:
                ready[incoming.id] = (delivery, incoming)
        if waiting:
            done += await self._send_back(waiting)
        if held:
            await consumer.requeue(held)
        if done:
            await consumer.ack(done)
        return ready

    async def _bury(self, delivery: Delivery, error: InvalidMessage | PayloadRefused) -> None:
        """A message that is no task: kept, then published as a dead letter. The delivery is acknowledged afterwards."""
        task = invalid_task(delivery, error, self._store.clock.now())
        if await self._store.upkeep.put_dead(task):
            log.error(
                "message.refused", task_type=self.handler.task_type, id=task.id, error=str(error), reason=task.reason
            )
            if (await self._broker.publish([dead_letter(task)]))[0]:
                await self._store.upkeep.relay_move([RelayMove(task, None)])

    async def _send_back(self, waiting: list[tuple[Delivery, Incoming]]) -> list[Delivery]:
        """Early ones: a foreign one is stored at first sight, then each waits in the ladder, or in the store beyond it
        (P3)."""
        now = self._store.clock.now()
        foreign = [(delivery, incoming) for delivery, incoming in waiting if incoming.record is not None]
        publications: list[Publication] = []
        if foreign:
            records = []
            for _, incoming in foreign:
                assert incoming.record is not None
                beyond = incoming.record.retry_at - now > DELAY_LADDER[-1]
                slack = RELAY_SLACK * (not beyond)
                records.append(incoming.record.model_copy(update={"relay_at": incoming.record.retry_at + slack}))
            for answer in await self._store.tasks.create(records):
                if answer.created and answer.task.retry_at - now <= DELAY_LADDER[-1]:
                    publications.append(for_stored(answer.task, now))
        for delivery, incoming in waiting:
            if incoming.record is None and incoming.retry_at is not None:
                message = Publication(self.handler.task_type, delivery.body, clean(delivery.headers))
                publications.append(early(message, incoming.retry_at, now))
        if publications:
            await self._broker.publish(publications)
        return [delivery for delivery, _ in waiting]

    async def _claim(self, consumer: Consumer, ready: dict[str, tuple[Delivery, Incoming]]) -> None:
        if not ready:
            return
        requests = [ClaimRequest(incoming.id, incoming.record) for _, incoming in ready.values()]
        answers = await self._store.claims.claim(requests, self._worker)
        done: list[Delivery] = []
        back: list[Delivery] = []
        started: list[Task] = []
        for (delivery, _incoming), answer in zip(ready.values(), answers, strict=True):
            match answer:
                case Claimed(task=task):
                    started.append(task)
                case Deduplicated(by=by, again=again):
                    log.info("task.deduplicated", task_type=self.handler.task_type, id=_incoming.id, by=by, again=again)
                case Rejected(reason=reason):
                    await self._bury(delivery, PayloadRefused("message", "…", reason, "send plain JSON"))
                case NotDone():
                    back.append(delivery)
                    continue
            done.append(delivery)
        for task in started:
            self._start(task)
        await consumer.ack(done)
        if back:
            await consumer.requeue(back)

    # ---- runs ------------------------------------------------------------------------------------

    def _start(self, task: Task) -> None:
        run = Run(task, self.handler, renew_until=time.monotonic() + task.timeout_seconds + STUBBORN_SECONDS)
        self._runs[task.id] = run
        run.job = asyncio.create_task(self._run(run))
        self._jobs.add(run.job)
        self._freed_at = time.monotonic()
        run.job.add_done_callback(lambda job: self._done(run, job))
        log.info(
            "task.started",
            task_type=task.task_type,
            id=task.id,
            **({"schedule_id": task.schedule_id} if task.schedule_id else {}),
            attempt=task.attempt,
        )
        self._broker.emit(
            Event(
                event=EventName.TASK_STARTED,
                at=self._store.clock.now(),
                task_id=task.id,
                task_type=task.task_type,
                schedule_id=task.schedule_id,
                worker=self._worker,
                detail={"attempt": task.attempt},
            )
        )

    def _done(self, run: Run, job: "asyncio.Task[None]") -> None:
        self._jobs.discard(job)
        self._freed_at = time.monotonic()
        self._mailbox.ring()
        if run.ended:
            return
        # Cancelled before its first step, or a fault of ours: it must not stay claimed for ever.
        error = None if job.cancelled() else job.exception()
        if error is not None:
            log.error("run.crashed", task_type=run.task.task_type, id=run.id, exc_info=error)
        self._end(run, stopped(run, error or asyncio.CancelledError(), self._store.clock.now()))

    def _end(self, run: Run, outcome: Outcome | None) -> None:
        """Once for each run. None: the claim is lost, and there is nothing to write."""
        run.ended = True
        if outcome is not None:
            self._settler.put(run, outcome)
        elif self._runs.get(run.id) is run:
            del self._runs[run.id]

    async def _run(self, run: Run) -> None:
        context = Context(run, self._store, self._client, self._settings, self._resources)
        loop = asyncio.get_running_loop()
        stubborn = loop.call_later(run.task.timeout_seconds + STUBBORN_SECONDS / 2, self._abandon, run)
        try:
            outcome = await execute(run, context, self._threads, self._settings.max_result_bytes)
        finally:
            stubborn.cancel()
        if not run.ended:
            self._end(run, outcome)

    def _abandon(self, run: Run) -> None:
        """It does not stop although its time is up: its end is written now, while its claim is still renewed; its slot
        stays taken."""
        if not run.ended:
            log.error("task.stuck", task_type=run.task.task_type, id=run.id, attempt=run.task.attempt)
            self._end(run, timed_out(run, self._store.clock.now()))

    def stop_runs(self, why: Stop) -> None:
        for run in [run for run in self._runs.values() if run.handler is self.handler]:
            run.stop(why)
