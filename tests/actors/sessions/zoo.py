"""A database with one of everything that MongoDB can keep, and a look at a database that misses nothing."""

import re
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import bson
from bson import Binary, Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp, json_util
from bson.datetime_ms import DatetimeMS
from bson.raw_bson import RawBSONDocument

from actors.maintenance.database import Client, Database
from actors.sessions.backup.mongodb import EXACT, RAW, list_collections

HOSTILE = [
    "with/slash",
    "..a..b..".strip("."),
    "dots.",
    "a b%2F\\c",
    "-rf --no-preserve-root",
    "new\nline",
    "ünïcödé 日本",
    "x" * 200,
    "é" * 100,
    "[red]markup[/red]",
]

EVERY_TYPE: dict[str, Any] = {
    "double": -0.0,
    "infinite": float("inf"),
    "string": "grüße \0 🗓",
    "": {"": [[], {}, [[[]]]]},
    "array": [1, "two", {"three": 3.0}],
    "binary": Binary(b"\x00\xff"),
    "binary_user": Binary(b"x", 128),
    "uuid": Binary.from_uuid(UUID(int=7)),
    "old_uuid": Binary(bytes(16), 3),
    "id": ObjectId("0123456789abcdef01234567"),
    "true": True,
    "date": datetime(2026, 3, 1, tzinfo=UTC),
    "date_before_time": DatetimeMS(-(2**62)),
    "date_after_time": DatetimeMS(2**62),
    "null": None,
    "regex": Regex("^a.*b$", re.IGNORECASE | re.MULTILINE),
    "ref": DBRef("other", 1, "somewhere"),
    "code": Code("return 1"),
    "code_with_scope": Code("return x", {"x": 1}),
    "int": 2**31 - 1,
    "timestamp": Timestamp(1, 2),
    "long": Int64(5),
    "longest": Int64(-(2**63)),
    "decimal": Decimal128("1E-6176"),
    "min": MinKey(),
    "max": MaxKey(),
    "dotted.name": {"$set": 1, "a.b": 2},
}


def element(kind: int, name: bytes, value: bytes) -> bytes:
    return bytes([kind]) + name + b"\0" + value


def document(*elements: bytes) -> RawBSONDocument:
    body = b"".join(elements)
    return RawBSONDocument((len(body) + 5).to_bytes(4, "little") + body + b"\0", RAW)


OLD_TYPES = document(
    element(0x10, b"_id", (99).to_bytes(4, "little")),
    element(0x06, b"undefined", b""),
    element(0x0E, b"symbol", b"\x02\0\0\0a\0"),
    element(0x0C, b"pointer", b"\x02\0\0\0a\0" + bytes(12)),
    element(0x02, b"no utf-8", b"\x03\0\0\0\xff\xfe\0"),
    element(0x10, b"twice", (1).to_bytes(4, "little")),
    element(0x10, b"twice", (2).to_bytes(4, "little")),
)
"""What no driver writes any more, and servers still keep."""


async def fill(database: Database) -> None:
    """Documents, options and indexes of every kind."""
    await database.every.insert_many([{"_id": n, **EVERY_TYPE} for n in range(3)])
    await database.every.insert_one(EVERY_TYPE | {"_id": {"nested": ObjectId()}})
    await database.command({"insert": "every", "documents": [OLD_TYPES]})
    await database.every.insert_one({"_id": "stamped", "inner": {"at": Timestamp(0, 0)}})
    await database.every.update_one({"_id": "stamped"}, {"$set": {"at": Timestamp(0, 0)}})
    await database.large.insert_many([{"_id": n, "bytes": bytes((16 - 13 * n) * 1024 * 1024 - 40)} for n in range(2)])
    await database.many.insert_many([{"n": n, "text": f"line {n} " * (n % 30)} for n in range(3000)])
    await database.create_collection("empty")
    await database.create_collection("capped", capped=True, size=100_000, max=50)
    await database.capped.insert_many([{"_id": n} for n in range(70, 0, -1)])
    await database.create_collection("clustered", clusteredIndex={"key": {"_id": 1}, "unique": True, "name": "own"})
    await database.clustered.insert_many([{"_id": n} for n in (3, 1, 2)])
    await database.create_collection("french", collation={"locale": "fr"})
    await database.create_collection("strict")
    await database.strict.insert_one({"_id": 1, "older": "than the rule"})
    await database.command(
        {"collMod": "strict", "validator": {"name": {"$type": "string"}}, "validationAction": "error"}
    )
    await database.create_collection("weather", timeseries={"timeField": "at", "metaField": "place"})
    await database.weather.insert_many(
        [{"at": datetime(2026, 3, 1, 0, n, tzinfo=UTC), "place": n % 3, "degrees": n} for n in range(40)]
    )
    await database.weather.create_index([("place", 1), ("at", -1)])
    await database.create_collection("seen", viewOn="many", pipeline=[{"$match": {"n": {"$lt": 3}}}])
    await database["system.js"].insert_one({"_id": "twice", "value": Code("function (x) { return 2 * x }")})
    for number, name in enumerate(HOSTILE):
        await database.command({"insert": name, "documents": [{"_id": number, "name": name}]})
    await index(database)


async def index(database: Database) -> None:
    many = database.many
    await many.create_index([("n", -1), ("text", 1)], unique=True, name="two of them")
    await many.create_index([("text", "text")], weights={"text": 3}, default_language="german")
    await many.create_index([("place", "2dsphere")])
    await many.create_index([("$**", 1)], wildcardProjection={"secret": 0})
    await many.create_index([("n", "hashed")], hidden=True)
    await many.create_index("old", expireAfterSeconds=3600)
    await many.create_index("part", unique=True, partialFilterExpression={"part": {"$exists": True}})
    await many.create_index("sparse", sparse=True, collation={"locale": "de", "strength": 1})


async def look(client: Client, name: str) -> dict[str, Any]:
    """Everything in a database: for each collection its options, indexes and raw documents, in their order."""
    database = client[name]
    seen: dict[str, Any] = {}
    for each in await list_collections(database):
        raw: list[bytes] = []
        indexes: list[Any] = []
        if each.data is not None:
            raw = await _raw(database, each.data)
            reply = await database.command({"listIndexes": each.name}, codec_options=EXACT)
            indexes = sorted(json_util.dumps(index) for index in reply["cursor"]["firstBatch"])
        seen[each.name] = {"type": each.type, "options": bson.encode(each.options), "indexes": indexes, "raw": raw}
    return seen


async def _raw(database: Database, name: str) -> list[bytes]:
    reply, batch = await database.command({"find": name}, codec_options=RAW), "firstBatch"
    found = []
    while True:
        found += [each.raw for each in reply["cursor"][batch]]
        if not reply["cursor"]["id"]:
            return found
        more = {"getMore": reply["cursor"]["id"], "collection": name}
        reply, batch = await database.command(more, codec_options=RAW), "nextBatch"
