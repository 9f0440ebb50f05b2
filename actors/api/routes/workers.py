"""Who works."""

from fastapi import APIRouter

from actors.api.access import Viewer
from actors.api.parts import Engine
from actors.api.problems import responses
from schemas.base import Model
from schemas.worker import Worker
from service.overview import alive_workers

router = APIRouter(tags=["workers"])


class Workers(Model):
    """Those that are there."""

    workers: list[Worker]


@router.get("/admin/workers", summary="List workers", responses=responses(503))
async def list_workers(caller: Viewer, engine: Engine) -> Workers:
    """The workers that were heard of in the last two minutes: where they run, what they consume, and how busy they are.

    `running` of `slots` is as of `seenAt`, the last heartbeat.
    """
    return Workers(workers=await alive_workers(engine.store))
