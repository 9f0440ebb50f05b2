"""What the tests of the family look at: the vector store that the jobs have written to, and entries to begin with."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from actors.maintenance.database import Document
from actors.maintenance.embedder.hashing import Hashing
from actors.maintenance.vector_store.lance import LanceStore

TABLE = "entries"


class Shelf(LanceStore):
    """The store of a data folder, asked in the words of these tests."""

    async def owned(self) -> dict[str, int]:
        """How many vectors each owner has."""
        found: dict[str, int] = {}
        for each in await self.of_owners(TABLE, await self.owners(TABLE)):
            found[each.owner] = found.get(each.owner, 0) + 1
        return found

    async def find(self, text: str) -> list[str]:
        """The owners of what is near to a text, as a search service would ask."""
        (values,) = await Hashing().embed([text])
        return [hit.stored.owner for hit in await self.search(TABLE, values, model=Hashing().model)]


@asynccontextmanager
async def shelf(data_dir: Path) -> AsyncIterator[Shelf]:
    store = Shelf(data_dir / "vectors")
    try:
        yield store
    finally:
        await store.close()


def entry(number: int, *, group: str = "g", content: str | None = "", **fields: object) -> Document:
    text = f"entry {number} speaks of topic{number}" if content == "" else content
    return {
        "_id": f"e{number:03d}",
        "conversationId": f"c{number}",
        "conversationGroupId": group,
        "indexedContent": text,
        **fields,
    }


def entries(count: int, *, begin: int = 0) -> Sequence[Document]:
    return [entry(number) for number in range(begin, begin + count)]
