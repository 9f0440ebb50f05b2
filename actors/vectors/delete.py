"""``vectors.delete``: the embeddings of a conversation group, once its conversations are gone.

Deletes every vector of the group; reads and writes nothing else. Safe to repeat. While the vector store is down it is
tried again every 10 minutes, without end.
"""

from dataclasses import dataclass

from pydantic import Field

from actors import Context, Retry, actor
from actors.maintenance.counts import Counts
from actors.maintenance.vector_store.port import TableName, VectorStore, VectorStoreUnavailable
from actors.vectors.entries import FAILED_AFTER
from schemas.base import Model


class DeleteParams(Model):
    """Options of ``vectors.delete``."""

    conversation_group_id: str = Field(min_length=1, description="The group whose embeddings go.")
    table: TableName = Field("entries", description="Table of the vector store.")


@dataclass(slots=True)
class DeleteCounts(Counts):
    """What a run did."""

    deleted: int = 0
    """Vectors."""


@actor("vectors.delete", aliases=["vector_store_delete"], max_attempts=None, delays=[FAILED_AFTER], timeout="30m")
async def delete_group(params: DeleteParams, ctx: Context) -> dict[str, int]:
    """Delete a conversation group's embeddings."""
    store: VectorStore = ctx.resources["vector_store"]
    try:
        deleted = await store.delete(params.table, groups=[params.conversation_group_id])
    except VectorStoreUnavailable as error:
        raise Retry(str(error), after=FAILED_AFTER) from error
    return DeleteCounts(deleted).result()
