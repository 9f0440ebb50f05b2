"""How a task moves between states (pure); every store adapter turns a ``Move`` into one atomic write.

    pending ──claim──▶ running ──settle──▶ completed | failed | cancelled
       ▲                  │ ▲                     │
       │                  │ └── claim             └──replay (failed)──▶ pending
       └──retry, snooze, release, rescue, once more       (or discard: failed to cancelled)

Rules are named P1–P19 as in docs/protocol.md.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from schemas.outcome import Cancelled, Completed, Discarded, Failed, Outcome, Released, Snoozed
from schemas.task import Task, TaskError, TaskStatus

WORKER_LOST = "worker_lost"
LONGEST_WAIT = timedelta(days=3650)
"""Whoever asks for longer gets this: an instant that no calendar holds would be kept, and never read again."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a run knew of the requests made while it ran; its write is refused if they have changed (P6)."""

    again: bool = False
    cancel_requested: bool = False


@dataclass(frozen=True, slots=True)
class Move:
    """One way out of ``running``."""

    status: TaskStatus
    retry_at: datetime | None = None
    """When it is eligible again; pending only."""
    new_run: bool = False
    """Asked for once more: attempt, retry count, checkpoint, progress and the cancel request start afresh (P5)."""
    give_back: bool = False
    """The attempt is not burnt (P15)."""
    failed: bool = False
    """Counts as a failure."""
    guards_cancel: bool = True
    """The outcome assumes what ``Seen`` says of the cancel request, not only of ``again``."""
    error: TaskError | None = None
    reason: str | None = None
    event: str | None = None
    """A line for the history; the happy path writes none."""


COMPLETED = Move(TaskStatus.COMPLETED, guards_cancel=False)
"""The happy path: nothing more to say."""


def settle(outcome: Outcome, task: Task, seen: Seen, now: datetime) -> Move:
    """What becomes of a run. ``task`` is as claimed, ``seen`` as last read, ``now`` the store's time."""
    match outcome:
        case Completed(note=note):
            if seen.again:
                return _once_more(now, event="again", reason=note)
            return COMPLETED if not note else replace(COMPLETED, event="note", reason=note)
        case Discarded(reason=reason):
            return _end(TaskStatus.CANCELLED, seen, now, reason=reason, event="discarded")
        case Cancelled(reason=reason):
            return _end(TaskStatus.CANCELLED, seen, now, reason=reason, event="cancelled")
        case Failed(error=error, delay=delay, reason=reason):
            if delay is None or task.at_ceiling:
                return _end(TaskStatus.FAILED, seen, now, reason=reason or "exhausted", event="failed", error=error)
            if seen.cancel_requested:
                return _end(TaskStatus.CANCELLED, seen, now, reason="cancel requested", event="cancelled", error=error)
            return Move(
                TaskStatus.PENDING,
                retry_at=now + min(delay, LONGEST_WAIT),
                failed=True,
                error=error,
                reason=reason or error.type,
                event="retried",
            )
        case Snoozed(until=until, reason=reason):
            if seen.cancel_requested:
                return _end(TaskStatus.CANCELLED, seen, now, reason="cancel requested", event="cancelled")
            until = min(max(now, until), now + LONGEST_WAIT)
            return Move(TaskStatus.PENDING, retry_at=until, give_back=True, reason=reason, event="snoozed")
        case Released(reason=reason):
            if seen.cancel_requested:
                return _end(TaskStatus.CANCELLED, seen, now, reason="cancel requested", event="cancelled")
            return Move(TaskStatus.PENDING, retry_at=now, give_back=True, reason=reason, event="released")


def rescue(task: Task, now: datetime) -> Move:
    """What becomes of a stale claim (P9)."""
    seen = Seen(task.again, task.cancel_requested_at is not None)
    if seen.cancel_requested:
        return _end(TaskStatus.CANCELLED, seen, now, reason="cancel requested", event="cancelled")
    if task.at_ceiling:
        error = TaskError(
            type="WorkerLost",
            message=f"worker {task.claimed_by} was lost during attempt {task.attempt}",
            fingerprint=WORKER_LOST,
            at=now,
        )
        return _end(TaskStatus.FAILED, seen, now, reason=WORKER_LOST, event="failed", error=error)
    return Move(TaskStatus.PENDING, retry_at=now, reason=f"claim of {task.claimed_by} went stale", event="rescued")


def _end(
    status: TaskStatus, seen: Seen, now: datetime, *, reason: str | None, event: str, error: TaskError | None = None
) -> Move:
    """A final state; or once more, when that was asked for meanwhile."""
    failed = status is TaskStatus.FAILED
    if seen.again:
        return _once_more(now, event=f"{event}, again", reason=reason, error=error)
    return Move(status, reason=reason, event=event, error=error, failed=failed, guards_cancel=not failed)


def _once_more(now: datetime, *, event: str, reason: str | None, error: TaskError | None = None) -> Move:
    return Move(
        TaskStatus.PENDING, retry_at=now, new_run=True, event=event, reason=reason, error=error, guards_cancel=False
    )


RELAY_SLACK = timedelta(seconds=10)
"""How long after its publish a message may be on its way before relay looks (P11)."""


def relay_at(now: datetime, retry_at: datetime, *, published: bool) -> datetime:
    """When relay looks at a pending task: later when the writer publishes it itself (P11)."""
    due = max(now, retry_at)
    return due + RELAY_SLACK if published else due
