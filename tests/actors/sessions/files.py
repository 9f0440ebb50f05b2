"""Session files for tests."""

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

FOLDER = "-home-ada-lantern"
CWD = "/home/ada/lantern"


def line(number: int = 0, **changes: Any) -> dict[str, Any]:
    """One message as Claude Code writes it; a change to ``...`` removes the field."""
    fields: dict[str, Any] = {
        "type": "user",
        "uuid": str(uuid4()),
        "sessionId": "5e55-1",
        "timestamp": f"2026-02-16T08:{number // 60 % 60:02}:{number % 60:02}.250Z",
        "cwd": CWD,
        "message": {"role": "user", "content": f"message {number}"},
        **changes,
    }
    return {key: value for key, value in fields.items() if value is not ...}


def text(*lines: object) -> bytes:
    return b"".join(each if isinstance(each, bytes) else json.dumps(each).encode() + b"\n" for each in lines)


def write(root: Path, *lines: object, name: str = "one.jsonl", folder: str = FOLDER) -> Path:
    path = root / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text(*lines))
    return path


def append(path: Path, *lines: object) -> None:
    with path.open("ab") as file:
        file.write(text(*lines))
