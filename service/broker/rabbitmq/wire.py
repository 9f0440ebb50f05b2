"""Messages as bytes on a channel."""

import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from aiormq import Channel
from pamqp import commands
from pamqp.constants import FRAME_BODY, FRAME_END_CHAR, FRAME_HEADER, FRAME_METHOD
from pamqp.encode import field_table, short_string
from pamqp.exceptions import PAMQPException
from pamqp.frame import marshal

LARGEST_BODY_BYTES = 16 * 1024 * 1024
"""What RabbitMQ takes from 4.0 on unless it is told otherwise; a larger message costs the channel."""

TRANSIENT, PERSISTENT = 1, 2
_CLASS_BASIC = 60
_CONTENT_TYPE, _HEADERS, _DELIVERY_MODE, _MESSAGE_ID = 1 << 15, 1 << 13, 1 << 12, 1 << 7
_JSON = short_string("application/json")

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
    """All frames of one publish. Raises Unencodable.

    Written out here: the driver's codec looks at each property as if it could be of any type, which costs more than
    all else that is done for a message.
    """
    if len(message.body) > LARGEST_BODY_BYTES:
        raise Unencodable(f"the body has {len(message.body)} bytes")
    try:
        start = _publish_frame(channel.number, message.exchange, message.routing_key, message.mandatory)
        header = _content_header(message, message_id)
    except (TypeError, ValueError, OverflowError, RecursionError, struct.error, PAMQPException) as exc:
        raise Unencodable(str(exc)) from exc
    if len(header) > channel.max_content_size:
        raise Unencodable(f"the headers have {len(header)} bytes")  # unlike a body, they must fit into one frame
    size = channel.max_content_size
    return b"".join(
        (
            start,
            _frame(FRAME_HEADER, channel.number, header),
            *(
                _frame(FRAME_BODY, channel.number, message.body[at : at + size])
                for at in range(0, len(message.body), size)
            ),
        )
    )


def acknowledgement(channel_number: int, tag: int, multiple: bool) -> bytes:
    """Basic.Ack."""
    return _frame(FRAME_METHOD, channel_number, struct.pack(">HHQB", _CLASS_BASIC, 80, tag, multiple))


def requeue(channel_number: int, tag: int, multiple: bool) -> bytes:
    """Basic.Nack with ``requeue``. Not Reject: from 4.3 on, that counts as a failed delivery."""
    return _frame(FRAME_METHOD, channel_number, struct.pack(">HHQB", _CLASS_BASIC, 120, tag, 2 | multiple))


def _frame(kind: int, channel_number: int, payload: bytes) -> bytes:
    return struct.pack(">BHI", kind, channel_number, len(payload)) + payload + FRAME_END_CHAR


def _content_header(message: Outgoing, message_id: str | None) -> bytes:
    """AMQP 0-9-1, 4.2.6.1: class, weight, size of the body, which properties there are, and these in that order."""
    headers = {name: value for name, value in message.headers.items() if not name.startswith(_DEATHS)}
    flags = _CONTENT_TYPE | _DELIVERY_MODE | (_HEADERS if headers else 0) | (_MESSAGE_ID if message_id else 0)
    return b"".join(
        (
            struct.pack(">HHQH", _CLASS_BASIC, 0, len(message.body), flags),
            _JSON,
            _table(headers) if headers else b"",
            struct.pack("B", message.delivery_mode),
            short_string(message_id) if message_id else b"",
        )
    )


def _table(headers: dict[str, Any]) -> bytes:
    # The messages of a batch have mostly the same headers. Only of these types equal values are written equally.
    if all(type(value) in (int, str) for value in headers.values()):
        return _known_table(tuple(headers.items()))
    return field_table(headers)


@lru_cache(maxsize=256)
def _known_table(headers: tuple[tuple[str, Any], ...]) -> bytes:
    return field_table(dict(headers))


@lru_cache(maxsize=1024)
def _publish_frame(channel_number: int, exchange: str, routing_key: str, mandatory: bool) -> bytes:
    frame = commands.Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=mandatory)
    return marshal(frame, channel_number)
