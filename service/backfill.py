"""Backfill: the tasks of due instants that made none, under the ids of their fires.

A real fire has the same id, so neither doubles the other, and a repeated backfill changes nothing, as long as the
record of the task is kept. Afterwards nobody can tell: an instant of which nothing is known is left alone, unless that
is asked for.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from schemas.backfill import Backfill, BackfilledInstant, BackfillOutcome, BackfillRequest
from schemas.explanation import DueInstant, FireState
from schemas.schedule import Overlap, Schedule
from schemas.task import HistoryEntry, Task
from service.client import Client
from service.errors import InvalidInput, NotFound
from service.explain import BACKFILLED, explain
from service.fires import fire_id, fire_task
from service.registry import Registry
from service.store.port import Store

_NEVER_RAN = frozenset({FireState.OVERLAP, FireState.COALESCED, FireState.MISFIRE, FireState.PAUSED, FireState.ABSENT})


async def backfill(
    store: Store, client: Client, registry: Registry, schedule_id: str, asked: BackfillRequest
) -> Backfill:
    """Make what is missing, oldest first.

    With the overlap policy ``skip`` at most one task is made, as no two of the same type and body are pending or
    running at once; with ``allow`` one for each instant.

    Raises NotFound; InvalidInput: the window is empty, too long, or not past.
    """
    now = store.clock.now()
    if asked.start >= now:
        raise InvalidInput("from", asked.start.isoformat(), "is not past", "give an earlier instant")
    end = min(asked.end or now, now)
    explanation = await explain(store, schedule_id, asked.start, end, asked.limit)
    schedule = await store.schedules.get(schedule_id)
    if schedule is None:
        raise NotFound(f"there is no schedule {schedule_id!r}")
    missing = [fire for fire in explanation.fires if fire.state in _NEVER_RAN or _dared(fire, asked)]
    overlap = asked.overlap or schedule.overlap
    handler = registry.find(schedule.task_type)
    line = HistoryEntry(at=now, event=BACKFILLED)
    tasks = [
        fire_task(schedule, fire.at, handler, now, retry_at=fire.at, overlap=overlap).model_copy(
            update={"history": [line]}
        )
        for fire in missing
    ]
    outcomes = _planned(tasks, overlap) if asked.dry_run else await _made(client, tasks, overlap)
    fires = [_told(fire, schedule, outcomes) for fire in explanation.fires]
    return Backfill(
        schedule_id=schedule_id,
        start=asked.start,
        end=end,
        dry_run=asked.dry_run,
        created=sum(fire.outcome in (BackfillOutcome.CREATED, BackfillOutcome.PLANNED) for fire in fires),
        fires=fires,
        continue_from=_after(explanation.fires[-1].at) if explanation.truncated else None,
    )


def _dared(fire: DueInstant, asked: BackfillRequest) -> bool:
    return asked.unknown and fire.state is FireState.UNKNOWN


def _planned(tasks: Sequence[Task], overlap: Overlap) -> dict[str, tuple[BackfillOutcome, str | None]]:
    planned: dict[str, tuple[BackfillOutcome, str | None]] = {}
    for task in tasks:
        if planned and overlap is Overlap.SKIP:
            planned[task.id] = BackfillOutcome.OVERLAP, _in_the_way(tasks[0].id)
        else:
            planned[task.id] = BackfillOutcome.PLANNED, None
    return planned


async def _made(
    client: Client, tasks: Sequence[Task], overlap: Overlap
) -> dict[str, tuple[BackfillOutcome, str | None]]:
    """Task id → what became of it."""
    if overlap is Overlap.ALLOW:
        answers = await client.place(tasks)
        return {
            task.id: (BackfillOutcome.CREATED if answer.created else BackfillOutcome.KNOWN, None)
            for task, answer in zip(tasks, answers, strict=True)
        }
    made: dict[str, tuple[BackfillOutcome, str | None]] = {}
    live: str | None = None
    for task in tasks:
        if live is not None:
            # All have the same type and body: nobody needs to ask the store.
            made[task.id] = BackfillOutcome.OVERLAP, _in_the_way(live)
            continue
        [answer] = await client.place([task])
        if answer.created:
            made[task.id], live = (BackfillOutcome.CREATED, None), task.id
        elif answer.by == "live_key":
            live = answer.task.id
            made[task.id] = BackfillOutcome.OVERLAP, _in_the_way(live)
        else:
            made[task.id] = BackfillOutcome.KNOWN, None
    return made


def _told(
    fire: DueInstant, schedule: Schedule, outcomes: dict[str, tuple[BackfillOutcome, str | None]]
) -> BackfilledInstant:
    task_id = fire_id(schedule.id, fire.at)
    left = BackfillOutcome.UNKNOWN if fire.state is FireState.UNKNOWN else BackfillOutcome.KNOWN
    outcome, reason = outcomes.get(task_id, (left, fire.reason))
    assert fire.state is not None
    return BackfilledInstant(at=fire.at, task_id=task_id, outcome=outcome, state=fire.state, reason=reason)


def _in_the_way(task_id: str) -> str:
    return f"task {task_id} has the same type and body, and is pending or running"


def _after(instant: datetime) -> datetime:
    return instant + timedelta(milliseconds=1)
