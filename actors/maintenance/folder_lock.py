"""One writer in a folder."""

import fcntl
from pathlib import Path

from service.errors import Conflict

LOCK = ".lock"


class FolderLock:
    """Held from its making to the end of ``with``; the kernel gives it back when the process dies."""

    def __init__(self, folder: Path) -> None:
        """Raises Conflict when another run holds it. The folder is made: for its owner only."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = (folder / LOCK).open("a")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise Conflict(f"another run writes in {folder}") from None

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self._file.close()
