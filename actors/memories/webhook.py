"""``webhook.deliver``: one message to one endpoint, signed as Standard Webhooks 1.0 says.

Reads ``webhook_endpoints`` and the secret that its ``secretRef`` names; sends a POST; writes ``disabledAt`` and
``disabledReason`` of an endpoint that answers 410; deletes nothing. A file of secrets may hold several, separated by
white space: the message is signed with each, so that one can replace another.

The endpoint decides:

- 2xx: delivered.
- 410: the endpoint is disabled, and the task ends as cancelled, as does one whose endpoint is disabled or removed
  already.
- 429 and 503: tried again, and not before what ``Retry-After`` says, 24 hours at most.
- other 4xx: not tried again.
- anything else, redirects too, and no answer: tried again after 5 s, 5 m, 30 m, 2 h, 5 h, 10 h, 14 h, 20 h and 24 h.

While an endpoint takes longer than 2 s to answer, a worker has ten deliveries to it under way at most; the others come
back within a minute, which burns no attempt.

An endpoint whose address is not public, and not in ``VERGER_HTTP_ALLOW``, is not asked, nor tried again. What is not
delivered in the end is a dead letter, which can be replayed. A message may arrive twice, with the same ``webhook-id``.
"""

import json
import time
from datetime import timedelta
from hashlib import sha256
from typing import Any, NoReturn

from pydantic import Field

from actors import Context, Discard, Retry, actor
from actors.maintenance.database import Document
from actors.maintenance.http import Answer, Http, HttpRefused, HttpUnavailable
from actors.maintenance.http.retry_after import no_sooner, retry_after
from actors.maintenance.secrets import SecretMissing, read_secret
from actors.memories.collections import Collections
from actors.memories.ids import candidates
from actors.memories.signature import BadSecret, read_secrets, sign
from actors.memories.slow_endpoints import SlowEndpoints
from schemas.base import Duration, Model
from service.errors import VergerError
from service.log_events import LogEvent

DELAYS = ("5s", "5m", "30m", "2h", "5h", "10h", "14h", "20h", "24h")
BUSY = (429, 503)
MOST_ANSWER = 4096
"""Bytes of an answer that are read, so that its connection can be used again; nobody looks at them."""
_SLOW = SlowEndpoints()
MESSAGE_ID = r"^[A-Za-z0-9_-]{1,200}$"


class WebhookMessage(Model):
    """Body of ``webhook.deliver``."""

    endpoint_id: str = Field(min_length=1, max_length=200, description="`_id` of the endpoint.")
    payload: dict[str, Any] = Field(description="What is sent, as JSON. Keep it below 20 kB.")
    message_id: str | None = Field(
        None,
        pattern=MESSAGE_ID,
        description="The `webhook-id`, the same for each attempt; by default made from the task's id.",
    )
    timeout: Duration = Field(
        timedelta(seconds=15), ge=timedelta(seconds=1), le=timedelta(seconds=60), description="Of one attempt."
    )
    collections: Collections = Field(Collections(), description="Names of the collections.")


class DeliveryRejected(VergerError):
    """It will never be delivered: the endpoint said so, or what is stored of it is wrong."""


class DeliveryFailed(VergerError):
    """It was not delivered this time."""


@actor(
    "webhook.deliver",
    max_attempts=len(DELAYS) + 1,
    timeout="2m",
    delays=DELAYS,
    non_retryable=(DeliveryRejected, HttpRefused),
)
async def deliver(message: WebhookMessage, ctx: Context) -> dict[str, Any]:
    """Deliver a message to a webhook endpoint."""
    delivery = _Delivery(message, ctx)
    endpoint = await delivery.endpoint()
    began = time.monotonic()
    try:
        with _SLOW.delivery(endpoint["url"]):
            answer = await delivery.send(endpoint)
    except (HttpRefused, HttpUnavailable) as error:
        delivery.log_failure("rejected" if isinstance(error, HttpRefused) else "failed", None, str(error))
        raise
    if not 200 <= answer.status < 300:
        await delivery.refused(endpoint, answer)
    spent = round((time.monotonic() - began) * 1000)
    ctx.log.info(
        LogEvent.WEBHOOK_DELIVERED,
        endpoint=message.endpoint_id,
        message_id=delivery.message_id,
        status="delivered",
        http_status=answer.status,
        duration_ms=spent,
    )
    return {"status": "delivered", "httpStatus": answer.status, "messageId": delivery.message_id}


class _Delivery:
    def __init__(self, message: WebhookMessage, ctx: Context) -> None:
        self._message, self._ctx = message, ctx
        self._endpoints = ctx.resources["memory"][message.collections.webhook_endpoints]
        self.message_id = message.message_id or _message_id(ctx.task.id)

    async def endpoint(self) -> Document:
        """Raises Discard, DeliveryRejected."""
        which = self._message.endpoint_id
        found: Document | None = await self._endpoints.find_one({"_id": {"$in": candidates(which)}})
        if found is None:
            raise Discard(f"there is no endpoint {which!r} any more")
        if found.get("disabledAt") is not None:
            raise Discard(f"the endpoint {which!r} is disabled")
        tenant = self._ctx.task.tenant_id
        if tenant is not None and found.get("tenantId") != tenant:
            raise DeliveryRejected(f"the endpoint {which!r} is not one of the tenant {tenant!r}")
        for field in ("url", "secretRef"):
            if not isinstance(found.get(field), str):
                raise DeliveryRejected(f"the endpoint {which!r} has no {field}")
        return found

    async def send(self, endpoint: Document) -> Answer:
        """Raises HttpRefused, HttpUnavailable; DeliveryFailed: there is no secret to sign it with."""
        body = json.dumps(self._message.payload, ensure_ascii=False, separators=(",", ":")).encode()
        keys = await self._keys(endpoint["secretRef"])
        signed = sign(keys, message_id=self.message_id, at=self._ctx.now(), body=body)
        client: Http = self._ctx.resources["http"]
        return await client.request(
            "POST",
            endpoint["url"],
            headers={"Content-Type": "application/json", **signed},
            body=body,
            timeout=self._message.timeout,
            max_bytes=MOST_ANSWER,
            whole=False,
        )

    async def _keys(self, reference: str) -> list[bytes]:
        try:
            return read_secrets(await read_secret(self._ctx.settings, reference))
        except SecretMissing as error:
            raise DeliveryFailed(str(error)) from None
        except BadSecret as error:
            raise DeliveryFailed(f"the secret {reference!r} is none of a webhook: {error}") from None

    async def refused(self, endpoint: Document, answer: Answer) -> NoReturn:
        """Raises what becomes of the task."""
        status = answer.status
        said = f"the endpoint answered {status}"
        if status == 410:
            await self._disable(endpoint)
            self.log_failure("disabled", status, said)
            raise Discard(f"{said}, and is disabled")
        if 400 <= status < 500 and status not in BUSY:
            self.log_failure("rejected", status, said)
            raise DeliveryRejected(said)
        self.log_failure("failed", status, said)
        if status in BUSY:
            now = self._ctx.now()
            raise Retry(said, after=no_sooner(retry_after(answer.headers, now), DELAYS, self._ctx.task.retry_count))
        raise DeliveryFailed(said)

    async def _disable(self, endpoint: Document) -> None:
        """Unless it has been given another URL meanwhile."""
        await self._endpoints.update_one(
            {"_id": endpoint["_id"], "url": endpoint["url"], "disabledAt": None},
            [{"$set": {"disabledAt": "$$NOW", "disabledReason": "it answered 410"}}],
        )

    def log_failure(self, status: str, http_status: int | None, error: str) -> None:
        self._ctx.log.warning(
            LogEvent.WEBHOOK_FAILED,
            endpoint=self._message.endpoint_id,
            message_id=self.message_id,
            status=status,
            http_status=http_status,
            error=error,
        )


def _message_id(task_id: str) -> str:
    """The same for each attempt of a task; never with a ``.``, which would blur what is signed."""
    return f"msg_{sha256(task_id.encode()).hexdigest()[:32]}"
