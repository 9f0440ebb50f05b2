"""What is known of a file once its text was read, and where that is kept: ``file_index`` and a table of vectors."""

import hashlib
import mimetypes
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any

from pymongo import DeleteMany, ReplaceOne, UpdateOne

from actors.files.collections import Collections
from actors.files.contents import Contents
from actors.files.terms import terms
from actors.files.text import Extractor, extractor
from actors.maintenance.blocking import in_thread
from actors.maintenance.chunks import Chunking, chunks
from actors.maintenance.database import Database, Document
from actors.maintenance.embedder.port import Embedder
from actors.maintenance.vector_store.port import Vector, VectorStore

ASKED = {"blobs": 1, "contentType": 1, "hash": 1}
NOTHING_SAID = ("", "application/octet-stream")
_TYPES = mimetypes.MimeTypes(filenames=())
_TYPES.add_type("text/markdown", ".md")


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of a file is taken in."""

    file_bytes: int
    characters: int
    terms: int
    chunks: int
    chunking: Chunking


@dataclass(frozen=True, slots=True)
class Entry:
    """A file as it was read."""

    path: str
    hash: Any
    """Of the file, as ``files`` says: it tells whether the file has changed since."""
    unsupported: str | None = None
    """Its type, if there is no text to be had from it."""
    characters: int = 0
    truncated: bool = False
    """The file has more than is indexed."""
    terms: Sequence[str] = ()
    chunks: Sequence[str] = ()


@dataclass(slots=True)
class Written:
    """What became of some entries."""

    current: list[str] = field(default_factory=list)
    changed: list[Document] = field(default_factory=list)
    """Files that were written meanwhile: their entries are of what they were."""
    gone: list[str] = field(default_factory=list)
    """Files that were deleted meanwhile; their entries are gone too."""


class Entries:
    """Makes entries, and keeps them. Each write may be repeated."""

    def __init__(
        self, memory: Database, names: Collections, embedder: Embedder, store: VectorStore, table: str, limits: Limits
    ) -> None:
        self._files, self._index = memory[names.files], memory[names.file_index]
        self._contents = Contents(memory, names)
        self._embedder, self._store, self._table, self._limits = embedder, store, table, limits

    async def read(self, file: Document) -> Entry:
        """Read a file and take in its text; in threads, piece by piece. Raises Unreadable."""
        path = str(file["_id"])
        kind = _content_type(file)
        text = extractor(kind, self._limits.characters)
        if text is None:
            return Entry(path, file.get("hash"), unsupported=kind or "unknown")
        left = self._limits.file_bytes
        async with aclosing(self._contents.read(file.get("blobs") or [])) as pieces:
            async for piece in pieces:
                await in_thread(text.feed, piece[:left])
                left -= len(piece)
                if text.full or left < 0:
                    break
        return await in_thread(self._take_in, path, file.get("hash"), text, left < 0)

    def _take_in(self, path: str, content: Any, text: Extractor, cut: bool) -> Entry:
        limits, whole = self._limits, text.end()
        found = list(islice(chunks(whole, limits.chunking), limits.chunks + 1))
        return Entry(
            path,
            content,
            characters=len(whole),
            truncated=cut or text.full or len(found) > limits.chunks,
            terms=terms(whole, limits.terms),
            chunks=[chunk.text for chunk in found[: limits.chunks]],
        )

    async def unchanged(self, files: Sequence[Document]) -> set[str]:
        """The paths of those that are indexed as they are, with the embedder's model."""
        asked = {"_id": {"$in": [file["_id"] for file in files]}}
        known = {each["_id"]: each async for each in self._index.find(asked, {"hash": 1, "model": 1})}
        same = {"model": self._embedder.model}
        return {
            file["_id"]
            for file in files
            if file.get("hash") is not None
            and known.get(file["_id"]) == {"_id": file["_id"], "hash": file["hash"], **same}
        }

    async def write(self, entries: Sequence[Entry], now: datetime) -> Written:
        """Embed and keep them: vectors, then terms, and then the word of the file that it is indexed.

        Raises what the embedder and the vector store raise.
        """
        values = await self._embedder.embed([text for entry in entries for text in entry.chunks])
        vectors = [
            self._vector(entry, number, text, next_values)
            for (entry, number, text), next_values in zip(
                ((entry, *each) for entry in entries for each in enumerate(entry.chunks)), values, strict=True
            )
        ]
        await self._store.replace_owners(self._table, [entry.path for entry in entries], vectors)
        await self._index.bulk_write([self._indexed(entry, now) for entry in entries], ordered=False)
        stamps = [self._stamp(entry, now) for entry in entries]
        if (await self._files.bulk_write(stamps, ordered=False)).matched_count == len(entries):
            return Written(current=[entry.path for entry in entries])
        return await self._look_again(entries)

    async def fail(self, file: str, content: Any, error: str) -> None:
        """Say of a file why it is not indexed; what was known of it stays."""
        await self._files.update_one({"_id": file, "hash": content}, {"$set": {"indexError": error}})

    async def _look_again(self, entries: Sequence[Entry]) -> Written:
        asked = {"_id": {"$in": [entry.path for entry in entries]}}
        files = {each["_id"]: each async for each in self._files.find(asked, ASKED)}
        written = Written()
        for entry in entries:
            file = files.get(entry.path)
            if file is None:
                written.gone.append(entry.path)
            elif file.get("hash") != entry.hash:
                written.changed.append(file)
            else:
                written.current.append(entry.path)
        if written.gone:
            await self._store.delete(self._table, owners=written.gone)
            await self._index.delete_many({"_id": {"$in": written.gone}})
        return written

    def _vector(self, entry: Entry, number: int, text: str, values: Sequence[float]) -> Vector:
        return Vector(
            id=f"{entry.path}#{number}",
            owner=entry.path,
            group=entry.path.rpartition("/")[0] or "/",
            model=self._embedder.model,
            content_hash=hashlib.sha256(text.encode()).hexdigest(),
            text=text,
            values=values,
        )

    def _indexed(self, entry: Entry, now: datetime) -> ReplaceOne[Document] | DeleteMany:
        if entry.unsupported is not None:
            return DeleteMany({"_id": entry.path})
        document = {
            "_id": entry.path,
            "terms": list(entry.terms),
            "characters": entry.characters,
            "truncated": entry.truncated,
            "chunks": len(entry.chunks),
            "hash": entry.hash,
            "model": self._embedder.model,
            "indexedAt": now,
        }
        return ReplaceOne({"_id": entry.path}, document, upsert=True)

    def _stamp(self, entry: Entry, now: datetime) -> UpdateOne:
        same = {"_id": entry.path, "hash": entry.hash}
        if entry.unsupported is not None:
            problem = f"unsupported content type {entry.unsupported}"
            return UpdateOne(same, {"$set": {"indexError": problem}, "$unset": {"indexedAt": ""}})
        return UpdateOne(same, {"$set": {"indexedAt": now, "indexError": None}})


def _content_type(file: Document) -> str:
    said = str(file.get("contentType") or "").strip().lower()
    return _TYPES.guess_type(str(file["_id"]))[0] or said if said in NOTHING_SAID else said
