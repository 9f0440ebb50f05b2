"""The resource ``vector_store``: LanceDB in the folder ``VERGER_VECTORS_DIR``."""

from collections.abc import AsyncIterator

from actors import resource
from actors.maintenance.vector_store.lance import LanceStore
from actors.maintenance.vector_store.port import VectorStore
from service.settings import Settings

__all__ = ["vector_store"]


@resource("vector_store")
async def vector_store(settings: Settings) -> AsyncIterator[VectorStore]:
    """Opened when it is first used: a worker that has no such job needs no LanceDB."""
    store = LanceStore(settings.vectors_dir or settings.data_dir / "vectors")
    try:
        yield store
    finally:
        await store.close()
