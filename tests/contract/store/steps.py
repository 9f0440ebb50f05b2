"""Rows, and what the tests of this suite do to a store again and again."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from schemas.outcome import Completed, Failed, Outcome
from schemas.schedule import Schedule, Skip, SkipReason
from schemas.task import Task, TaskError
from schemas.worker import Worker
from service.states import Seen, relay_at, settle as settle_move
from service.store.port import (
    Beat,
    BeatReply,
    Claimed,
    ClaimRequest,
    Edit,
    FireClaim,
    RelayMove,
    SettleAnswer,
    Settled,
    Settlement,
    Store,
)

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
AT_ONCE = timedelta()
STALE = -MINUTE
"""A timeout after which every claim is stale, whatever the clocks say."""


def now() -> datetime:
    """Whole milliseconds, as a store keeps them."""
    moment = datetime.now(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def a_task(task_id: str = "a", **fields: Any) -> Task:
    """Pending and due for a minute."""
    due = now() - MINUTE
    usual: dict[str, Any] = {
        "task_type": "report",
        "task_body": {},
        "created_at": due,
        "retry_at": due,
        "relay_at": due,
    }
    return Task(id=task_id, **(usual | fields))


def some_tasks(count: int, prefix: str = "t", **fields: Any) -> list[Task]:
    return [a_task(f"{prefix}{number:03}", **fields) for number in range(count)]


def an_error(kind: str = "Boom") -> TaskError:
    return TaskError(type=kind, message="it broke", fingerprint=kind.lower(), at=now())


# ---- claims ----------------------------------------------------------------------------------------------------------


def foreign(task: Task) -> ClaimRequest:
    """A message from outside: it may create its record."""
    return ClaimRequest(task.id, task)


def stored(task_id: str) -> ClaimRequest:
    """A message of ours."""
    return ClaimRequest(task_id, None)


async def claim(store: Store, *task_ids: str, worker: str = "w1") -> list[Task]:
    """Claim stored tasks, each of which must be free."""
    answers = await store.claims.claim([stored(task_id) for task_id in task_ids], worker)
    claimed = [answer.task for answer in answers if isinstance(answer, Claimed)]
    assert len(claimed) == len(task_ids), answers
    return claimed


async def running(store: Store, task_id: str = "a", *, worker: str = "w1", **fields: Any) -> Task:
    await store.tasks.create([a_task(task_id, **fields)])
    return (await claim(store, task_id, worker=worker))[0]


async def look(store: Store, task_id: str = "a") -> Task:
    task = await store.tasks.get(task_id)
    assert task is not None
    return task


# ---- ends ------------------------------------------------------------------------------------------------------------


def failed(delay: timedelta | None = 10 * SECOND) -> Failed:
    return Failed(an_error(), delay)


def end(task: Task, outcome: Outcome, seen: Seen | None = None, *, worker: str = "w1") -> Settlement:
    """What a worker writes when a run has ended; a second ago, so that what is due at once is due by any clock."""
    seen, ended = seen or Seen(), now() - SECOND
    move = settle_move(outcome, task, seen, ended)
    assert task.claim_token is not None
    return Settlement(
        id=task.id,
        token=task.claim_token,
        move=move,
        seen=seen,
        retry_at=move.retry_at,
        relay_at=relay_at(ended, move.retry_at or ended, published=True),
        result=outcome.result if isinstance(outcome, Completed) else None,
        worker=worker,
        fence=task.fence,
    )


async def settle(store: Store, task: Task, outcome: Outcome, seen: Seen | None = None) -> SettleAnswer:
    return (await store.claims.settle([end(task, outcome, seen)]))[0]


async def finished(store: Store, task_id: str = "a", outcome: Outcome | None = None, **fields: Any) -> Task:
    """A task that has run and come to its end."""
    task = await running(store, task_id, **fields)
    assert isinstance(await settle(store, task, outcome or Completed()), Settled)
    return await look(store, task_id)


async def dead(store: Store, task_id: str = "a", *, published: bool = True, **fields: Any) -> Task:
    """A dead letter; ``published``: it is on its exchange."""
    task = await finished(store, task_id, failed(None), **fields)
    if published:
        assert await store.upkeep.relay_move([RelayMove(task, None)]) == [True]
    return await look(store, task_id)


# ---- schedules -------------------------------------------------------------------------------------------------------


def a_schedule(schedule_id: str = "s", **fields: Any) -> Schedule:
    """Due for a minute."""
    usual: dict[str, Any] = {"task_type": "report", "schedule": "* * * * *", "next_fire_at": now() - MINUTE}
    return Schedule(id=schedule_id, **(usual | fields))


async def kept(store: Store, *schedules: Schedule) -> list[Schedule]:
    """New schedules, as they are once written."""
    await store.schedules.write(schedules)
    return [await look_at(store, schedule.id) for schedule in schedules]


async def edited(store: Store, before: Schedule, **fields: Any) -> Schedule:
    """A schedule as it is once these fields are written."""
    await store.schedules.write(edit=[Edit(before, before.model_copy(update=fields))])
    return await look_at(store, before.id)


async def look_at(store: Store, schedule_id: str = "s") -> Schedule:
    schedule = await store.schedules.get(schedule_id)
    assert schedule is not None
    return schedule


def a_fire(schedule: Schedule, **fields: Any) -> FireClaim:
    """The fire that is due, and the next one in an hour."""
    usual: dict[str, Any] = {"fire_at": schedule.next_fire_at, "next_fire_at": now() + HOUR}
    return FireClaim(schedule, **(usual | fields))


def a_skip(reason: str = "overlap", count: int = 1, **fields: Any) -> Skip:
    """Of the fire that was due a minute ago."""
    usual: dict[str, Any] = {"since": now() - MINUTE, "until": now() - MINUTE}
    return Skip(reason=SkipReason(reason), count=count, **(usual | fields))


# ---- workers ---------------------------------------------------------------------------------------------------------


def a_beat(*claims: Task, worker: str = "w1", **markers: datetime) -> Beat:
    me = Worker(id=worker, host="h", pid=1, roles=["worker"], started_at=now(), seen_at=now(), version="1")
    return Beat(me, {task.id: task.claim_token or "" for task in claims}, markers)


async def beat(store: Store, told: Beat) -> BeatReply:
    """One beat over a link of its own."""
    link = store.claims.heartbeat()
    try:
        return await asyncio.to_thread(link.beat, told)
    finally:
        link.close()


def new_id() -> str:
    return uuid4().hex
