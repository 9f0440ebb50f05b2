"""Is there room for a backup?"""

from collections.abc import Sequence
from pathlib import Path

from actors.maintenance.disk import check_room, shown
from actors.sessions.backup.manifest import Backup

DOUBT = 1.5
"""The next backup may pack this much worse than the last one."""


async def check_space(folder: Path, sizes: Sequence[int], previous: Backup | None) -> int:
    """See that a backup of targets with these sizes (bytes, uncompressed) fits; answers what it may need.

    Raises:
        NotEnoughSpace: it does not.
    """
    packed = sum(sizes)
    if previous is not None and previous.manifest.bytes:
        packed = round(packed * min(1.0, DOUBT * previous.manifest.file_bytes / previous.manifest.bytes))
    # One target after the other lies in the spool, uncompressed.
    needed = packed + max(sizes, default=0)
    await check_room(folder, needed, f"a backup of {shown(sum(sizes))}")
    return needed
