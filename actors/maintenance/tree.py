"""Walk through a folder without ever leaving it."""

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """A folder or a regular file."""

    path: str
    """Below the root."""
    parent: int
    """Descriptor of its folder, open until the walk goes on."""
    name: str
    seen: os.stat_result

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.seen.st_mode)


def walk(
    root: Path,
    leave_out: Path,
    *,
    skipped: Callable[[str], None],
    failed: Callable[[str, OSError], None],
) -> Iterator[TreeEntry]:
    """Every folder and regular file below the root, sorted by name, folders before what is in them.

    Symlinks are not followed. What is gone when it is looked at was never there.

    Args:
        leave_out: a folder that is passed over, should it lie below the root.
        skipped: told of the path of what is neither file nor folder.
        failed: told of what cannot be looked at; it is passed over.

    Raises:
        OSError: the root itself cannot be listed.
    """
    try:
        left_out = leave_out.stat()
    except FileNotFoundError:
        left_out = None
    # The root itself may be a symlink: whoever named it meant what it leads to.
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield from _Walk(left_out, skipped, failed).below(descriptor, "")
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class _Walk:
    left_out: os.stat_result | None
    skipped: Callable[[str], None]
    failed: Callable[[str, OSError], None]

    def below(self, folder: int, prefix: str) -> Iterator[TreeEntry]:
        """By descriptors of folders instead of paths: a folder that becomes a symlink meanwhile leads nowhere."""
        for name in sorted(os.listdir(folder)):
            path = prefix + name
            try:
                yield from self._one(folder, name, path)
            except FileNotFoundError:
                continue
            except OSError as error:
                self.failed(path, error)

    def _one(self, folder: int, name: str, path: str) -> Iterator[TreeEntry]:
        seen = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if self.left_out is not None and os.path.samestat(seen, self.left_out):
            return
        if stat.S_ISREG(seen.st_mode):
            yield TreeEntry(path, folder, name, seen)
        elif stat.S_ISDIR(seen.st_mode):
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            try:
                yield TreeEntry(path, folder, name, seen)
                yield from self.below(inner, path + "/")
            finally:
                os.close(inner)
        else:
            self.skipped(path)
