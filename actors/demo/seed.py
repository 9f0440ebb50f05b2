"""Writes the data set: into the memory database, below VERGER_DATA_DIR, and into the vector store."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pymongo import ReplaceOne

from actors.demo import files, graph, memories, sessions, vectors
from actors.demo.part import DemoFile, Document, Part
from actors.maintenance.blocking import in_thread
from actors.maintenance.database import Database, connect
from actors.maintenance.embedder import embedder
from actors.maintenance.vector_store import vector_store
from schemas.base import to_instant
from service.errors import Conflict, VergerError
from service.registry import Resource
from service.settings import Settings

DOCUMENTS: dict[str, Callable[[datetime], list[Part]]] = {
    "memories": memories.parts,
    "files": files.parts,
    "graph": graph.parts,
    "vectors": vectors.parts,
}
FILES: dict[str, tuple[Callable[[datetime], list[DemoFile]], str, str]] = {
    "sessions": (sessions.files, sessions.FOLDER, "for VERGER_CLAUDE_PROJECTS; most are old enough to be archived"),
    "memories": (memories.files, "connectors", "for the folder connectors"),
}
"""Family → its files, where they are below VERGER_DATA_DIR, and what for."""
OWN: Document = {"$or": [{"_id": {"$regex": "^(demo-|/demo/)"}}, {"tenantId": {"$regex": "^demo-"}}]}
"""The query of what is ours: what was seeded, and what the actors made of it."""


@dataclass(frozen=True, slots=True)
class Written:
    """A line of what was written."""

    family: str
    place: str
    """A collection, a folder, or a table of vectors."""
    number: int
    what: str


async def seed(settings: Settings, now: datetime, *, force: bool = False) -> list[Written]:
    """Write it, or write it anew: then all is again as it was, whatever the actors have made of it.

    Other documents are not touched.

    Raises:
        Conflict: a collection holds documents that are not ours; nothing was written. Not with ``force``.
    """
    now = to_instant(now)
    parts = [(family, part) for family, make in DOCUMENTS.items() for part in make(now)]
    with closing(connect(settings)) as client:
        memory = client[settings.memory_database]
        if not force:
            await _check(memory, [part.collection for _, part in parts])
        # Side by side: to make a collection, the server waits for its disk.
        async with asyncio.TaskGroup() as group:
            replacing = [group.create_task(_replace(memory, family, part)) for family, part in parts]
    written = [each.result() for each in replacing]
    for family, (make_files, folder, what) in FILES.items():
        made = make_files(now)
        await in_thread(_write, settings.data_dir, made)
        written.append(Written(family, str(settings.data_dir / folder), len(made), what))
    written.append(await _tangle(settings))
    return written


async def _check(memory: Database, collections: Sequence[str]) -> None:
    for name in collections:
        foreign = await memory[name].find_one({"$nor": [OWN]}, {"_id": 1})
        if foreign is not None:
            raise Conflict(
                f"the collection {name!r} of database {memory.name!r} holds data that is not of the demo, such as "
                f"{str(foreign['_id'])[:100]!r}; name another VERGER_MEMORY_DATABASE, or seed beside it: "
                "verger demo seed --force"
            )


async def _replace(memory: Database, family: str, part: Part) -> Written:
    writes = [ReplaceOne({"_id": each["_id"]}, each, upsert=True) for each in part.documents]
    await memory[part.collection].bulk_write(writes, ordered=False)
    return Written(family, part.collection, len(writes), part.what)


def _write(data_dir: Path, files: Sequence[DemoFile]) -> None:
    for file in files:
        path = data_dir / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)
        changed = file.changed.timestamp()
        os.utime(path, (changed, changed))


async def _tangle(settings: Settings) -> Written:
    number, what = 1, "its entry is gone"
    async with _opened(vector_store, settings) as store, _opened(embedder, settings) as model:
        try:
            await vectors.tangle(store, model)
        except VergerError as error:  # without LanceDB, or with a model that does not answer, the rest is there
            number, what = 0, str(error)
    return Written("vectors", f"vectors of {vectors.TABLE}", number, what)


@asynccontextmanager
async def _opened(resource: Resource, settings: Settings) -> AsyncIterator[Any]:
    """As a worker opens it."""
    async with asynccontextmanager(resource.open)(settings) as opened:
        yield opened
