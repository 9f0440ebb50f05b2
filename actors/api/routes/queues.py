"""The queues on the broker."""

from fastapi import APIRouter

from actors.api.access import Viewer
from actors.api.parts import Engine
from actors.api.problems import responses
from schemas.queue import Queues

router = APIRouter(tags=["queues"])


@router.get("/admin/queues", summary="Look at the queues", responses=responses(503))
async def look_at_queues(caller: Viewer, engine: Engine) -> Queues:
    """Messages that wait and workers that consume, for each task type; messages that wait for their time, that no queue
    wanted, and that are dead letters.

    Asks the broker once for each queue: made for people, not for a monitor that asks every second.
    """
    return await engine.broker.look()
