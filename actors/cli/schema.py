"""``verger schema``: the JSON Schema of what is sent."""

from typing import Annotated, Any

import typer

from actors.cli.output import print_json
from schemas.event import DETAILS, Event, EventName
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
            "events": {name.value: {"$schema": DRAFT, **event_schema(name)} for name in EventName},
            "schedulesFile": {"$schema": DRAFT, **ScheduleFile.model_json_schema(by_alias=False)},
        }
    )


def body_schema(handler: Handler) -> dict[str, Any]:
    """Of a type's ``taskBody``; any object where the handler takes a dict."""
    if handler.body_model is None:
        return {"title": handler.task_type, "type": "object"}
    return {**handler.body_model.model_json_schema(by_alias=True), "title": handler.task_type}


def event_schema(name: EventName) -> dict[str, Any]:
    """Of a message on the events exchange whose routing key is this."""
    made = Event.model_json_schema(by_alias=True, mode="serialization")
    detail = DETAILS[name].model_json_schema(by_alias=True, mode="serialization")
    definitions = {**made.pop("$defs", {}), **detail.pop("$defs", {})}
    made["properties"]["event"] = {"const": name.value}
    made["properties"]["detail"] = detail
    return {**made, "title": name.value, **({"$defs": definitions} if definitions else {})}
