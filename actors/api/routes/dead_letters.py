"""Dead letters: look, replay at a bounded rate, throw away."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response

from actors.api.access import Admin, Operator, Viewer
from actors.api.audit import note
from actors.api.parts import Engine, Parts
from actors.api.problems import responses
from schemas.dead_letter import (
    DeadLetterPage,
    Discarded,
    DiscardRequest,
    Replayed,
    ReplayRequest,
    Selection,
)
from service.dead_letters import DeadLetters

router = APIRouter(tags=["dead letters"])


def _heap(engine: Parts) -> DeadLetters:
    return DeadLetters(engine.store, engine.client, engine.registry)


def _target(selection: Selection) -> str:
    """The ids, or what was asked for instead of them."""
    if selection.ids is not None:
        return ", ".join(selection.ids)
    named = {"type": selection.task_type, "fingerprint": selection.fingerprint}
    return ", ".join(f"{name} {value}" for name, value in named.items() if value is not None)


@router.get(
    "/admin/dead-letters", summary="List dead letters", response_model_exclude_none=True, responses=responses(503)
)
async def dead_letters(
    caller: Viewer,
    engine: Engine,
    type_: Annotated[str | None, Query(alias="type", description="Only of this type or alias.")] = None,
    fingerprint: Annotated[str | None, Query(description="Only of this fingerprint.")] = None,
    group: Annotated[
        Literal["fingerprint"] | None, Query(description="Groups instead: of the newest 100,000, the 200 largest.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(description="From the last page.")] = None,
) -> DeadLetterPage:
    """Dead letters, newest first; or how many there are of each kind."""
    heap = _heap(engine)
    if group is not None:
        told = await heap.groups(type_, fingerprint)
        return DeadLetterPage(groups=told.groups, counted=told.counted, complete=told.complete)
    page = await heap.page(type_, fingerprint, limit=limit, cursor=cursor)
    return DeadLetterPage(dead_letters=page.tasks, cursor=page.cursor)


@router.post(
    "/admin/dead-letters/replay",
    summary="Replay dead letters",
    status_code=202,
    response_model_exclude_none=True,
    responses=responses(404, 409, 503)
    | {200: {"model": Replayed, "description": "Dry run, or one with another body."}},
)
async def replay(request: ReplayRequest, caller: Operator, engine: Engine, response: Response) -> Replayed:
    """Replay dead letters, at most `rate` a second.

    That may take long, so a task of the type `verger.replay` does it: `operation`. Look at its progress and result
    under `/admin/tasks/{id}`, and cancel it there. With `first`, so many are replayed ahead; if more than the share
    `stopAbove` of them fails again, it stops there. With `taskBody`, the one id is replayed at once, with this body.
    """
    heap = _heap(engine)
    if request.dry_run:
        response.status_code = 200
        return Replayed(matches=await heap.matches(request))
    if request.task_body is not None and request.ids is not None:
        response.status_code = 200
        before, task = await heap.edit(request.ids[0], request.task_body, caller.name)
        # Under a name that is not hidden as bodies are: what was changed is the point.
        await note(
            engine,
            caller,
            "dead_letter.edit",
            task.id,
            before={"edited": before.task_body},
            after={"edited": task.task_body},
        )
        return Replayed(task=task)
    operation = await heap.order(request, caller.name)
    order = request.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"ids", "dry_run"})
    await note(engine, caller, "dead_letter.replay", _target(request), after={"operation": operation.id, **order})
    return Replayed(operation=operation)


@router.post(
    "/admin/dead-letters/discard",
    summary="Discard dead letters",
    response_model_exclude_none=True,
    responses=responses(503),
)
async def discard(request: DiscardRequest, caller: Admin, engine: Engine) -> Discarded:
    """End dead letters as cancelled, with the reason in their history; at most 10,000 at once, then `more` are left."""
    heap = _heap(engine)
    if request.dry_run:
        return Discarded(matches=await heap.matches(request))
    answer = await heap.discard(request, request.reason, caller.name)
    after = {"reason": request.reason, "discarded": answer.discarded}
    await note(engine, caller, "dead_letter.discard", _target(request), after=after)
    return answer
