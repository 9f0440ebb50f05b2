"""A document database's long operations."""

from actors.files.gc import collect_garbage
from actors.files.reindex import reindex
from actors.maintenance.database import memory
from actors.maintenance.embedder import embedder
from actors.maintenance.vector_store import vector_store

__all__ = ["collect_garbage", "embedder", "memory", "reindex", "vector_store"]
