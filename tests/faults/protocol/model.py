"""The protocol's states, said once more and as small as they can be: what the real store must agree with.

Pure, and independent of the product's own rules (``service/states.py``): it knows everything at once, so it needs no
filter and reads nothing back. Time is counted in ticks.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

LIVE = ("pending", "running")
FINISHED = ("completed", "failed", "cancelled")
CATCH_UP = 100


@dataclass
class Record:
    """One task."""

    id: str
    key: str | None = None
    ceiling: int = 3
    due: int = 0
    relay: int | None = None
    writes: int = 0
    """Of ``relay``: two within one tick are two."""
    schedule: str | None = None
    status: str = "pending"
    attempt: int = 0
    retries: int = 0
    fence: int = 0
    token: str | None = None
    """Of the last claim; gone when that was rescued."""
    again: bool = False
    cancel: bool = False
    forced: bool = False
    renewed: int | None = None
    ended: int | None = None
    owed: bool = False
    """A request was accepted while it ran, and no run has begun since."""

    @property
    def live(self) -> bool:
        return self.status in LIVE


@dataclass(frozen=True)
class Loss:
    """One command whose reply never comes."""

    command: str
    executed: bool


Kind = Literal["completed", "failed", "retry", "snooze", "release", "discard", "cancelled"]


@dataclass(frozen=True)
class Outcome:
    """How a run ends."""

    kind: Kind
    delay: int = 0


@dataclass(frozen=True)
class Seen:
    again: bool = False
    cancel: bool = False


@dataclass
class Timing:
    """One schedule."""

    id: str
    every: int
    overlap: str
    misfire: str
    enabled: bool
    next: int | None
    revision: int = 1
    firing: tuple[int, str] | None = None
    """The instant, and who holds it."""
    skipped: Counter[str] = field(default_factory=Counter)
    last: int | None = None

    def after(self, tick: int) -> int:
        return (tick // self.every + 1) * self.every


class Model:
    """All there is, and all that may happen to it."""

    def __init__(self) -> None:
        self.now = 0
        self.records: dict[str, Record] = {}
        self.timings: dict[str, Timing] = {}
        self.deleted = 0
        """The highest revision that a deleted schedule had."""
        self.paused = False
        self.tokens: set[str] = set()
        self.begun: Counter[str] = Counter()
        """Fires by their task's id: how often each was begun, and below how often its task was made."""
        self.made: Counter[str] = Counter()

    def owner(self, key: str | None) -> Record | None:
        return next((each for each in self.records.values() if key and each.live and each.key == key), None)

    # ---- creation ----------------------------------------------------------------------------------------------------

    def create(self, new: Record, *, ask_again: bool = True) -> str:
        """``created``, ``id``, or ``live_key``."""
        if new.id in self.records:
            return "id"
        if (owner := self.owner(new.key)) is not None:
            if ask_again:
                self.ask(owner)
            return "live_key"
        self.records[new.id] = new
        if new.schedule is not None:
            self.made[new.id] += 1
            assert self.made[new.id] == 1, f"{new.id} was made twice"
        return "created"

    def ask(self, owner: Record) -> bool:
        """Once more, if it runs; a pending one will run anyway."""
        if owner.status == "running":
            owner.again = owner.owed = True
        return owner.again and owner.status == "running"

    # ---- claims ------------------------------------------------------------------------------------------------------

    def claim(self, asked: Sequence[tuple[str, Record | None]], at: int, loss: Loss | None) -> list[object]:
        """What each of a batch is answered: ``claimed``, ``known``, ``not done``, or the owner of its live key and
        whether that runs once more. ``at``: by the clock of whoever claims."""
        if len(asked) == 1:
            return [self._claim_one(*asked[0], at, loss)]
        inserting, updating = (loss if loss and loss.command == name else None for name in ("insert", "update"))
        answers: dict[str, object] = {}
        taken = []
        rest = []
        for task_id, new in asked:
            by = self._refusal(task_id, new)
            if new is not None and by is None and (inserting is None or inserting.executed):
                self.records[task_id] = new
                self._run(new, at)
                answers[task_id] = "claimed"
            elif new is not None and by == "live_key" and inserting is None:
                taken.append(new)
            else:
                rest.append((task_id, new))
        stored = {task_id for task_id in self.records if task_id not in answers}
        # Without anything left to take there is no update to be lost.
        if rest == [] and not (inserting and inserting.executed):
            updating = None
        for task_id, new in rest:
            if self._free(task_id, at) and (updating is None or updating.executed):
                self._run(self.records[task_id], self.now)
                answers[task_id] = "claimed"
            elif new is None or task_id in stored or not (inserting or updating):
                answers[task_id] = "known"
            else:
                answers[task_id] = "not done"
        for new in taken:
            owner = self.owner(new.key)
            assert owner is not None
            answers[new.id] = (owner.id, self.ask(owner))
        return [answers[task_id] for task_id, _ in asked]

    def _claim_one(self, task_id: str, new: Record | None, at: int, loss: Loss | None) -> object:
        loss = loss if loss and loss.command == "findAndModify" else None
        if loss is None or loss.executed:
            if self._free(task_id, at):
                self._run(self.records[task_id], self.now)
                return "claimed"
            by = self._refusal(task_id, new)
            if new is not None and by is None:
                self.records[task_id] = new
                self._run(new, self.now)
                return "claimed"
            if new is not None and by == "live_key" and loss is None:
                owner = self.owner(new.key)
                assert owner is not None
                return (owner.id, self.ask(owner))
        if loss is None or new is None or task_id in self.records:
            return "known"
        return "not done"

    def _refusal(self, task_id: str, new: Record | None) -> str | None:
        if task_id in self.records:
            return "id"
        return "live_key" if new is not None and self.owner(new.key) is not None else None

    def _free(self, task_id: str, at: int) -> bool:
        record = self.records.get(task_id)
        return record is not None and record.status == "pending" and record.due <= at

    def _run(self, record: Record, renewed: int) -> None:
        record.status, record.renewed, record.relay = "running", renewed, None
        record.attempt += 1
        record.fence += 1
        record.again = record.owed = False

    def claimed(self, task_id: str, token: str) -> None:
        """The token that the store gave to it, and to the rest of its batch."""
        assert token not in self.tokens, "a token was given twice"
        self.records[task_id].token = token

    # ---- ends --------------------------------------------------------------------------------------------------------

    def settle(self, task_id: str, token: str, outcome: Outcome, seen: Seen, at: int, *, executed: bool) -> object:
        """``refused``, the status, or what is seen now: written only if it is as the outcome assumed."""
        record = self.records.get(task_id)
        if record is None or record.token != token:
            return "refused"
        if record.status != "running":
            return record.status
        now = Seen(record.again, record.cancel)
        final, status = self._end_of(record, outcome, seen)
        guards_cancel = not final or (status == "cancelled" and not seen.again)
        if not executed or now.again != seen.again or (guards_cancel and now.cancel != seen.cancel):
            return now
        if final:
            self._end(record, status, at, failure=outcome.kind in ("failed", "retry"))
        else:
            record.retries += outcome.kind == "retry"
            record.attempt -= outcome.kind in ("snooze", "release")
            self._pend(record, at + (outcome.delay if outcome.kind != "release" else 0), at)
        return record.status

    @staticmethod
    def _end_of(record: Record, outcome: Outcome, seen: Seen) -> tuple[bool, str]:
        """Whether the run is the last, and as what it ends."""
        match outcome.kind:
            case "completed":
                return True, "completed"
            case "discard" | "cancelled":
                return True, "cancelled"
            case "failed":
                return True, "failed"
            case "retry" if record.attempt >= record.ceiling:
                return True, "failed"
        return seen.cancel, "cancelled"

    def _end(self, record: Record, status: str, at: int, *, failure: bool = False) -> None:
        record.renewed = None
        if record.again:
            record.attempt = record.retries = 0
            record.again = record.cancel = record.forced = False
            self._pend(record, at, at)
            return
        assert not record.owed, f"{record.id} ends, and a request that was accepted was never run"
        record.status, record.ended, record.relay = status, self.now, None
        if status == "failed":
            record.relay, record.writes = at, record.writes + 1
            record.retries += failure

    def _pend(self, record: Record, due: int, at: int) -> None:
        record.status, record.due, record.relay, record.renewed = "pending", due, max(due, at), None
        record.writes += 1

    def renew(self, claims: dict[str, str]) -> tuple[set[str], set[str], set[str]]:
        """Lost, asked to stop, to be interrupted."""
        mine = {task_id for task_id, token in claims.items() if self._held(task_id, token)}
        for task_id in mine:
            self.records[task_id].renewed = self.now
        cancel = {task_id for task_id in mine if self.records[task_id].cancel}
        return set(claims) - mine, cancel, {task_id for task_id in cancel if self.records[task_id].forced}

    def _held(self, task_id: str, token: str | None) -> bool:
        record = self.records.get(task_id)
        return record is not None and record.status == "running" and record.token == token

    # ---- upkeep ------------------------------------------------------------------------------------------------------

    def stale(self, at: int) -> set[str]:
        return {each.id for each in self.records.values() if each.renewed is not None and each.renewed <= at - 2}

    def rescue(self, read: Record) -> bool:
        """``read``: the record as it was looked at. The server's own clock decides."""
        record = self.records.get(read.id)
        if record is None or not self._held(read.id, read.token) or record.id not in self.stale(self.now):
            return False
        if (record.attempt, record.again, record.cancel) != (read.attempt, read.again, read.cancel):
            return False
        record.token = None
        if record.cancel:
            self._end(record, "cancelled", self.now)
        elif record.attempt >= record.ceiling:
            self._end(record, "failed", self.now, failure=True)
        else:
            self._pend(record, self.now, self.now)
        return True

    def due_for_relay(self, status: str) -> set[str]:
        found = (each for each in self.records.values() if each.status == status and each.relay is not None)
        return {each.id for each in found if each.relay is not None and each.relay <= self.now}

    def relay(self, read: Record, moment: int | None) -> bool:
        record = self.records.get(read.id)
        if record is None or (record.status, record.relay, record.writes) != (read.status, read.relay, read.writes):
            return False
        record.relay, record.writes = moment, record.writes + 1
        return True

    def give_up(self, read: Record) -> bool:
        record = self.records.get(read.id)
        if record is None or (record.status, record.relay, record.writes) != ("pending", read.relay, read.writes):
            return False
        record.again = False
        record.status, record.ended, record.relay = "failed", self.now, self.now
        record.writes += 1
        return True

    def cancel(self, task_id: str, *, force: bool) -> str:
        record = self.records.get(task_id)
        if record is None:
            return "not found"
        if record.status == "pending":
            record.again = record.owed = False
            record.status, record.ended, record.relay = "cancelled", self.now, None
        elif record.status == "running":
            record.again = record.owed = False
            record.cancel, record.forced = True, record.forced or force
        else:
            return "conflict"
        return record.status

    def replay(self, task_id: str) -> str:
        record = self.records.get(task_id)
        if record is None:
            return "not found"
        if record.status != "failed" or record.relay is not None or self.owner(record.key) is not None:
            return "conflict"
        record.attempt = record.retries = 0
        record.cancel = record.forced = record.again = False
        record.ended = None
        self._pend(record, self.now, self.now)
        return "pending"

    def discard(self, task_ids: Sequence[str]) -> set[str]:
        done = set()
        for task_id in task_ids:
            record = self.records.get(task_id)
            if record is not None and record.status == "failed" and record.relay is None:
                record.status, record.ended = "cancelled", self.now
                done.add(task_id)
        return done

    def prune(self, window: int, completed: int, dead: int, *, keep: bool) -> Counter[str]:
        """Older than these many ticks; ``keep``: no completed one goes before its time."""
        spared = {timing.id for timing in self.timings.values() if timing.firing is not None}
        gone: Counter[str] = Counter()
        for record in list(self.records.values()):
            if record.ended is None or record.relay is not None or record.schedule in spared:
                continue
            limit = {"failed": dead, "completed": completed if keep else window}.get(record.status, completed)
            if self.now - record.ended > max(limit, window):
                del self.records[record.id]
                gone[record.status] += 1
        return gone

    # ---- schedules ---------------------------------------------------------------------------------------------------

    def put(self, new: Timing, read: Timing | None) -> bool:
        """By compare-and-set on the revision that was read, and where the times change on the next one; what the engine
        keeps stays."""
        old = self.timings.get(new.id)
        if old is None or read is None:
            if old is not read:
                return False
            new = replace(new, revision=self.deleted + 1)
        else:
            times_changed = (read.every, read.enabled) != (new.every, new.enabled)
            if old.revision != read.revision or (times_changed and old.next != read.next):
                return False
            new = replace(new, revision=old.revision + 1, firing=old.firing, skipped=old.skipped, last=old.last)
            if not times_changed:
                new.next = old.next
        self.timings[new.id] = new
        return True

    def remove(self, schedule_id: str, revision: int) -> bool:
        old = self.timings.get(schedule_id)
        if old is None or old.revision != revision:
            return False
        del self.timings[schedule_id]
        self.deleted = max(self.deleted, revision)
        return True

    def upcoming(self) -> set[str]:
        return {each.id for each in self.timings.values() if each.enabled and each.next is not None and not each.firing}

    def begin(self, read: Timing, holder: str) -> int | None:
        """The instant that is fired, if this scheduler was the quicker one and a fire is owed."""
        timing = self.timings.get(read.id)
        if timing is None or timing.id not in self.upcoming() or read.next is None:
            return None
        if (timing.revision, timing.next) != (read.revision, read.next):
            return None
        due = read.next
        owed = list(range(due, self.now + 1, read.every))
        fire: int | None = due
        match timing.misfire:
            case "all":
                fire = owed[0] if len(owed) <= CATCH_UP else owed[-CATCH_UP]
                timing.next = fire + read.every
                timing.skipped["misfire"] += owed.index(fire)
            case _ if len(owed) == 1 and self.now == due:
                timing.next = due + read.every
            case "coalesce":
                timing.next = timing.after(self.now)
                timing.skipped["coalesced"] += len(owed) - 1
            case "skip":
                fire = None
                timing.next = timing.after(self.now)
                timing.skipped["misfire"] += len(owed)
        timing.skipped = +timing.skipped
        if fire is not None:
            timing.firing = (fire, holder)
        return fire

    def take_over(self, schedule_id: str, held: tuple[int, str], holder: str) -> bool:
        timing = self.timings.get(schedule_id)
        if timing is None or timing.firing != held:
            return False
        timing.firing = (held[0], holder)
        return True

    def end_fire(self, schedule_id: str, held: tuple[int, str], *, overlap: bool) -> bool:
        timing = self.timings.get(schedule_id)
        if timing is None or timing.firing != held:
            return False
        timing.firing = None
        if overlap:
            timing.skipped["overlap"] += 1
        else:
            timing.last = held[0]
        return True
