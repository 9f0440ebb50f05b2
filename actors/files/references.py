"""Which blobs something refers to: files by ``blobs``, snapshots by ``roots``. Both hold ids of blobs."""

from collections.abc import Sequence

from actors.files.collections import Collections
from actors.files.indexes import REFERENCES
from actors.maintenance.database import Database, Document


async def referenced(memory: Database, names: Collections, hashes: Sequence[str]) -> set[str]:
    """Those of these blobs that a file or a snapshot refers to now."""
    found: set[str] = set()
    for collection, field in ((names.files, "blobs"), (names.snapshots, "roots")):
        left = [each for each in hashes if each not in found]
        if left:
            referring = memory[collection].aggregate(among(field, left), hint=REFERENCES)
            found.update([each["_id"] async for each in referring])
    return found


def among(field: str, hashes: Sequence[str]) -> list[Document]:
    """Those of these hashes that are in the array ``field`` of some document."""
    these = {"$match": {field: {"$in": list(hashes)}}}
    return [these, {"$unwind": f"${field}"}, these, {"$group": {"_id": f"${field}"}}]
