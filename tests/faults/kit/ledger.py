"""What handlers really did, written where no fault of a server reaches: lines of JSON in a file of their own."""

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

LEDGER = "FAULTS_LEDGER"
"""The variable that names the file."""


@dataclass(frozen=True)
class Line:
    """``at`` is the machine's monotonic clock: the same in all processes, and no wrong wall clock moves it."""

    what: str
    """``start``, ``effect`` or ``end`` of a run; ``crash`` of a process."""
    task: str = ""
    fence: int = 0
    attempt: int = 0
    pid: int = 0
    at: float = 0.0
    detail: str = ""


def write(what: str, task: str = "", fence: int = 0, attempt: int = 0, detail: str = "") -> None:
    """Append one line at once: it is there although the process dies right after."""
    line = Line(what, task, fence, attempt, os.getpid(), time.monotonic(), detail)
    file = os.open(os.environ[LEDGER], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, (json.dumps(asdict(line)) + "\n").encode())
    finally:
        os.close(file)


class Ledger:
    """The file, read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def lines(self, what: str | None = None, **fields: object) -> list[Line]:
        """Those of this kind whose fields are these, oldest first."""
        read = [Line(**json.loads(text)) for text in self.path.read_text().splitlines()]
        wanted = fields if what is None else {"what": what, **fields}
        return [line for line in read if all(getattr(line, name) == value for name, value in wanted.items())]
