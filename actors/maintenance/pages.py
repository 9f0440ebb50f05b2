"""Reading a collection from end to end, page by page: no cursor stays open while a page is worked on."""

from collections.abc import AsyncIterator
from typing import Any

from actors.maintenance.database import Collection, Document


async def pages(
    collection: Collection,
    query: Document,
    *,
    size: int,
    key: str = "_id",
    after: Any = None,
    projection: Document | None = None,
    hint: str | None = None,
) -> AsyncIterator[list[Document]]:
    """The documents of a query in the order of ``key``, a unique field that an index serves, beginning after ``after``.

    A document that is written meanwhile is seen if its key comes after those that were. The last key of a page is a
    checkpoint: hand it in as ``after`` to go on from there.
    """
    while True:
        where = query if after is None else {"$and": [query, {key: {"$gt": after}}]}
        found = collection.find(where, projection, sort=[(key, 1)], limit=size, hint=hint)
        page = await found.to_list(size)
        if page:
            yield page
            after = page[-1][key]
        if len(page) < size:
            return
