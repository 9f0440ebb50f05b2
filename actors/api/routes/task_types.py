"""Task types: what is known, and pause and resume."""

from typing import Annotated

from fastapi import APIRouter, Path, Query

from actors.api.access import Operator, Viewer
from actors.api.audit import note
from actors.api.parts import Engine, Parts
from actors.api.problems import responses
from schemas.access import Caller
from schemas.base import Model
from schemas.task_type import TaskTypeSummary
from service.overview import task_types

router = APIRouter(tags=["task types"])
Name = Annotated[str, Path(description="The type, or an alias of it.", examples=["sessions.collect"])]


class TaskTypes(Model):
    """All of them, by name."""

    task_types: list[TaskTypeSummary]


class Pause(Model):
    """How a type stands now."""

    task_type: str
    paused: bool


@router.get("/admin/task-types", summary="List task types", responses=responses(503))
async def list_task_types(
    caller: Viewer,
    engine: Engine,
    counts: Annotated[
        bool,
        Query(description="Count the tasks of each status too. It costs a key of an index for each task there is."),
    ] = False,
) -> TaskTypes:
    """Every type that a loaded module handles, that is paused, or that a worker consumes; with counts also each that
    has tasks."""
    return TaskTypes(task_types=await task_types(engine.store, engine.registry, counted=counts))


@router.post("/admin/task-types/{type}/pause", summary="Pause a task type", responses=responses(404, 503))
async def pause(type: Name, caller: Operator, engine: Engine) -> Pause:  # noqa: A002 - the name in the path
    """No worker takes tasks of this type any more, until it is resumed; also after a restart. What runs goes on."""
    return await _set(engine, caller, type, paused=True)


@router.post("/admin/task-types/{type}/resume", summary="Resume a task type", responses=responses(404, 503))
async def resume(type: Name, caller: Operator, engine: Engine) -> Pause:  # noqa: A002 - the name in the path
    """Workers take tasks of this type again."""
    return await _set(engine, caller, type, paused=False)


async def _set(engine: Parts, caller: Caller, name: str, *, paused: bool) -> Pause:
    task_type = engine.registry.get(name).task_type
    state = (await engine.store.upkeep.type_states()).get(task_type)
    before, after = Pause(task_type=task_type, paused=state is not None and state.paused), {"paused": paused}
    await engine.client.set_paused(task_type, paused, by=caller.name)
    action = "type.pause" if paused else "type.resume"
    await note(engine, caller, action, task_type, before={"paused": before.paused}, after=after)
    return Pause(task_type=task_type, paused=paused)
