"""Disks: is there room, is it really on them, and what people call so many bytes."""

import errno
import os
import shutil
from pathlib import Path
from typing import BinaryIO

from actors.maintenance.blocking import in_thread
from service.errors import VergerError

MARGIN_BYTES = 64 * 1024 * 1024
"""Is left free by whoever checks first."""
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Errors that mean: no more of this can be written here."""


class NotEnoughSpace(VergerError):
    """The disk is too full for what was to be written; the message says how much is missing."""


async def check_room(folder: Path, needed: int, what: str) -> None:
    """See that ``needed`` bytes, and a margin, are free where the folder is or will be.

    Raises:
        NotEnoughSpace: they are not.
    """
    needed += MARGIN_BYTES
    free = await in_thread(free_bytes, folder)
    if free < needed:
        raise NotEnoughSpace(
            f"{what} may need {shown(needed)} below {folder}, and {shown(free)} are free; "
            "make room, or set `folder` to another disk"
        )


def free_bytes(folder: Path) -> int:
    """What is free where the folder is, or will be made."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def forget_cached(file: BinaryIO) -> None:
    """Before reading back: what was written a moment ago would come from memory, and prove nothing about the disk."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def shown(size: float) -> str:
    """Bytes for people: ``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
