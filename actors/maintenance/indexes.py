"""Each family declares the indexes that serve its queries; its jobs create what is missing."""

from collections.abc import Mapping, Sequence

from pymongo import IndexModel

from actors.maintenance.database import Database

Indexes = Mapping[str, Sequence[IndexModel]]
"""Collection → its indexes, each with a name."""


async def ensure_indexes(database: Database, wanted: Indexes) -> None:
    """Create what is missing: a round trip for each collection, and no more, when all are there."""
    for collection, indexes in wanted.items():
        if indexes:
            await database[collection].create_indexes(list(indexes))
