"""Whatever a publisher sends, it is a task or a dead letter: nothing crashes, hangs or grows without bound."""

import asyncio
import json
import struct
from datetime import UTC, datetime
from typing import Any, cast

import bson
import pytest
from aiormq import Channel, Connection
from aiormq.abc import ChannelFrame
from hypothesis import given, settings, strategies as st
from pamqp import commands
from pamqp.frame import marshal

from service.broker.names import Names
from service.broker.port import MARKER, RETRY_AT, STORED, Publication
from service.broker.rabbitmq import RabbitBroker
from service.clock import SystemClock
from service.envelope import clean, early, invalid_task, marker_of, read
from service.errors import InvalidMessage, PayloadRefused
from service.store.mongo.documents import task_document
from tests.brokers import Inbox
from tests.hostile.child import limited
from tests.hostile.harnesses import CHANNEL, arriving, content, delivered, judged

NOW = datetime(2026, 3, 1, tzinfo=UTC)
LIMIT = 8 * 1024 * 1024
MANY = settings(database=None, max_examples=150)


# ---- bodies and headers ----------------------------------------------------------------------------------------------

header_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.decimals()
    | st.datetimes(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
ours = st.sampled_from(
    [STORED, RETRY_AT, MARKER, "traceparent", "x-death", "x-first-death-queue", "$where", "a.b", "\0"]
)
headers = st.dictionaries(ours | st.text(max_size=10), header_values, max_size=5)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
fields = st.sampled_from(
    [
        "id",
        "taskType",
        "taskBody",
        "taskName",
        "unique",
        "retryAt",
        "delay",
        "maxAttempts",
        "timeoutSeconds",
        "tenantId",
    ]
)
messages = st.dictionaries(fields, json_values | st.sampled_from([{"a": 1}, "report.build", "90s", 5, True, "x"])).map(
    lambda said: json.dumps(said).encode()
)
keys = st.sampled_from(["report.build", "", "invalid", "$where", "a" * 255, "é", "report build", "\0", "verger.replay"])


@MANY
@given(body=messages | st.binary(max_size=60), said=headers, key=keys, message_id=st.none() | st.text(max_size=255))
def test_any_message_is_a_task_or_a_dead_letter(
    body: bytes, said: dict[str, Any], key: str, message_id: str | None
) -> None:
    delivery = delivered(body, said, key=key, message_id=message_id)

    marker_of(delivery)
    judged(delivery)
    early(Publication("report.build", body, clean(said)), NOW, NOW)


NINES = b"9" * 1_000_000
ODD: dict[str, bytes] = {
    "a million lists": b'{"taskBody":{"a":' + b"[" * 1_000_000,
    "a million objects": b'{"a":' * 1_000_000,
    "deep, and closed": b'{"taskBody":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001,
    "a number of a million digits": b'{"taskBody":{"a":' + NINES + b"}}",
    "an exponent of a million digits": b'{"taskBody":{"a":1e' + NINES + b"}}",
    "attempts of a million digits": b'{"maxAttempts":' + NINES + b"}",
    "a delay of a million digits": b'{"delay":"' + NINES + b's"}',
    "a delay in years of a million digits": b'{"delay":"P' + NINES + b'Y"}',
    "an instant of a million digits": b'{"retryAt":' + NINES + b"}",
    "a text of one": b'{"retryAt":"' + NINES + b'"}',
    "before the calendar": b'{"retryAt":"0001-01-01T00:00:00+23:59"}',
    "after it": b'{"retryAt":"9999-12-31T23:59:59-23:59"}',
    "not a number": b'{"taskBody":{"a":NaN}}',
    "infinity": b'{"taskBody":{"a":-Infinity}}',
    "a lone surrogate": b'{"taskBody":{"a":"\\ud800"}}',
    "an id of one": b'{"id":"\\udfff"}',
    "no UTF-8": b'{"taskBody":{"a":"\xff\xfe"}}',
    "overlong UTF-8": b'{"taskBody":{"a":"\xc0\xae\xc0\xae"}}',
    "a NUL in a key": b'{"taskBody":{"\\u0000":1}}',
    "a million commas": b'{"taskBody":{"a":[' + b"," * 1_000_000 + b"]}}",
    "no text": b"",
    "a million spaces": b" " * 1_000_000,
    "a byte order mark": b"\xef\xbb\xbf{}",
    "another encoding": '{"id":"a"}'.encode("utf-16"),
    "an id with a line break": b'{"id":"a\\nb"}',
    "an id that is an object": b'{"id":{"$ne":null}}',
    "a field that is unknown": b'{"$where":"sleep(10000)"}',
}


def test_what_is_made_to_hurt_a_parser_is_a_dead_letter_and_costs_little() -> None:
    assert limited(odd_messages, seconds=30, megabytes=512) == dict.fromkeys(ODD, "dead")


def odd_messages() -> dict[str, str]:
    return {name: judged(delivered(body)) for name, body in ODD.items()}


@pytest.mark.parametrize("depth", [500, 900, 990, 1020])
def test_an_id_as_deep_as_the_parser_reads_is_a_dead_letter(depth: int) -> None:
    """It reads deeper than Python writes such a list."""
    for begin, end in ((b"[", b"]"), (b'{"a":', b"}")):
        body = b'{"id":' + begin * depth + b"1" + end * depth + b"}"
        assert judged(delivered(body, {STORED: 1})) == "dead"


LONG_KEY = b"k" * 200_000


@pytest.mark.parametrize(
    "body",
    [b'{"' + LONG_KEY + b'":1}', b'{"taskBody":{"' + LONG_KEY + b'":{"\\u0000":1}}}'],
    ids=["of the message", "of the body"],
)
def test_a_key_that_somebody_made_long_is_cut_where_an_error_names_it(body: bytes) -> None:
    delivery = delivered(body)
    with pytest.raises((InvalidMessage, PayloadRefused)) as refused:
        read(delivery, None, NOW, LIMIT)

    error = refused.value
    assert isinstance(error, InvalidMessage | PayloadRefused)
    assert len(str(error)) < 500
    dead = invalid_task(delivery, error, NOW)
    assert dead.last_error is not None
    assert len(dead.last_error.fingerprint) < 200


def test_of_a_key_that_stands_twice_the_last_counts_as_everywhere() -> None:
    record = read(delivered(b'{"id":"a","id":"b","taskBody":{"n":1,"n":2}}'), None, NOW, LIMIT).record

    assert record is not None
    assert (record.id, record.task_body) == ("b", {"n": 2})


def test_operators_in_a_body_are_kept_as_the_text_they_are() -> None:
    body = {"$set": {"status": "completed"}, "a.b": {"$ne": None}, "": 1, "$$NOW": "$taskBody"}
    record = read(delivered(json.dumps({"taskBody": body}).encode()), None, NOW, LIMIT).record

    assert record is not None
    assert bson.decode(bson.encode(task_document(record)))["taskBody"] == body


# ---- on the wire -----------------------------------------------------------------------------------------------------

DEEP = 15_000
"""Tables in tables: about 105 kB, which fits into the one frame that headers may take."""


def table(pairs: bytes) -> bytes:
    return struct.pack(">I", len(pairs)) + pairs


def nested(kind: bytes, depth: int) -> bytes:
    """The headers ``{a: {a: {a: …}}}``, or lists in lists."""
    inner = b""
    for _ in range(depth):
        inner = b"\x01aF" + table(inner) if kind == b"F" else b"A" + table(inner)
    return table(inner if kind == b"F" else b"\x01a" + inner)


@pytest.mark.parametrize("kind", [b"F", b"A"], ids=["tables", "lists"])
async def test_headers_of_headers_do_not_cost_the_connection(kind: bytes) -> None:
    arrived = await arriving(content(nested(kind, DEEP), 1 << 13, b"{}"), content(b"", 0, b"[]"))

    assert [each.body for each in arrived] == [b"{}", b"[]"]
    assert dict(arrived[0].headers) == {}


@MANY
@given(properties=st.binary(max_size=80), flags=st.integers(0, 2**16 - 1))
def test_any_properties_are_read_or_left_out(properties: bytes, flags: int) -> None:
    arrived = asyncio.run(arriving(content(properties, flags, b"{}"), content(b"", 0, b"[]")))

    assert [each.body for each in arrived] == [b"{}", b"[]"]


@MANY
@given(
    pairs=st.lists(
        st.tuples(st.binary(max_size=4), st.sampled_from(b"tbBsuIilfdDSATFVxLk\x00"), st.binary(max_size=12))
    )
)
def test_any_table_of_headers_is_read_or_left_out(pairs: list[tuple[bytes, int, bytes]]) -> None:
    raw = table(b"".join(bytes([len(name)]) + name + bytes([kind]) + value for name, kind, value in pairs))
    (arrived,) = asyncio.run(arriving(content(raw, 1 << 13, b"{}")))

    judged(delivered(b"{}", arrived.headers))


async def test_a_message_with_headers_of_headers_is_consumed_and_the_next_ones_too(amqp_url: str, prefix: str) -> None:
    inbox = Inbox()
    names = Names(prefix)
    broker = RabbitBroker(amqp_url, names, SystemClock())
    await broker.open({"report.build": ()})
    try:
        consumer = await broker.consume("report.build", 10, inbox)
        await publish_raw(amqp_url, names.tasks, nested(b"F", DEEP))
        await broker.publish([Publication("report.build", b'{"id":"good"}')])
        bad, good = await inbox.take(2)
        # Not only is it read: with headers that can be read, but not be sent on, it is refused and nothing worse.
        deep: dict[str, Any] = {}
        for _ in range(DEEP):
            deep = {"a": deep}
        assert await broker.publish([Publication("report.build", b"{}", {"a": deep})]) == [False]
        await consumer.ack([bad, good])
        assert (bad.body, dict(bad.headers), good.body) == (b"{}", {}, b'{"id":"good"}')
        assert broker.reconnects == 0
    finally:
        await broker.close()


async def publish_raw(url: str, exchange: str, headers: bytes) -> None:
    """With headers as bytes: no client library could write these."""
    connection = Connection(url)
    await connection.connect()
    try:
        channel = cast("Channel", await connection.channel(publisher_confirms=False))
        method = marshal(commands.Basic.Publish(exchange=exchange, routing_key="report.build"), channel.number)
        assert channel.number == CHANNEL
        frames = ChannelFrame(payload=method + content(headers, 1 << 13, b"{}"), should_close=False)
        await channel.write_queue.put(frames)
        await channel.queue_declare("", exclusive=True)  # an answer: what was written before has been read
    finally:
        await connection.close()
