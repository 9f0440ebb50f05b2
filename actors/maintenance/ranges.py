"""Walking through a stretch of an index by its keys: what lies outside is not touched, nor are the documents inside."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from random import Random
from typing import Any

from bson import MaxKey, MinKey

from actors.maintenance.database import Collection, Document

OLDEST = datetime(1, 1, 1, tzinfo=UTC)
"""No date comes before it; null, numbers and texts do."""
BEYOND = MaxKey()
"""Nothing comes after it."""
PAGE = 20
"""Neighbours in a sample: the more, the fewer queries, and the less it says."""


async def keys(
    collection: Collection,
    index: str,
    fields: Sequence[str],
    first: Sequence[Any],
    beyond: Sequence[Any],
    *,
    size: int,
    query: Document | None = None,
) -> AsyncIterator[list[Document]]:
    """The keys of an index from ``first`` up to ``beyond``, without that, in pages; each is a document of ``fields``.

    The last field of the index is ``_id``: so that each page begins where the last one ended, whatever was written
    meanwhile. A document whose key has moved on is seen again; one that has an array in a field has several keys, and a
    missing field has the key null. For a partial index, ``query`` says what the index says.

    Args:
        first: Values of the first fields of the index; the others are open. So is ``beyond``.
        query: Only documents that match it. Those within the stretch are then looked at.
    """
    after, end = _bound(fields, first), _bound(fields, beyond)
    last: Document | None = None
    while True:
        # The lower bound is included: the last key is met once more, if it is still there.
        limit = size if last is None else size + 1
        found = collection.find(query or {}, hint=index, return_key=True, limit=limit, batch_size=limit)
        found = found.min(after).max(end)
        page: list[Document] = await found.to_list(limit)
        more = len(page) == limit
        page = page[1:] if page and page[0] == last else page[:size]
        if page:
            yield page
            last = page[-1]
            after = [(field, last[field]) for field in fields]
        if not more:
            return


async def sample(
    collection: Collection,
    index: str,
    fields: Sequence[str],
    first: Sequence[Any],
    beyond: Sequence[Any],
    *,
    total: int,
    size: int,
    random: Random,
) -> AsyncIterator[list[Document]]:
    """About ``size`` keys of such a stretch, or all: pages of neighbours at random distances, in order.

    Args:
        total: How many keys there are, about.
        random: The same state and the same keys give the same sample.
    """
    pages = -(-total // PAGE)
    chosen = sorted(random.sample(range(pages), min(pages, max(1, size // PAGE))))
    after, end, place = _bound(fields, first), _bound(fields, beyond), 0
    for begin in (number * PAGE for number in chosen):
        found = collection.find({}, hint=index, return_key=True, skip=begin - place, limit=PAGE).min(after).max(end)
        page: list[Document] = await found.to_list(PAGE)
        if not page:
            return
        yield page
        after, place = [(field, page[-1][field]) for field in fields], begin + len(page) - 1


def _bound(fields: Sequence[str], values: Sequence[Any]) -> list[tuple[str, Any]]:
    return list(zip(fields, [*values, *[MinKey()] * (len(fields) - len(values))], strict=True))
