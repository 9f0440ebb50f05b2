"""``verger schedules list`` and ``show``."""

from datetime import datetime
from typing import Annotated

import typer

from actors.cli.moments import both, relative
from actors.cli.options import Json
from actors.cli.output import details, plain, pretty, print_json, say, table
from actors.cli.session import talk, timetable
from actors.composition import Connection
from schemas.duration import format_duration
from schemas.schedule import Schedule


def list_schedules(
    source: Annotated[str | None, typer.Option("--source", help="Only those of this owner.")] = None,
    json: Json = False,
) -> None:
    """List all schedules: when each fires next, and how its last run ended."""

    async def read(connection: Connection) -> tuple[list[Schedule], datetime]:
        return await connection.store.schedules.all(), connection.store.clock.now()

    schedules, now = talk(read)
    schedules = [schedule for schedule in schedules if source is None or schedule.source == source]
    if json:
        print_json({"schedules": [plain(schedule) for schedule in schedules]})
    elif schedules:
        table(("ID", "TYPE", "SCHEDULE", "NEXT", "LAST"), [_row(schedule, now) for schedule in schedules])
    else:
        say("There are no schedules. `verger schedules apply FILE` installs some.")


def show(
    schedule_id: Annotated[str, typer.Argument(metavar="ID")],
    json: Json = False,
) -> None:
    """Show all that is known of one schedule."""

    async def read(connection: Connection) -> tuple[Schedule, datetime]:
        return await timetable(connection).get(schedule_id), connection.store.clock.now()

    schedule, now = talk(read)
    if json:
        print_json(plain(schedule))
    else:
        show_schedule(schedule, now)


def show_schedule(schedule: Schedule, now: datetime) -> None:
    """One schedule, for people."""
    spans = {
        "misfire grace": schedule.misfire_grace,
        "jitter": schedule.jitter,
        "expect success": schedule.expect_success_within,
    }
    took = None if schedule.last_duration_ms is None else f"{schedule.last_duration_ms} ms"
    details(
        {
            "id": schedule.id,
            "type": schedule.task_type,
            "schedule": f"{schedule.schedule} in {schedule.timezone}",
            "next fire": both(schedule.next_fire_at, now) or next_fire(schedule, now),
            "arguments": pretty(schedule.task_body),
            "overlap": schedule.overlap.value,
            "misfire": schedule.misfire.value,
            **{name: None if span is None else format_duration(span) for name, span in spans.items()},
            "source": schedule.source,
            "last fire": both(schedule.last_fire_at, now),
            "last task": schedule.last_task_id,
            "last run": None if schedule.last_status is None else schedule.last_status.value,
            "took": took,
            "last success": both(schedule.last_success_at, now),
            "skipped": ", ".join(f"{count} {why}" for why, count in sorted(schedule.skipped.items())) or None,
            "revision": str(schedule.revision),
        }
    )


def next_fire(schedule: Schedule, now: datetime) -> str:
    """``in 5m``, or why there is none."""
    if schedule.next_fire_at is not None:
        return relative(schedule.next_fire_at, now)
    return "never again" if schedule.enabled else "paused"


def _row(schedule: Schedule, now: datetime) -> tuple[str, ...]:
    zone = "" if schedule.timezone == "UTC" else f" {schedule.timezone}"
    last = "" if schedule.last_fire_at is None else relative(schedule.last_fire_at, now)
    if last and schedule.last_status is not None:
        last = f"{schedule.last_status.value} {last}"
    return schedule.id, schedule.task_type, schedule.schedule + zone, next_fire(schedule, now), last
