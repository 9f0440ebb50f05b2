"""``sessions.compact``: the tables of the vector store, made small and quick again.

Merges the small fragments that each batch of vectors leaves, brings indexes up to date, and deletes old versions of the
data; no vector is changed. Searches go on meanwhile; whoever writes to the table waits. Needs room on the disk for the
merged copy. All tables of the store are compacted, those of other families too, unless some are named.
"""

from dataclasses import dataclass
from datetime import timedelta

from pydantic import Field

from actors import Context, actor
from actors.maintenance.counts import Counts
from actors.maintenance.vector_store.port import TableName, VectorStore, VectorStoreUnavailable
from schemas.base import Duration, Model
from service.errors import VergerError
from service.log_events import LogEvent


class CompactionIncomplete(VergerError):
    """Some tables could not be compacted; the message says which."""


class CompactParams(Model):
    """Options of ``sessions.compact``."""

    tables: tuple[TableName, ...] = Field((), description="Tables to compact; empty: all there are.")
    older_than: Duration = Field(
        timedelta(days=7),
        ge=timedelta(minutes=1),
        description="Versions older than this are deleted; a reader that still reads one fails.",
    )


@dataclass(slots=True)
class CompactCounts(Counts):
    """What a run did."""

    tables: int = 0
    bytes_before: int = 0
    """On the disk, old versions included."""
    bytes_after: int = 0
    fragments_before: int = 0
    fragments_after: int = 0
    versions_removed: int = 0


@actor("sessions.compact", aliases=["compact"], max_attempts=1, timeout="3h", concurrency=1)
async def compact_vectors(params: CompactParams, ctx: Context) -> dict[str, int]:
    """Compact the tables of the vector store."""
    store: VectorStore = ctx.resources["vector_store"]
    counts = CompactCounts()
    failed = []
    tables = params.tables or await store.tables()
    for done, table in enumerate(tables):
        await ctx.progress(done, len(tables), table)
        try:
            outcome = await store.compact(table, older_than=params.older_than)
        except VectorStoreUnavailable as error:
            # A damaged table, say, is no reason to leave the others.
            ctx.log.warning(LogEvent.RECORD_FAILED, collection="tables", record=table, error=str(error))
            failed.append(table)
            continue
        counts.tables += 1
        counts.bytes_before += outcome.bytes_before
        counts.bytes_after += outcome.bytes_after
        counts.fragments_before += outcome.fragments_before
        counts.fragments_after += outcome.fragments_after
        counts.versions_removed += outcome.versions_removed
    await ctx.progress(len(tables), len(tables))
    if failed:
        raise CompactionIncomplete(f"could not be compacted: {', '.join(failed)}; the others were")
    return counts.result()
