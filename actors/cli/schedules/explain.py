"""``verger schedules explain``: the fires of a window. Pure, unless a stored schedule is asked for."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer

from actors.cli.moments import iso, parse_moment, stamp
from actors.cli.options import Json
from actors.cli.output import print_json, say, table
from schemas.duration import format_duration
from service.errors import InvalidInput
from service.triggers import Trigger, parse_schedule

MOST = 100_000
WEEK = timedelta(days=7)
_STEP = timedelta(days=5)
"""Clocks change more seldom than that."""
_MOST_STEPS = 20_000


@dataclass(frozen=True, slots=True)
class Subject:
    """What is explained."""

    schedule: str
    timezone: str
    stored: Any = None
    """The Schedule, if one was asked for."""


def explain(
    schedule_id: Annotated[str | None, typer.Argument(metavar="ID", help="A stored schedule.")] = None,
    schedule: Annotated[str | None, typer.Option("--schedule", help="A schedule's text: needs no server.")] = None,
    timezone: Annotated[str | None, typer.Option("--timezone", help="IANA name, such as Europe/Berlin.")] = None,
    start: Annotated[str | None, typer.Option("--from", help="First instant of the window; default: now.")] = None,
    end: Annotated[
        str | None, typer.Option("--to", help="End of the window, not in it; default: a week later.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=MOST, help="Fires to show at most.")] = 1000,
    json: Json = False,
) -> None:
    """Show when a schedule fires between two instants, in UTC and in its time zone.

    Instants are ISO 8601; without an offset they are in the schedule's time zone.
    """
    if (schedule_id is None) == (schedule is None):
        raise typer.BadParameter("give the id of a stored schedule, or --schedule with a text")
    if schedule_id is not None and timezone is not None:
        raise typer.BadParameter("--timezone goes with --schedule; a stored schedule has its own")
    subject = _stored(schedule_id) if schedule_id is not None else Subject(schedule or "", timezone or "UTC")
    trigger = parse_schedule(subject.schedule, subject.timezone)
    zone: tzinfo = UTC if subject.timezone == "UTC" else ZoneInfo(subject.timezone)
    window = _window(start, end, zone)
    fires = trigger.between(*window, limit + 1)
    truncated, fires = len(fires) > limit, fires[:limit]
    if json:
        content = {"id": schedule_id} if schedule_id is not None else {}
        content |= {"schedule": subject.schedule, "timezone": subject.timezone}
        content |= {"from": iso(window[0]), "to": iso(window[1])}
        print_json({**content, "fires": [iso(fire) for fire in fires], "truncated": truncated})
    else:
        _show(subject, trigger, zone, window, fires)
        if truncated:
            say(f"and more: cut after {limit}; --limit shows up to {MOST}")


def _window(start: str | None, end: str | None, zone: tzinfo) -> tuple[datetime, datetime]:
    begin = datetime.now(UTC).replace(microsecond=0) if start is None else parse_moment(start, "--from", zone)
    try:
        finish = begin + WEEK if end is None else parse_moment(end, "--to", zone)
    except OverflowError:
        raise InvalidInput("--from", start, "is too near the end of the calendar", "give --to") from None
    if finish <= begin:
        raise InvalidInput("--to", end, f"is not after --from {iso(begin)}", "give a later instant")
    return begin, finish


def _stored(schedule_id: str) -> Subject:
    from actors.cli.session import talk
    from actors.composition import Connection
    from service.errors import NotFound

    async def read(connection: Connection) -> Subject:
        found = await connection.store.schedules.get(schedule_id)
        if found is None:
            raise NotFound(f"there is no schedule {schedule_id!r}")
        return Subject(found.schedule, found.timezone, found)

    return talk(read)


# ---- for people ------------------------------------------------------------------------------------------------------


def _show(
    subject: Subject, trigger: Trigger, zone: tzinfo, window: tuple[datetime, datetime], fires: list[datetime]
) -> None:
    say(f"{subject.schedule} in {subject.timezone}, from {stamp(window[0])} to {stamp(window[1])}")
    if subject.stored is not None:
        _show_state(subject.stored)
    say()
    if not fires:
        later = trigger.next_after(window[1] - timedelta.resolution)
        say("never in this window; " + (f"the next one is at {stamp(later)}" if later else "and never after it"))
        return
    if zone is UTC:
        for fire in fires:
            say(stamp(fire))
        return
    changes = list(_changes(window[0], fires[-1], zone))
    earlier = [window[0], *fires]
    table(
        ("UTC", subject.timezone, ""),
        [
            _row(fire, zone, any(before < change <= fire for change in changes))
            for before, fire in zip(earlier, fires, strict=False)
        ],
    )
    for change in changes:
        say(_change_note(change, zone))


def _show_state(stored: Any) -> None:
    if not stored.enabled:
        say("It is paused: none of these fires until `verger schedules resume`.")
    elif stored.next_fire_at is not None:
        say(f"Next fire as stored: {stamp(stored.next_fire_at)}")
    if stored.jitter is not None:
        say(f"Each task starts up to {format_duration(stored.jitter)} later (jitter).")
    if stored.last_fire_at is not None:
        status = stored.last_status.value if stored.last_status else "not finished"
        say(f"Last fire: {stamp(stored.last_fire_at)}, {status}: {stored.last_task_id}")
    if stored.skipped:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(stored.skipped.items()))
        say(f"Skipped so far: {reasons}")


def _row(fire: datetime, zone: tzinfo, changed: bool) -> tuple[str, str, str]:
    local = fire.astimezone(zone).strftime("%a %Y-%m-%d %H:%M:%S %z")
    return stamp(fire), local, "first after the clocks changed" if changed else ""


def _changes(start: datetime, end: datetime, zone: tzinfo) -> Iterator[datetime]:
    """The instants in ``(start, end]`` at which the zone's offset changes, to the second."""
    low = start
    for _ in range(_MOST_STEPS):
        if low >= end:
            return
        high = min(low + _STEP, end)
        if low.astimezone(zone).utcoffset() != high.astimezone(zone).utcoffset():
            yield _bisected(low, high, zone)
        low = high


def _bisected(low: datetime, high: datetime, zone: tzinfo) -> datetime:
    offset = low.astimezone(zone).utcoffset()
    while high - low > timedelta(seconds=1):
        middle = low + (high - low) / 2
        low, high = (middle, high) if middle.astimezone(zone).utcoffset() == offset else (low, middle)
    return high.replace(microsecond=0)


def _change_note(change: datetime, zone: tzinfo) -> str:
    before = (change - timedelta(seconds=1)).astimezone(zone) + timedelta(seconds=1)
    after = change.astimezone(zone)
    old, new = before.strftime("%H:%M"), after.strftime("%H:%M")
    if (after.utcoffset() or timedelta()) > (before.utcoffset() or timedelta()):
        effect = f"from {old} to {new} does not exist: a time of day in it fires at {new}"
    else:
        effect = f"from {new} to {old} comes twice: a time of day in it fires the first time, an hour of * both times"
    return f"Clocks change at {stamp(change)}: local time {effect}."
