"""The family ``graph``: nodes whose counts are behind, tags of all kinds, a cache, and jobs that are stuck."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from actors.demo.part import Document, Part

NODES = 12
TAGS = ("place", "plant", "tide", "word")
STUCK = {
    "document_parsing": 45,
    "object_extraction": 90,
    "chunk_embedding": 20,
    "graph_embedding": 20,
    "datasource_sync": 75,
}
"""Kind → minutes in processing, more than it may."""


def parts(now: datetime) -> list[Part]:
    return [
        Part("graph_nodes", list(_nodes()), "their revision counts are behind"),
        Part("node_revisions", list(_revisions(now)), "some of them new"),
        Part("tags", list(_tags(now)), "carried, unused, unused for an hour, in use again"),
        Part("cache", list(_cache(now)), "half of it expired"),
        Part("jobs", list(_jobs(now)), "one of each kind is stuck"),
    ]


def _nodes() -> Iterable[Document]:
    for number in range(NODES):
        yield {"_id": f"demo-node-{number:02}", "tags": [f"demo-{TAGS[number % len(TAGS)]}"], "revisionCount": 0}


def _revisions(now: datetime) -> Iterable[Document]:
    for number in range(NODES):
        for revision in range(1 + number % 4):
            # The last one of each is new: the job looks at nodes that have such.
            ago = timedelta(minutes=1) if revision == 0 else timedelta(days=revision)
            yield {
                "_id": f"demo-revision-{number:02}-{revision}",
                "nodeId": f"demo-node-{number:02}",
                "at": now - ago,
            }


def _tags(now: datetime) -> Iterable[Document]:
    for name in TAGS:
        yield {"_id": f"demo-{name}", "name": name}
    an_hour_ago = {"unusedSince": now - timedelta(hours=1)}
    yield {"_id": "demo-plant-again", "name": "demo-plant", **an_hour_ago}
    for name in ("to-do", "misc", "old"):
        yield {"_id": f"demo-{name}", "name": name, **an_hour_ago}
    yield {"_id": "demo-draft", "name": "draft"}


def _cache(now: datetime) -> Iterable[Document]:
    for number in range(20):
        at = now + timedelta(hours=number - 9.5)
        yield {
            "_id": f"demo-cache-{number:02}",
            "value": {"path": f"/demo/{number}"},
            "expiresAt": at,
            "lastAccessAt": at - timedelta(hours=12),
        }


def _jobs(now: datetime) -> Iterable[Document]:
    for kind, minutes in STUCK.items():
        for name, status, ago in (("stuck", "processing", minutes), ("runs", "processing", 2), ("done", "done", 600)):
            yield {
                "_id": f"demo-{kind}-{name}",
                "kind": kind,
                "status": status,
                "startedAt": now - timedelta(minutes=ago),
                "attempts": 1,
                "error": None,
            }
