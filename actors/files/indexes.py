"""The indexes that serve the family's queries, by what they are for. Files are only ever asked by path."""

from pymongo import ASCENDING, IndexModel

from actors.files.collections import Collections
from actors.maintenance.indexes import Indexes

REFERENCES = "references"
"""Files and snapshots by the blobs that they refer to."""
INVENTORY = "inventory"
"""All that the garbage collector asks of a blob: so that none is read with its data."""
CONDEMNED = "condemned"
"""Condemned blobs, in the order in which they were."""
CHUNKS = "files_id_1_n_1"
"""What GridFS itself has of chunks."""

FIELDS = {CONDEMNED: ("condemnedAt", "_id")}
"""Of the indexes that jobs walk through by their keys."""


def blobs(names: Collections) -> Indexes:
    condemned = {"partialFilterExpression": {"condemnedAt": {"$type": "date"}}}
    return {
        names.files: [_index(REFERENCES, "blobs")],
        names.snapshots: [_index(REFERENCES, "roots")],
        names.blobs: [
            _index(INVENTORY, "_id", "createdAt", "condemnedAt", "size"),
            _index(CONDEMNED, *FIELDS[CONDEMNED], **condemned),
        ],
        f"{names.bucket}.chunks": [_index(CHUNKS, "files_id", "n", unique=True)],
    }


def _index(name: str, *fields: str, **options: object) -> IndexModel:
    return IndexModel([(field, ASCENDING) for field in fields], name=name, **options)
