"""One actor for each task type: consume, claim, acknowledge, run. The broker's message ends with the claim."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import structlog
from opentelemetry.trace import Span

from actors.base import Actor
from actors.burial import bury
from actors.mailbox import Mailbox
from actors.worker.context import Context
from actors.worker.execution import execute, stopped, timed_out
from actors.worker.heartbeat import Heartbeat
from actors.worker.run import STUBBORN_SECONDS, Run, Runs, Stop
from actors.worker.settler import Settler
from schemas.event import Event, EventName
from schemas.outcome import Outcome, Released
from schemas.task import Task
from service import traces
from service.broker.port import Broker, Consumer, Delivery, Publication
from service.client import Client
from service.envelope import Incoming, clean, early, for_stored, marker_of, read, waits_in_store
from service.errors import BrokerUnavailable, InvalidMessage, PayloadRefused, StoreUnavailable
from service.log_events import LogEvent
from service.logs import bind
from service.metrics import Metrics
from service.registry import Handler
from service.settings import Settings
from service.states import RELAY_SLACK
from service.store.port import ClaimAnswer, Claimed, ClaimRequest, Deduplicated, NotDone, Rejected, Store

log = structlog.get_logger()

HOLD_SECONDS = 30.0
"""A delivery held longer without a claim is requeued: its id may have run and been pruned meanwhile (P10)."""
SKEW = timedelta(milliseconds=50)
"""By how much the clocks of two processes may differ: what is early by less waits here, and not in the ladder."""
LONG_AGO = datetime.min.replace(tzinfo=UTC)
SATURATED_SECONDS = 1.0
"""No slot freed for so long: what is buffered goes back, for workers that idle."""
THREAD_SLOTS = 8
"""Slots of a plain function that does not say how many."""
MOST_CLAIMED = 250
"""How many one bulk claim takes."""
AHEAD_SECONDS = 0.05
"""Short runs are claimed ahead of their slots, as many as are done in this time: the larger a claim, the less it costs
each of its tasks."""
MOST_AHEAD = 400
CLAIMS_AT_ONCE = 2
"""A claim is mostly waiting for the store: what comes meanwhile need not wait with it."""
STORE_REST_SECONDS = 1.0
"""How long nothing is taken after the store did not answer: that spares a loop of requeues."""


@dataclass(slots=True)
class _Batch:
    """Deliveries, by what is to be done with them."""

    ready: dict[str, tuple[Delivery, Incoming]] = field(default_factory=dict)
    due: datetime = LONG_AGO
    """When the last of them is due, at most ``SKEW`` from now."""
    early: list[tuple[Delivery, Incoming]] = field(default_factory=list)
    invalid: list[tuple[Delivery, InvalidMessage | PayloadRefused]] = field(default_factory=list)
    done: list[Delivery] = field(default_factory=list)
    """To be acknowledged."""
    held: list[Delivery] = field(default_factory=list)
    """To be requeued."""


def slots_of(handler: Handler, settings: Settings) -> int:
    """How many runs of a type one worker has at once; a plain function takes a thread each, so fewer unless it says
    so."""
    if handler.concurrency is not None:
        return handler.concurrency
    return settings.concurrency if handler.is_async else min(settings.concurrency, THREAD_SLOTS)


class HandlerActor(Actor):
    """Free slots bound what runs, and with the pace of the runs what is claimed."""

    def __init__(
        self,
        handler: Handler,
        *,
        worker: str,
        store: Store,
        broker: Broker,
        client: Client,
        metrics: Metrics,
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
        self._metrics = metrics
        self._threads, self._resources = threads, resources
        self._mailbox: Mailbox[Delivery] = Mailbox()
        self._consumer: Consumer | None = None
        self._changing_consumer = asyncio.Lock()
        """The next one is fed when the last is let go: what is in the mailbox belongs to one of them."""
        self._claims: dict[asyncio.Task[None], int] = {}
        """Each claim under way, and of how many deliveries."""
        self._crash: BaseException | None = None
        self._waiting: deque[Run] = deque()
        """Claimed, for a slot that will be free at once."""
        self._jobs: set[asyncio.Task[None]] = set()
        self._pace = math.inf
        """Seconds that a run takes, as a moving mean."""
        self._freed_at = time.monotonic()
        self._rests_until = 0.0
        self._paused = False
        self._stopping = False

    # ---- told by others --------------------------------------------------------------------------

    def stop(self) -> None:
        self._stopping = True
        self._mailbox.ring()

    def set_paused(self, paused: bool) -> None:
        if paused != self._paused:
            self._paused = paused
            log.info(LogEvent.TYPE_PAUSED if paused else LogEvent.TYPE_RESUMED, task_type=self.handler.task_type)
            self._mailbox.ring()

    @property
    def running(self) -> int:
        """How many runs are under way."""
        return len(self._jobs)

    @property
    def deaf(self) -> bool:
        """Whether the broker does not feed it, although it should."""
        if self._stopping or self._pause:
            return False
        return self._consumer is None or not self._consumer.alive

    # ---- the loop --------------------------------------------------------------------------------

    @property
    def _claimable(self) -> int:
        """How many to claim now; at most half of what is to be in hand, so that the other half is claimed meanwhile."""
        if len(self._claims) >= CLAIMS_AT_ONCE or self._settler_is_behind:
            return 0
        in_hand = self.slots + min(MOST_AHEAD, int(self.slots * AHEAD_SECONDS / max(self._pace, 1e-6)))
        free = in_hand - len(self._jobs) - len(self._waiting) - sum(self._claims.values())
        return min(free, -(-in_hand // 2), MOST_CLAIMED)

    @property
    def _settler_is_behind(self) -> bool:
        # Ends that wait for the store count too: a store that is away must not let work pile up in memory.
        return self._settler.backlog >= 2 * self.slots + MOST_CLAIMED

    @property
    def _pause(self) -> float:
        """Seconds for which to take nothing."""
        if self._paused:
            return 5.0
        if self._saturated:
            return SATURATED_SECONDS
        return max(0.0, self._rests_until - time.monotonic())

    @property
    def _saturated(self) -> bool:
        full = len(self._jobs) >= self.slots or self._settler_is_behind
        return full and time.monotonic() - self._freed_at > SATURATED_SECONDS

    async def run(self) -> None:
        try:
            while not self._stopping:
                self._raise_crash()
                if pause := self._pause:
                    await self._detach()
                    if self._saturated:
                        self._release_waiting()
                    await self._mailbox.wait(pause)
                elif (consumer := await self._attach()) is None:
                    await self._mailbox.wait(2.0)
                elif not len(self._mailbox):
                    await self._mailbox.wait(SATURATED_SECONDS if self._waiting else 5.0)
                elif (most := self._claimable) <= 0:
                    await self._mailbox.wait(SATURATED_SECONDS)
                else:
                    self._begin(consumer, self._mailbox.take(most))
        except asyncio.CancelledError:
            for claim in self._claims:
                claim.cancel()
            raise
        finally:
            # What is claimed by now becomes a run.
            if self._claims:
                await asyncio.wait(self._claims)
            await self._detach()
        self._raise_crash()

    def _raise_crash(self) -> None:
        """A claim that failed for no reason we know is the supervisor's business, also while we stop."""
        if self._crash is not None:
            crash, self._crash = self._crash, None
            raise crash

    async def _attach(self) -> Consumer | None:
        async with self._changing_consumer:
            if self._consumer is None:
                try:
                    prefetch = min(self.slots * 4, 1000)
                    self._consumer = await self._broker.consume(self.handler.task_type, prefetch, self._mailbox.put)
                except BrokerUnavailable as error:
                    log.warning(LogEvent.BROKER_UNAVAILABLE, error=str(error), task_type=self.handler.task_type)
            return self._consumer

    async def _detach(self) -> None:
        """Take no more, and give back what is in hand."""
        async with self._changing_consumer:
            if self._consumer is not None:
                consumer, self._consumer = self._consumer, None
                await consumer.cancel()
                await consumer.requeue(self._mailbox.take())

    # ---- deliveries ------------------------------------------------------------------------------

    def _begin(self, consumer: Consumer, deliveries: list[Delivery]) -> None:
        # Sorted here, while this consumer is surely the one that what goes back into the mailbox belongs to.
        work = self._work_off(consumer, deliveries, self._sort(deliveries))
        claim = asyncio.create_task(work, name=f"claim {self.handler.task_type}")
        self._claims[claim] = len(deliveries)
        claim.add_done_callback(self._claimed)

    def _claimed(self, claim: "asyncio.Task[None]") -> None:
        del self._claims[claim]
        if not claim.cancelled():
            self._crash = claim.exception() or self._crash
        self._mailbox.ring()

    async def _work_off(self, consumer: Consumer, deliveries: list[Delivery], batch: "_Batch") -> None:
        try:
            # The claims come first: what is held while something else is awaited grows old (P10).
            await self._claim(consumer, batch)
            await self._send_back(batch)
            for delivery, error in batch.invalid:
                await bury(self._store, self._broker, self._metrics, delivery, error)
                batch.done.append(delivery)
            await consumer.ack(batch.done)
            await consumer.requeue(batch.held)
        except StoreUnavailable as error:
            # Not acknowledged: nothing is lost.
            log.warning(LogEvent.STORE_UNAVAILABLE, error=str(error), task_type=self.handler.task_type)
            self._rests_until = time.monotonic() + STORE_REST_SECONDS
            await self._give_back(consumer, deliveries)
        except BaseException:
            await self._give_back(consumer, deliveries)
            raise

    async def _give_back(self, consumer: Consumer, deliveries: list[Delivery]) -> None:
        """Those that were dealt with before are not in hand any more, and stay so."""
        await self._detach()
        await consumer.requeue(deliveries)

    def _sort(self, deliveries: list[Delivery]) -> "_Batch":
        """What to do with each; the ids that are to be claimed are distinct (P8)."""
        now = self._store.clock.now()
        batch = _Batch()
        for delivery in deliveries:
            if (marker := marker_of(delivery)) is not None:
                # A stranger's time is not trusted: one ahead of ours would say for ever that nothing waits (P12).
                if marker <= now:
                    self._heartbeat.saw_marker(self.handler.task_type, marker)
                batch.done.append(delivery)
            elif self._held_long(delivery):
                batch.held.append(delivery)
            else:
                self._sort_one(batch, delivery, now)
        return batch

    def _sort_one(self, batch: "_Batch", delivery: Delivery, now: datetime) -> None:
        try:
            incoming = read(delivery, self.handler, now, self._settings.max_message_bytes)
        except (InvalidMessage, PayloadRefused) as error:
            batch.invalid.append((delivery, error))
            return
        if incoming.retry_at is not None and incoming.retry_at > now + SKEW:
            batch.early.append((delivery, incoming))
        elif incoming.id in self._runs:
            # Another message for what runs here: relay brings it back if that is not its end (P10).
            batch.done.append(delivery)
        elif incoming.id in batch.ready:
            self._mailbox.put(delivery)
        else:
            batch.ready[incoming.id] = (delivery, incoming)
            batch.due = max(batch.due, incoming.retry_at or batch.due)

    def _held_long(self, delivery: Delivery) -> bool:
        return self._store.clock.monotonic() - delivery.received_at > HOLD_SECONDS

    async def _claim(self, consumer: Consumer, batch: "_Batch") -> None:
        if not batch.ready:
            return
        # Not longer if the store's clock is set back meanwhile: what is not due then, relay brings again.
        while timedelta() < (early := batch.due - self._store.clock.now()) <= SKEW:
            await asyncio.sleep(early.total_seconds())
        requests = [ClaimRequest(incoming.id, incoming.record) for _, incoming in batch.ready.values()]
        begun = traces.now_ns() if traces.recording() else None
        token = uuid4().hex
        self._runs.asked[token] = list(batch.ready)
        try:
            answers = await self._store.claims.claim(requests, self._worker, token)
            done = self._take_answers(batch, answers, begun)
        finally:
            del self._runs.asked[token]
        await consumer.ack(done)

    def _take_answers(self, batch: "_Batch", answers: Sequence[ClaimAnswer], begun: int | None) -> list[Delivery]:
        """What is claimed becomes a run; returns what is to be acknowledged."""
        done: list[Delivery] = []
        for (delivery, incoming), answer in zip(batch.ready.values(), answers, strict=True):
            match answer:
                case Claimed(task=task):
                    self._take_up(task, None if begun is None else traces.claimed(task, begun))
                case Deduplicated(by=by, again=again):
                    self._metrics.deduplicated.add(self.handler.task_type)
                    log.info(
                        LogEvent.TASK_DEDUPLICATED, task_type=self.handler.task_type, id=incoming.id, by=by, again=again
                    )
                case Rejected(reason=reason):
                    batch.invalid.append((delivery, PayloadRefused("record", "…", reason, "send plain JSON")))
                    continue
                case NotDone():
                    batch.held.append(delivery)
                    continue
            done.append(delivery)
        return done

    async def _send_back(self, batch: "_Batch") -> None:
        """Early ones: a foreign one is stored at first sight, then each waits in the ladder, or in the store beyond it
        (P3)."""
        now = self._store.clock.now()
        fresh = [(delivery, incoming) for delivery, incoming in batch.early if not self._held_long(delivery)]
        batch.held += [delivery for delivery, _ in batch.early if self._held_long(delivery)]
        publications: list[Publication] = []
        records = []
        for delivery, incoming in fresh:
            if incoming.record is not None:
                beyond = waits_in_store(incoming.record.retry_at, now)
                due = incoming.record.retry_at if beyond else incoming.record.retry_at + RELAY_SLACK
                records.append(incoming.record.model_copy(update={"relay_at": due}))
            elif incoming.retry_at is not None:
                message = Publication(self.handler.task_type, delivery.body, clean(delivery.headers))
                publications.append(early(message, incoming.retry_at, now))
        for answer in await self._store.tasks.create(records) if records else ():
            if answer.created and not waits_in_store(answer.task.retry_at, now):
                publications.append(for_stored(answer.task, now))
        if publications:
            await self._broker.publish(publications)
        batch.done += [delivery for delivery, _ in fresh]

    # ---- runs ------------------------------------------------------------------------------------

    def _take_up(self, task: Task, claim: Span | None) -> None:
        renew_until = time.monotonic() + task.timeout_seconds + STUBBORN_SECONDS
        run = Run(task, self.handler, renew_until, claim=claim)
        self._runs[task.id] = run
        self._waiting.append(run)
        self._start_waiting()

    def _start_waiting(self) -> None:
        while self._waiting and len(self._jobs) < self.slots:
            run = self._waiting.popleft()
            if run.stopped is None:
                self._start(run)
            elif not run.ended:
                self._end(run, stopped(run, asyncio.CancelledError(), self._store.clock.now()))

    def _release_waiting(self) -> None:
        """The runs before them are not as short as those were: somebody else may have a slot."""
        while self._waiting:
            self._end(self._waiting.popleft(), Released("no slot became free"))

    def _start(self, run: Run) -> None:
        task = run.task
        self._measure_wait(run)
        if run.claim is not None:
            run.span = traces.started(task, run.claim)
        run.renew_until = time.monotonic() + task.timeout_seconds + STUBBORN_SECONDS
        run.job = asyncio.create_task(self._run(run))
        self._jobs.add(run.job)
        self._freed_at = time.monotonic()
        run.job.add_done_callback(lambda job: self._done(run, job))
        log.info(
            LogEvent.TASK_STARTED,
            task_type=task.task_type,
            id=task.id,
            **({"schedule_id": task.schedule_id} if task.schedule_id else {}),
            attempt=task.attempt,
            **({"trace_id": run.trace_id} if run.trace_id else {}),
        )
        self._broker.emit(
            lambda: Event(
                event=EventName.TASK_STARTED,
                at=self._store.clock.now(),
                task_id=task.id,
                task_type=task.task_type,
                schedule_id=task.schedule_id,
                worker=self._worker,
                detail={"attempt": task.attempt},
            )
        )

    def _measure_wait(self, run: Run) -> None:
        """From when it was due: until it was claimed by the store's clock, and from then on by ours."""
        task, taken_up = run.task, run.started
        run.started = asyncio.get_running_loop().time()
        assert task.started_at is not None
        waited = (task.started_at - task.retry_at).total_seconds() + run.started - taken_up
        self._metrics.wait_seconds.observe(max(0.0, waited), task.task_type)

    def _done(self, run: Run, job: "asyncio.Task[None]") -> None:
        self._jobs.discard(job)
        self._freed_at = time.monotonic()
        self._mailbox.ring()
        seconds = asyncio.get_running_loop().time() - run.started
        self._pace = seconds if math.isinf(self._pace) else self._pace + 0.1 * (seconds - self._pace)
        self._start_waiting()
        if run.ended:
            return
        # Cancelled before its first step, or a fault of ours: it must not stay claimed for ever.
        error = None if job.cancelled() else job.exception()
        if error is not None:
            log.error(LogEvent.RUN_CRASHED, task_type=run.task.task_type, id=run.id, exc_info=error)
        self._end(run, stopped(run, error or asyncio.CancelledError(), self._store.clock.now()))

    def _end(self, run: Run, outcome: Outcome | None) -> None:
        """Once for each run. None: the claim is lost, and there is nothing to write."""
        run.ended = True
        if run.span is not None:
            traces.ended(run.span, outcome)
        if outcome is not None:
            self._settler.put(run, outcome)
        elif self._runs.get(run.id) is run:
            del self._runs[run.id]

    async def _run(self, run: Run) -> None:
        self._bind(run)
        context = Context(run, self._store, self._client, self._settings, self._resources)
        limit = asyncio.get_running_loop().call_later(run.task.timeout_seconds, self._time_out, run)
        try:
            outcome = await execute(run, context, self._threads, self._settings.max_result_bytes)
        finally:
            limit.cancel()
        if not run.ended:
            self._end(run, outcome)

    def _bind(self, run: Run) -> None:
        """What the handler logs, by whatever logger, and the spans it makes belong to this run."""
        task = run.task
        fields = {"task_type": task.task_type, "id": task.id, "attempt": task.attempt, "worker": self._worker}
        if task.schedule_id is not None:
            fields["schedule_id"] = task.schedule_id
        if (trace_id := run.trace_id) is not None:
            fields["trace_id"] = trace_id
        bind(fields)
        if run.span is not None:
            traces.enter(run.span)

    def _time_out(self, run: Run) -> None:
        run.stop(Stop.TIMEOUT)
        asyncio.get_running_loop().call_later(STUBBORN_SECONDS / 2, self._abandon, run)

    def _abandon(self, run: Run) -> None:
        """It does not stop although its time is up: its end is written now, while its claim is still renewed; its slot
        stays taken."""
        if not run.ended:
            log.error(LogEvent.TASK_STUCK, task_type=run.task.task_type, id=run.id, attempt=run.task.attempt)
            self._end(run, timed_out(run, self._store.clock.now()))

    def release(self, run: Run) -> None:
        """Give back a run that does not stop although its process does: its thread ends with the process."""
        if not run.ended:
            log.warning(LogEvent.TASK_ABANDONED, task_type=run.task.task_type, id=run.id, attempt=run.task.attempt)
            self._end(run, Released("the worker was stopped, and the handler did not"))
