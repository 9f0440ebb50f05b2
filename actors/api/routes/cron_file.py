"""All schedules in the form of a schedules file: what is read can be written back."""

from typing import Any

from fastapi import APIRouter, Request, Response

from actors.api.access import Admin, Viewer
from actors.api.etags import Seen, show_revision
from actors.api.parts import Engine
from actors.api.problems import responses
from actors.api.routes.schedules import AllowUnknown, DryRun, body, replace_all, timetable
from schemas.schedule import ScheduleFile
from schemas.schedule_set import SchedulePlan
from service.schedule_file import read_file, to_file

router = APIRouter(tags=["schedules"])

PATH = "/.config/cron.json"
SOURCE = "cron.json"
"""Owner of what is created here."""


@router.get(PATH)
async def read_cron_file(caller: Viewer, engine: Engine, response: Response) -> dict[str, Any]:
    """All schedules as a schedules file. The `ETag` is the revision of the whole set."""
    revision, schedules = await timetable(engine).whole()
    show_revision(response, revision)
    return to_file(schedules)


@router.put(PATH, responses=responses(409, 412), openapi_extra=body(ScheduleFile, snake_case=True))
async def write_cron_file(
    request: Request,
    caller: Admin,
    engine: Engine,
    seen: Seen,
    allow_unknown: AllowUnknown = False,
    dry_run: DryRun = False,
) -> SchedulePlan:
    """Make the schedules of this file all that there are, at once or not at all. What it does not name is deleted."""
    file = read_file(await request.body())
    return await replace_all(engine, caller, file, SOURCE, seen, allow_unknown=allow_unknown, dry_run=dry_run)
