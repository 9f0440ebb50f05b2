"""How the schedules are doing."""

from fastapi import APIRouter

from actors.api.access import Viewer
from actors.api.parts import Engine
from schemas.job import Jobs
from service.freshness import jobs

router = APIRouter(tags=["schedules"])


@router.get("/admin/jobs")
async def list_jobs(caller: Viewer, engine: Engine) -> Jobs:
    """Each schedule by id: how often it fires, when next, how its last runs went, and whether it is overdue."""
    return Jobs(jobs=await jobs(engine.store))
