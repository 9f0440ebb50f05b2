"""The indexes that serve the family's queries: a function for each collection, which takes in all that its jobs ask.

An index is named by what it is for. A job creates those of the collections that it works on:
``await ensure_indexes(memory, memories(names) | audit_log(names))``.
"""

from pymongo import ASCENDING, DESCENDING, IndexModel

from actors.maintenance.indexes import Indexes
from actors.memories.collections import Collections

FADING = "fading"
"""Memories that have not faded to nothing, by tenant and status, oldest first."""
TIERS = "tiers"
"""Memories by tenant, status and tier, in the order of their last use."""
RETENTION = "retention"
"""Memories by tenant and status, in the order in which their time is up."""
RECALLED = "recalled"
"""Memories that were ever recalled, the most recalled first."""
TENANT = "tenant"
"""Rows of a tenant in the order of time: of ``audit_log`` by ``(at, _id)``, as the SIEM cursor counts them."""
EXPIRY = "expiry"
"""Sessions in the order in which they expire."""
RECALLS = "recalls"
"""The recalls of a memory in the order of time."""
RECALLED_SINCE = "recalled_since"
"""The recalls of a tenant in the order of time."""
OWN = "own"
"""Documents of a tenant by id."""
MEMBERS = "members"
"""Memories of a cluster by id."""
TEXTS = "texts"
"""A tenant has each text once; a memory without ``contentHash`` is none of these."""
PENDING = "pending"
"""Candidates that wait, of each tenant in their order; settled ones leave the index."""
DUE = "due"
"""Integrations that are enabled, of each tenant in the order in which they fall due."""

FIELDS = {
    FADING: ("tenantId", "status", "createdAt", "_id"),
    TIERS: ("tenantId", "status", "tier", "lastRecalledAt", "createdAt", "_id"),
    RETENTION: ("tenantId", "status", "retentionExpiresAt", "statusChangedAt", "_id"),
    TENANT: ("tenantId", "at", "_id"),
    EXPIRY: ("refreshExpiresAt", "_id"),
}
"""Of the indexes that jobs walk through by their keys."""


def memories(names: Collections) -> Indexes:
    return {
        names.memories: [
            # What has faded to nothing leaves it, and costs the hourly job no more; a recall does not change it.
            _index(FADING, *FIELDS[FADING], partialFilterExpression={"decayScore": {"$gt": 0}}),
            _index(TIERS, *FIELDS[TIERS]),
            _index(RETENTION, *FIELDS[RETENTION]),
            IndexModel(
                [("tenantId", ASCENDING), ("status", ASCENDING), ("recallCount", DESCENDING)],
                name=RECALLED,
                partialFilterExpression={"recallCount": {"$gt": 0}},
            ),
            _index(OWN, "tenantId", "_id"),
            _index(MEMBERS, "tenantId", "clusterId", "_id"),
        ],
    }


def texts(names: Collections) -> Indexes:
    """Apart from the others of ``memories``: where texts are there twice already, it cannot be made."""
    unique = {"unique": True, "partialFilterExpression": {"contentHash": {"$type": "string"}}}
    return {names.memories: [_index(TEXTS, "tenantId", "contentHash", **unique)]}


def clusters(names: Collections) -> Indexes:
    return {names.clusters: [_index(OWN, "tenantId", "_id")]}


def capture_queue(names: Collections) -> Indexes:
    waiting = {"partialFilterExpression": {"status": "pending"}}
    return {names.capture_queue: [_index(PENDING, "tenantId", "createdAt", "_id", **waiting)]}


def integrations(names: Collections) -> Indexes:
    enabled = {"partialFilterExpression": {"enabled": True}}
    return {names.integrations: [_index(DUE, "tenantId", "nextScheduledSync", "_id", **enabled)]}


def recall_events(names: Collections) -> Indexes:
    return {
        names.recall_events: [
            _index(RECALLS, "tenantId", "memoryId", "at"),
            _index(RECALLED_SINCE, "tenantId", "at", "_id"),
        ]
    }


def audit_log(names: Collections) -> Indexes:
    return {names.audit_log: [_index(TENANT, *FIELDS[TENANT])]}


def auth_sessions(names: Collections) -> Indexes:
    return {names.auth_sessions: [_index(EXPIRY, *FIELDS[EXPIRY])]}


def _index(name: str, *fields: str, **options: object) -> IndexModel:
    return IndexModel([(field, ASCENDING) for field in fields], name=name, **options)
