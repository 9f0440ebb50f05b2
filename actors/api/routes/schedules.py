"""Schedules: look, change, pause, run; why they fired, and what to make up for."""

from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel

from actors.api.access import Admin, Operator, Viewer
from actors.api.audit import note
from actors.api.etags import Seen, show_revision
from actors.api.parts import Engine, Parts
from actors.api.problems import responses
from schemas.backfill import Backfill, BackfillOutcome, BackfillRequest
from schemas.base import Instant
from schemas.explanation import Explanation
from schemas.schedule import Schedule, ScheduleEntry, ScheduleFile
from schemas.schedule_set import SchedulePlan, ScheduleSet
from schemas.task import Task
from service.backfill import backfill
from service.explain import explain
from service.schedule_entry import Rules
from service.schedule_file import read_entry, read_patch, read_set, to_file
from service.timetable import Change, Plan, Timetable

router = APIRouter(tags=["schedules"])

SOURCE = "api"
"""Owner of what is created here."""
WEEK = timedelta(days=7)

AllowUnknown = Annotated[
    bool, Query(alias="allowUnknown", description="Take task types that this process has not loaded.")
]
DryRun = Annotated[bool, Query(alias="dryRun", description="Answer with the plan, and change nothing.")]


def timetable(engine: Parts, *, allow_unknown: bool = False) -> Timetable:
    rules = Rules(engine.registry, allow_unknown, engine.settings.max_message_bytes)
    return Timetable(engine.store.schedules, engine.client, engine.store.clock, rules)


def body(model: type[BaseModel], *, snake_case: bool = False) -> dict[str, Any]:
    """The OpenAPI document of a body that is read here: the framework's errors do not say which schedule is wrong."""
    schema = model.model_json_schema(by_alias=not snake_case)
    found = schema.pop("$defs", {})

    def inlined(part: Any) -> Any:
        if isinstance(part, list):
            return [inlined(each) for each in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            return inlined(found[part["$ref"].rpartition("/")[2]])
        return {key: inlined(value) for key, value in part.items()}

    return {"requestBody": {"required": True, "content": {"application/json": {"schema": inlined(schema)}}}}


# ---- all -------------------------------------------------------------------------------------------------------------


@router.get("/admin/schedules")
async def list_schedules(caller: Viewer, engine: Engine, response: Response) -> ScheduleSet:
    """All schedules, by id. The `ETag` is the revision of the whole set."""
    revision, schedules = await timetable(engine).whole()
    show_revision(response, revision)
    return ScheduleSet(schedules=schedules, revision=revision)


@router.put("/admin/schedules", responses=responses(409, 412), openapi_extra=body(ScheduleFile))
async def replace_schedules(
    request: Request,
    caller: Admin,
    engine: Engine,
    seen: Seen,
    allow_unknown: AllowUnknown = False,
    dry_run: DryRun = False,
) -> SchedulePlan:
    """Make these all schedules that there are, at once or not at all. What is not among them is deleted.

    Takes what `GET /admin/schedules` shows, and what a schedules file holds. What the engine keeps of a schedule, such
    as its last runs, is read over and stays as it is.
    """
    file = read_set(await request.body())
    return await replace_all(engine, caller, file, SOURCE, seen, allow_unknown=allow_unknown, dry_run=dry_run)


async def replace_all(
    engine: Parts,
    caller: Admin,
    file: ScheduleFile,
    source: str,
    seen: int | None,
    *,
    allow_unknown: bool,
    dry_run: bool,
) -> SchedulePlan:
    table = timetable(engine, allow_unknown=allow_unknown)
    plan = await table.replace(file, source=source, revision=seen, dry_run=dry_run)
    applied = not (dry_run or plan.empty)
    if applied:
        before, after = _both(plan)
        await note(engine, caller, "schedules.replace", "schedules", before=before, after=after)
    return plan.summary(source, applied=applied)


def _both(plan: Plan) -> tuple[dict[str, Any], dict[str, Any]]:
    """What differs, before and after, in the form of a file."""
    before = [*(change.before for change in plan.update), *plan.delete]
    after = [*(change.after for change in plan.update), *plan.create]
    return to_file(before), to_file(after)


# ---- one -------------------------------------------------------------------------------------------------------------


@router.get("/admin/schedules/{schedule_id}", responses=responses(404))
async def show_schedule(schedule_id: str, caller: Viewer, engine: Engine, response: Response) -> Schedule:
    """One schedule, with its last 20 runs and skips. The `ETag` is its revision: edits change it, fires do not."""
    schedule = await timetable(engine).get(schedule_id)
    show_revision(response, schedule.revision)
    return schedule


@router.put(
    "/admin/schedules/{schedule_id}",
    responses={**responses(409, 412), 201: {"model": Schedule, "description": "It is new."}},
    openapi_extra=body(ScheduleEntry),
)
async def put_schedule(
    schedule_id: str,
    request: Request,
    response: Response,
    caller: Admin,
    engine: Engine,
    seen: Seen,
    allow_unknown: AllowUnknown = False,
) -> Schedule:
    """Create a schedule, or replace what is said of it; what is left out is what is assumed."""
    entry = read_entry(await request.body(), schedule_id)
    table = timetable(engine, allow_unknown=allow_unknown)
    before, after = await table.put(entry, source=SOURCE, revision=seen)
    if before is None:
        response.status_code = 201
        await note(engine, caller, "schedule.create", schedule_id, after=_entry(after))
    else:
        await _note_change(engine, caller, "schedule.replace", Change(before, after))
    show_revision(response, after.revision)
    return after


@router.patch("/admin/schedules/{schedule_id}", responses=responses(404, 409, 412), openapi_extra=body(ScheduleEntry))
async def change_schedule(
    schedule_id: str,
    request: Request,
    response: Response,
    caller: Admin,
    engine: Engine,
    seen: Seen,
    allow_unknown: AllowUnknown = False,
) -> Schedule:
    """Change only what the body names; null is what is assumed where nothing is said."""
    fields = read_patch(await request.body(), schedule_id)
    change = await timetable(engine, allow_unknown=allow_unknown).patch(schedule_id, fields, revision=seen)
    return await _changed(engine, caller, "schedule.change", change, response)


@router.delete("/admin/schedules/{schedule_id}", status_code=204, responses=responses(404, 409, 412))
async def delete_schedule(schedule_id: str, caller: Admin, engine: Engine, seen: Seen) -> None:
    """Delete a schedule. Tasks that it has made stay, and run."""
    before = await timetable(engine).delete(schedule_id, revision=seen)
    await note(engine, caller, "schedule.delete", schedule_id, before=_entry(before))


@router.post("/admin/schedules/{schedule_id}/pause", responses=responses(404, 409, 412))
async def pause_schedule(
    schedule_id: str, response: Response, caller: Operator, engine: Engine, seen: Seen
) -> Schedule:
    """None of its fires runs until it is resumed. What runs goes on."""
    change = await timetable(engine).set_enabled(schedule_id, False, revision=seen)
    return await _changed(engine, caller, "schedule.pause", change, response)


@router.post("/admin/schedules/{schedule_id}/resume", responses=responses(404, 409, 412))
async def resume_schedule(
    schedule_id: str, response: Response, caller: Operator, engine: Engine, seen: Seen
) -> Schedule:
    """It fires again, from now on: what it missed is not made up for, but see `backfill`."""
    change = await timetable(engine).set_enabled(schedule_id, True, revision=seen)
    return await _changed(engine, caller, "schedule.resume", change, response)


@router.post("/admin/schedules/{schedule_id}/run", status_code=202, responses=responses(404))
async def run_schedule(schedule_id: str, caller: Operator, engine: Engine) -> Task:
    """Run its task once, now, beside its own fires; also while it is paused. Each call makes a task."""
    task = await engine.client.run_schedule(await timetable(engine).get(schedule_id))
    await note(engine, caller, "schedule.run", schedule_id, after={"taskId": task.id})
    return task


# ---- its fires -------------------------------------------------------------------------------------------------------


@router.get("/admin/schedules/{schedule_id}/explain", responses=responses(404))
async def explain_schedule(
    schedule_id: str,
    caller: Viewer,
    engine: Engine,
    start: Annotated[Instant | None, Query(alias="from", description="First instant; now if left out.")] = None,
    end: Annotated[
        Instant | None, Query(alias="to", description="End, not included; a week after `from` if left out.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="At most so many.")] = 200,
) -> Explanation:
    """Each due instant between two, by what the schedule says now: what became of it, or will, and why."""
    begin = start or engine.store.clock.now()
    return await explain(engine.store, schedule_id, begin, end or begin + WEEK, limit)


@router.post("/admin/schedules/{schedule_id}/backfill", responses=responses(404))
async def backfill_schedule(schedule_id: str, asked: BackfillRequest, caller: Admin, engine: Engine) -> Backfill:
    """Make the tasks of due instants of the past that made none, each under the id of its fire.

    Twice changes nothing, and what has fired is left alone. With the overlap policy `skip` one task is made at a time;
    `"overlap": "allow"` makes all.
    """
    done = await backfill(engine.store, engine.client, engine.registry, schedule_id, asked)
    if done.created and not done.dry_run:
        made = [fire.task_id for fire in done.fires if fire.outcome is BackfillOutcome.CREATED]
        after = {"from": done.start.isoformat(), "to": done.end.isoformat(), "taskIds": made}
        await note(engine, caller, "schedule.backfill", schedule_id, after=after)
    return done


async def _changed(engine: Parts, caller: Operator, action: str, change: Change, response: Response) -> Schedule:
    await _note_change(engine, caller, action, change)
    show_revision(response, change.after.revision)
    return change.after


async def _note_change(engine: Parts, caller: Operator, action: str, change: Change) -> None:
    if change.before is not change.after:
        before, after = _entry(change.before), _entry(change.after)
        await note(engine, caller, action, change.after.id, before=before, after=after)


def _entry(schedule: Schedule) -> dict[str, Any]:
    entry: dict[str, Any] = to_file([schedule])["schedules"][0]
    return entry
