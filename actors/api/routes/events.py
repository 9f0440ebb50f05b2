"""What happens, as it happens."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import StreamingResponse

from actors.api.access import Viewer
from actors.api.event_hub import EventHub
from actors.api.parts import Engine
from actors.api.problems import responses
from schemas.event import EventName

router = APIRouter()

STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-sent events: `event` is the name, `data` the event as on the exchange `verger.events`.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


@router.get(
    "/admin/events",
    summary="Listen to events",
    tags=["events"],
    response_class=StreamingResponse,
    responses=STREAM | responses(503),
)
async def events(
    caller: Viewer,
    engine: Engine,
    request: Request,
    type_: Annotated[
        list[EventName] | None, Query(alias="type", description="Only these; may be given several times.")
    ] = None,
    last_event_id: Annotated[
        str | None, Header(description="Go on after this one, if it is still known: else a `gap` comes first.")
    ] = None,
) -> StreamingResponse:
    """Listen, until you have enough.

    Events are best effort. Where some are missing, an event `gap` says so: after an interruption, when you come back
    too late, or read too slowly. A comment every 15 seconds shows that the connection lives.
    """
    state = request.app.state
    if not hasattr(state, "events"):
        state.events = EventHub(engine.broker, engine.store.clock)
    hub: EventHub = state.events
    await hub.open()
    return StreamingResponse(
        hub.stream(type_ or (), last_event_id, state.closing),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )
