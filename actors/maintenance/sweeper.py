"""Removing what nothing uses, although somebody may be about to use it: condemned first, swept a grace period later.

A document that nothing uses gets the time at which that was seen. Who is about to use one takes that time away, and
then has the grace period for it::

    found = await collection.update_one({"_id": key}, {"$unset": {field: ""}})
    if not found.matched_count:
        ...  # it is gone: make it anew

Both are one atomic change of the same document, and a document is deleted only with the time that was seen before: what
was taken in time is not deleted, and what was deleted in time is made anew. Whoever uses one without taking it is safe
too, unless that happens between the last look and the deletion, some milliseconds after a whole grace period.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from actors.maintenance.database import Collection, Document

Used = Callable[[Sequence[Document]], Awaitable[set[Any]]]
"""The ids of those among some documents that something uses now."""


@dataclass(slots=True)
class Marked:
    """What became of some documents."""

    used: int = 0
    condemned: int = 0
    pardoned: int = 0
    """Condemned before, and used now."""
    spared: int = 0
    """Unused, and not to be condemned as yet."""
    due: list[Document] = field(default_factory=list)
    """Condemned a grace period before this run, and still unused."""


class Sweeper:
    """Of one run. ``key`` is the field that keeps the time."""

    def __init__(
        self,
        collection: Collection,
        key: str,
        used: Used,
        *,
        due_until: datetime,
        clock: Callable[[], datetime],
        spare: Callable[[Document], bool] = lambda _: False,
    ) -> None:
        """
        Args:
            due_until: What was condemned by then may be swept: a grace period before the run began.
            spare: What it is true of is not condemned.
        """
        self._collection, self._key, self._used = collection, key, used
        self._clock, self._spare = clock, spare
        self.due_until = due_until

    async def mark(self, page: Sequence[Document], *, write: bool = True) -> Marked:
        """Condemn those of a page that nothing uses; pardon those that something uses. The time must be loaded."""
        used, now = await self._used(page), self._clock()
        marked, pardoned, condemned = Marked(), [], []
        for each in page:
            at = each.get(self._key)
            if each["_id"] in used:
                marked.used += 1
                if at is not None:
                    pardoned.append(each["_id"])
            elif at is not None and at <= now:
                if at <= self.due_until:
                    marked.due.append(each)
            elif at is None and self._spare(each):
                marked.spared += 1
            else:
                # For the first time; or anew, for its time has not come: the clock was set back.
                condemned.append(each["_id"])
        marked.pardoned, marked.condemned = len(pardoned), len(condemned)
        if write and pardoned:
            await self._collection.update_many({"_id": {"$in": pardoned}}, {"$unset": {self._key: ""}})
        if write and condemned:
            not_yet = {"_id": {"$in": condemned}, self._key: {"$not": {"$lte": now}}}
            await self._collection.update_many(not_yet, {"$set": {self._key: now}})
        return marked

    async def sweep(self, page: Sequence[Document]) -> list[Document]:
        """Look again at documents that are due, and delete those that still are, and unused; answers which.

        One that another run deletes at the same moment may be told by both.
        """
        used = await self._used(page)
        unused = [each for each in page if each["_id"] not in used]
        ids = [each["_id"] for each in unused]
        deleted = await self._collection.delete_many({"_id": {"$in": ids}, self._key: {"$lte": self.due_until}})
        if deleted.deleted_count == len(ids):
            return unused
        left = {each["_id"] async for each in self._collection.find({"_id": {"$in": ids}}, {"_id": 1})}
        return [each for each in unused if each["_id"] not in left]
