"""Documents become vectors: cut, embedded, and put in the place of what the store had of them."""

from array import array
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TypeVar

from actors.maintenance.blocking import in_thread
from actors.maintenance.chunks import Chunking, chunks
from actors.maintenance.embedder.port import Embedder, EmbedderRefused
from actors.maintenance.vector_store.port import Vector, VectorStore
from service.errors import VergerError

T = TypeVar("T")

CHUNKS_AT_ONCE = 256
"""Vectors in memory at once."""
HARMLESS = "A quick brown fox jumps over the lazy dog."


CHARACTERS_AT_ONCE = 4_000_000
"""Of documents in memory at once, one more than that apart."""


@dataclass(frozen=True, slots=True)
class Source:
    """A document to index."""

    owner: str
    """Its id."""
    group: str
    text: str


@dataclass(frozen=True, slots=True)
class Indexed:
    """What became of a document."""

    vectors: int
    """0: there was nothing to see in it."""
    error: VergerError | None = None
    """Why it was refused; the store keeps what it had of it."""


async def portions(documents: AsyncIterable[T], length: Callable[[T], int]) -> AsyncIterator[list[T]]:
    """Documents in lists that are not long together: of a database that holds some very long ones, too."""
    portion: list[T] = []
    size = 0
    async for document in documents:
        portion.append(document)
        size += length(document)
        if size >= CHARACTERS_AT_ONCE:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion


class Indexer:
    """Indexes documents of one table. Done twice, or by two at once, it leaves what it leaves when done once."""

    def __init__(self, embedder: Embedder, store: VectorStore, table: str, chunking: Chunking) -> None:
        self._embedder, self._store, self._table, self._chunking = embedder, store, table, chunking

    @property
    def model(self) -> str:
        return self._embedder.model

    async def index(self, sources: Sequence[Source]) -> dict[str, Indexed]:
        """By owner. One document that the embedder refuses hinders no other.

        Raises EmbedderUnavailable, VectorStoreUnavailable, VectorStoreRefused; and EmbedderRefused when the embedder
        refuses even a harmless text, so that it is not the documents' fault. What was indexed by then stays.
        """
        done: dict[str, Indexed] = {}
        waiting: list[tuple[Source, list[Vector]]] = []
        for source in sources:
            cut = await in_thread(self._cut, source)
            if len(cut) + sum(len(each) for _, each in waiting) > CHUNKS_AT_ONCE:
                done |= await self._together(waiting)
                waiting = []
            waiting.append((source, cut))
        return done | await self._together(waiting)

    def _cut(self, source: Source) -> list[Vector]:
        """Vectors that still lack their values."""
        return [
            Vector(
                id=f"{source.owner}:{number}",
                owner=source.owner,
                group=source.group,
                model=self._embedder.model,
                content_hash=sha256(chunk.text.encode()).hexdigest(),
                text=chunk.text,
                values=(),
            )
            for number, chunk in enumerate(chunks(source.text, self._chunking))
        ]

    async def _together(self, batch: Sequence[tuple[Source, list[Vector]]]) -> dict[str, Indexed]:
        """All in one go; one by one where that is refused, or there is but one, which may be of any size."""
        if len(batch) > 1:
            try:
                vectors = await self._embedded([vector for _, cut in batch for vector in cut])
            except EmbedderRefused:
                pass
            else:
                await self._store.replace_owners(self._table, [source.owner for source, _ in batch], vectors)
                return {source.owner: Indexed(len(cut)) for source, cut in batch}
        return {source.owner: await self._alone(source, cut) for source, cut in batch}

    async def _alone(self, source: Source, cut: list[Vector]) -> Indexed:
        try:
            if len(cut) <= CHUNKS_AT_ONCE:
                await self._store.replace_owners(self._table, [source.owner], await self._embedded(cut))
            else:
                await self._in_parts(source, cut)
        except EmbedderRefused as error:
            await self._embedder.embed([HARMLESS])
            return Indexed(0, error)
        return Indexed(len(cut))

    async def _in_parts(self, source: Source, cut: list[Vector]) -> None:
        for start in range(0, len(cut), CHUNKS_AT_ONCE):
            await self._store.put(self._table, await self._embedded(cut[start : start + CHUNKS_AT_ONCE]))
        ids = {vector.id for vector in cut}
        had = await self._store.of_owners(self._table, [source.owner])
        await self._store.delete(self._table, ids=[each.id for each in had if each.id not in ids])

    async def _embedded(self, cut: Sequence[Vector]) -> list[Vector]:
        if not cut:
            return []
        values = await self._embedder.embed([vector.text for vector in cut])
        return [replace(vector, values=array("f", each)) for vector, each in zip(cut, values, strict=True)]
