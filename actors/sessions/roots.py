"""Which folders hold the session files: those of the task, else the one of the settings."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from service.log_events import LogEvent
from service.settings import Settings


def find_roots(roots: Sequence[Path], settings: Settings, log: Any) -> tuple[list[Path], int]:
    """Those that are there, and the number of those that are not: each is logged with what to do."""
    configured = settings.claude_projects
    roots = roots or ((configured,) if configured is not None else ())
    missing = 0 if roots else 1
    if not roots:
        fix = "set VERGER_CLAUDE_PROJECTS or the task's roots, or disable its schedule"
        log.warning(LogEvent.ROOT_MISSING, root=None, fix=fix)
    present = []
    for root in roots:
        # Resolved once: the root itself may be a symlink, what lies below may not.
        resolved = Path(os.path.realpath(root.expanduser()))
        if resolved.is_dir():
            present.append(resolved)
        else:
            missing += 1
            log.warning(LogEvent.ROOT_MISSING, root=str(root), fix="it is not a folder; mount it, or correct the root")
    return list(dict.fromkeys(present)), missing


def shown_path(path: str) -> str:
    """As much of it as a line of the log takes; bytes that are no UTF-8 are written as ``\\xff``."""
    path = path.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return path if len(path) <= 300 else "…" + path[-300:]
