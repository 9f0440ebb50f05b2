"""Why a task did, or did not, run: plain sentences from what the store and the broker know."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from schemas.duration import format_duration
from schemas.schedule import Schedule, Skip, SkipReason
from schemas.task import HistoryEntry, Task, TaskStatus
from schemas.why import Explanation, Step
from schemas.worker import TaskTypeState, Worker
from service.broker.port import Broker
from service.envelope import FIRE_PREFIX
from service.errors import BrokerUnavailable
from service.settings import Settings
from service.states import RELAY_SLACK, WORKER_LOST
from service.store.port import Store

TERSE = 200
"""Characters of an error's message."""


@dataclass(frozen=True)
class Facts:
    """All that was read; ``task`` is None where there is no record."""

    id: str
    now: datetime
    task: Task | None
    settings: Settings
    state: TaskTypeState | None = None
    """Of the task's type."""
    workers: Sequence[Worker] = ()
    """Those that are alive."""
    depth: int | None = None
    """How many messages wait in the queue of the type; None: the broker was not asked."""
    owner: Task | None = None
    """Who has the live key that this task had: a replay would collide with it."""
    standing: Task | None = None
    """Who noted that it stands for this id."""
    schedule: Schedule | None = None
    """Whose fire it is."""
    skips: Sequence[Skip] = field(default=())
    """Of that schedule: those that cover the instant of the fire."""


async def explain(store: Store, broker: Broker, settings: Settings, task_id: str) -> Explanation:
    """Read what is known, and tell. Raises StoreUnavailable; an unknown id is explained too."""
    return tell(await gather(store, broker, settings, task_id))


async def gather(store: Store, broker: Broker, settings: Settings, task_id: str) -> Facts:
    """Everything that ``tell`` needs; a broker that does not answer is left out. Raises StoreUnavailable."""
    task, now = await store.tasks.get(task_id), store.clock.now()
    schedule_id, fire_at = fire_of(task_id)
    schedule_id = task.schedule_id if task is not None else schedule_id
    schedule = await store.schedules.get(schedule_id) if schedule_id is not None else None
    if task is None:
        skips = [skip for skip in schedule.recent_skips if _covers(skip, fire_at)] if schedule is not None else []
        standing = await store.tasks.standing_for(task_id)
        return Facts(task_id, now, None, settings, standing=standing, schedule=schedule, skips=skips)
    collides = task.status is TaskStatus.FAILED and task.ended_key is not None
    return Facts(
        task_id,
        now,
        task,
        settings,
        state=(await store.upkeep.type_states()).get(task.task_type),
        workers=await store.workers.alive(now - settings.stale_claim_timeout),
        depth=await _depth(broker, task),
        owner=await store.tasks.owner(task.ended_key) if collides and task.ended_key is not None else None,
        schedule=schedule,
    )


async def _depth(broker: Broker, task: Task) -> int | None:
    if task.status is not TaskStatus.PENDING:
        return None
    try:
        return await broker.depth(task.task_type)
    except BrokerUnavailable:
        return None


def fire_of(task_id: str) -> tuple[str | None, datetime | None]:
    """The schedule and the instant that the id of a fire names; None where it names none."""
    if not task_id.startswith(FIRE_PREFIX):
        return None, None
    schedule_id, _, instant = task_id.removeprefix(FIRE_PREFIX).rpartition("@")
    try:
        return schedule_id or None, datetime.fromisoformat(instant).astimezone(UTC)
    except (ValueError, OverflowError):
        return schedule_id or None, None


def _covers(skip: Skip, fire_at: datetime | None) -> bool:
    return fire_at is not None and skip.since <= fire_at <= skip.until


# ---- telling ---------------------------------------------------------------------------------------------------------


def tell(facts: Facts) -> Explanation:
    """The explanation (pure)."""
    task = facts.task
    if task is None:
        return _unknown(facts)
    now, advice = _stands(facts, task)
    return Explanation(id=facts.id, status=task.status, story=list(_story(task)), now=now, advice=advice)


def _stands(facts: Facts, task: Task) -> tuple[list[str], list[str]]:
    match task.status:
        case TaskStatus.PENDING:
            return _pending(facts, task)
        case TaskStatus.RUNNING:
            return _running(facts, task)
        case TaskStatus.FAILED:
            return _dead(facts, task)
        case TaskStatus.CANCELLED:
            return [f"It was cancelled at {_at(task.finished_at)}: {task.reason or 'no reason given'}."], []
        case TaskStatus.COMPLETED:
            return [f"It completed at {_at(task.finished_at)}."], []


def _story(task: Task) -> Iterator[Step]:
    """What happened so far, oldest first."""
    yield Step(at=task.created_at, text=_origin(task))
    steps = [Step(at=line.at, text=_line(line)) for line in task.history]
    # Requests that asked a running one again are in the history already.
    asked = [line.reason for line in task.history if line.event == "asked again"]
    steps += [
        Step(at=request.at, text=f"{request.id} was asked for, and not stored: this one, still pending, stands for it.")
        for request in task.asked_by or ()
        if f"by {request.id}" not in asked
    ]
    if task.started_at is not None:
        number = "The last run began" if task.fence > 1 else "It began to run"
        steps.append(Step(at=task.started_at, text=f"{number} (claim {task.fence})."))
    yield from sorted(steps, key=lambda step: step.at or task.created_at)


def _origin(task: Task) -> str:
    if task.payload is not None:
        return f"A message of {task.payload.size} bytes came for {task.task_type}, and was no task."
    if task.fire_at is not None and task.schedule_id is not None:
        return f"Schedule {task.schedule_id} fired for {_at(task.fire_at)}, and stored it as {task.task_type}."
    return f"It was stored as {task.task_type}."


def _line(line: HistoryEntry) -> str:
    reason = line.reason or ""
    who = f" on {line.worker}" if line.worker else ""
    event, _, once_more = line.event.partition(", ")
    text = {
        "retried": f"An attempt failed{who}: {reason}; it was put back for another one.",
        "failed": f"An attempt failed{who}: {reason}; no other one was left.",
        "snoozed": f"Its handler put it off{who}{_because(reason)}; the attempt does not count.",
        "released": f"It was given back{who}{_because(reason)}; the attempt does not count.",
        "rescued": f"It was rescued from its worker: {reason}; that attempt counts.",
        "refused": f"The end of an earlier run{who} was refused (claim {line.fence}): {reason}; a later run decides.",
        "asked again": f"It was asked for once more while it ran, {reason}: it runs again afterwards.",
        "again": "It ended, and ran once more, as was asked.",
        "cancel requested": f"Somebody asked to cancel it{_because(reason)}.",
        "cancelled": f"It was cancelled{_because(reason)}.",
        "discarded": f"It was discarded{_because(reason)}.",
        "replayed": f"It was replayed{_because(reason)}, with fresh attempts.",
        "note": f"{reason.capitalize()}.",
    }.get(event, f"{event}{_because(reason)}.")
    return f"{text} It runs once more, as was asked." if once_more else text


def _because(reason: str) -> str:
    return f" ({reason})" if reason else ""


# ---- pending ---------------------------------------------------------------------------------------------------------


def _pending(facts: Facts, task: Task) -> tuple[list[str], list[str]]:
    now, advice = [], []
    if task.retry_at > facts.now:
        now.append(_until(task, facts.now))
    consuming = [worker for worker in facts.workers if task.task_type in worker.task_types]
    if facts.state is not None and facts.state.paused:
        since = f" since {_at(facts.state.paused_at)}" if facts.state.paused_at is not None else ""
        by = f", by {facts.state.paused_by}" if facts.state.paused_by is not None else ""
        now.append(f"The type {task.task_type} is paused{since}{by}: no worker takes its tasks.")
        advice.append(f"Resume the type {task.task_type}.")
    if not consuming:
        now.append(f"No worker takes tasks of the type {task.task_type}. {_taken(facts.workers)}")
        advice.append(
            f"Start a worker whose VERGER_ACTORS has a handler for {task.task_type}"
            " and whose VERGER_TYPES does not leave it out."
        )
    elif task.retry_at <= facts.now and not advice:
        now += _queued(facts, task, consuming)
    return now, advice


def _until(task: Task, now: datetime) -> str:
    left = format_duration(task.retry_at - now)
    until = f"until {_at(task.retry_at)} (in {left})"
    if task.retry_count and task.last_error is not None:
        most = "" if task.max_attempts is None else f" of {task.max_attempts}"
        return f"It waits for attempt {task.attempt + 1}{most} {until}, after {_error(task)}."
    if any(line.event == "snoozed" for line in task.history[-1:]):
        return f"It was put off {until}."
    return f"It is early: it may not run {until}."


def _taken(workers: Sequence[Worker]) -> str:
    types: Collection[str] = sorted({name for worker in workers for name in worker.task_types})
    if not workers:
        return "No worker is alive at all."
    return f"{len(workers)} alive take {', '.join(types) or 'nothing'}."


def _queued(facts: Facts, task: Task, consuming: Sequence[Worker]) -> list[str]:
    """Due, and somebody takes its type: then its message is on its way, or relay brings it."""
    busy = f"{len(consuming)} {_plural(len(consuming), 'worker')} {'takes' if len(consuming) == 1 else 'take'} its type"
    if facts.depth is None:
        said = [f"It is due. {busy}; the broker was not asked how many messages wait."]
    elif facts.depth == 0:
        said = [f"It is due. {busy}, and its queue is empty: a worker has its message in hand, or relay sends it."]
    else:
        before = _plural(facts.depth, "message")
        said = [f"It is due. {busy}; {facts.depth} {before} in its queue, and it is one of them or behind them."]
    if task.relay_at is not None and task.relay_at > facts.now:
        said.append(f"Its message was sent; relay looks after it at {_at(task.relay_at)}.")
    elif task.relay_at is not None and facts.depth:
        said.append(_marker(facts.state, task))
    return said


def _marker(state: TaskTypeState | None, task: Task) -> str:
    """Behind a backlog, relay finds out by a marker whether a message is still in the queue (P12)."""
    assert task.relay_at is not None
    sent_before = task.relay_at - RELAY_SLACK
    seen = state.marker_seen_at if state is not None else None
    if seen is not None and sent_before <= seen:
        return "A marker sent after its message has come through: its message is gone, and relay sends it again."
    return "Relay waits for a marker behind the backlog: when a worker meets it, what is older and lost is sent again."


# ---- running ---------------------------------------------------------------------------------------------------------


def _running(facts: Facts, task: Task) -> tuple[list[str], list[str]]:
    stale_after = facts.settings.stale_claim_timeout
    beat = facts.now - task.processing_at if task.processing_at is not None else timedelta()
    renewed = format_duration(max(timedelta(), beat))
    now = [f"It runs on {task.claimed_by} since {_at(task.started_at)}; its claim was renewed {renewed} ago."]
    if task.progress is not None:
        total = f" of {task.progress.total_count}" if task.progress.total_count is not None else ""
        left = task.progress.eta_ms
        eta = f", about {format_duration(timedelta(milliseconds=left))} left" if left is not None else ""
        said = f" ({task.progress.message})" if task.progress.message else ""
        now.append(f"It has done {task.progress.done_count}{total}{eta}{said}.")
    if beat > stale_after:
        now.append(f"That is longer than {format_duration(stale_after)}: its worker is lost, and rescue takes it back.")
        return now, ["See that a scheduler runs: rescue is one of its duties."]
    if task.cancel_requested_at is not None:
        now.append(f"It was asked to stop at {_at(task.cancel_requested_at)}, and stops at its next checkpoint.")
        return now, [] if task.cancel_forced else [f"verger tasks cancel --force {task.id} interrupts its handler."]
    if task.again:
        now.append("It was asked for once more, and runs again afterwards.")
    return now, []


# ---- dead ------------------------------------------------------------------------------------------------------------


def _dead(facts: Facts, task: Task) -> tuple[list[str], list[str]]:
    why = f"It is a dead letter since {_at(task.finished_at)}: {task.reason or 'failed'}"
    now = [f"{why}, {_error(task)}." if task.last_error is not None else f"{why}."]
    if task.payload is not None and not task.payload.complete:
        now.append("It cannot be replayed: its message was too large, and only its first bytes were kept.")
        return now, ["Publish it again with a reference to the data, and discard this one."]
    if task.relay_at is not None:
        now.append("It cannot be replayed yet: the dead-letter exchange has not confirmed it.")
        return now, ["Wait a few seconds; a scheduler and the broker must run."]
    if facts.owner is not None:
        now.append(
            f"It cannot be replayed now: {facts.owner.id} is {facts.owner.status} under the same"
            f" {'name' if task.task_name is not None else 'body'}."
        )
        return now, [f"Wait for {facts.owner.id}, or discard this one."]
    advice = [f"When the cause is gone: verger tasks retry {task.id}"]
    if task.reason == "invalid_body":
        advice = [f"Replay it with a body that fits: verger dead replay {task.id} --body '{{…}}'"]
    elif task.reason == WORKER_LOST:
        advice.insert(0, "Its last attempts killed their process: look at memory and at the end of its log.")
    return [*now, "It can be replayed."], advice


def _error(task: Task) -> str:
    error = task.last_error
    if error is None:
        return "no error"
    message = error.message.partition("\n")[0]
    place = f" in {error.place}" if error.place else ""
    return f"{error.type}: {message[:TERSE]}{'…' if len(message) > TERSE else ''}{place}"


# ---- unknown ---------------------------------------------------------------------------------------------------------


def _unknown(facts: Facts) -> Explanation:
    if facts.standing is not None:
        return _stood_for(facts, facts.standing)
    schedule_id, fire_at = fire_of(facts.id)
    if schedule_id is not None and fire_at is not None:
        found = _unfired(facts, schedule_id, fire_at)
        if found is not None:
            return found
    settings = facts.settings
    kept = (
        f"It was never seen; or it was pruned: completed and cancelled tasks are kept for"
        f" {format_duration(settings.retention)} and {settings.keep_completed} of a type, though no less than"
        f" {format_duration(settings.idempotency_window)}, dead letters for"
        f" {format_duration(settings.dead_letter_retention)}."
    )
    waits = (
        "Or it was published and no worker has taken its message yet: it is stored when its type's worker, or for an"
        " unknown type a scheduler, meets it. One whose name or body was taken leaves no record; of these, one a second"
        " is noted on the task that stands for it."
    )
    advice = ["Look at the depth of its type's queue, and whether its publisher waited for the confirm."]
    return Explanation(id=facts.id, status=None, story=[], now=["There is no such task.", kept, waits], advice=advice)


def _stood_for(facts: Facts, standing: Task) -> Explanation:
    at = next((request.at for request in standing.asked_by or () if request.id == facts.id), None)
    key = f"the name {standing.task_name}" if standing.task_name is not None else "the same type and body"
    story = [Step(at=at, text=f"It was asked for while {standing.id} was pending or running under {key}.")]
    now = [f"It was not stored: {standing.id}, which is {standing.status}, stands for it."]
    return Explanation(
        id=facts.id, status=None, story=story, now=now, advice=[f"verger tasks why {standing.id} tells what it does."]
    )


def _unfired(facts: Facts, schedule_id: str, fire_at: datetime) -> Explanation | None:
    """A fire without a task; None: nothing is known of it."""
    schedule = facts.schedule
    if schedule is None:
        now = [f"There is no schedule {schedule_id}, or not any more."]
        return Explanation(id=facts.id, status=None, story=[], now=now, advice=["verger schedules list shows all."])
    for skip in facts.skips:
        by = f" {skip.by}" if skip.by is not None else " an earlier one"
        why = {
            SkipReason.OVERLAP: f"the previous run was still going:{by} was pending or running.",
            SkipReason.COALESCED: f"it was found due too late, and{by} ran for all that were late.",
            SkipReason.MISFIRE: "it was found due too late, and the schedule's misfire policy skips such fires.",
        }[skip.reason]
        advice = {
            SkipReason.OVERLAP: ["Give the schedule overlap: allow, or more time between its fires."],
            SkipReason.MISFIRE: ["See that a scheduler ran at that time; misfire: coalesce makes up for it once."],
            SkipReason.COALESCED: [],
        }[skip.reason]
        return Explanation(
            id=facts.id,
            status=None,
            story=[Step(at=skip.since, text=f"The fire of {schedule_id} for {_at(fire_at)} was skipped: {why}")],
            now=["It made no task, and was counted as skipped."],
            advice=advice,
        )
    if not schedule.enabled:
        since = f" since {_at(schedule.paused_at)}" if schedule.paused_at is not None else ""
        now = [f"Schedule {schedule_id} is paused{since}."]
        return Explanation(
            id=facts.id, status=None, story=[], now=now, advice=[f"verger schedules resume {schedule_id}"]
        )
    if fire_at > facts.now:
        now = [f"It is early: schedule {schedule_id} fires next at {_at(schedule.next_fire_at)}."]
        return Explanation(id=facts.id, status=None, story=[], now=now)
    return None


# ---- words -----------------------------------------------------------------------------------------------------------


def _at(moment: datetime | None) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ") if moment is not None else "an unknown time"


def _plural(count: int, word: str) -> str:
    return word if count == 1 else f"{word}s"
