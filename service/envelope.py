"""Messages to tasks and tasks to messages (pure)."""

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any
from uuid import uuid4

import orjson
from pydantic import ValidationError

from schemas.base import to_instant
from schemas.message import MAX_ID, TaskMessage
from schemas.task import TASK_TYPE, Payload, Task, TaskError, TaskStatus
from service.broker.port import DELAY_LADDER, MARKER, RETRY_AT, STORED, Delivery, Publication, rung
from service.errors import InvalidMessage, PayloadRefused
from service.payload import HEAD_BYTES, check_storable, encode, live_key, safe_text
from service.registry import DEFAULT_MAX_ATTEMPTS, DEFAULT_TIMEOUT, Handler, fold
from service.states import LONGEST_WAIT, RELAY_SLACK
from service.traces import HEADER as TRACEPARENT, read_traceparent

MARKER_BODY = b"{}"
FIRE_PREFIX = "fire:"
INVALID_PREFIX = "invalid:"
LONGEST_ID = 400
"""Ours are longer than a stranger may make them: that of a fire holds its schedule's and its instant."""
RESERVED = (FIRE_PREFIX, INVALID_PREFIX)
"""Beginnings of ids that only Verger makes."""


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NEW = Task(id="", task_type="", task_body={}, created_at=_EPOCH, retry_at=_EPOCH)


@dataclass(frozen=True, slots=True)
class Incoming:
    """What a delivery asks for."""

    id: str
    record: Task | None
    """What to keep if it is new; None: a message of ours, for a task that is stored (P2)."""
    retry_at: datetime | None
    """Not before."""


# ---- in ------------------------------------------------------------------------------------------


def marker_of(delivery: Delivery) -> datetime | None:
    """When relay sent this marker; None: it is no marker, for it carries something."""
    return _instant(delivery.headers.get(MARKER)) if delivery.body == MARKER_BODY else None


def read(delivery: Delivery, handler: Handler | None, now: datetime, limit: int) -> Incoming:
    """Read a delivery; ``handler`` is that of its queue, None in the intake.

    Raises:
        InvalidMessage, PayloadRefused: it is no task; names the field and the fix.
    """
    if len(delivery.body) > limit:
        raise PayloadRefused(
            "message", f"{len(delivery.body)} bytes", f"is larger than {limit} bytes", "send a reference to the data"
        )
    if delivery.headers.get(STORED):
        return _read_stored(delivery)
    message = _parse(delivery.body)
    for field, value in (("id", message.id), ("message_id", delivery.message_id)):
        if value is not None and (value.startswith(RESERVED) or len(value) > MAX_ID or not value.isprintable()):
            raise InvalidMessage(
                field, value, "is not an id", f"use at most {MAX_ID} characters, not starting with fire:"
            )
    retry_at = message.retry_at
    if message.delay is not None:
        retry_at = to_instant(now + min(message.delay, LONGEST_WAIT))
    return Incoming(
        id=(record := _record(message, delivery, handler, now, retry_at)).id,
        record=record,
        retry_at=retry_at if retry_at is not None and retry_at > now else None,
    )


def _read_stored(delivery: Delivery) -> Incoming:
    try:
        task_id = orjson.loads(delivery.body)["id"]
    except (ValueError, KeyError, TypeError):
        raise InvalidMessage(
            "id", delivery.body[:60], "is missing though verger-stored is set", "do not set that header"
        ) from None
    if not isinstance(task_id, str) or not 0 < len(task_id) <= LONGEST_ID or not task_id.isprintable():
        raise InvalidMessage("id", _shown(task_id), "is no id of a task", "do not set the header verger-stored")
    return Incoming(task_id, None, _instant(delivery.headers.get(RETRY_AT)))


def _parse(body: bytes) -> TaskMessage:
    try:
        message = TaskMessage.model_validate_json(body)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in problem["loc"]) or "message"
        raise InvalidMessage(
            field, _shown(problem["input"]), problem["msg"].lower(), "see docs/publishing.md"
        ) from None
    check_storable(message.task_body, "taskBody")
    for field, text in (("id", message.id), ("taskName", message.task_name), ("tenantId", message.tenant_id)):
        check_storable(text, field)
    return message


def _shown(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    try:
        return str(value)[:200]
    except RecursionError:  # orjson reads deeper than Python writes
        return "…"


def _record(
    message: TaskMessage, delivery: Delivery, handler: Handler | None, now: datetime, retry_at: datetime | None
) -> Task:
    key = delivery.routing_key
    task_type = message.task_type or key
    if handler is None:
        if not TASK_TYPE.fullmatch(task_type):
            raise InvalidMessage(
                "taskType", task_type, f"is not {TASK_TYPE.pattern}", "publish with the task type as routing key"
            )
        if message.task_type is not None and message.task_type != key:
            raise InvalidMessage("taskType", task_type, f"contradicts the routing key {key!r}", "leave it out")
    else:
        if task_type not in handler.names and fold(task_type) not in handler.names:
            raise InvalidMessage("taskType", task_type, f"contradicts the routing key {key!r}", "leave it out")
        task_type = handler.task_type
    return new_task(
        handler,
        task_type=task_type,
        body=message.task_body,
        now=now,
        id=message.id or delivery.message_id,
        name=message.task_name,
        unique=message.unique,
        retry_at=retry_at,
        max_attempts=message.max_attempts,
        timeout_seconds=message.timeout_seconds,
        tenant_id=message.tenant_id,
        traceparent=read_traceparent(delivery.headers.get(TRACEPARENT)),
    )


def new_task(
    handler: Handler | None,
    *,
    task_type: str,
    body: dict[str, Any],
    now: datetime,
    id: str | None = None,  # noqa: A002 - the field's name
    name: str | None = None,
    unique: bool | None = None,
    retry_at: datetime | None = None,
    max_attempts: int | None = None,
    timeout_seconds: float | None = None,
    tenant_id: str | None = None,
    traceparent: str | None = None,
) -> Task:
    """A pending task; what is not said comes from the handler, or from the defaults when no handler is known.

    What is said has been checked: it is not checked again.
    """
    if unique is None:
        unique = handler is not None and handler.unique
    if max_attempts is None:
        max_attempts = handler.max_attempts if handler is not None else DEFAULT_MAX_ATTEMPTS
    if timeout_seconds is None:
        timeout_seconds = (handler.timeout if handler is not None else DEFAULT_TIMEOUT).total_seconds()
    return _NEW.model_copy(
        update={
            "id": id or uuid4().hex,
            "task_type": task_type,
            "task_body": body,
            "task_name": name,
            "live_key": live_key(task_type, body, name=name, unique=unique),
            "created_at": now,
            "retry_at": retry_at if retry_at is not None else now,
            "max_attempts": max_attempts,
            "timeout_seconds": timeout_seconds,
            "tenant_id": tenant_id,
            "traceparent": traceparent,
            "history": [],
        }
    )


def invalid_task(delivery: Delivery, error: InvalidMessage | PayloadRefused, now: datetime) -> Task:
    """The dead letter of a message that is no task. Its id is the hash of bytes and properties: a redelivery is the
    same."""
    digest = sha256(delivery.body).hexdigest()
    identity = sha256(f"{digest}\0{delivery.message_id}\0{delivery.routing_key}".encode("utf-8", "replace")).hexdigest()
    complete = len(delivery.body) <= HEAD_BYTES or not isinstance(error, PayloadRefused) or error.field != "message"
    kept = delivery.body if complete else delivery.body[:HEAD_BYTES]
    key = delivery.routing_key
    return Task(
        id=f"{INVALID_PREFIX}{identity[:40]}",
        task_type=key if TASK_TYPE.fullmatch(key) else "invalid",
        task_body={},
        status=TaskStatus.FAILED,
        reason="invalid_message" if isinstance(error, InvalidMessage) else "payload_refused",
        created_at=now,
        retry_at=now,
        finished_at=now,
        relay_at=now + RELAY_SLACK,
        last_error=TaskError(
            type=type(error).__name__,
            message=safe_text(str(error)),
            fingerprint=f"{type(error).__name__}:{safe_text(error.field)}",
            at=now,
        ),
        payload=Payload(
            body=b64encode(kept).decode(),
            size=len(delivery.body),
            sha256=digest,
            complete=complete,
            headers={
                safe_text(name): safe_text(str(value))[:200]
                for name, value in list(clean(delivery.headers).items())[:20]
            },
        ),
    )


def clean(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Headers for a republish: without the broker's own.

    A republished ``x-death`` makes RabbitMQ before 4.0.1 see a cycle and drop the message.
    """
    return {name: value for name, value in headers.items() if not name.lower().startswith("x-")}


def _instant(value: object) -> datetime | None:
    """Epoch milliseconds from a header; None when it is none, which is never trusted further."""
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    try:
        return datetime.fromtimestamp(value / 1000, UTC)
    except (OverflowError, OSError, ValueError):
        return None


# ---- out -----------------------------------------------------------------------------------------


def _milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def for_stored(task: Task, now: datetime) -> Publication:
    """The message for a task whose record exists; by the delay ladder when it is early."""
    return early(
        Publication(
            task_type=task.task_type,
            body=encode({"id": task.id, "taskType": task.task_type}),
            headers={STORED: 1, RETRY_AT: _milliseconds(task.retry_at)},
        ),
        task.retry_at,
        now,
    )


def waits_in_store(retry_at: datetime, now: datetime) -> bool:
    """Whether it is so far off that no message circles for it: relay publishes it in time (P3)."""
    return retry_at - now > DELAY_LADDER[-1]


def early(publication: Publication, retry_at: datetime, now: datetime) -> Publication:
    """The same message, through the ladder when it is not time yet."""
    wait = retry_at - now
    if wait <= timedelta():
        return publication
    return Publication(publication.task_type, publication.body, publication.headers, delay=rung(wait))


def dead_letter(task: Task) -> Publication:
    """The message on the dead-letter exchange: the original payload, with reason and error in the headers."""
    error = task.last_error
    headers = {
        "verger-task-id": task.id,
        "verger-reason": (task.reason or "")[:500],
        "verger-error-type": error.type if error else "",
        "verger-error": (error.message if error else "")[:1000],
        "verger-attempts": task.attempt,
        "verger-created-at": _milliseconds(task.created_at),
        **({TRACEPARENT: task.traceparent} if task.traceparent else {}),
    }
    if task.payload is not None:
        body = task.payload.content
    else:
        fields = {
            "id": task.id,
            "taskType": task.task_type,
            "taskBody": task.task_body,
            "taskName": task.task_name,
            "tenantId": task.tenant_id,
        }
        body = encode({name: value for name, value in fields.items() if value is not None})
    return Publication(task.task_type, body, headers, dead=True)


def marker(task_type: str, at: datetime) -> Publication:
    """What relay sends behind a backlog: whoever meets it knows that everything older is gone (P12)."""
    return Publication(task_type, MARKER_BODY, {MARKER: _milliseconds(at)})
