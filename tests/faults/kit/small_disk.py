"""A file system of its own for the data of a server: in memory, and so small that a test may fill it."""

import errno
import subprocess
from pathlib import Path
from types import TracebackType

PIECE = b"." * (1 << 20)


class SmallDisk:
    """Is mounted as long as the ``with`` lasts, and never longer than this process, however that ends."""

    def __init__(self, folder: Path, megabytes: int) -> None:
        self.folder, self._megabytes = folder, megabytes
        self._ballast = folder / "ballast"

    def __enter__(self) -> "SmallDisk":
        self.folder.mkdir(parents=True)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={self._megabytes}m,mode=700", "tmpfs", str(self.folder)]
        done = subprocess.run(mount, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(
                f"`{' '.join(mount)}` failed: {done.stderr.strip()}\n"
                "A full disk is tested on a small file system of its own: run this as root, who may mount one."
            )
        # Reads until we close the pipe or end; lazily, since what was just killed may still hold a file there.
        self._unmounting = subprocess.Popen(
            ["sh", "-c", 'cat; exec umount --lazy "$1"', "sh", str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._unmounting.communicate()
        if self._unmounting.returncode != 0:
            raise RuntimeError(f"{self.folder} is still mounted")

    def fill(self) -> None:
        """Take all the space there is, and what was given back since the last time."""
        with self._ballast.open("ab", buffering=0) as ballast:
            try:
                while True:
                    ballast.write(PIECE)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise

    def make_room(self) -> None:
        self._ballast.unlink(missing_ok=True)
