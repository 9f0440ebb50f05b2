"""The record of changes: in the store and in the log."""

from typing import Any

import structlog

from actors.api.parts import Parts
from schemas.access import Caller
from service.audit import audit_entry
from service.errors import StoreUnavailable
from service.log_events import LogEvent

log = structlog.get_logger()


async def note(
    parts: Parts, caller: Caller, action: str, target: str, *, before: Any = None, after: Any = None
) -> None:
    """Say who did what; after it was done. ``before`` and ``after`` are JSON, bounded here.

    Never fails: what was done is done, and to answer otherwise would have it done again.
    """
    store = parts.store
    entry = audit_entry(store.clock.now(), caller.name, action, target, before, after)
    log.info(
        LogEvent.AUDIT_NOTED,
        who=entry.who,
        action=action,
        target=entry.target,
        before=entry.before,
        after=entry.after,
    )
    try:
        await store.audit.note(entry)
    except StoreUnavailable as error:
        log.error(LogEvent.AUDIT_LOST, action=action, error=str(error))
