"""The audit rows of a tenant in the order of time, from where a SIEM endpoint has got to."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from bson import MaxKey, MinKey
from bson.codec_options import CodecOptions, DatetimeConversion

from actors.maintenance.database import Collection, Document
from actors.memories.indexes import TENANT
from service.errors import VergerError

CODEC: CodecOptions[Document] = CodecOptions(
    tz_aware=True,
    # A date that Python cannot hold, or a text that is no UTF-8, must not stop a tenant's audit.
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
    unicode_decode_error_handler="replace",
)
SETTLED = timedelta(seconds=30)
"""How far behind now rows are read: one that is committed late, with an earlier time, is not lost behind the cursor."""
MOST_TEXT = 1000


class BadCursor(VergerError):
    """What is stored as the cursor of an endpoint is none."""


@dataclass(frozen=True, slots=True)
class Position:
    """The last row that was sent."""

    at: datetime
    id: Any

    @classmethod
    def of(cls, cursor: object) -> "Position | None":
        """Raises BadCursor."""
        if cursor is None:
            return None
        if isinstance(cursor, dict) and isinstance(cursor.get("at"), datetime) and "id" in cursor:
            return cls(cursor["at"], cursor["id"])
        raise BadCursor("the cursor is not {at: date, id}; unset it to send everything, or write one")

    def cursor(self) -> Document:
        return {"at": self.at, "id": self.id}


@dataclass(frozen=True, slots=True)
class Row:
    """An audit row, as it will be sent."""

    position: Position
    fields: Document
    """Without ``_id``."""
    left_out: int
    """Size of the row if it was too large; only its small texts are here then."""


class AuditRows:
    """Of one tenant, up to an instant."""

    def __init__(self, audit_log: Collection, tenant: str, until: datetime) -> None:
        self._rows = audit_log.with_options(codec_options=CODEC)
        self._tenant, self._until = tenant, until

    async def any(self, after: Position | None) -> bool:
        return bool(await self._find(after, {"_id": 1}, limit=1).to_list(1))

    async def read(self, after: Position | None, *, limit: int, max_bytes: int) -> list[Row]:
        """The next ones. Of a row larger than ``max_bytes`` little more than who, what and when is read."""
        found = await self._find(after, _projection(max_bytes), limit=limit).to_list(limit)
        return [_row(document, max_bytes) for document in found]

    def _find(self, after: Position | None, projection: Document, *, limit: int) -> Any:
        # A range of the index itself: its order holds for ids of any type, which ``$gt`` would not compare.
        first = after or Position(datetime.min.replace(tzinfo=UTC), MinKey())
        others = {"_id": {"$ne": after.id}} if after is not None else {}
        found = self._rows.find(others, projection, sort=[("tenantId", 1), ("at", 1), ("_id", 1)], limit=limit)
        begin: list[Any] = [("tenantId", self._tenant), ("at", first.at), ("_id", first.id)]
        end: list[Any] = [("tenantId", self._tenant), ("at", self._until), ("_id", MaxKey())]
        found.min(begin)
        found.max(end)
        return found.hint(TENANT)


def _projection(max_bytes: int) -> Document:
    size = {"$bsonSize": "$$ROOT"}
    little = {"tenantId": "$tenantId", "at": "$at"} | {name: _short(name) for name in ("actor", "action", "target")}
    return {"at": 1, "size": size, "row": {"$cond": [{"$lte": [size, max_bytes]}, "$$ROOT", little]}}


def _short(name: str) -> Document:
    text = {"$cond": [{"$eq": [{"$type": f"${name}"}, "string"]}, f"${name}", ""]}
    return {"$substrCP": [text, 0, MOST_TEXT]}


def _row(document: Document, max_bytes: int) -> Row:
    fields = document["row"]
    fields.pop("_id", None)
    size = document["size"]
    return Row(Position(document["at"], document["_id"]), fields, size if size > max_bytes else 0)
