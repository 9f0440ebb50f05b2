"""Reading a file: its blobs one after the other, in pieces, inline or from GridFS."""

from collections.abc import AsyncGenerator, Sequence
from typing import Any

from gridfs.errors import GridFSError
from motor.motor_asyncio import AsyncIOMotorGridFSBucket

from actors.files.collections import Collections
from actors.maintenance.database import Database
from service.errors import VergerError

PIECE = 64 * 1024


class Unreadable(VergerError):
    """A file cannot be put together from its blobs."""


class Contents:
    """Of the files of a database."""

    def __init__(self, memory: Database, names: Collections) -> None:
        self._blobs = memory[names.blobs]
        self._bucket = AsyncIOMotorGridFSBucket(memory, names.bucket)

    async def read(self, blobs: Sequence[str]) -> AsyncGenerator[bytes, None]:
        """In pieces of at most ``PIECE``. An inline blob is in memory as a whole, as large as a document may be.

        Raises Unreadable.
        """
        for key in blobs:
            blob = await self._blobs.find_one({"_id": key}, {"data": 1, "gridfs": 1})
            if blob is None:
                raise Unreadable(f"blob {key} is missing")
            data, stored = blob.get("data"), blob.get("gridfs")
            if isinstance(data, bytes):
                for start in range(0, len(data), PIECE):
                    yield data[start : start + PIECE]
            elif stored is not None:
                async for piece in self._stored(key, stored):
                    yield piece
            else:
                raise Unreadable(f"blob {key} has neither data nor a file in GridFS")

    async def _stored(self, key: str, stored: object) -> AsyncGenerator[bytes, None]:
        try:
            stream: Any = await self._bucket.open_download_stream(stored)
            while piece := await stream.read(PIECE):
                yield piece
        except GridFSError as error:
            raise Unreadable(f"blob {key} cannot be read from GridFS: {error}") from error
