"""A database of files, as an uploader fills it."""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

from bson import ObjectId
from motor.motor_asyncio import AsyncIOMotorGridFSBucket

from actors.maintenance.database import Database
from schemas.base import to_instant

OLD = timedelta(hours=2)


def ago(span: timedelta) -> datetime:
    """As MongoDB keeps it."""
    return to_instant(datetime.now(UTC) - span)


def hash_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def blob(
    memory: Database, data: bytes, *, age: timedelta = OLD, condemned: timedelta | None = None, gridfs: bool = False
) -> str:
    """Upload it, of such an age, condemned so long ago; its hash."""
    document: dict[str, Any] = {"_id": hash_of(data), "size": len(data), "createdAt": ago(age)}
    if condemned is not None:
        document["condemnedAt"] = ago(condemned)
    if gridfs:
        document["gridfs"] = ObjectId()
        bucket = AsyncIOMotorGridFSBucket(memory, chunk_size_bytes=1000)
        await bucket.upload_from_stream_with_id(document["gridfs"], document["_id"], data)
    else:
        document["data"] = data
    await memory.blobs.insert_one(document)
    return str(document["_id"])


async def file(memory: Database, path: str, *parts: bytes, kind: str | None = "text/plain") -> None:
    """A file of blobs, which are uploaded unless they are there."""
    blobs = [hash_of(part) for part in parts]
    for part, key in zip(parts, blobs, strict=True):
        if await memory.blobs.count_documents({"_id": key}, limit=1) == 0:
            await blob(memory, part)
    whole = b"".join(parts)
    document = {"_id": path, "blobs": blobs, "size": len(whole), "contentType": kind, "hash": hash_of(whole)}
    await memory.files.replace_one({"_id": path}, document, upsert=True)
