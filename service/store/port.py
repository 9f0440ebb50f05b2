"""What the engine asks of a store.

Each method is one atomic write for each document, durable (majority) when it returns.

Every method raises StoreUnavailable when the store does not answer in time. Where an operation is idempotent the
adapter has repeated it; where its outcome is unknown the adapter has read it back (P7), and StoreUnavailable then means
that even the reading failed. Instants that order claims come from the store's clock. A document that no store can keep
(too deep, too large, not JSON) raises PayloadRefused, unless the method says otherwise.
"""

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from schemas.access import AuditEntry, AuditPage
from schemas.dead_letter import DeadGroups
from schemas.schedule import Schedule, Skip
from schemas.task import Progress, Task, TaskStatus
from schemas.worker import TaskTypeState, Worker
from service.clock import StoreClock
from service.states import Move, Seen

# ---- claims: what a worker does with a task --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """Ask for one task."""

    id: str
    record: Task | None
    """What to keep if nothing is kept under this id yet: a foreign message. None: made for a stored task (P2)."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """Yours, until you settle it or lose it."""

    task: Task


@dataclass(frozen=True, slots=True)
class Known:
    """Not yours. Acknowledge.

    It runs elsewhere, is finished, is not due (relay's business), or a stored task's record is gone.
    """


@dataclass(frozen=True, slots=True)
class Deduplicated:
    """Its live key belongs to another task, on which the request was noted. Acknowledge the message."""

    by: str
    again: bool
    """That one runs, and will run once more."""


@dataclass(frozen=True, slots=True)
class NotDone:
    """The store went away meanwhile, and nothing happened. Requeue the message (P7)."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The store can never keep this record. Keep the message as a dead letter."""

    reason: str


ClaimAnswer = Claimed | Known | Deduplicated | NotDone | Rejected


@dataclass(frozen=True, slots=True)
class Settlement:
    """One run's end, to be written."""

    id: str
    token: str
    move: Move
    seen: Seen
    """What the move assumes."""
    retry_at: datetime | None = None
    relay_at: datetime | None = None
    result: Any = None
    worker: str = ""
    fence: int = 0


@dataclass(frozen=True, slots=True)
class Settled:
    """Written (now, or by an earlier try whose reply was lost)."""

    status: TaskStatus


@dataclass(frozen=True, slots=True)
class Changed:
    """Still yours and not written: asked for again, or to be cancelled, meanwhile. Take the outcome for ``seen``.

    After a lost reply ``seen`` may be as it was: the write did not happen.
    """

    seen: Seen


@dataclass(frozen=True, slots=True)
class Refused:
    """The claim was lost; nothing was written but a line of history."""


SettleAnswer = Settled | Changed | Refused


class Claims(Protocol):
    """Run-owned writes: each names the claim it belongs to."""

    @abstractmethod
    async def claim(self, requests: Sequence[ClaimRequest], worker: str, token: str | None = None) -> list[ClaimAnswer]:
        """Claim many at once, answers in order (P1, P2, P4, P8). Ids must be distinct, or it raises ValueError.

        ``token``: given to no other batch, so that who asks can renew what is claimed before the answer is there; None:
        one is made.

        Eligible is ``{_id, status: pending, retryAt ≤ now}``. A claimed task is running, has the token,
        ``processingAt`` and ``startedAt`` by the store's clock, fence and attempt incremented, no ``relayAt``, no
        ``again``. Nothing leaves running here. One record that cannot be kept is ``Rejected`` alone.
        """

    @abstractmethod
    async def settle(self, settlements: Sequence[Settlement]) -> list[SettleAnswer]:
        """End many runs at once, answers in order (P5, P6, P7, P8).

        Filters ``{_id, status: running, claimToken}`` and what the move assumes of ``again`` and the cancel request. A
        result that cannot be kept is left out, with a line in the history.
        """

    @abstractmethod
    async def save(
        self, task_id: str, token: str, *, progress: Progress | None, checkpoint: Any, keep_checkpoint: bool
    ) -> bool:
        """Write progress, and the checkpoint if ``keep_checkpoint``, of a live claim; False: the claim is lost."""

    @abstractmethod
    def heartbeat(self) -> "HeartbeatLink":
        """A link of its own for the heartbeat thread."""


@dataclass(frozen=True, slots=True)
class Beat:
    """What a worker tells."""

    worker: Worker
    claims: Mapping[str, str]
    """Task id → token of each live claim."""
    markers: Mapping[str, datetime]
    """Task type → newest relay marker seen since the last beat."""


@dataclass(frozen=True, slots=True)
class BeatReply:
    """What a worker hears."""

    lost: frozenset[str]
    """Ids whose claim is not this worker's any more."""
    cancel: frozenset[str]
    """Ids that were asked to stop."""
    paused: frozenset[str]
    """Task types that are paused."""
    forced: frozenset[str] = frozenset()
    """Those of ``cancel`` that are to be interrupted."""


class HeartbeatLink(Protocol):
    """Synchronous, for one thread; its own connection to the store."""

    @abstractmethod
    def beat(self, beat: Beat) -> BeatReply:
        """Renew all claims in one write by the store's clock, report markers, note the worker.

        Sets the store's clock too. Raises StoreUnavailable.
        """

    @abstractmethod
    def close(self) -> None: ...


# ---- tasks: what everybody else does with them -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Created:
    """The answer to one creation."""

    task: Task
    """What is stored under the id, or the live task that took the request."""
    created: bool
    by: str | None = None
    """Why not: ``id``, or ``live_key``."""


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Which tasks to list; None: any."""

    status: TaskStatus | None = None
    task_type: str | None = None
    schedule_id: str | None = None
    tenant_id: str | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None
    """Created from the one on, and before the other."""
    finished_from: datetime | None = None
    finished_to: datetime | None = None
    """The same for the end; only finished tasks have one."""
    error: str | None = None
    """Part of the last error's type or message, in any case of letters."""


SCANNED = 10_000
"""How many tasks a page looks at, at most, where no index serves a part of the filter."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some tasks, newest first, and where the next page starts; None: nowhere.

    It may hold fewer than were asked for, even none, and still have a next one.
    """

    tasks: list[Task]
    cursor: str | None


class Tasks(Protocol):
    """Creation, cancellation, replay, and reading."""

    @abstractmethod
    async def create(
        self, tasks: Sequence[Task], *, ask_again: bool = True, repeat: bool = True, transaction: Any = None
    ) -> list[Created]:
        """Insert pending tasks, answers in order. A known id is a no-op (P4).

        A taken live key is noted on its owner: nothing to do if that is pending, ``again`` if it runs and ``ask_again``
        is set; if it ended meanwhile the insert is tried again.

        ``repeat``: whether to insert again while the store is away. A fire does not: the repetition could be refused by
        a live key, and counted as skipped, and the first try, still under way, be inserted once that is free. Then
        StoreUnavailable leaves open what was inserted.

        ``transaction`` is the caller's own session with an open transaction, of any client: the inserts join it (P16).
        The caller must repeat his transaction after a Conflict (another one created the id or the live key), and after
        errors of the driver that ask for it; these pass as they are.
        """

    @abstractmethod
    async def get(self, task_id: str) -> Task | None: ...

    @abstractmethod
    async def get_many(self, task_ids: Collection[str]) -> dict[str, Task]: ...

    @abstractmethod
    async def cancel(self, task_id: str, reason: str, *, force: bool = False) -> Task:
        """Pending: cancelled at once. Running: asked to stop, and ``again`` unset (P5).

        Returns it as it then is. Raises NotFound; Conflict when it has finished.
        """

    @abstractmethod
    async def replay(
        self, task_id: str, relay_at: datetime, *, body: dict[str, Any] | None = None, note: str | None = None
    ) -> Task:
        """A dead letter back to pending with fresh attempts, history kept (P13).

        ``body`` replaces the task's; its checkpoint, which belongs to the other body, goes, and a live key made of the
        body is made anew. ``note`` is for the history.

        Raises NotFound; Conflict when it is no dead letter, is not on the dead-letter exchange yet, or its live key is
        taken.
        """

    @abstractmethod
    async def owner(self, live_key: str) -> Task | None:
        """The task that is pending or running under this live key."""

    @abstractmethod
    async def standing_for(self, task_id: str) -> Task | None:
        """The task that noted a request under this id, which made no task of its own; the newest of them."""

    @abstractmethod
    async def find(self, which: TaskFilter, *, limit: int, cursor: str | None = None) -> Page:
        """Newest first; by creation, or with a status by when it got there: pending by when relay looks at it next.

        With ``finished_from`` or ``finished_to`` and no status: the finished ones, by their end.

        An index serves the status, the type, the schedule (with it, not the status), and the time that orders the list.
        For anything else the page looks at ``SCANNED`` tasks at most, and ends where it stopped. Raises InvalidInput
        for a cursor that is none.
        """

    @abstractmethod
    async def counts(self) -> dict[str, dict[TaskStatus, int]]:
        """Task type → status → how many. Costs a key of an index for each task: nothing to ask all the time."""


# ---- dead letters ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DeadFilter:
    """Which dead letters; None: any."""

    task_type: str | None = None
    fingerprint: str | None = None
    until: datetime | None = None
    """Dead since then, or longer."""


class DeadLetters(Protocol):
    """The dead letters as a heap: found and counted by what went wrong, and thrown away."""

    @abstractmethod
    async def find(self, which: DeadFilter, *, limit: int, cursor: str | None = None) -> Page:
        """Newest first. Raises InvalidInput for a cursor that is none."""

    @abstractmethod
    async def count(self, which: DeadFilter, most: int) -> int:
        """How many, counted up to ``most``: a key of an index for each."""

    @abstractmethod
    async def groups(self, which: DeadFilter, *, newest: int, most: int) -> DeadGroups:
        """The newest ``newest`` of them by fingerprint and type: the ``most`` largest groups, largest first."""

    @abstractmethod
    async def discard(self, task_ids: Collection[str], reason: str) -> set[str]:
        """Dead letters that are on their exchange become cancelled, ``discarded``, by compare-and-set; which did.

        They end anew now, and so are kept as long as whatever is cancelled. ``reason`` is for the history.
        """


# ---- upkeep: what the scheduler does with them -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RelayMove:
    """Compare-and-set of ``relayAt`` (P11)."""

    task: Task
    """As read: id, status and relay_at are compared."""
    relay_at: datetime | None


@dataclass(frozen=True, slots=True)
class Retention:
    """What prune may take: nothing younger than the window (P14)."""

    window: timedelta
    completed: timedelta
    dead: timedelta
    keep_completed: int


class Upkeep(Protocol):
    """Relay, rescue, prune: any number of schedulers at once."""

    @abstractmethod
    async def relay_heads(self) -> dict[str, datetime]:
        """Task type → the smallest ``relayAt`` of its pending tasks. One index key for each type."""

    @abstractmethod
    async def relay_due(self, task_type: str, now: datetime, limit: int) -> list[Task]:
        """Pending tasks of a type with ``relayAt ≤ now``, oldest first."""

    @abstractmethod
    async def dead_due(self, now: datetime, limit: int) -> list[Task]:
        """Dead letters of any type that are not on their exchange yet, with ``relayAt ≤ now``, oldest first."""

    @abstractmethod
    async def relay_move(self, moves: Sequence[RelayMove]) -> list[bool]:
        """Which of the compare-and-sets hold. Relay publishes only those, afterwards."""

    @abstractmethod
    async def give_up(self, task: Task, reason: str, message: str, relay_at: datetime) -> bool:
        """A pending task becomes a dead letter, by compare-and-set on its ``relayAt``."""

    @abstractmethod
    async def put_dead(self, task: Task) -> bool:
        """Keep a message that is no task as a dead letter, which relay publishes; False: kept before."""

    @abstractmethod
    async def stale_claims(self, stale_after: timedelta, limit: int) -> tuple[list[Task], datetime | None]:
        """Claims not renewed for ``stale_after``, oldest first.

        And when the next one will be stale if nobody renews it: at once if there are more than ``limit``, None if none.
        """

    @abstractmethod
    async def rescue(self, task: Task, move: Move, stale_after: timedelta, relay_at: datetime | None) -> bool:
        """Take a stale claim away (P9).

        Compares token, attempt, ``again`` and cancel request as read; and it is still stale by the store's clock.
        """

    @abstractmethod
    async def rescue_workers(self, dead: Collection[str]) -> int:
        """Make the claims of these workers stale at once: embedded mode knows that their processes are gone."""

    @abstractmethod
    async def prune(self, retention: Retention, now: datetime, limit: int) -> dict[str, int]:
        """Delete what nobody needs, repeating status and age in the delete (P14). Status → how many.

        At most ``limit`` of each task type and status at a time. A scheduled task stays while its schedule has an open
        fire, a dead letter until it is on its exchange.
        """

    @abstractmethod
    async def type_states(self) -> dict[str, TaskTypeState]: ...

    @abstractmethod
    async def take_marker(self, task_type: str, now: datetime) -> bool:
        """May the caller send a marker now? By compare-and-set (P12).

        Only if none is outstanding, or the last is a minute old.
        """

    @abstractmethod
    async def set_paused(self, task_type: str, paused: bool, *, by: str | None = None) -> None:
        """With the time and ``by`` whom; a type that is paused already keeps both."""


# ---- schedules -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FireClaim:
    """Start one fire: compare-and-set of ``{_id, revision, enabled, nextFireAt, firing: null}`` (P17)."""

    schedule: Schedule
    """As read."""
    fire_at: datetime | None
    """None: every due instant was a misfire; only the next time is set."""
    next_fire_at: datetime | None
    skip: Skip | None = None
    """Due instants that it passes over."""


@dataclass(frozen=True, slots=True)
class FireEnd:
    """Finish one fire: clears ``firing`` by its instant, time and owner."""

    schedule: Schedule
    """With ``firing`` as held."""
    task_id: str | None
    skip: Skip | None = None
    """The fire itself, if it made no task."""


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a scheduled task ended."""

    schedule_id: str
    task_id: str
    status: TaskStatus
    at: datetime
    duration_ms: int


@dataclass(frozen=True, slots=True)
class Edit:
    """A schedule as it was read, and as it is to be; both are the same where nothing changes."""

    before: Schedule
    after: Schedule
    rebased: Callable[[Schedule], Schedule] | None = None
    """What it is to be where it has fired since it was read, made of what it is now. None: that is a Conflict."""

    @property
    def times_changed(self) -> bool:
        """Whether the next fire is that of ``after``; else it stays."""
        return any(
            getattr(self.before, name) != getattr(self.after, name) for name in ("schedule", "timezone", "enabled")
        )


class Schedules(Protocol):
    """Schedules and their fires: any number of schedulers at once."""

    @abstractmethod
    async def all(self, *, recent: bool = False) -> list[Schedule]:
        """By id; with their recent runs and skips only if asked for: these are most of a record."""

    @abstractmethod
    async def get(self, schedule_id: str) -> Schedule | None: ...

    @abstractmethod
    async def revision(self) -> int:
        """Of the whole set: each ``write`` increments it. Read it before the set itself."""

    @abstractmethod
    async def write(
        self,
        create: Sequence[Schedule] = (),
        edit: Sequence[Edit] = (),
        delete: Sequence[Schedule] = (),
        *,
        revision: int | None = None,
    ) -> None:
        """Create, replace and delete what is as it was read, all or nothing.

        What the engine keeps of a schedule (``firing``, last runs, counts) stays, and so does its next fire, unless the
        edit changes its times: then none must have begun since it was read, or the edit is rebased. A new schedule has
        a higher ``revision`` than any that was deleted.

        Args:
            delete: As read.
            revision: The whole set is as it was when this was read, also in what is not written here.

        Raises:
            Conflict: something has changed since; or, of what is to be created, exists.
        """

    @abstractmethod
    async def upcoming(self, limit: int) -> list[Schedule]:
        """Enabled schedules without an open ``firing``, soonest first; without what is recent, as in ``all``."""

    @abstractmethod
    async def begin_fires(self, fires: Sequence[FireClaim], by: str) -> list[Schedule]:
        """Those that were won, as they now are (with ``firing``), in no order."""

    @abstractmethod
    async def open_fires(self) -> list[Schedule]:
        """Schedules with a ``firing``, oldest first; without what is recent, as in ``all``."""

    @abstractmethod
    async def take_over(self, schedule: Schedule, by: str) -> Schedule | None:
        """Take over a stale ``firing`` by compare-and-set on its time and owner (P18)."""

    @abstractmethod
    async def end_fires(self, ends: Sequence[FireEnd]) -> None: ...

    @abstractmethod
    async def record_runs(self, ends: Sequence[RunEnd]) -> None:
        """Note how scheduled tasks ended; an older run never overwrites a newer one."""

    @abstractmethod
    async def mark_overdue(self, schedule: Schedule, since: datetime | None) -> bool:
        """Compare-and-set of ``overdueSince`` (None: not any more); True: this caller did it, and tells of it.

        Compares what was read of ``overdueSince``, the last success and the revision.
        """


class Workers(Protocol):
    """Who is there."""

    @abstractmethod
    async def alive(self, seen_since: datetime) -> list[Worker]: ...

    @abstractmethod
    async def forget(self, worker_id: str) -> None: ...

    @abstractmethod
    async def prune(self, seen_before: datetime) -> int: ...


class Audit(Protocol):
    """Who changed what: written once, never changed."""

    @abstractmethod
    async def note(self, entry: AuditEntry) -> None: ...

    @abstractmethod
    async def find(self, *, limit: int, cursor: str | None = None) -> AuditPage:
        """Newest first. Raises InvalidInput for a cursor that is none."""

    @abstractmethod
    async def prune(self, before: datetime, limit: int) -> int:
        """Delete at most ``limit`` entries that are older; how many."""


class Store(Protocol):
    """The whole port."""

    clock: StoreClock
    claims: Claims
    tasks: Tasks
    dead: DeadLetters
    upkeep: Upkeep
    schedules: Schedules
    workers: Workers
    audit: Audit

    @abstractmethod
    async def open(self) -> None:
        """Connect, check the server (version, replica set), create what is missing (indexes), set the clock.

        Raises StoreUnavailable, or ConfigError with the fix when the server cannot serve.
        """

    @abstractmethod
    async def close(self) -> None: ...

    @property
    @abstractmethod
    def errors(self) -> int:
        """How many answers were errors, or late; those that a repetition made good count too."""

    @abstractmethod
    async def sync_clock(self) -> datetime:
        """Look at the server's clock, and answer what it says; also a round trip. Raises StoreUnavailable.

        The answer is no earlier than what the server has dated before it was asked: ``clock.now()`` is an estimate.
        """
