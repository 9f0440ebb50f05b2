"""What is being reindexed."""

from typing import Annotated

from fastapi import APIRouter, Query

from actors.api.access import Viewer
from actors.api.parts import Engine
from actors.api.problems import responses
from actors.maintenance.index_state import IndexState, index_states
from schemas.base import Model

router = APIRouter(tags=["maintenance"])


class IndexStates(Model):
    """Those under way first, then those that began last."""

    states: list[IndexState]


@router.get("/admin/index-state", summary="Look at what is being reindexed", responses=responses(503))
async def look_at_index_state(
    caller: Viewer,
    engine: Engine,
    limit: Annotated[int, Query(ge=1, le=1000, description="Paths at most.")] = 100,
) -> IndexStates:
    """Each path that was reindexed by `files.reindex`: whether it is right now, how far that is, and how it ended.

    From `index_state` of the database `VERGER_MEMORY_DATABASE`. `reindexing` is true only if the run was heard of
    within the last minute: one that was killed does not go on for ever. The progress of the task `taskId` has an ETA.
    """
    return IndexStates(states=await index_states(engine.memory, limit=limit))
