"""``verger enqueue``."""

import json as codec
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from actors.cli.moments import parse_moment
from actors.cli.options import AllowUnknown, Json
from actors.cli.output import plain, print_json, say
from actors.cli.session import talk
from actors.cli.waiting import PATIENCE, ended, follow
from actors.composition import Connection
from schemas.task import Task, TaskStatus
from service.client import NewTask
from service.errors import InvalidInput
from service.store.port import Created

MOST_BYTES = 8 * 1024 * 1024
"""Of a body file; the setting VERGER_MAX_MESSAGE_BYTES decides what is taken."""


def enqueue(
    task_type: Annotated[str, typer.Argument(metavar="TYPE", help="A task type or alias: see verger actors.")],
    body: Annotated[str | None, typer.Argument(metavar="BODY", help="A JSON object; default: {}.")] = None,
    body_file: Annotated[str | None, typer.Option("--body-file", help="Read it from a file; - is stdin.")] = None,
    task_id: Annotated[str | None, typer.Option("--id", help="Idempotency key: a known id changes nothing.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="While one of this name lives, no other is made.")] = None,
    unique: Annotated[
        bool | None, typer.Option("--unique/--not-unique", help="The same by type and body; default: as the type says.")
    ] = None,
    delay: Annotated[str | None, typer.Option("--delay", help="Not before so long from now: 90s, 10m.")] = None,
    at: Annotated[str | None, typer.Option("--at", help="Not before this instant, ISO 8601, UTC.")] = None,
    max_attempts: Annotated[int | None, typer.Option("--max-attempts", min=1, help="Instead of the type's.")] = None,
    timeout: Annotated[str | None, typer.Option("--timeout", help="Limit of one run, instead of the type's.")] = None,
    tenant: Annotated[str | None, typer.Option("--tenant", help="Whose it is.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it has finished; 1 unless it completed.")] = False,
    wait_timeout: Annotated[str, typer.Option("--wait-timeout", help="How long to wait.")] = PATIENCE,
    allow_unknown: AllowUnknown = False,
    json: Json = False,
) -> None:
    """Enqueue one task. It is stored when this returns, even with the broker down."""
    if body is not None and body_file is not None:
        raise typer.BadParameter("give BODY or --body-file, not both")
    new = NewTask(
        task_type=task_type,
        body=read_body(body, body_file),
        id=task_id,
        name=name,
        unique=unique,
        delay=delay,
        at=None if at is None else parse_moment(at, "--at"),
        max_attempts=max_attempts,
        timeout=timeout,
        tenant_id=tenant,
    )

    async def act(connection: Connection) -> tuple[Created, Task]:
        if not allow_unknown:
            connection.registry.get(task_type)
        answer = (await connection.client.offer([new]))[0]
        if not json:
            say(f"{answer.task.id} {_how(answer)}")
        return answer, await follow(connection, answer.task, wait_timeout) if wait else answer.task

    answer, task = talk(act, publishes=True)
    if json:
        print_json({"task": plain(task), "created": answer.created})
    if wait:
        ended(task, quiet=json)


def read_body(text: str | None, path: str | None) -> dict[str, Any]:
    """The JSON object of the argument or the file. Raises InvalidInput."""
    field = "BODY" if path is None else "--body-file"
    if path is not None:
        text = _read_text(path)
    try:
        body = codec.loads(text) if text is not None else {}
    except (ValueError, RecursionError) as error:
        fix = 'in a shell, quote it: \'{"path": "/data"}\''
        raise InvalidInput(field, text, f"is no JSON: {str(error).lower()}", fix) from None
    if not isinstance(body, dict):
        raise InvalidInput(field, text, "is not a JSON object", "send {…}")
    return body


def _read_text(path: str) -> str:
    try:
        if path == "-":
            return sys.stdin.read(MOST_BYTES)
        with Path(path).open(encoding="utf-8") as file:
            return file.read(MOST_BYTES)
    except OSError as error:
        raise InvalidInput("--body-file", path, f"cannot be read: {error.strerror}", "give a file, or -") from None
    except UnicodeDecodeError:
        raise InvalidInput("--body-file", path, "is not UTF-8", "convert it") from None


def _how(answer: Created) -> str:
    if answer.created:
        return "enqueued"
    if answer.by == "id":
        return f"known already ({answer.task.status.value}), nothing was enqueued"
    if answer.task.status is TaskStatus.RUNNING:
        return "running under this name or body; it will run once more"
    return "waiting under this name or body, nothing was enqueued"
