"""Fair among tenants: each gets a batch in turn, so that a long backlog delays nobody else's."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import TypeVar

from actors.maintenance.database import Collection, Document

T = TypeVar("T")

AT_ONCE = 32
"""Tenants between whom it goes round; the next come when one of these is done. Each has a batch in memory meanwhile."""


async def tenants(
    collection: Collection, query: Document | None = None, *, field: str = "tenantId", after: str | None = None
) -> AsyncIterator[str]:
    """The tenants that have a document of this query, in order; one look into an index on ``field`` for each.

    Those up to ``after`` are left out.
    """
    last = after
    while True:
        where = {**(query or {}), field: {"$gt": last if last is not None else ""}}
        found = await collection.find_one(where, {field: 1}, sort=[(field, 1)])
        if found is None:
            return
        last = str(found[field])
        yield last


async def in_turn(
    names: AsyncIterator[str], batches: Callable[[str], AsyncIterator[Sequence[T]]]
) -> AsyncIterator[tuple[str, Sequence[T]]]:
    """A batch of each tenant, then the second of each, and so on until all are done."""
    waiting: list[tuple[str, AsyncIterator[Sequence[T]]]] = []
    more = True
    while True:
        while more and len(waiting) < AT_ONCE:
            try:
                name = await anext(names)
            except StopAsyncIteration:
                more = False
            else:
                waiting.append((name, batches(name)))
        if not waiting:
            return
        left = []
        for name, stream in waiting:
            try:
                batch = await anext(stream)
            except StopAsyncIteration:
                continue
            left.append((name, stream))
            yield name, batch
        waiting = left
