"""Is there room for a backup?"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from actors.maintenance.blocking import in_thread
from actors.sessions.backup.manifest import Backup
from service.errors import VergerError

MARGIN_BYTES = 64 * 1024 * 1024
DOUBT = 1.5
"""The next backup may pack this much worse than the last one."""


class NotEnoughSpace(VergerError):
    """The disk is too full for a backup; the message says how much is missing."""


async def check_space(folder: Path, sizes: Sequence[int], previous: Backup | None) -> int:
    """See that a backup of targets with these sizes (bytes, uncompressed) fits; answers what it may need.

    Raises:
        NotEnoughSpace: it does not.
    """
    packed = sum(sizes)
    if previous is not None and previous.manifest.bytes:
        packed = round(packed * min(1.0, DOUBT * previous.manifest.file_bytes / previous.manifest.bytes))
    # One target after the other lies in the spool, uncompressed.
    needed = packed + max(sizes, default=0) + MARGIN_BYTES
    free = await in_thread(_free, folder)
    if free < needed:
        raise NotEnoughSpace(
            f"a backup of {shown(sum(sizes))} may need {shown(needed)} below {folder}, and {shown(free)} are free; "
            "make room, or set `folder` to another disk"
        )
    return needed


def _free(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def shown(size: float) -> str:
    """Bytes for people: ``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
