"""``verger schedules apply``: show the plan, then carry it out."""

import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from actors.cli.moments import both
from actors.cli.options import AllowUnknown, Json
from actors.cli.output import plain, print_json, say
from actors.cli.schedules.look import next_fire
from actors.cli.session import talk, timetable
from actors.composition import Connection
from schemas.schedule import Schedule, ScheduleFile
from service.errors import InvalidInput
from service.schedule_file import MAX_FILE_BYTES, read_file
from service.timetable import Plan


def apply(
    path: Annotated[str, typer.Argument(metavar="FILE", help="JSON; - reads from stdin.")],
    prune: Annotated[bool, typer.Option("--prune", help="Delete what has this source and is not in FILE.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and change nothing.")] = False,
    source: Annotated[
        str | None, typer.Option("--source", help="Owner of what is created; default: the file's name.")
    ] = None,
    allow_unknown: AllowUnknown = False,
    json: Json = False,
) -> None:
    """Make the schedules those of a file, all or nothing; the plan is shown first.

    The file is {"schedules": [{"id", "task_type", "schedule", "args", "enabled"}]}; see docs/schedules.md.
    """
    file = load_file(path)
    owner = source if source is not None else default_source(path)

    async def act(connection: Connection) -> tuple[Plan, datetime]:
        table = timetable(connection, allow_unknown=allow_unknown)
        plan = await table.plan(file, source=owner, prune=prune)
        if not json:
            show_plan(plan, connection.store.clock.now())
        if not dry_run:
            await table.apply(plan)
        return plan, connection.store.clock.now()

    plan, _ = talk(act, publishes=not dry_run)
    applied = not dry_run and not plan.empty
    if json:
        print_json(plain(plan.summary(owner, applied=applied)))
    elif applied:
        say("Applied.")
    else:
        say("Nothing to do." if plan.empty else "Not applied: this was a dry run.")


def load_file(path: str) -> ScheduleFile:
    """Read a schedules file. Raises InvalidInput."""
    try:
        # One byte more than allowed is enough to know.
        if path == "-":
            return read_file(sys.stdin.buffer.read(MAX_FILE_BYTES + 1))
        with Path(path).open("rb") as file:
            return read_file(file.read(MAX_FILE_BYTES + 1))
    except OSError as error:
        raise InvalidInput("FILE", path, f"cannot be read: {error.strerror}", "give a file, or - for stdin") from None


def default_source(path: str) -> str:
    """The owner of what a file creates, unless somebody says otherwise: the file's name."""
    return "stdin" if path == "-" else Path(path).name


def show_plan(plan: Plan, now: datetime) -> None:
    """``+`` created, ``~`` changed, ``-`` deleted."""
    for schedule in plan.create:
        say(f"+ {schedule.id}  {_when(schedule, now)}")
    for change in plan.update:
        say(f"~ {change.after.id}  {_when(change.after, now)}")
        for key, (old, new) in change.fields.items():
            say(f"    {key}: {_short(old)} → {_short(new)}")
    for schedule in plan.delete:
        say(f"- {schedule.id}")
    if plan.unchanged:
        say(f"= {len(plan.unchanged)} unchanged")


def _when(schedule: Schedule, now: datetime) -> str:
    fire = both(schedule.next_fire_at, now) or next_fire(schedule, now)
    return f"{schedule.task_type}  {schedule.schedule}  next: {fire}"


def _short(value: Any) -> str:
    from actors.cli.output import pretty

    text = "(default)" if value is None else pretty(value) if not isinstance(value, str) else value
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:59] + "…"
