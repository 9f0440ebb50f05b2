"""Deliveries are cut out of a stream, however it is cut into reads; the driver sees all the rest as it came."""

import asyncio
import struct
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, strategies as st
from pamqp import commands
from pamqp.body import ContentBody
from pamqp.frame import marshal
from pamqp.header import ContentHeader
from pamqp.heartbeat import Heartbeat

from service.broker.rabbitmq.tap import Arrival, Tap

CHANNEL = 3
ALIVE = Heartbeat().marshal()
PROPERTIES: dict[str, Any] = {
    "content_type": "application/json",
    "content_encoding": "utf-8",
    "delivery_mode": 2,
    "priority": 5,
    "correlation_id": "c",
    "reply_to": "r",
    "expiration": "60000",
    "message_id": "order-7",
    "timestamp": datetime(2026, 1, 2, tzinfo=UTC),
    "message_type": "t",
    "user_id": "guest",
    "app_id": "a",
}
HEADERS: dict[str, Any] = {
    "traceparent": "00-ab",
    "n": 7,
    "big": 2**40,
    "flag": True,
    "list": [1, {"a": None}],
}


def delivery(tag: int, body: bytes, *, channel: int = CHANNEL, part: int = 1000, **properties: Any) -> bytes:
    """All frames of a delivery, as the driver's own codec writes them."""
    method = commands.Basic.Deliver("consumer", tag, False, "verger.tasks", "mail.send")
    header = ContentHeader(body_size=len(body), properties=commands.Basic.Properties(**properties))
    frames: list[Any] = [method, header, *(ContentBody(body[at : at + part]) for at in range(0, len(body), part))]
    return b"".join(marshal(frame, channel) for frame in frames)


async def tapped(data: bytes, cut: int, *channels: int) -> tuple[list[Arrival], bytes]:
    """What arrives on these channels, and what the driver reads, of a stream that comes ``cut`` bytes at a time."""
    stream = asyncio.StreamReader()
    tap = Tap(stream)
    arrived: list[Arrival] = []
    for channel in channels:
        tap.listen(channel, arrived.append)
    passed = bytearray()

    async def drive() -> None:
        while not tap.at_eof():
            try:
                passed.extend(await tap.readexactly(1))
            except asyncio.IncompleteReadError as error:
                passed.extend(error.partial)
                return

    driver = asyncio.create_task(drive())
    for at in range(0, len(data), cut):
        stream.feed_data(data[at : at + cut])
        await asyncio.sleep(0)
    stream.feed_eof()
    await driver
    return arrived, bytes(passed)


@pytest.mark.parametrize("cut", [1, 7, 8, 100, 100_000])
async def test_deliveries_are_handed_over_and_the_rest_is_left_to_the_driver(cut: int) -> None:
    rest = [
        marshal(commands.Connection.Blocked("memory"), 0),
        marshal(commands.Basic.Ack(4, True), 1),
        marshal(commands.Basic.CancelOk("consumer"), CHANNEL),
    ]
    large = bytes(range(256)) * 20
    data = b"".join(
        [
            rest[0],
            delivery(1, b"{}", **PROPERTIES, headers=HEADERS),
            rest[1],
            delivery(2, b""),
            delivery(3, large, headers={"a": 1}),
            rest[2],
            ALIVE,
        ]
    )

    arrived, passed = await tapped(data, cut, CHANNEL)

    assert arrived == [
        Arrival(1, "mail.send", "application/json", "order-7", HEADERS, b"{}"),
        Arrival(2, "mail.send", None, None, {}, b""),
        Arrival(3, "mail.send", None, None, {"a": 1}, large),
    ]
    assert passed.replace(ALIVE, b"") == b"".join(rest)


async def test_the_driver_sees_a_sign_of_life_for_what_is_kept_from_it() -> None:
    arrived, passed = await tapped(delivery(1, b"{}") * 50, 100_000, CHANNEL)

    assert len(arrived) == 50
    assert passed == ALIVE


async def test_what_comes_on_other_channels_or_as_other_content_is_the_driver_s() -> None:
    returned = marshal(commands.Basic.Return(312, "NO_ROUTE", "", "nowhere"), CHANNEL) + delivery(1, b"{}")[41:]
    elsewhere = delivery(1, b"{}", channel=CHANNEL + 1)

    arrived, passed = await tapped(elsewhere, 100, CHANNEL)
    assert (arrived, passed) == ([], elsewhere)
    _, passed = await tapped(returned, 100, CHANNEL)
    assert passed.startswith(marshal(commands.Basic.Return(312, "NO_ROUTE", "", "nowhere"), CHANNEL))


async def test_two_channels_may_interleave_their_frames() -> None:
    first, second = delivery(1, b"a" * 50, part=10), delivery(9, b"b" * 50, channel=4, part=10)
    cut = len(first) - 2 * 18  # before its last two frames
    arrived, _ = await tapped(first[:cut] + second + first[cut:], 1000, CHANNEL, 4)

    assert sorted((arrival.tag, arrival.body) for arrival in arrived) == [(1, b"a" * 50), (9, b"b" * 50)]


async def test_a_delivery_half_way_when_nobody_listens_any_more_is_dropped_and_costs_nothing() -> None:
    stream = asyncio.StreamReader()
    tap = Tap(stream)
    arrived: list[Arrival] = []
    tap.listen(CHANNEL, arrived.append)
    data = delivery(1, b"{}")
    after = marshal(commands.Channel.CloseOk(), CHANNEL)
    stream.feed_data(data[:-5])
    reading = asyncio.create_task(tap.readexactly(len(ALIVE)))
    assert await reading == ALIVE  # for the frames that are there
    tap.ignore(CHANNEL)
    stream.feed_data(data[-5:] + after)

    assert await tap.readexactly(len(after) + len(ALIVE)) == after + ALIVE
    assert arrived == []


@pytest.mark.parametrize(
    "properties",
    [
        struct.pack(">HHQH", 60, 0, 2, 1 << 13) + struct.pack(">I", 9) + b"\x01aQ\x00\x00",
        struct.pack(">HHQH", 60, 0, 2, 1 << 13) + struct.pack(">I", 2**31) + b"\x01a",
        struct.pack(">HHQH", 60, 0, 2, 1 << 15) + b"\xff",
        struct.pack(">HHQH", 60, 0, 2, 1 << 7) + b"\x02\xff\xfe",
        struct.pack(">HHQH", 60, 0, 2, 0xFFFF),
    ],
    ids=["unknown kind of value", "longer than its frame", "cut text", "no UTF-8", "all flags and no values"],
)
async def test_properties_that_are_none_do_not_cost_the_connection(properties: bytes) -> None:
    frames = delivery(1, b"{}")
    start = frames.index(struct.pack(">BHI", 2, CHANNEL, 14))
    header = struct.pack(">BHI", 2, CHANNEL, len(properties)) + properties + b"\xce"
    data = frames[:start] + header + frames[start + 22 :] + delivery(2, b"[]")

    arrived, _ = await tapped(data, 1000, CHANNEL)

    assert [(arrival.tag, arrival.body) for arrival in arrived] == [(1, b"{}"), (2, b"[]")]
    assert dict(arrived[0].headers) == {}


async def test_a_peer_that_speaks_another_protocol_is_the_driver_s_to_answer() -> None:
    for data in (
        b"AMQP\x00\x00\x09\x01",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        marshal(commands.Basic.Ack(4), 1)[:-1] + b"!!",
    ):
        arrived, passed = await tapped(data, 5, CHANNEL)
        assert (arrived, passed) == ([], data)


@given(
    bodies=st.lists(st.binary(max_size=60), max_size=6),
    texts=st.lists(st.text(max_size=20), min_size=6, max_size=6),
    cut=st.integers(1, 90),
)
def test_it_reads_what_the_driver_s_codec_writes(bodies: list[bytes], texts: list[str], cut: int) -> None:
    said = list(zip(range(1, 7), texts, bodies, strict=False))
    data = b"".join(delivery(tag, body, part=25, message_id=text, headers={text: text}) for tag, text, body in said)

    arrived, _ = asyncio.run(tapped(data, cut, CHANNEL))

    assert [(each.tag, each.message_id or "", dict(each.headers), each.body) for each in arrived] == [
        (tag, text, {text: text}, body) for tag, text, body in said
    ]
