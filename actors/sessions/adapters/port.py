"""What ``sessions.collect`` asks of an adapter: find session files, and read one on from a position."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Protocol


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A regular file below a root, as one ``stat`` showed it."""

    root: Path
    parts: tuple[str, ...]
    """Path below the root; no part is a symlink."""
    size: int
    mtime_ns: int
    inode: int

    @property
    def path(self) -> str:
        """For people and as a key: bytes that are no UTF-8 are written as ``\\xff``."""
        name = str(self.root.joinpath(*self.parts))
        return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


@dataclass(frozen=True, slots=True)
class Position:
    """How far a file has been read."""

    offset: int = 0
    """Bytes."""
    line: int = 0
    """Complete lines before it."""
    skipping: bool = False
    """Inside a line that is longer than what is kept of one."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds the memory of one reading."""

    lines: int
    chunk_bytes: int
    line_bytes: int
    now: datetime
    latest: datetime
    """Timestamps after this are cut down to now: a clock was wrong."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a session. ``content`` is text or a list of blocks, JSON that any store can keep."""

    id: str
    session_id: str
    role: str
    content: str | list[dict[str, Any]]
    at: datetime
    cwd: str | None
    line: int
    clamped: bool = False


@dataclass(frozen=True, slots=True)
class Malformed:
    """A line that cannot be used, and why."""

    line: int
    reason: str


@dataclass(slots=True)
class Portion:
    """What one reading yielded."""

    messages: list[Message] = field(default_factory=list)
    malformed: list[Malformed] = field(default_factory=list)
    ignored: int = 0
    """Lines that are in order and are no messages."""
    position: Position = Position()
    """Where the next reading begins."""
    more: bool = False
    """There was more to read."""


class Adapter(Protocol):
    """One kind of session files. Methods block: they are called in a thread. An adapter keeps no state."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Kept as ``source`` of each session."""

    @abstractmethod
    def find(self, root: Path, unreadable: Callable[[str, OSError], None]) -> Iterator[FoundFile]:
        """Every session file below the root, folder by folder, in a stable order; symlinks are not followed.

        A folder that cannot be listed is reported to ``unreadable`` and passed over.
        """

    @abstractmethod
    def parse(self, file: BinaryIO, found: FoundFile, position: Position, limits: Limits) -> Portion:
        """Read on from the position, within the limits. Whatever the bytes are, it raises nothing but OSError."""

    @abstractmethod
    def project_path(self, found: FoundFile, folders: Sequence[str]) -> str:
        """The project's folder, from the working folders that lines of the file name, else from the file's place."""
