"""What ``sessions.collect`` reads and writes in the database. Every write may be repeated, and made by two at once."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import bson
from bson.raw_bson import RawBSONDocument
from pymongo import UpdateOne
from pymongo.errors import BulkWriteError

from actors.maintenance.database import Database
from actors.sessions.adapters.port import FoundFile, Malformed, Message, Position
from actors.sessions.indexes import Collections, ensure_indexes

DUPLICATE_KEY = 11000
LARGEST_DOCUMENT = 16 * 1024 * 1024
REMEMBERED_PROJECTS = 1000
_INT64 = 2**63 - 1


@dataclass(frozen=True, slots=True)
class FileState:
    """How far a file was read, and what it looked like then."""

    size: int
    mtime_ns: int
    inode: int
    position: Position
    fingerprint: str
    """Of its first bytes and of those before the position."""
    project_id: str
    finished: bool = True
    """False: there was more to do when this was kept."""
    uncounted: tuple[str, ...] = ()
    """Sessions whose messages are still to be counted."""

    def is_unchanged(self, found: FoundFile) -> bool:
        return self.finished and (self.size, self.mtime_ns, self.inode) == (
            found.size,
            int64(found.mtime_ns),
            int64(found.inode),
        )


@dataclass(frozen=True, slots=True)
class Inserted:
    """The outcome of one batch."""

    inserted: int
    duplicates: int
    refused: list[Malformed]
    """Messages that the server would not take."""


def int64(value: int) -> int:
    """Cut down to what BSON can hold."""
    # Inode numbers and times are 64 bits without a sign on some file systems; BSON's have one.
    return min(value, _INT64)


def encode(
    messages: Iterable[Message], project_id: str, malformed: list[Malformed]
) -> tuple[list[Message], list[RawBSONDocument]]:
    """The documents to insert; those that are too large are added to ``malformed``. Blocks: call it in a thread."""
    kept, documents = [], []
    for message in messages:
        raw = bson.encode(
            {
                "_id": message.id,
                "sessionId": message.session_id,
                "projectId": project_id,
                "role": message.role,
                "content": message.content,
                "at": message.at,
                "indexedAt": None,
                "indexAttempts": 0,
                "indexError": None,
            }
        )
        if len(raw) > LARGEST_DOCUMENT:
            malformed.append(Malformed(message.line, f"takes {len(raw)} bytes as BSON, more than {LARGEST_DOCUMENT}"))
            continue
        kept.append(message)
        documents.append(RawBSONDocument(raw))
    return kept, documents


class Collected:
    """The family's collections, as the collector uses them."""

    def __init__(self, database: Database, names: Collections) -> None:
        self._database, self._names = database, names
        self._projects = database[names.projects]
        self._sessions = database[names.sessions]
        self._messages = database[names.messages]
        self._files = database[names.files]
        self._indexed = False
        self._project_ids: dict[str, str] = {}

    async def ensure_indexes(self) -> None:
        """Once in the life of this object: a run that has nothing to write does not even ask."""
        if not self._indexed:
            await ensure_indexes(self._database, self._names)
            self._indexed = True

    async def states(self, paths: Sequence[str]) -> dict[str, FileState]:
        """The known ones of these files."""
        found = self._files.find({"_id": {"$in": list(paths)}})
        return {document["_id"]: _state(document) async for document in found}

    async def save_state(self, path: str, source: str, state: FileState) -> None:
        fields = {
            "source": source,
            "size": state.size,
            "mtimeNs": int64(state.mtime_ns),
            "inode": int64(state.inode),
            "offset": state.position.offset,
            "line": state.position.line,
            "skipping": state.position.skipping,
            "fingerprint": state.fingerprint,
            "projectId": state.project_id,
            "finished": state.finished,
            "uncounted": list(state.uncounted),
        }
        update = {"$set": fields, "$currentDate": {"collectedAt": True}}
        await self._files.update_one({"_id": path}, update, upsert=True)

    async def project_id(self, path: str) -> str:
        """Of the project with this path; made if there is none."""
        if path in self._project_ids:
            return self._project_ids[path]
        known = await self._projects.find_one({"path": path}, {"_id": 1})
        project_id = str(known["_id"]) if known is not None else await self._make_project(path)
        if len(self._project_ids) >= REMEMBERED_PROJECTS:
            self._project_ids.clear()
        self._project_ids[path] = project_id
        return project_id

    async def _make_project(self, path: str) -> str:
        # From the path, so that two who make it at once make the same one.
        project_id = hashlib.sha256(path.encode()).hexdigest()[:24]
        name = path.replace("\\", "/").rstrip("/").rpartition("/")[2] or path
        made = {"$setOnInsert": {"name": name, "path": path}}
        await self._projects.update_one({"_id": project_id}, made, upsert=True)
        return project_id

    async def insert(self, messages: Sequence[Message], documents: Sequence[RawBSONDocument]) -> Inserted:
        """Insert the messages whose ids are new; one that the server refuses hinders no other."""
        if not documents:
            return Inserted(0, 0, [])
        try:
            await self._messages.insert_many(documents, ordered=False)
        except BulkWriteError as error:
            details = dict(error.details or {})
            if details.get("writeConcernErrors"):
                raise
            problems = details.get("writeErrors", [])
            duplicates = sum(problem.get("code") == DUPLICATE_KEY for problem in problems)
            refused = [
                Malformed(messages[problem["index"]].line, f"refused by the server: {str(problem.get('errmsg'))[:200]}")
                for problem in problems
                if problem.get("code") != DUPLICATE_KEY
            ]
            return Inserted(int(details.get("nInserted", 0)), duplicates, refused)
        return Inserted(len(documents), 0, [])

    async def note_sessions(self, messages: Iterable[Message], project_id: str, source: str) -> set[str]:
        """Make the sessions of these messages, or widen their span of time; answers their ids."""
        spans: dict[str, tuple[datetime, datetime]] = {}
        for message in messages:
            first, last = spans.get(message.session_id, (message.at, message.at))
            spans[message.session_id] = min(first, message.at), max(last, message.at)
        if spans:
            await self._sessions.bulk_write(
                [
                    UpdateOne(
                        {"_id": session_id},
                        {
                            "$setOnInsert": {"projectId": project_id, "source": source},
                            "$min": {"startedAt": first},
                            "$max": {"latestAt": last},
                        },
                        upsert=True,
                    )
                    for session_id, (first, last) in spans.items()
                ],
                ordered=False,
            )
        return set(spans)

    async def count_sessions(self, session_ids: Iterable[str]) -> None:
        """Bring ``messageCount`` up to what is stored.

        ``$max``: of two collectors, each counts after its own inserts, so that the larger count saw all.
        """
        wanted = list(session_ids)
        if not wanted:
            return
        counted = self._messages.aggregate(
            [{"$match": {"sessionId": {"$in": wanted}}}, {"$group": {"_id": "$sessionId", "count": {"$sum": 1}}}]
        )
        counts = [UpdateOne({"_id": each["_id"]}, {"$max": {"messageCount": each["count"]}}) async for each in counted]
        if counts:
            await self._sessions.bulk_write(counts, ordered=False)


def _state(document: dict[str, Any]) -> FileState:
    position = Position(document["offset"], document.get("line", 0), document.get("skipping", False))
    return FileState(
        size=document["size"],
        mtime_ns=document.get("mtimeNs", -1),
        inode=document.get("inode", -1),
        position=position,
        fingerprint=document.get("fingerprint", ""),
        project_id=document.get("projectId", ""),
        finished=document.get("finished", False),
        uncounted=tuple(document.get("uncounted", ())),
    )
