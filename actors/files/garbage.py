"""Files of GridFS that go with their blobs, in an order that a crash may cut anywhere.

What is about to be swept is noted, then its blob is deleted, then its file and chunks, and then the note. A note that
is left over tells the next run what there is to do: where the blob is gone, the file goes; where it still refers to the
file, the note goes, unless the blob is still due.

So a blob never refers to a file of which parts are missing. An id in GridFS is used once: an upload gets a new one, as
drivers do it.
"""

from collections.abc import Sequence
from datetime import datetime

from pymongo import ReplaceOne

from actors.files.collections import Collections
from actors.maintenance.database import Database, Document
from actors.maintenance.pages import pages


class Garbage:
    """Of one run, in which blobs are due that were condemned by ``due_until``."""

    def __init__(self, memory: Database, names: Collections, due_until: datetime) -> None:
        self._notes, self._blobs = memory[names.gc_garbage], memory[names.blobs]
        self._files, self._chunks = memory[f"{names.bucket}.files"], memory[f"{names.bucket}.chunks"]
        self._due_until = due_until

    async def note(self, blobs: Sequence[Document]) -> list[Document]:
        """Note the files of blobs that may be swept next; the notes."""
        notes = [{"_id": each["gridfs"], "blob": each["_id"]} for each in blobs if each.get("gridfs") is not None]
        if notes:
            await self._notes.bulk_write([ReplaceOne({"_id": each["_id"]}, each, upsert=True) for each in notes])
        return notes

    async def clear(self, notes: Sequence[Document]) -> None:
        """Remove the files of blobs that are gone, and the notes that say nothing any more."""
        if not notes:
            return
        hashes = [note["blob"] for note in notes]
        asked = {"gridfs": 1, "condemnedAt": 1}
        blobs = {each["_id"]: each async for each in self._blobs.find({"_id": {"$in": hashes}}, asked)}
        gone = [note["_id"] for note in notes if (blobs.get(note["blob"]) or {}).get("gridfs") != note["_id"]]
        await self._files.delete_many({"_id": {"$in": gone}})
        await self._chunks.delete_many({"files_id": {"$in": gone}})
        waiting = [note["_id"] for note in notes if note["_id"] not in gone and self._is_due(blobs[note["blob"]])]
        done = [note["_id"] for note in notes if note["_id"] not in waiting]
        await self._notes.delete_many({"_id": {"$in": done}})

    async def clear_left_over(self, size: int) -> None:
        """What earlier runs did not come to."""
        async for notes in pages(self._notes, {}, size=size):
            await self.clear(notes)

    def _is_due(self, blob: Document) -> bool:
        at = blob.get("condemnedAt")
        return at is not None and at <= self._due_until
