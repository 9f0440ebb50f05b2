"""Deliveries, taken from the stream of a connection before its driver reads them.

For each message the driver builds eleven objects from three frames, hands each frame from one task to another by two
queues, and starts a task for the callback: that costs as much as all else that is done for a task. Here a delivery is
cut out of what came with one read from the socket, and handed over at once. Every other frame goes to the driver as it
came: what is a connection, a channel or a question remains its business.

Frames and properties are those of AMQP 0-9-1, sections 2.3.5 and 4.2.6.1.
"""

import asyncio
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

from pamqp.constants import FRAME_BODY, FRAME_END, FRAME_HEADER, FRAME_HEARTBEAT, FRAME_METHOD
from pamqp.decode import field_table
from pamqp.exceptions import PAMQPException
from pamqp.heartbeat import Heartbeat

READ_BYTES = 256 * 1024
_HEAD = struct.Struct(">BHI")
_KINDS = (FRAME_METHOD, FRAME_HEADER, FRAME_BODY, FRAME_HEARTBEAT)
_DELIVER = struct.pack(">HH", 60, 60)
_CONTENT = struct.Struct(">HHQH")
_CONTENT_TYPE, _HEADERS, _MESSAGE_ID = 1 << 15, 1 << 13, 1 << 7
_BEFORE_MESSAGE_ID = (1 << 10, 1 << 9, 1 << 8)
"""Correlation id, reply-to, expiration: short strings."""
_OCTETS = (1 << 12, 1 << 11)
"""Delivery mode and priority."""
_ALIVE = Heartbeat().marshal()
_LARGEST_CACHED_TABLE = 1024
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Arrival(NamedTuple):
    """One message as it came."""

    tag: int
    """The delivery tag, counted by the channel."""
    routing_key: str
    content_type: str | None
    message_id: str | None
    headers: Mapping[str, Any]
    """Empty when they are no table: strangers may send anything, and it must not cost the connection."""
    body: bytes


@dataclass(slots=True)
class _Arriving:
    """A message of which not all frames are there."""

    tag: int
    routing_key: str
    missing: int = 0
    """Bytes of the body."""
    content_type: str | None = None
    message_id: str | None = None
    headers: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    parts: list[bytes] = field(default_factory=list)


class Tap:
    """Stands between a socket's stream and the driver, which reads from it as from the stream."""

    def __init__(self, stream: asyncio.StreamReader) -> None:
        self._stream = stream
        self._raw = b""
        """The beginning of a frame whose end has not come."""
        self._passed = bytearray()
        """For the driver."""
        self._sorts = True
        self._listeners: dict[int, Callable[[Arrival], None]] = {}
        self._arriving: dict[int, _Arriving] = {}

    def listen(self, channel: int, callback: Callable[[Arrival], None]) -> None:
        """Hand over what is delivered on this channel. ``callback`` must not block and must not raise."""
        self._listeners[channel] = callback

    def ignore(self, channel: int) -> None:
        """Leave what is delivered on this channel to the driver."""
        self._listeners.pop(channel, None)

    # ---- what the driver reads -----------------------------------------------------------------------------------

    def at_eof(self) -> bool:
        return not self._passed and self._stream.at_eof()

    async def readexactly(self, count: int) -> bytes:
        """Raises IncompleteReadError at the end of the stream, and what the stream raises."""
        passed = self._passed
        while len(passed) < count:
            await self._read(count)
        taken = bytes(passed[:count])
        del passed[:count]
        return taken

    async def read(self) -> bytes:
        """All that comes until the end of the stream."""
        taken = bytes(self._passed) + self._raw + await self._stream.read()
        self._passed.clear()
        self._raw = b""
        return taken

    async def _read(self, wanted: int) -> None:
        data = await self._stream.read(READ_BYTES)
        if not data:
            raise asyncio.IncompleteReadError(bytes(self._passed) + self._raw, wanted)
        if self._sorts:
            self._sort(self._raw + data if self._raw else data)
        else:
            self._passed += data

    # ---- frames --------------------------------------------------------------------------------------------------

    def _sort(self, raw: bytes) -> None:
        at, end = 0, len(raw)
        kept_back = False
        while end - at >= _HEAD.size:
            kind, channel, size = _HEAD.unpack_from(raw, at)
            start = at + _HEAD.size
            stop = start + size
            if kind not in _KINDS or (stop < end and raw[stop] != FRAME_END):
                # No frame of this protocol: the driver knows what to say to that.
                self._sorts = False
                self._passed += raw[at:]
                self._raw = b""
                return
            if stop >= end:
                break
            if self._takes(kind, channel, raw, start, stop):
                kept_back = True
            else:
                self._passed += raw[at : stop + 1]
            at = stop + 1
        self._raw = raw[at:]
        if kept_back:
            # The driver would take a connection on which it sees nothing but silence for a dead one.
            self._passed += _ALIVE

    def _takes(self, kind: int, channel: int, raw: bytes, start: int, stop: int) -> bool:
        """Whether the frame was part of a delivery, and is dealt with."""
        arriving = self._arriving.get(channel)
        if kind == FRAME_METHOD:
            if channel in self._listeners and raw.startswith(_DELIVER, start):
                self._arriving[channel] = _delivery(raw, start)
                return True
            return False
        if arriving is None:
            return False
        if kind == FRAME_HEADER:
            _read_content_header(arriving, raw, start, stop)
        else:
            arriving.parts.append(raw[start:stop])
            arriving.missing -= stop - start
        if arriving.missing <= 0:
            del self._arriving[channel]
            self._hand_over(channel, arriving)
        return True

    def _hand_over(self, channel: int, arrived: _Arriving) -> None:
        # Without a listener the channel is about to be closed, and the broker delivers again.
        if (listener := self._listeners.get(channel)) is not None:
            body = arrived.parts[0] if len(arrived.parts) == 1 else b"".join(arrived.parts)
            listener(
                Arrival(
                    arrived.tag, arrived.routing_key, arrived.content_type, arrived.message_id, arrived.headers, body
                )
            )


def _delivery(raw: bytes, start: int) -> _Arriving:
    """Consumer tag, delivery tag, redelivered, exchange, routing key."""
    at = start + 4
    at += 1 + raw[at]
    (tag,) = struct.unpack_from(">Q", raw, at)
    at += 9
    at += 1 + raw[at]
    routing_key, _ = _short_string(raw, at)
    return _Arriving(tag, routing_key)


def _read_content_header(arriving: _Arriving, raw: bytes, start: int, stop: int) -> None:
    _, _, arriving.missing, flags = _CONTENT.unpack_from(raw, start)
    try:
        _read_properties(arriving, raw[start + _CONTENT.size : stop], flags)
    except (ValueError, IndexError, KeyError, struct.error, PAMQPException, RecursionError):
        # It is what a stranger sent, perhaps thousands of tables deep: a message that says nothing of itself.
        arriving.headers = _NOTHING


def _read_properties(arriving: _Arriving, data: bytes, flags: int) -> None:
    at = 0
    if flags & _CONTENT_TYPE:
        arriving.content_type, at = _short_string(data, at)
    if flags & 1 << 14:  # the encoding of the content
        at += 1 + data[at]
    if flags & _HEADERS:
        end = at + 4 + int.from_bytes(data[at : at + 4], "big")
        arriving.headers = _table(data[at:end])
        at = end
    at += sum(1 for octet in _OCTETS if flags & octet)
    for text in _BEFORE_MESSAGE_ID:
        if flags & text:
            at += 1 + data[at]
    if flags & _MESSAGE_ID:
        arriving.message_id, at = _short_string(data, at)


def _short_string(data: bytes, at: int) -> tuple[str, int]:
    end = at + 1 + data[at]
    # Escaped and not replaced: different bytes are different texts.
    return data[at + 1 : end].decode("utf-8", "backslashreplace"), end


def _table(data: bytes) -> Mapping[str, Any]:
    return _known_table(data) if len(data) <= _LARGEST_CACHED_TABLE else _decoded(data)


def _decoded(data: bytes) -> Mapping[str, Any]:
    return MappingProxyType(field_table(data)[1])


# The messages of a batch have mostly the same headers.
_known_table = lru_cache(maxsize=256)(_decoded)
