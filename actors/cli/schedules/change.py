"""``verger schedules pause``, ``resume`` and ``run``."""

from datetime import datetime
from typing import Annotated

import typer

from actors.cli.moments import both
from actors.cli.options import Json
from actors.cli.output import plain, print_json, say
from actors.cli.schedules.look import next_fire
from actors.cli.session import talk, timetable
from actors.cli.waiting import PATIENCE, ended, follow
from actors.composition import Connection
from schemas.schedule import Schedule
from schemas.task import Task

Ids = Annotated[list[str], typer.Argument(metavar="ID...", help="One or several schedules.")]


def pause(ids: Ids, json: Json = False) -> None:
    """Stop schedules: none of their fires runs until they are resumed. What runs goes on."""
    _set_enabled(ids, False, json)


def resume(ids: Ids, json: Json = False) -> None:
    """Let paused schedules fire again, from now on: what they missed is not made up for."""
    _set_enabled(ids, True, json)


def run(
    schedule_id: Annotated[str, typer.Argument(metavar="ID")],
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it has finished.")] = False,
    wait_timeout: Annotated[str, typer.Option("--wait-timeout", help="How long to wait.")] = PATIENCE,
    json: Json = False,
) -> None:
    """Run a schedule's task once, now, beside its own fires; also if it is paused."""

    async def act(connection: Connection) -> Task:
        task = await connection.client.run_schedule(await timetable(connection).get(schedule_id))
        if not json:
            say(f"{task.id} enqueued ({task.task_type})")
        return await follow(connection, task, wait_timeout) if wait else task

    task = talk(act, publishes=True)
    if json:
        print_json({"task": plain(task)})
    if wait:
        ended(task, quiet=json)


def _set_enabled(ids: list[str], enabled: bool, json: bool) -> None:
    async def act(connection: Connection) -> tuple[list[Schedule], datetime]:
        table = timetable(connection)
        changes = [await table.set_enabled(each, enabled) for each in ids]
        return [change.after for change in changes], connection.store.clock.now()

    schedules, now = talk(act, publishes=True)
    if json:
        print_json({"schedules": [plain(schedule) for schedule in schedules]})
        return
    for schedule in schedules:
        fire = both(schedule.next_fire_at, now) or next_fire(schedule, now)
        say(f"{schedule.id} is resumed; next fire: {fire}" if enabled else f"{schedule.id} is paused")
