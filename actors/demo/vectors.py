"""The family ``vectors``: a conversation store's entries, and a vector whose entry is gone."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from hashlib import sha256

from actors.demo.part import Document, Part
from actors.demo.tenants import TENANTS
from actors.maintenance.embedder.port import Embedder
from actors.maintenance.vector_store.port import Vector, VectorStore

TABLE = "entries"
ORPHAN, LOST = "demo-entry-gone", "demo-entry-lost"
"""A vector without its entry, and an entry without its vectors."""


def parts(now: datetime) -> list[Part]:
    return [Part("entries", list(_entries(now)), "most are not indexed; 1 says that it is, and has no vectors")]


def _entries(now: datetime) -> Iterable[Document]:
    for tenant in TENANTS:
        for number, text in enumerate(tenant.topic[:5]):
            yield {
                "_id": f"{tenant.id}-entry-{number}",
                "conversationId": f"{tenant.id}-conversation-{number // 2}",
                "conversationGroupId": f"{tenant.id}-group",
                "indexedContent": text,
                "indexedAt": None,
            }
    yield {
        "_id": LOST,
        "conversationId": "demo-conversation",
        "conversationGroupId": "demo-group",
        "indexedContent": "Its vectors were lost when the disk was replaced.",
        "indexedAt": now - timedelta(days=2),
        "indexedChunks": 1,
    }


async def tangle(store: VectorStore, embedder: Embedder) -> None:
    """Make what ``vectors.reconcile`` puts in order."""
    await store.delete(TABLE, owners=[LOST])
    text = "The entry of this vector was deleted while the vector store was down."
    (values,) = await embedder.embed([text])
    made = Vector(
        id=f"{ORPHAN}:0",
        owner=ORPHAN,
        group="demo-group",
        model=embedder.model,
        content_hash=sha256(text.encode()).hexdigest(),
        text=text,
        values=values,
    )
    await store.put(TABLE, [made])
