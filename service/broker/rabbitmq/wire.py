"""Messages as bytes on a channel."""

import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from aiormq import Channel
from pamqp import commands
from pamqp.body import ContentBody
from pamqp.exceptions import PAMQPException
from pamqp.frame import marshal
from pamqp.header import ContentHeader

LARGEST_BODY_BYTES = 16 * 1024 * 1024
"""What RabbitMQ takes from 4.0 on unless it is told otherwise; a larger message costs the channel."""

TRANSIENT, PERSISTENT = 1, 2

_DEATHS = ("x-death", "x-first-death-", "x-last-death-")
"""Headers the broker writes when it dead-letters a message. Before 4.0, a message that is sent with them may be taken
for one that goes in circles, and silently dropped."""


class Outgoing(NamedTuple):
    """One message, addressed."""

    exchange: str
    routing_key: str
    body: bytes
    headers: Mapping[str, Any]
    mandatory: bool = True
    """Whether to send it back, which is a refusal, when it reaches no queue."""
    delivery_mode: int = PERSISTENT


class Unencodable(ValueError):
    """A message that the protocol cannot carry; sent all the same, it would cost the channel or the connection."""


def encode(channel: Channel, message: Outgoing, message_id: str | None) -> bytes:
    """All frames of one publish. Raises Unencodable."""
    if len(message.body) > LARGEST_BODY_BYTES:
        raise Unencodable(f"the body has {len(message.body)} bytes")
    try:
        start = _publish_frame(channel.number, message.exchange, message.routing_key, message.mandatory)
        properties = _properties(message, message_id)
        header = marshal(ContentHeader(body_size=len(message.body), properties=properties), channel.number)
    except (TypeError, ValueError, OverflowError, struct.error, PAMQPException) as exc:
        raise Unencodable(str(exc)) from exc
    if len(header) > channel.max_content_size:
        raise Unencodable(f"the headers have {len(header)} bytes")  # unlike a body, they must fit into one frame
    return b"".join((start, header, *_body_frames(message.body, channel)))


def _properties(message: Outgoing, message_id: str | None) -> commands.Basic.Properties:
    headers = {name: value for name, value in message.headers.items() if not name.startswith(_DEATHS)}
    return commands.Basic.Properties(
        content_type="application/json",
        delivery_mode=message.delivery_mode,
        message_id=message_id,
        headers=headers or None,
    )


def _body_frames(body: bytes, channel: Channel) -> list[bytes]:
    size = channel.max_content_size
    return [marshal(ContentBody(body[start : start + size]), channel.number) for start in range(0, len(body), size)]


@lru_cache(maxsize=1024)
def _publish_frame(channel_number: int, exchange: str, routing_key: str, mandatory: bool) -> bytes:
    frame = commands.Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=mandatory)
    return marshal(frame, channel_number)
