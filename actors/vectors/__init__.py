"""The vector upkeep of a conversation store."""

from actors.maintenance.database import memory
from actors.maintenance.embedder import embedder
from actors.maintenance.vector_store import vector_store
from actors.vectors.delete import delete_group
from actors.vectors.index_retry import retry_indexing
from actors.vectors.reconcile import reconcile

__all__ = ["delete_group", "embedder", "memory", "reconcile", "retry_indexing", "vector_store"]
