"""Probes, as on the port of VERGER_HEALTH_PORT. They need no key, and tell nothing but what is wrong."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from actors.api.parts import Engine
from actors.health import answer

router = APIRouter(tags=["health"])
JSON: dict[str, Any] = {"content": {"application/json": {"schema": {"type": "object"}}}}


@router.get("/healthz", responses={503: {"description": "The process should be restarted.", **JSON}})
async def healthz(engine: Engine) -> JSONResponse:
    """Does the event loop turn? Touches nothing else."""
    status, body = answer(engine.health.live())
    return JSONResponse(body, status)


@router.get("/readyz", responses={503: {"description": "It should not be given work; the body says why.", **JSON}})
async def readyz(engine: Engine) -> JSONResponse:
    """Did broker and store answer within the last seconds, and are the consumers attached?"""
    status, body = answer(await engine.health.ready())
    return JSONResponse(body, status)
