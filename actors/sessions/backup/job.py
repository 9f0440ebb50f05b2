"""``sessions.backup``: databases, SQLite files and folders, into one folder a day.

Reads its targets; writes and deletes in its own folder only.

- It is skipped if a backup of today holds all its targets, or while another run is at work.
- Each backup is a folder `20260301T023000Z` with `manifest.json` and `SHA256SUMS`. It appears, complete and read back
  from the disk, in one rename, or not at all. What a crashed run left is invisible, and removed by the next.
- The collections of a database are read at one time. Where the server cannot look back far enough
  (`minSnapshotHistoryWindowInSeconds`, 5 minutes) the rest is read as it is; the manifest says `snapshot`, `mixed` or
  `live`, and why.
- SQLite files are copied by SQLite's online backup while others write them. Of folders: regular files and folders in
  them; no symlinks, no owners.
- A file whose content is that of the last backup is a hard link to it; `linked` counts them.
- A target that fails is named in the manifest and fails the run; the others are kept. It is tried again by the next
  run.
- Rotation removes a backup when each of its targets is held by `keep` newer ones: the last one that holds something
  is never removed. A backup whose manifest is damaged is neither removed nor counted.
- Room is checked first: the packed size, as the last backup packed, and the largest target once more, uncompressed.
- Users and roles are not backed up, nor is `system.profile`.

The result: `databases`, `collections`, `documents`, `sqlite_files`, `directories`, `entries`, `members` (files),
`linked`, `bytes` (before compression), `written_bytes` (new on the disk), `rotated`, `rotation_refused`, `skipped`
with `reason`.
"""

from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from actors import Context, actor
from actors.sessions.backup.filling import Source
from actors.sessions.backup.manifest import Backup, BackupDamaged, Manifest, Targets, new_id
from actors.sessions.backup.members import Draft
from actors.sessions.backup.names import names_database
from actors.sessions.backup.shelf import Shelf, covered, superfluous
from actors.sessions.backup.space import check_space
from actors.sessions.backup.verify import verify_members
from schemas.base import Model
from service.errors import Conflict, VergerError
from service.log_events import LogEvent
from service.settings import Settings

PASSES = 3
"""Each byte is copied, packed and read back."""


class BackupIncomplete(VergerError):
    """Some targets could not be backed up; the message names them. What could be is kept."""


class BackupParams(Model):
    """Options of ``sessions.backup``."""

    databases: tuple[str, ...] | None = Field(
        None, description="MongoDB databases; null: the settings VERGER_DATABASE and VERGER_MEMORY_DATABASE."
    )
    sqlite: tuple[Path, ...] = Field((), description="SQLite files.")
    directories: tuple[Path, ...] = Field((), description="Folders.")
    folder: Path | None = Field(None, description="Where backups are kept; null: `backups` in VERGER_DATA_DIR.")
    keep: int = Field(7, ge=1, description="Newest backups of each target that are kept.")
    preset: int = Field(1, ge=0, le=9, description="xz preset: 0 is fast, 9 is small and takes 700 MB of memory.")
    force: bool = Field(False, description="Make one even if today's (UTC) exists.")
    max_delete_ratio: float = Field(0.5, ge=0, le=1, description="Rotation removes at most this part of all backups.")
    force_rotation: bool = Field(False, description="Rotate past that part: after `keep` was lowered.")
    dry_run: bool = Field(False, description="Write and remove nothing; say what would be.")

    @field_validator("databases")
    @classmethod
    def _named(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in value or ():
            if not names_database(name):
                raise ValueError(f"{name!r} is not the name of a MongoDB database")
        return value

    def targets(self, settings: Settings) -> Targets:
        databases = self.databases
        if databases is None:
            databases = (settings.database, settings.memory_database)
        return Targets(
            databases=tuple(dict.fromkeys(databases)),
            sqlite=tuple(dict.fromkeys(str(path.expanduser().absolute()) for path in self.sqlite)),
            directories=tuple(dict.fromkeys(str(path.expanduser().absolute()) for path in self.directories)),
        )


class BackupResult(Model):
    """What a run did."""

    backup: str | None = None
    """Its id; of today's, if that was there already."""
    skipped: int = 0
    """1: today's was there already, or another run is making it."""
    reason: str | None = None
    databases: int = 0
    collections: int = 0
    documents: int = 0
    sqlite_files: int = 0
    directories: int = 0
    entries: int = 0
    members: int = 0
    linked: int = 0
    """Members that are the same as last time."""
    bytes: int = 0
    """Of all members, before compression."""
    written_bytes: int = 0
    """What they newly take on the disk."""
    rotated: int = 0
    """Old backups removed; in a dry run, that would be."""
    rotation_refused: int = 0
    """Old backups that rotation did not dare to remove."""


@actor("sessions.backup", aliases=["backup"], max_attempts=1, timeout="6h", concurrency=1)
async def back_up(params: BackupParams, ctx: Context) -> dict[str, Any]:
    """Back up MongoDB databases, SQLite files and folders."""
    result = await _Run(params, ctx).run()
    return result.model_dump(mode="json")


class _Run:
    def __init__(self, params: BackupParams, ctx: Context) -> None:
        self._params, self._ctx = params, ctx
        self._targets = params.targets(ctx.settings)
        self._shelf = Shelf(shelf_folder(ctx.settings, params.folder))
        self._source = Source(ctx.resources["memory"].client, self._targets, self._shelf.folder, ctx.log)
        self._done = self._total = 0

    async def run(self) -> BackupResult:
        if not self._targets.keys():
            return BackupResult(skipped=1, reason="there is nothing to back up")
        async with AsyncExitStack() as holding:
            if not self._params.dry_run:
                try:
                    await holding.enter_async_context(self._shelf.writing())
                except Conflict as error:
                    return BackupResult(skipped=1, reason=str(error))
            backups, damaged = await self._shelf.backups()
            for problem in damaged:
                self._ctx.log.warning(
                    LogEvent.BACKUP_DAMAGED, problem=problem, fix="look at it, then remove its folder"
                )
            today = covered(backups, self._targets, self._ctx.now())
            if today is not None and not self._params.force:
                return BackupResult(backup=today.manifest.id, skipped=1, reason="today's backup exists")
            return await self._back_up(backups)

    async def _back_up(self, backups: list[Backup]) -> BackupResult:
        sizes = await self._source.sizes()
        previous = backups[0] if backups else None
        await check_space(self._shelf.folder, sizes, previous)
        if self._params.dry_run:
            going = superfluous(backups, self._params.keep)
            return BackupResult(reason="dry run", bytes=sum(sizes), rotated=len(going))
        self._total = PASSES * sum(sizes)
        created_at = self._ctx.now()
        name = new_id(created_at, await self._shelf.names())
        async with self._shelf.draft(name) as folder:
            draft = Draft(folder, previous, self._params.preset, self._advance, self._ctx.log)
            manifest = await self._fill(draft, name, created_at)
            backup = await self._shelf.publish(folder, manifest)
        self._ctx.log.info(LogEvent.BACKUP_PUBLISHED, backup=name, folder=str(backup.folder))
        rotated, refused = await self._rotate([backup, *backups])
        if manifest.failures:
            raise BackupIncomplete(f"backup {name} {_lacks(manifest)}")
        return _counted(manifest).model_copy(update={"rotated": rotated, "rotation_refused": refused})

    async def _fill(self, draft: Draft, name: str, created_at: datetime) -> Manifest:
        filled = await self._source.copy_to(draft)
        problems = await verify_members(draft.folder, draft.members, self._advance)
        if problems:
            listed = "; ".join(f"{problem.file}: {problem.problem}" for problem in problems[:10])
            raise BackupDamaged(f"what was written cannot be read back: {listed}")
        manifest = Manifest(
            id=name,
            created_at=created_at,
            verified_at=self._ctx.now(),
            targets=filled.targets(),
            failures=tuple(filled.failures),
            databases=tuple(filled.databases),
            members=tuple(draft.members),
        )
        if manifest.failures and not manifest.members:
            raise BackupIncomplete(f"there is no backup: it {_lacks(manifest)}")
        return manifest

    async def _rotate(self, backups: list[Backup]) -> tuple[int, int]:
        """Remove what is superfluous; answers how many, and how many it should have, but did not dare."""
        going = superfluous(backups, self._params.keep)
        allowed = self._params.max_delete_ratio * len(backups)
        if len(going) > allowed and not self._params.force_rotation:
            self._ctx.log.warning(
                LogEvent.ROTATION_REFUSED,
                would_remove=len(going),
                of=len(backups),
                fix="set forceRotation once, if it is meant",
            )
            return 0, len(going)
        for backup in going:
            await self._shelf.remove(backup)
            self._ctx.log.info(LogEvent.BACKUP_REMOVED, backup=backup.manifest.id)
        return len(going), 0

    async def _advance(self, size: int) -> None:
        # The total is an estimate; only the end of the run is the end.
        self._done = min(self._done + size, max(0, self._total - 1))
        await self._ctx.progress(self._done, self._total or None)


def shelf_folder(settings: Settings, folder: Path | None) -> Path:
    """Where backups are kept."""
    return (folder or settings.data_dir / "backups").expanduser().absolute()


def _lacks(manifest: Manifest) -> str:
    return "lacks " + "; ".join(f"{failure.target}: {failure.error}" for failure in manifest.failures)


def _counted(manifest: Manifest) -> BackupResult:
    written = [member for member in manifest.members if member.linked_from is None]
    return BackupResult(
        backup=manifest.id,
        databases=len(manifest.databases),
        collections=sum(len(database.collections) for database in manifest.databases),
        documents=manifest.documents,
        sqlite_files=len(manifest.targets.sqlite),
        directories=len(manifest.targets.directories),
        entries=sum(member.entries or 0 for member in manifest.members),
        members=len(manifest.members),
        linked=len(manifest.members) - len(written),
        bytes=manifest.bytes,
        written_bytes=sum(member.file_bytes for member in written),
    )
