"""Tasks: list, show, trigger, cancel, retry."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Path, Query, Response
from pydantic import AwareDatetime, Field

from actors.api.access import Operator, Viewer
from actors.api.audit import note
from actors.api.ids import ID
from actors.api.parts import Engine
from actors.api.problems import responses
from schemas.base import Model
from schemas.message import MAX_ID
from schemas.task import Task, TaskStatus
from schemas.why import Explanation
from service.client import MOST_REASON, MOST_SEARCHED, NewTask
from service.errors import InvalidInput
from service.store.port import SCANNED, TaskFilter
from service.why import explain

router = APIRouter(tags=["tasks"])

TaskId = Annotated[str, Path(description="The task's id.", examples=["report-7"])]
Moment = Annotated[AwareDatetime | None, Query(description="ISO 8601, with `Z` or an offset.")]
MOST_LISTED = 1000


class TaskPage(Model):
    """Some tasks, newest first."""

    tasks: list[Task]
    cursor: str | None
    """Where the next page starts; null: this is the last one."""


class Triggered(Model):
    """What became of a request for a task."""

    task: Task
    """The new one, or the one that stands for it."""
    created: bool
    """Whether it is new. If not, its id was known, or it has the same live key."""


class Cancellation(Model):
    """How to cancel."""

    force: bool = Field(False, description="Interrupt the handler instead of asking it at its next checkpoint.")
    reason: str | None = Field(None, description="For the history.", max_length=MOST_REASON, examples=["not today"])


@router.get(
    "/admin/tasks",
    summary="List tasks",
    responses=responses(503),
    description=f"""Newest first: by creation; with `status`, or a time of finishing, by when a task got there.

An index serves `status`, `type` and the time that orders the list (`createdFrom`, `createdTo` without a status,
`finishedFrom`, `finishedTo` for what has finished), alone or together; and `schedule` with the time of creation. Every
other part of a filter (`error`, `tenant`, any other combination) is looked for in the tasks themselves, in at most
{SCANNED} of them for a page. Such a page may hold fewer tasks than `limit`, even none, and still have a `cursor`: the
next one goes on where it stopped. The list is complete when `cursor` is null.""",
)
async def list_tasks(
    caller: Viewer,
    engine: Engine,
    status: Annotated[TaskStatus | None, Query(description="Only in this state.")] = None,
    type: Annotated[  # noqa: A002 - the name of the parameter
        str | None, Query(description="Only of this type or alias.", max_length=MAX_ID)
    ] = None,
    tenant: Annotated[str | None, Query(description="Only of this tenant.", max_length=MAX_ID)] = None,
    schedule: Annotated[str | None, Query(description="Only fires of this schedule.", max_length=MAX_ID)] = None,
    created_from: Annotated[Moment, Query(alias="createdFrom")] = None,
    created_to: Annotated[Moment, Query(alias="createdTo")] = None,
    finished_from: Annotated[Moment, Query(alias="finishedFrom")] = None,
    finished_to: Annotated[Moment, Query(alias="finishedTo")] = None,
    error: Annotated[
        str | None,
        Query(description="Part of the last error's type or message.", min_length=1, max_length=MOST_SEARCHED),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=MOST_LISTED, description="At most so many.")] = 50,
    cursor: Annotated[str | None, Query(max_length=1000, description="Where an earlier page ended.")] = None,
) -> TaskPage:
    which = TaskFilter(
        status=status,
        task_type=type,
        schedule_id=schedule,
        tenant_id=tenant,
        created_from=created_from,
        created_to=created_to,
        finished_from=finished_from,
        finished_to=finished_to,
        error=error,
    )
    page = await engine.client.find(which, limit=limit, cursor=cursor)
    return TaskPage(tasks=page.tasks, cursor=page.cursor)


@router.post(
    "/admin/tasks/{taskType}",
    summary="Trigger a task",
    status_code=201,
    responses={
        **responses(404, 503),
        200: {"model": Triggered, "description": "Nothing is new: the id is known, or another task stands for it."},
    },
)
async def trigger(
    task_type: Annotated[
        str, Path(alias="taskType", description="The type, or an alias of it.", examples=["sessions.collect"])
    ],
    caller: Operator,
    engine: Engine,
    response: Response,
    body: Annotated[
        dict[str, Any] | None,
        Body(description="The task's body, a JSON object; none is `{}`.", examples=[{"rows": 100}]),
    ] = None,
    id: Annotated[  # noqa: A002 - the name of the parameter
        str | None, Query(description="Idempotency key: a known id changes nothing.", max_length=MAX_ID)
    ] = None,
    idempotency_key: Annotated[
        str | None, Header(description="The same as `id`.", max_length=MAX_ID, examples=["report-7"])
    ] = None,
    name: Annotated[
        str | None, Query(description="Singleton: while one of this name lives, no other is made.", max_length=MAX_ID)
    ] = None,
    unique: Annotated[bool | None, Query(description="Singleton by type and body; default: as the type says.")] = None,
    delay: Annotated[
        str | None, Query(description="Not before so long from now: `90s`, `10m`, `PT10M`.", examples=["10m"])
    ] = None,
    at: Moment = None,
    max_attempts: Annotated[
        int | None, Query(alias="maxAttempts", ge=1, le=1_000_000, description="Instead of the type's.")
    ] = None,
    timeout: Annotated[
        str | None, Query(description="Limit of one run, instead of the type's: `90s`, `10m`.", examples=["30m"])
    ] = None,
    tenant: Annotated[str | None, Query(description="Whose it is.", max_length=MAX_ID)] = None,
    traceparent: Annotated[str | None, Header(description="W3C trace context that the task goes on with.")] = None,
) -> Triggered:
    """One task of this type, as if its message had been published. It is stored when this answers, also while the
    broker is down. The body is checked against the handler's model.

    With an `id` (or the header `Idempotency-Key`) it may be repeated without harm.
    """
    if id is not None and idempotency_key is not None and id != idempotency_key:
        raise InvalidInput("Idempotency-Key", idempotency_key, "differs from id", "send one of the two")
    handler = engine.registry.get(task_type)
    new = NewTask(
        task_type=handler.task_type,
        body=body,
        id=id if id is not None else idempotency_key,
        name=name,
        unique=unique,
        delay=delay,
        at=at,
        max_attempts=max_attempts,
        timeout=timeout,
        tenant_id=tenant,
        traceparent=traceparent,
    )
    answer = (await engine.client.offer([new]))[0]
    if not answer.created:
        response.status_code = 200
    after = {"taskType": handler.task_type, "created": answer.created}
    await note(engine, caller, "task.trigger", answer.task.id, after=after)
    return Triggered(task=answer.task, created=answer.created)


@router.post(f"/admin/tasks/{ID}/cancel", summary="Cancel a task", responses=responses(404, 409, 503))
async def cancel(
    id: TaskId,  # noqa: A002 - the name in the path
    caller: Operator,
    engine: Engine,
    body: Annotated[Cancellation | None, Body()] = None,
) -> Task:
    """A pending task ends at once. A running one is asked: its handler sees it at its next checkpoint, or is
    interrupted with `force`; the answer shows `cancelRequestedAt`. One that has finished is a conflict."""
    how = body or Cancellation()
    reason = how.reason or f"asked for by {caller.name}"
    task = await engine.client.cancel(id, force=how.force, reason=reason)
    after = {"status": task.status.value, "force": how.force, "reason": reason}
    await note(engine, caller, "task.cancel", id, after=after)
    return task


@router.post(f"/admin/tasks/{ID}/retry", summary="Retry a dead letter", responses=responses(404, 409, 503))
async def retry(id: TaskId, caller: Operator, engine: Engine) -> Task:  # noqa: A002 - the name in the path
    """A task that has failed runs again with fresh attempts; its history stays. Any other is a conflict."""
    task = await engine.client.replay(id, note=f"by {caller.name}")
    await note(engine, caller, "task.retry", id, before={"status": "failed"}, after={"status": task.status.value})
    return task


@router.get(f"/admin/tasks/{ID}/why", summary="Explain a task", responses=responses(503))
async def why(id: TaskId, caller: Viewer, engine: Engine) -> Explanation:  # noqa: A002 - the name in the path
    """What happened to it, oldest first; what it waits for now, and what to do. An unknown id is explained too."""
    return await explain(engine.store, engine.broker, engine.settings, id)


# The last one: it takes all that is left.
@router.get(f"/admin/tasks/{ID}", summary="Show a task", responses=responses(404, 503))
async def show(id: TaskId, caller: Viewer, engine: Engine) -> Task:  # noqa: A002 - the name in the path
    """All that is known of one task."""
    return await engine.client.get(id)
