"""Who changed what."""

from typing import Annotated

from fastapi import APIRouter, Query

from actors.api.access import Admin
from actors.api.parts import Engine
from schemas.access import AuditPage

router = APIRouter(tags=["audit"])


@router.get("/admin/audit")
async def list_changes(
    caller: Admin,
    engine: Engine,
    limit: Annotated[int, Query(ge=1, le=1000, description="At most so many.")] = 50,
    cursor: Annotated[str | None, Query(max_length=200, description="Where an earlier page ended.")] = None,
) -> AuditPage:
    """What was changed through this API, newest first: who, when, what, and how it was before and after.

    Secrets and bodies are hidden as they are in the log. Entries are kept for `VERGER_AUDIT_RETENTION`.
    """
    return await engine.store.audit.find(limit=limit, cursor=cursor)
