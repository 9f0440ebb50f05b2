"""The resource ``summariser``: what ``VERGER_SUMMARISER`` names."""

from collections.abc import AsyncIterator

import aiohttp

from actors import resource
from actors.memories.summariser.extractive import Extractive
from actors.memories.summariser.ollama import Ollama
from actors.memories.summariser.port import Summariser
from service.settings import Settings

__all__ = ["summariser"]


@resource("summariser")
async def summariser(settings: Settings) -> AsyncIterator[Summariser]:
    """``extractive``, or ``ollama`` with ``VERGER_OLLAMA_URL`` and ``VERGER_SUMMARY_MODEL``."""
    if settings.summariser == "extractive":
        yield Extractive()
        return
    # No proxy: the address is given, and usually this machine's or a neighbour's.
    async with aiohttp.ClientSession(trust_env=False) as session:
        yield Ollama(session, settings.ollama_url, settings.summary_model)
