"""The connector ``folder``: text files below a folder, in the order in which they were changed.

A file that has changed is found again, and makes a new candidate if its content is new. The time of change is the one
that the file system keeps for itself (ctime), so files that are moved or copied in are found whatever their own date
is. A file that changed within the last seconds is left to the next run: it may be half-written.
"""

import errno
import heapq
import os
import stat
import time
from collections import deque
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from actors.maintenance.blocking import in_thread, open_below
from actors.maintenance.tree import walk
from actors.memories.connectors.config import read_config
from actors.memories.connectors.port import (
    Connector,
    ConnectorRefused,
    ConnectorUnavailable,
    Item,
    Malformed,
    Page,
    Source,
)
from schemas.base import Duration, Model

FOUND_AT_ONCE = 10_000
"""Files that one walk through the folder finds; the next walk finds those after them."""
ONE_FILES_TROUBLE = frozenset({errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENOTDIR, errno.ENAMETOOLONG})
SHOWN = 300

Place = tuple[int, str]
"""When a file was changed, in nanoseconds, and its path."""


class FolderConfig(Model):
    """``config`` of an integration of this kind."""

    path: str = Field(max_length=1000, description="Folder below the folder of all connectors.")
    suffixes: tuple[str, ...] = Field((".md", ".txt"), description="How the names of its files end.")
    settle: Duration = Field(timedelta(seconds=30), description="Files changed since are left to the next run.")

    @field_validator("path")
    @classmethod
    def _below(cls, value: str) -> str:
        parts = value.split("/")
        if any(part in ("", ".", "..") or not part.isprintable() for part in parts):
            raise ValueError("write it like acme/notes: relative, without . and ..")
        return value


class Folder(Connector):
    """Reads regular files; follows no symlink, neither to the folder nor in it."""

    def __init__(self, source: Source) -> None:
        """Raises ConnectorRefused."""
        self._config = read_config(FolderConfig, source.config)
        self._source = source
        self._parts = tuple(self._config.path.split("/"))
        self._found: deque[Place] = deque()
        self._after: Place | None = None
        self._full = False

    async def pull(self, cursor: Any, *, limit: int) -> Page:
        after = _place(cursor)
        if not self._found or after != self._after:
            # A cursor ahead of now is of a clock that was set back since: what changes from now on lies behind it.
            after = min(after, (time.time_ns(), ""))
            found = await in_thread(self._find, after)
            self._found, self._full = deque(found), len(found) == FOUND_AT_ONCE
        page = await in_thread(self._read, after, limit)
        self._after = _place(page.cursor)
        return page

    def _find(self, after: Place) -> list[Place]:
        root = Path(os.path.realpath(self._source.root))
        folder = root.joinpath(*self._parts)
        if os.path.realpath(folder) != str(folder):
            raise ConnectorRefused(f"config.path: {self._config.path!r} leads through a symlink")
        try:
            return heapq.nsmallest(FOUND_AT_ONCE, self._changed(folder, after))
        except OSError as error:
            raise ConnectorUnavailable(f"the folder {self._config.path!r}: {error.strerror}") from error

    def _changed(self, folder: Path, after: Place) -> Iterator[Place]:
        until = time.time_ns() - self._config.settle // timedelta(microseconds=1) * 1000
        for entry in walk(folder, Path(os.devnull), skipped=_pass_over, failed=_pass_over):
            if not entry.is_folder and entry.name.endswith(self._config.suffixes):
                place = (entry.seen.st_ctime_ns, entry.path)
                if after < place and place[0] <= until and _is_text(entry.path):
                    yield place

    def _read(self, after: Place, limit: int) -> Page:
        items: list[Item] = []
        malformed: list[Malformed] = []
        left = self._source.max_page_bytes
        while self._found and len(items) + len(malformed) < limit and left > 0:
            after = self._found.popleft()
            path = after[1]
            try:
                content = self._content(path)
                items.append(Item(path, {"text": content.decode(), "metadata": {"path": path}}))
                left -= len(content)
            except UnicodeDecodeError:
                malformed.append(Malformed(path[:SHOWN], "is not UTF-8"))
            except ValueError as error:
                malformed.append(Malformed(path[:SHOWN], str(error)))
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno not in ONE_FILES_TROUBLE:
                    raise ConnectorUnavailable(f"the file {path[:SHOWN]!r}: {error.strerror}") from error
                malformed.append(Malformed(path[:SHOWN], str(error.strerror)))
        more = bool(self._found) or self._full
        return Page(items, {"changedNs": after[0], "path": after[1]}, more, malformed)

    def _content(self, path: str) -> bytes:
        """Raises OSError; ValueError: it is no regular file, or too large."""
        root = Path(os.path.realpath(self._source.root))
        with open_below(root, (*self._parts, *path.split("/"))) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ValueError("is no regular file")
            content = file.read(self._source.max_item_bytes + 1)
        if len(content) > self._source.max_item_bytes:
            raise ValueError(f"is larger than {self._source.max_item_bytes} bytes")
        return content


def _place(cursor: Any) -> Place:
    """Raises ConnectorRefused."""
    match cursor:
        case None:
            return (-1, "")
        case {"changedNs": int(changed), "path": str(path)}:
            return (int(changed), path)
    raise ConnectorRefused("the cursor is none of this connector's; unset it to begin anew")


def _is_text(path: str) -> bool:
    """A name that is not UTF-8 fits into no database."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _pass_over(*_: object) -> None:
    """What is no regular file, or cannot be looked at, is not here."""
