"""The page of metrics, for who has a key; without one it is on the port of VERGER_HEALTH_PORT."""

from fastapi import APIRouter, Response

from actors.api.access import Viewer
from actors.api.parts import Engine
from service.metrics import CONTENT_TYPE

router = APIRouter(tags=["metrics"])


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(caller: Viewer, engine: Engine) -> Response:
    """What this process has counted and measured, in Prometheus' text form."""
    return Response(await engine.metrics.make(), media_type=CONTENT_TYPE)
