"""Copy every target into a draft; what fails is noted, and hinders no other."""

import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pymongo.errors import PyMongoError

from actors.maintenance.blocking import in_thread
from actors.maintenance.database import Client
from actors.maintenance.disk import FULL, NotEnoughSpace
from actors.sessions.backup.directories import copy_directory, measure
from actors.sessions.backup.manifest import DatabaseEntry, Failure, Targets
from actors.sessions.backup.members import Draft
from actors.sessions.backup.mongodb import copy_database, size_of
from actors.sessions.backup.sqlite import SqliteDamaged, copy_sqlite, measure as measure_sqlite
from service.log_events import LogEvent

FAILURES = (PyMongoError, OSError, sqlite3.Error, SqliteDamaged, RecursionError)
"""What a target may raise."""

Key = tuple[str, str]
"""Kind and name of a target."""


@dataclass(slots=True)
class Filled:
    """What became of the targets."""

    held: list[Key] = field(default_factory=list)
    """Those that are complete."""
    failures: list[Failure] = field(default_factory=list)
    databases: list[DatabaseEntry] = field(default_factory=list)

    def targets(self) -> Targets:
        names: dict[str, list[str]] = {}
        for kind, name in self.held:
            names.setdefault(kind, []).append(name)
        return Targets(
            databases=tuple(names.get("database", ())),
            sqlite=tuple(names.get("sqlite", ())),
            directories=tuple(names.get("directory", ())),
        )


class Source:
    """The targets, where they are."""

    def __init__(self, client: Client, targets: Targets, leave_out: Path, log: Any) -> None:
        self._client, self._leave_out, self._log = client, leave_out, log
        self._keys = sorted(targets.keys())

    async def sizes(self) -> list[int]:
        """Bytes of each target, uncompressed, about; 0 of one that cannot be measured: it will fail, in its turn."""
        sizes = []
        for kind, name in self._keys:
            try:
                sizes.append(await self._size(kind, name))
            except FAILURES:
                sizes.append(0)
        return sizes

    async def _size(self, kind: str, name: str) -> int:
        if kind == "database":
            return await size_of(self._client[name])
        if kind == "sqlite":
            return await in_thread(measure_sqlite, Path(name))
        return await in_thread(measure, Path(name), self._leave_out)

    async def copy_to(self, draft: Draft) -> Filled:
        """Add all targets to the draft.

        Raises:
            NotEnoughSpace: the disk has become full.
        """
        filled = Filled()
        for kind, name in self._keys:
            count = len(draft.members)
            try:
                problem = await self._copy(kind, name, draft, filled)
            except FAILURES as error:
                if isinstance(error, OSError) and error.errno in FULL:
                    raise NotEnoughSpace(f"the disk became full while {kind} {name} was copied; make room") from error
                await draft.drop_after(count)
                problem = str(error).partition(", full error")[0].partition(", Timeout:")[0][:500] or repr(error)
            if problem is None:
                filled.held.append((kind, name))
            else:
                self._log.warning(LogEvent.TARGET_FAILED, kind=kind, name=name, error=problem)
                filled.failures.append(Failure(target=f"{kind} {name}", error=problem))
        return filled

    async def _copy(self, kind: str, name: str, draft: Draft, filled: Filled) -> str | None:
        """Answers in what it is incomplete, though it could be copied."""
        if kind == "database":
            filled.databases.append(await copy_database(self._client[name], draft))
        elif kind == "sqlite":
            await copy_sqlite(Path(name), draft)
        else:
            packed = await copy_directory(Path(name), draft, self._leave_out)
            if packed.failed:
                return f"{packed.failed} files are missing or torn: " + "; ".join(packed.problems)
        return None
