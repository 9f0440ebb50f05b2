"""What a backup says of itself.

::

    <folder>/20260301T023000Z/
        manifest.json       what is in it, with counts and hashes
        SHA256SUMS          of every file, the manifest too: `sha256sum --check SHA256SUMS` needs nothing of ours
        mongodb/<database>/<collection>.bson.xz, <collection>.metadata.json
        sqlite/<path>.sqlite.xz
        directories/<path>.tar.xz
"""

import hashlib
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from actors.maintenance.blocking import open_below
from schemas.base import Instant, Model
from service.errors import VergerError

MANIFEST = "manifest.json"
SUMS = "SHA256SUMS"
ID_FORMAT = "%Y%m%dT%H%M%SZ"
COMPRESSED = ".xz"
_LARGEST_MANIFEST = 256 * 1024 * 1024

Kind = Literal["collection", "metadata", "sqlite", "directory"]
Count = Annotated[int, Field(ge=0, lt=2**63)]
"""Of bytes, too: JSON knows longer numbers than anything can be counted in."""


class BackupDamaged(VergerError):
    """A backup is not what it says it is."""


class Member(Model):
    """One file of a backup."""

    file: str
    """Path below the backup's folder."""
    kind: Kind
    source: str
    """``<database>.<collection>``, or the path of the file or folder."""
    bytes: Count
    """Before compression, as ``sha256``."""
    sha256: str
    file_bytes: Count
    file_sha256: str
    documents: Count | None = None
    """Of a collection."""
    entries: Count | None = None
    """Files and folders in a directory."""
    linked_from: str | None = None
    """The backup whose file it shares."""

    @field_validator("file")
    @classmethod
    def _inside(cls, value: str) -> str:
        if any(part in ("", ".", "..") for part in value.split("/")) or "\\" in value or "\0" in value:
            raise ValueError("is not a path inside the backup")
        return value

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.file.split("/"))

    @property
    def compressed(self) -> bool:
        return self.file.endswith(COMPRESSED)


class Snapshot(Model):
    """At which time a database was read."""

    mode: Literal["snapshot", "mixed", "live"]
    """``snapshot``: all collections at ``at``; ``mixed``: only those that say so; ``live``: one after the other."""
    at: Instant | None = None
    cluster_time: str | None = None
    """The same instant as the server counts: ``<seconds>.<increment>``."""
    reason: str | None = None
    """Why not all of it is one snapshot."""


class CollectionEntry(Model):
    name: str
    type: Literal["collection", "view", "timeseries"] = "collection"
    documents: Count = 0
    at_snapshot: bool = True
    data: str | None = None
    """The member that holds the documents; a view has none."""
    metadata: str
    """The member that holds options and indexes."""


class DatabaseEntry(Model):
    name: str
    snapshot: Snapshot
    collections: tuple[CollectionEntry, ...]


class Targets(Model):
    """What is backed up."""

    databases: tuple[str, ...] = ()
    sqlite: tuple[str, ...] = ()
    directories: tuple[str, ...] = ()

    def keys(self) -> frozenset[tuple[str, str]]:
        """Each as (kind, name)."""
        pairs = (("database", self.databases), ("sqlite", self.sqlite), ("directory", self.directories))
        return frozenset((kind, name) for kind, names in pairs for name in names)


class Failure(Model):
    target: str
    error: str


class Manifest(Model):
    """``manifest.json``."""

    format: Literal["verger-backup/1"] = "verger-backup/1"
    id: str
    created_at: Instant
    verified_at: Instant
    """When all of it had been read back."""
    targets: Targets
    """What it holds completely."""
    failures: tuple[Failure, ...] = ()
    """What it should hold and does not."""
    databases: tuple[DatabaseEntry, ...] = ()
    members: tuple[Member, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        files = [member.file for member in self.members]
        if len(set(files)) != len(files):
            raise ValueError("two members have the same file")
        named = {file for each in self.databases for entry in each.collections for file in (entry.data, entry.metadata)}
        if missing := named - {None, *files}:
            raise ValueError(f"no member has the file {min(map(str, missing))}")
        return self

    def member(self, file: str) -> Member:
        return next(member for member in self.members if member.file == file)

    @property
    def documents(self) -> int:
        return sum(member.documents or 0 for member in self.members)

    @property
    def bytes(self) -> int:
        return sum(member.bytes for member in self.members)

    @property
    def file_bytes(self) -> int:
        return sum(member.file_bytes for member in self.members)


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup on disk whose manifest is in order; its members have not been looked at."""

    folder: Path
    manifest: Manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write manifest and sums, durably."""
    text = manifest.model_dump_json(by_alias=True, indent=2, exclude_none=True).encode() + b"\n"
    lines = [f"{member.file_sha256}  {member.file}\n" for member in manifest.members]
    lines.append(f"{hashlib.sha256(text).hexdigest()}  {MANIFEST}\n")
    _write(folder / MANIFEST, text)
    _write(folder / SUMS, "".join(lines).encode())


def read_backup(folder: Path) -> Backup:
    """Read a backup's manifest.

    Raises:
        BackupDamaged: there is none, or it is not what was written.
    """
    try:
        text, sums = _read(folder, MANIFEST), _read(folder, SUMS)
    except OSError as error:
        raise BackupDamaged(f"{folder.name}: its manifest cannot be read: {error.strerror or error}") from error
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise BackupDamaged(f"{folder.name}: its manifest is wrong: {where} {problem['msg']}") from None
    except RecursionError:
        raise BackupDamaged(f"{folder.name}: its manifest is wrong: it nests too deeply") from None
    if manifest.id != folder.name:
        raise BackupDamaged(f"{folder.name}: its manifest says that it is {manifest.id}")
    _check_sums(folder.name, manifest, text, sums)
    return Backup(folder, manifest)


def _check_sums(name: str, manifest: Manifest, text: bytes, sums: bytes) -> None:
    said = {}
    for line in sums.decode(errors="replace").splitlines():
        digest, _, file = line.partition("  ")
        said[file] = digest
    if said.pop(MANIFEST, "") != hashlib.sha256(text).hexdigest():
        raise BackupDamaged(f"{name}: its manifest is not what {SUMS} says")
    if said != {member.file: member.file_sha256 for member in manifest.members}:
        raise BackupDamaged(f"{name}: {SUMS} and the manifest contradict each other")


def _read(folder: Path, name: str) -> bytes:
    with open_below(folder, (name,)) as file:
        # To ask for more than there is would set that much memory aside.
        size = os.fstat(file.fileno()).st_size
        if size > _LARGEST_MANIFEST:
            raise BackupDamaged(f"{folder.name}: {name} is larger than {_LARGEST_MANIFEST} bytes")
        return file.read(size)


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def new_id(moment: datetime, taken: set[str]) -> str:
    """The moment, to the second; with a number if there is one already."""
    wanted = moment.strftime(ID_FORMAT)
    number = 1
    while (name := wanted if number == 1 else f"{wanted}-{number}") in taken:
        number += 1
    return name
