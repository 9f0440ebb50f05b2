"""``verger schedules explain``: the fires of a window, and what became of them."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from actors.cli.moments import iso, parse_moment, stamp
from actors.cli.options import Json
from actors.cli.output import plain, print_json, say, table
from schemas.duration import format_duration
from schemas.explanation import DueInstant, Explanation
from service.errors import InvalidInput
from service.explain import explain as explain_stored, explain_text
from service.triggers import parse_schedule, zone_of

if TYPE_CHECKING:
    from actors.composition import Connection
    from schemas.schedule import Schedule

MOST = 100_000
WEEK = timedelta(days=7)


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
    """Show when a schedule fires between two instants, in UTC and in its time zone; and what became of each fire.

    Instants are ISO 8601; without an offset they are in the schedule's time zone.
    """
    if (schedule_id is None) == (schedule is None):
        raise typer.BadParameter("give the id of a stored schedule, or --schedule with a text")
    if schedule_id is not None and timezone is not None:
        raise typer.BadParameter("--timezone goes with --schedule; a stored schedule has its own")
    if schedule_id is not None:
        made, stored = _stored(schedule_id, start, end, limit)
    else:
        text, place = schedule or "", timezone or "UTC"
        parse_schedule(text, place)  # what is wrong with it comes before what is wrong with the window
        made, stored = explain_text(text, place, *window(start, end, place), limit), None
    if json:
        print_json(plain(made))
        return
    say(f"{made.schedule} in {made.timezone}, from {stamp(made.start)} to {stamp(made.end)}")
    if stored is not None:
        _show_state(stored)
    say()
    _show(made)
    if made.truncated:
        say(f"and more: cut after {limit}; --limit shows up to {MOST}")


def window(start: str | None, end: str | None, timezone: str) -> tuple[datetime, datetime]:
    """From ``--from`` and ``--to``: by default a week from now. Raises InvalidInput."""
    zone = zone_of(timezone)
    begin = datetime.now(UTC).replace(microsecond=0) if start is None else parse_moment(start, "--from", zone)
    finish = begin + WEEK if end is None else parse_moment(end, "--to", zone)
    if finish <= begin:
        raise InvalidInput("--to", end, f"is not after --from {iso(begin)}", "give a later instant")
    return begin, finish


def _stored(schedule_id: str, start: str | None, end: str | None, limit: int) -> "tuple[Explanation, Schedule]":
    from actors.cli.session import talk, timetable

    async def read(connection: "Connection") -> "tuple[Explanation, Schedule]":
        found = await timetable(connection).get(schedule_id)
        begin, finish = window(start, end, found.timezone)
        return await explain_stored(connection.store, schedule_id, begin, finish, limit), found

    return talk(read)


# ---- for people ------------------------------------------------------------------------------------------------------


def _show(made: Explanation) -> None:
    if not made.fires:
        trigger = parse_schedule(made.schedule, made.timezone)
        later = trigger.next_after(made.end - timedelta.resolution)
        say("never in this window; " + (f"the next one is at {stamp(later)}" if later else "and never after it"))
        return
    changes = [change.at for change in made.clock_changes]
    befores = [made.start, *(fire.at for fire in made.fires)]
    rows = []
    for before, fire in zip(befores, made.fires, strict=False):
        changed = any(before < change <= fire.at for change in changes)
        rows.append((stamp(fire.at), _local(fire), _state(fire), _note(fire, changed)))
    headers = ("UTC", made.timezone, "STATE", "")
    shown = [True, made.timezone != "UTC", any(row[2] for row in rows), any(row[3] for row in rows)]
    table(_kept(headers, shown), [_kept(row, shown) for row in rows], fold=sum(shown) - 1)
    for change in made.clock_changes:
        say(f"Clocks change at {stamp(change.at)}: {change.effect}.")


def _kept(cells: tuple[str, ...], shown: list[bool]) -> list[str]:
    return [cell for cell, show in zip(cells, shown, strict=True) if show]


def _local(fire: DueInstant) -> str:
    return datetime.fromisoformat(fire.local).strftime("%a %Y-%m-%d %H:%M:%S %z")


def _state(fire: DueInstant) -> str:
    return " ".join(word.value for word in (fire.state, fire.status) if word is not None)


def _note(fire: DueInstant, changed: bool) -> str:
    clock = fire.clock or ("first after the clocks changed" if changed else None)
    return "; ".join(note for note in (fire.reason, clock) if note)


def _show_state(stored: "Schedule") -> None:
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
