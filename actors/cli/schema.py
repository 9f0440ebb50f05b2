"""``verger schema``: the JSON Schema of what is sent."""

from typing import Annotated, Any

import typer

from actors.cli.output import print_json
from schemas.event import Event, EventName
from schemas.message import TaskMessage
from schemas.schedule import ScheduleFile
from service.registry import Handler, load
from service.settings import load_settings

DRAFT = "https://json-schema.org/draft/2020-12/schema"


def schema(
    task_type: Annotated[
        str | None, typer.Argument(metavar="TYPE", help="Only the body of this type or alias.")
    ] = None,
) -> None:
    """Print JSON Schema: of the message, each type's body, the events, and a schedules file."""
    registry = load(load_settings().actors)
    if task_type is not None:
        print_json({"$schema": DRAFT, **body_schema(registry.get(task_type))})
        return
    print_json(
        {
            "message": {"$schema": DRAFT, **TaskMessage.model_json_schema(by_alias=True)},
            "taskTypes": {handler.task_type: body_schema(handler) for handler in registry},
            "event": {"$schema": DRAFT, **event_schema()},
            "schedulesFile": {"$schema": DRAFT, **ScheduleFile.model_json_schema(by_alias=False)},
        }
    )


def body_schema(handler: Handler) -> dict[str, Any]:
    """Of a type's ``taskBody``; any object where the handler takes a dict."""
    if handler.body_model is None:
        return {"title": handler.task_type, "type": "object"}
    return {**handler.body_model.model_json_schema(by_alias=True), "title": handler.task_type}


def event_schema() -> dict[str, Any]:
    """Of a message on the events exchange, with the names that are known."""
    made = Event.model_json_schema(by_alias=True, mode="serialization")
    made["properties"]["event"]["examples"] = [name.value for name in EventName]
    return made
