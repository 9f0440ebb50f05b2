"""The resource ``embedder``: what ``VERGER_EMBEDDER`` names."""

from collections.abc import AsyncIterator

import aiohttp

from actors import resource
from actors.maintenance.embedder.hashing import Hashing
from actors.maintenance.embedder.ollama import Ollama
from actors.maintenance.embedder.port import Embedder
from service.settings import Settings

__all__ = ["embedder"]


@resource("embedder")
async def embedder(settings: Settings) -> AsyncIterator[Embedder]:
    """``hashing``, or ``ollama`` with ``VERGER_OLLAMA_URL`` and ``VERGER_EMBEDDING_MODEL``."""
    if settings.embedder == "hashing":
        yield Hashing()
        return
    # No proxy: the address is given, and usually this machine's or a neighbour's.
    async with aiohttp.ClientSession(trust_env=False) as session:
        yield Ollama(session, settings.ollama_url, settings.embedding_model)
