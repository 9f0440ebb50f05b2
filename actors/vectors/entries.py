"""The collection ``entries``: its names, its indexes, and what the jobs of the family say about an entry.

An entry is ``{_id, conversationId, conversationGroupId, indexedContent, indexedAt}``; its ``_id`` is a text. The
service that owns it leaves ``indexedAt`` out, or sets it to null, whenever ``indexedContent`` is new. These jobs add
``indexedChunks`` (how many vectors it has), ``indexFailedAt`` and ``indexError``.
"""

from typing import Any

from pydantic import Field
from pymongo import ASCENDING, IndexModel

from actors.maintenance.database import Document
from actors.maintenance.indexes import Indexes
from actors.maintenance.params import CollectionName
from actors.maintenance.vector_store.port import TableName
from schemas.base import Model

INDEXABLE: Document = {"indexedContent": {"$type": "string"}}
"""Entries that have something to index. The index below holds no others."""
FAILED_AFTER = "10m"
"""How long after a failure the vector store, or a text, is tried again."""


RETRY = "vectors.index_retry"


class Collections(Model):
    """A service with its own names gives them here."""

    entries: CollectionName = "entries"


class StoreParams(Model):
    """Where entries and their vectors are."""

    table: TableName = Field("entries", description="Table of the vector store.")
    collections: Collections = Field(Collections(), description="Names of the collections.")

    def place(self) -> dict[str, Any]:
        """As the body of another task on the same entries."""
        return {"table": self.table, "collections": self.collections.model_dump(by_alias=True)}

    @property
    def retry_name(self) -> str:
        """The name of the one ``vectors.index_retry`` on these entries."""
        entries = self.collections.entries
        return RETRY if entries == Collections().entries else f"{RETRY}:{entries}"


def indexes(names: Collections) -> Indexes:
    """For what is not indexed yet: the new first, then what failed longest ago."""
    keys = [("indexedAt", ASCENDING), ("indexFailedAt", ASCENDING), ("_id", ASCENDING)]
    return {names.entries: [IndexModel(keys, name="unindexed", partialFilterExpression=INDEXABLE)]}


def group_of(entry: Document) -> str:
    """What its vectors are deleted by."""
    return str(entry.get("conversationGroupId") or "")
