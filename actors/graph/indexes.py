"""The indexes that serve the family's queries, by what they are for."""

from pymongo import ASCENDING, IndexModel

from actors.graph.collections import Collections
from actors.maintenance.indexes import Indexes

RECENT = "recent"
"""Revisions in the order of time, with their nodes."""
NODE = "node"
"""Revisions by node, to be counted."""
CARRIED = "carried"
"""What carries a tag."""
UNUSED = "unused"
"""Tags that nothing carried, in the order in which that was seen."""
EXPIRY = "expiry"
"""Cache entries in the order in which they expire."""
ACCESS = "access"
"""Cache entries, the longest untouched first."""
STATUS = "status"
"""Jobs by status and kind, the longest started first."""

FIELDS = {
    UNUSED: ("unusedSince", "_id"),
    EXPIRY: ("expiresAt", "_id"),
    ACCESS: ("lastAccessAt", "_id"),
    STATUS: ("status", "kind", "startedAt", "_id"),
}
"""Of the indexes that jobs walk through by their keys."""


def revisions(names: Collections) -> Indexes:
    return {names.node_revisions: [_index(RECENT, "at", "nodeId"), _index(NODE, "nodeId")]}


def tags(names: Collections, carriers: tuple[str, ...]) -> Indexes:
    seen = {"partialFilterExpression": {"unusedSince": {"$type": "date"}}}
    return {
        names.tags: [_index(UNUSED, *FIELDS[UNUSED], **seen)],
        **{carrier: [_index(CARRIED, "tags", "_id")] for carrier in carriers},
    }


def cache(names: Collections) -> Indexes:
    return {names.cache: [_index(EXPIRY, *FIELDS[EXPIRY]), _index(ACCESS, *FIELDS[ACCESS])]}


def jobs(names: Collections) -> Indexes:
    return {names.jobs: [_index(STATUS, *FIELDS[STATUS])]}


def _index(name: str, *fields: str, **options: object) -> IndexModel:
    return IndexModel([(field, ASCENDING) for field in fields], name=name, **options)
