"""What a schedule owes at an instant: late fires, jitter, and how far apart its fires are. Pure."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import islice, pairwise

from schemas.schedule import Misfire
from service.triggers import Trigger

ON_TIME = {Misfire.COALESCE: timedelta(seconds=15), Misfire.SKIP: timedelta(seconds=60)}
"""How late a fire may be and still be no misfire, if the schedule does not say.

A scheduler that is busy, or takes over from a dead one, is seconds late: that is no downtime, and each fire runs.
"""
CATCH_UP = 100
"""How many fires any policy makes up for at most; older ones are skipped."""
COUNTED = 10_000
"""Where counting stops: ``missed`` at this value means "at least". Keeps a plan within tens of milliseconds."""

_SECOND = timedelta(seconds=1)
_MILLISECOND = timedelta(milliseconds=1)
_FIRES_AROUND = 4
_LOOK_BACK = timedelta(days=3653)


@dataclass(frozen=True, slots=True)
class FirePlan:
    """What to do about a due schedule.

    ``fire_at`` is the nominal instant to fire now, None to fire nothing. ``next_fire_at`` is what becomes due after it
    (in the past while ``Misfire.ALL`` catches up), None when the schedule is over. ``missed`` counts the owed instants
    that get no fire of their own, up to ``COUNTED``.
    """

    fire_at: datetime | None
    next_fire_at: datetime | None
    missed: int


def plan_fire(trigger: Trigger, due: datetime, now: datetime, misfire: Misfire, grace: timedelta | None) -> FirePlan:
    """Decide about ``due``, the stored next fire time, and all instants after it up to ``now`` (both aware).

    A fire at most ``grace`` late (``ON_TIME`` if None) is on time: it runs, and the next one is looked at by itself.
    Later than that, ``COALESCE`` fires once for all that are due, and ``SKIP`` not at all. ``ALL`` fires each, one plan
    at a time, but never one older than the last ``CATCH_UP`` or than ``grace``.
    """
    now = max(due, now)  # the store says it is due; a local clock may still be a little behind
    match misfire:
        case Misfire.COALESCE | Misfire.SKIP if _on_time(trigger, due, now, _grace(misfire, grace)):
            return FirePlan(due, trigger.next_after(due), 0)
        case Misfire.COALESCE:
            return FirePlan(due, trigger.next_after(now), _count(trigger, due, now))
        case Misfire.SKIP:
            return FirePlan(None, trigger.next_after(now), min(COUNTED, 1 + _count(trigger, due, now)))
        case Misfire.ALL:
            first = _first_owed(trigger, due, now, grace)
            if first is None:
                return FirePlan(None, trigger.next_after(now), min(COUNTED, 1 + _count(trigger, due, now)))
            skipped = 0 if first == due else 1 + _count(trigger, due, first - _MILLISECOND)
            return FirePlan(first, trigger.next_after(first), min(COUNTED, skipped))


def jittered(fire_at: datetime, jitter: timedelta, seed: str) -> datetime:
    """``fire_at`` moved later by 0 to ``jitter`` inclusive, in milliseconds (UTC).

    Each fire gets its own shift, decided by ``seed`` (the schedule's id) and the instant alone: equal on every replica.
    """
    fire_at = fire_at.astimezone(UTC)
    steps = max(jitter, timedelta()) // _MILLISECOND + 1
    digest = sha256(f"{seed}@{fire_at.isoformat(timespec='milliseconds')}".encode()).digest()
    return fire_at + int.from_bytes(digest[:8], "big") * steps // 2**64 * _MILLISECOND


def cadence(trigger: Trigger, at: datetime) -> timedelta | None:
    """The largest distance between neighbours among the last and the next few fires around ``at``.

    The largest, so that a night or a weekend without fires does not look like a failure: ``*/5 9-17 * * 1-5`` has a
    cadence of minutes at noon and of 63 hours around a weekend. None with fewer than two fires.
    """
    fires = _last_fires(trigger, at - _LOOK_BACK, at, _FIRES_AROUND)
    fires += islice(trigger.fires_after(at), _FIRES_AROUND)
    return max((later - earlier for earlier, later in pairwise(fires)), default=None)


def _first_owed(trigger: Trigger, due: datetime, now: datetime, grace: timedelta | None) -> datetime | None:
    """The earliest instant from ``due`` to ``now`` that is still to be fired; None when ``grace`` leaves none."""
    first = due
    if grace is not None and now - due > grace:
        recent = trigger.next_after(now - grace - timedelta.resolution)
        if recent is None or recent > now:
            return None
        first = recent
    if _count(trigger, first, now, CATCH_UP) < CATCH_UP:
        return first
    return _last_fires(trigger, first, now, CATCH_UP)[0]


def _grace(misfire: Misfire, grace: timedelta | None) -> timedelta:
    return ON_TIME[misfire] if grace is None else grace


def _on_time(trigger: Trigger, due: datetime, now: datetime, grace: timedelta) -> bool:
    return now - due <= grace and _count(trigger, due, now, CATCH_UP) < CATCH_UP


def _count(trigger: Trigger, after: datetime, until: datetime, most: int = COUNTED) -> int:
    """How many fires lie in ``(after, until]``, counted up to ``most``."""
    count = 0
    for fire in islice(trigger.fires_after(after), most):
        if fire > until:
            break
        count += 1
    return count


def _last_fires(trigger: Trigger, after: datetime, until: datetime, most: int) -> list[datetime]:
    """The last ``most`` fires in ``(after, until]``, in order.

    Triggers only walk forward, and a walk from ``after`` could be millions long: so look back further and further until
    the span holds enough, then halve what came last while it holds far more.
    """
    few = 8 * most
    span, enough, too_few = _SECOND, until, until
    while enough > after and _count(trigger, enough, until, most) < most:
        too_few, enough = enough, max(after, until - span)
        span *= 8
    while too_few - enough > _MILLISECOND and _count(trigger, enough, until, few) == few:
        middle = enough + (too_few - enough) / 2
        if _count(trigger, middle, until, most) == most:
            enough = middle
        else:
            too_few = middle
    return [fire for fire in islice(trigger.fires_after(enough), few) if fire <= until][-most:]
