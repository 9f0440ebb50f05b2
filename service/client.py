"""The client: enqueue, cancel, replay, look, wait. The store first, then the broker."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from pydantic import BaseModel, ValidationError

from schemas.base import to_instant
from schemas.duration import parse_duration
from schemas.event import ControlCommand, ControlMessage
from schemas.message import MAX_ID
from schemas.schedule import Schedule
from schemas.task import TASK_TYPE, Task
from service import traces
from service.broker.port import Broker, Publication
from service.envelope import FIRE_PREFIX, RESERVED, for_stored, new_task, waits_in_store
from service.errors import Conflict, InvalidInput, NotFound, Unavailable
from service.payload import MAX_BYTES, check_size, check_storable
from service.registry import Handler, Registry
from service.states import relay_at
from service.store.port import Created, Page, Store, TaskFilter
from service.together import Together

MOST_REASON = 500
MOST_SEARCHED = 200
"""Characters of a text that people write."""


@dataclass(frozen=True)
class NewTask:
    """One task to enqueue; see ``Client.enqueue`` for the fields."""

    task_type: str
    body: dict[str, Any] | BaseModel | None = None
    id: str | None = None
    name: str | None = None
    unique: bool | None = None
    delay: timedelta | str | None = None
    at: datetime | None = None
    max_attempts: int | None = None
    timeout: timedelta | str | None = None
    tenant_id: str | None = None
    traceparent: str | None = None


class Client:
    """Safe for concurrent use in one event loop."""

    def __init__(
        self, store: Store, broker: Broker, registry: Registry, *, max_bytes: int = MAX_BYTES, publishes: bool = True
    ) -> None:
        """``publishes=False``: this process does not reach the workers' broker; relay publishes what is stored."""
        self._store, self._broker, self._registry, self._max_bytes = store, broker, registry, max_bytes
        self._publishes = publishes
        self._together = Together(self._create)

    async def enqueue(
        self,
        task_type: str,
        body: dict[str, Any] | BaseModel | None = None,
        *,
        id: str | None = None,  # noqa: A002 - the field's name
        name: str | None = None,
        unique: bool | None = None,
        delay: timedelta | str | None = None,
        at: datetime | None = None,
        max_attempts: int | None = None,
        timeout: timedelta | str | None = None,
        tenant_id: str | None = None,
        traceparent: str | None = None,
        transaction: Any = None,
    ) -> Task:
        """Store a task, then publish it. It is safe when this returns, even with the broker down: relay publishes
        later.

        Args:
            task_type: The type or one of its aliases.
            body: JSON object; checked against the handler's model if that is loaded here.
            id: Idempotency key; a known id changes nothing and returns the stored task.
            name: Singleton: while one with this name is pending or running, that one is returned; if it runs, it runs
            once more.
            unique: The same by type and body; None: as the type says.
            delay, at: Not before; one of the two.
            max_attempts, timeout: Instead of the type's.
            traceparent: W3C trace context that the task continues, where no span of OpenTelemetry is active.
            transaction: Your own session with an open transaction on the same server: the task exists if and only if
            you commit.

        Raises:
            InvalidInput: a field is wrong. StoreUnavailable: not known to be stored; repeat with the same id.
        """
        task = NewTask(task_type, body, id, name, unique, delay, at, max_attempts, timeout, tenant_id, traceparent)
        return (await self.offer([task], transaction=transaction))[0].task

    async def enqueue_many(self, tasks: Sequence[NewTask], *, transaction: Any = None) -> list[Task]:
        """As ``enqueue``, for many at once: one bulk write, pipelined publishes. All are checked before any is
        stored."""
        return [answer.task for answer in await self.offer(tasks, transaction=transaction)]

    async def offer(self, tasks: Sequence[NewTask], *, transaction: Any = None) -> list[Created]:
        """As ``enqueue_many``; tells of each whether it is new."""
        now = self._store.clock.now()
        # In a transaction publishing is left to relay, which sees only what was committed (P16).
        publishes = self._publishes and transaction is None
        with traces.publishing([task.task_type for task in tasks]) as active:
            records = [self._record(task, now, active, published=publishes) for task in tasks]
            if transaction is not None:
                return await self._store.tasks.create(records, transaction=transaction)
            return [await self._together(records[0])] if len(records) == 1 else await self._create(records)

    async def _create(self, records: Sequence[Task]) -> list[Created]:
        answers = await self._store.tasks.create(records)
        now = self._store.clock.now()
        fresh = [answer.task for answer in answers if answer.created]
        await self._publish([for_stored(task, now) for task in fresh if not waits_in_store(task.retry_at, now)])
        return answers

    def _record(self, new: NewTask, now: datetime, active: str | None, *, published: bool) -> Task:
        handler = self._registry.find(new.task_type)
        task_type = handler.task_type if handler is not None else new.task_type
        if not TASK_TYPE.fullmatch(task_type):
            raise InvalidInput("taskType", task_type, f"is not {TASK_TYPE.pattern}", "rename it")
        for field, value in (("id", new.id), ("taskName", new.name), ("tenantId", new.tenant_id)):
            if value is not None and not (0 < len(value) <= MAX_ID and value.isprintable()):
                raise InvalidInput(field, value, f"is not a text of 1 to {MAX_ID} characters", "shorten it")
            check_storable(value, field)
        if new.unique and new.name is not None:
            raise InvalidInput("unique", new.unique, "is given beside name", "give one of the two")
        if new.id is not None and new.id.startswith(RESERVED):
            raise InvalidInput("id", new.id, "starts with a reserved word", f"avoid {', '.join(RESERVED)}")
        if new.max_attempts is not None and new.max_attempts < 1:
            raise InvalidInput("maxAttempts", new.max_attempts, "is less than 1", "give 1 or more")
        task = new_task(
            handler,
            task_type=task_type,
            body=self._body(handler, new.body),
            now=now,
            id=new.id,
            name=new.name,
            unique=new.unique,
            retry_at=_retry_at(new, now),
            max_attempts=new.max_attempts,
            timeout_seconds=_seconds(new.timeout),
            tenant_id=new.tenant_id,
            traceparent=active or traces.read_traceparent(new.traceparent),
        )
        published = published and not waits_in_store(task.retry_at, now)
        return task.model_copy(update={"relay_at": relay_at(now, task.retry_at, published=published)})

    def _body(self, handler: Handler | None, body: dict[str, Any] | BaseModel | None) -> dict[str, Any]:
        if isinstance(body, BaseModel):
            plain: dict[str, Any] = body.model_dump(mode="json", by_alias=True)
        else:
            plain = {} if body is None else body
        if not isinstance(plain, dict):
            raise InvalidInput("taskBody", plain, "is not a JSON object", "send {…}")
        check_storable(plain, "taskBody")
        check_size(plain, "taskBody", self._max_bytes)
        if handler is not None and handler.body_model is not None:
            try:
                handler.body_model.model_validate(plain)
            except ValidationError as error:
                problem = error.errors(include_url=False)[0]
                field = ".".join(["taskBody", *(str(part) for part in problem["loc"])])
                raise InvalidInput(
                    field, problem["input"], problem["msg"].lower(), f"see verger schema {handler.task_type}"
                ) from None
        return plain

    async def _publish(self, publications: Sequence[Publication]) -> None:
        if publications and self._publishes:
            # What is not confirmed is not lost: relay looks at it in ten seconds.
            await self._broker.publish(publications)

    # ---- one task --------------------------------------------------------------------------------

    async def find(self, which: TaskFilter, *, limit: int, cursor: str | None = None) -> Page:
        """As the store's ``find``; the type may be an alias. Raises InvalidInput."""
        if which.error is not None:
            check_text(which.error, "error", MOST_SEARCHED)
        for start, end, field in (
            (which.created_from, which.created_to, "createdTo"),
            (which.finished_from, which.finished_to, "finishedTo"),
        ):
            if start is not None and end is not None and end <= start:
                raise InvalidInput(field, end.isoformat(), "is not after the beginning", "swap the two")
        handler = self._registry.find(which.task_type) if which.task_type is not None else None
        if handler is not None:
            which = replace(which, task_type=handler.task_type)
        return await self._store.tasks.find(which, limit=limit, cursor=cursor)

    async def get(self, task_id: str) -> Task:
        """Raises NotFound."""
        task = await self._store.tasks.get(task_id)
        if task is None:
            raise NotFound(f"there is no task {task_id!r}")
        return task

    async def wait(self, task_id: str, timeout: timedelta | str = "60s") -> Task:
        """The task once it is finished. Raises NotFound, and TimeoutError when it is not finished in time."""
        async with asyncio.timeout(_seconds(timeout)):
            pause = 0.02
            while not (task := await self.get(task_id)).status.finished:
                await asyncio.sleep(pause)
                pause = min(pause * 1.5, 1.0)
        return task

    async def cancel(self, task_id: str, *, force: bool = False, reason: str = "asked for") -> Task:
        """Pending: ends at once. Running: the handler sees it at its next checkpoint; ``force`` interrupts it.

        Raises NotFound; Conflict when it has finished.
        """
        check_text(reason, "reason", MOST_REASON)
        task = await self._store.tasks.cancel(task_id, reason, force=force)
        if not task.status.finished:
            await self._hint(
                ControlMessage(command=ControlCommand.CANCEL, task_id=task_id, task_type=task.task_type, force=force)
            )
        return task

    async def replay(self, task_id: str, *, body: dict[str, Any] | None = None, note: str | None = None) -> Task:
        """A dead letter runs again with fresh attempts; ``note`` is for its history.

        ``body`` replaces the one it had. Raises NotFound; Conflict when it cannot; InvalidInput for a wrong body.
        """
        task = await self.get(task_id)
        if task.payload is not None:
            if body is not None:
                raise Conflict(f"task {task_id!r} was no task when it came; enqueue a new one instead")
            return await self._replay_payload(task)
        if body is not None:
            body = self._body(self._registry.find(task.task_type), body)
        now = self._store.clock.now()
        due = relay_at(now, now, published=self._publishes)
        replayed = await self._store.tasks.replay(task_id, due, body=body, note=note)
        await self._publish([for_stored(replayed, now)])
        return replayed

    async def _replay_payload(self, task: Task) -> Task:
        """A message that was no task is published again as it came: what reads it now may know better."""
        payload = task.payload
        assert payload is not None
        if not payload.complete:
            raise Conflict(f"task {task.id!r} cannot be replayed: only the first bytes of its message were kept")
        if task.relay_at is not None:
            raise Conflict(f"task {task.id!r} is not on the dead-letter exchange yet; try again in a few seconds")
        if not self._publishes:
            raise Conflict(f"task {task.id!r} was no task when it came: replay it through the broker it came from")
        confirmed = await self._broker.publish([Publication(task.task_type, payload.content)])
        if not confirmed[0]:
            raise Unavailable("the broker did not take the message; try again")
        return task

    # ---- task types and schedules ----------------------------------------------------------------

    async def set_paused(self, task_type: str, paused: bool, *, by: str | None = None) -> None:
        """Pause or resume a type on all workers; survives restarts. ``by``: who asked. Raises NotFound."""
        handler = self._registry.get(task_type)
        await self._store.upkeep.set_paused(handler.task_type, paused, by=by)
        command = ControlCommand.PAUSE if paused else ControlCommand.RESUME
        await self._hint(ControlMessage(command=command, task_type=handler.task_type))

    async def run_schedule(self, schedule: Schedule) -> Task:
        """One run now, beside the schedule's own fires; counts as no fire."""
        now = self._store.clock.now()
        task = new_task(
            self._registry.find(schedule.task_type),
            task_type=schedule.task_type,
            body=schedule.task_body,
            now=now,
            id=f"{FIRE_PREFIX}{schedule.id}@manual-{uuid4().hex}",
            unique=False,
        ).model_copy(update={"schedule_id": schedule.id, "fire_at": now})
        return (await self.place([task]))[0].task

    async def place(self, tasks: Sequence[Task]) -> list[Created]:
        """Store and publish tasks that Verger itself makes, answers in order.

        As with a fire, a known id is a no-op, and a taken live key is not asked for once more.
        """
        now = self._store.clock.now()
        with traces.publishing([task.task_type for task in tasks]) as active:
            records = [
                task.model_copy(
                    update={
                        "relay_at": relay_at(now, task.retry_at, published=self._publishes),
                        "traceparent": active,
                    }
                )
                for task in tasks
            ]
            answers = await self._store.tasks.create(records, ask_again=False)
            await self._publish([for_stored(answer.task, now) for answer in answers if answer.created])
        return answers

    async def schedules_changed(self) -> None:
        """Tell the schedulers to look now."""
        await self._hint(ControlMessage(command=ControlCommand.SCHEDULES_CHANGED))

    async def evict_caches(self, cache: str | None = None) -> None:
        """Tell every worker that its in-memory caches, or those of one name, let go of what is stale. A hint: it may be
        lost."""
        await self._hint(ControlMessage(command=ControlCommand.EVICT, cache=cache))

    async def _hint(self, message: ControlMessage) -> None:
        if self._publishes:
            await self._broker.send_control(message)


def check_text(text: str, field: str, most: int) -> None:
    """A line that people write. Raises InvalidInput."""
    if not (0 < len(text) <= most and text.isprintable()):
        raise InvalidInput(field, text, f"is not a line of 1 to {most} characters", "shorten it, or leave it out")


def _retry_at(new: NewTask, now: datetime) -> datetime | None:
    if new.delay is not None and new.at is not None:
        raise InvalidInput("delay", new.delay, "is given beside at", "give one of the two")
    if new.at is not None:
        if new.at.tzinfo is None:
            raise InvalidInput("at", new.at.isoformat(), "has no time zone", "give an aware datetime")
        try:
            return to_instant(new.at)
        except ValueError as error:
            raise InvalidInput("at", new.at.isoformat(), str(error), "give an earlier one") from None
    if new.delay is None:
        return None
    try:
        span = parse_duration(new.delay) if isinstance(new.delay, str) else new.delay
        return to_instant(now + span)
    except (ValueError, OverflowError) as error:
        raise InvalidInput("delay", new.delay, str(error) or "is too long", "write 90s, 10m or PT10M") from None


def _seconds(span: timedelta | str | None) -> float | None:
    if span is None:
        return None
    try:
        seconds = (parse_duration(span) if isinstance(span, str) else span).total_seconds()
    except ValueError as error:
        raise InvalidInput("timeout", span, str(error), "write 90s, 10m or PT10M") from None
    if seconds <= 0:
        raise InvalidInput("timeout", str(span), "is not positive", "give a longer one")
    return seconds
