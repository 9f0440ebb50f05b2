"""Old files for tests, and what is in archives."""

import os
import shutil
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from actors.sessions.archive.extract import extract

Contents = dict[str, tuple[bytes, int]]
"""``<day>/<path>`` → content and time."""
MONDAY = date(2026, 2, 2)


def put(root: Path, name: str, day: date, content: bytes | None = None, *, hour: int = 12) -> Path:
    """A file whose last change lies on this day; to the nanosecond."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if content is not None else os.fsencode(f"{name} of {day}\n") * 20)
    moment = int(datetime(day.year, day.month, day.day, hour, tzinfo=UTC).timestamp()) * 10**9 + 123_456_789
    os.utime(path, ns=(moment, moment))
    return path


def archives(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.name.endswith(".tar.xz"))


def drain(steps: Any) -> Any:
    try:
        while True:
            next(steps)
    except StopIteration as stop:
        return stop.value


def unpacked(folder: Path, *, merging: bool = False) -> Contents:
    """Everything that is in any archive. Fails if a name is in two of them, as it may be while they are merged."""
    found: Contents = {}
    for number, name in enumerate(archives(folder)):
        into = folder.parent / f"unpacked-{number}"
        drain(extract(folder / name, into))
        for path in into.rglob("*"):
            if path.is_file():
                member = path.relative_to(into).as_posix()
                assert merging or member not in found, f"{member} is in {name} and in another archive"
                found[member] = (path.read_bytes(), path.stat().st_mtime_ns)
        shutil.rmtree(into)
    return found


def contents(root: Path) -> Contents:
    """What the files of a folder are to be in archives."""
    found = {}
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            seen = path.stat()
            day = datetime.fromtimestamp(seen.st_mtime_ns // 10**9, UTC).date()
            found[f"{day}/{str(path)[1:]}"] = (path.read_bytes(), seen.st_mtime_ns)
    return found
