"""Claude Code's session files: ``<root>/<encoded project path>/<session>.jsonl``, one JSON object a line."""

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from actors.sessions.adapters.lines import read_lines
from actors.sessions.adapters.port import Adapter, FoundFile, Limits, Malformed, Message, Portion, Position
from schemas.base import to_instant
from service.errors import PayloadRefused
from service.payload import check_storable

SUFFIX = ".jsonl"
_ID_LENGTH = 200
_PATH_LENGTH = 4096
_TYPES_WITH_MESSAGE = ("user", "assistant")


class _Unusable(Exception):
    """A line that is no message though it should be one; the text is the reason."""


class ClaudeCode(Adapter):
    """Lines with a ``message`` become messages; others, such as summaries and snapshots, are ignored."""

    name = "claude_code"

    def find(self, root: Path, unreadable: Callable[[str, OSError], None]) -> Iterator[FoundFile]:
        for project in _entries(root, unreadable):
            if not project.is_dir(follow_symlinks=False):
                continue
            for entry in _entries(Path(project.path), unreadable):
                if not entry.name.endswith(SUFFIX) or not entry.is_file(follow_symlinks=False):
                    continue
                try:
                    seen = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    unreadable(entry.path, error)
                    continue
                yield FoundFile(root, (project.name, entry.name), seen.st_size, seen.st_mtime_ns, seen.st_ino)

    def parse(self, file: BinaryIO, found: FoundFile, position: Position, limits: Limits) -> Portion:
        session = found.parts[-1].removesuffix(SUFFIX)

        def take(raw: bytes, number: int, portion: Portion) -> None:
            try:
                message = _message(raw, number, session, limits)
            except _Unusable as error:
                portion.malformed.append(Malformed(number, str(error)))
                return
            if message is None:
                portion.ignored += 1
            else:
                portion.messages.append(message)

        return read_lines(file, position, limits, take, _is_whole)

    def project_path(self, found: FoundFile, folders: Sequence[str]) -> str:
        # The folder is named for where the session was started; it may have gone on elsewhere.
        for folder in folders:
            if re.sub(r"[^A-Za-z0-9]", "-", folder) == found.parts[0]:
                return folder
        return folders[0] if folders else self._decoded(found)

    def _decoded(self, found: FoundFile) -> str:
        # `/`, `.` and others have all become `-`: the way back is a guess, good enough for a name.
        encoded = found.parts[0].encode(errors="surrogateescape").decode(errors="replace")
        if re.match(r"[A-Za-z]--", encoded):
            return f"{encoded[0]}:/{encoded[3:].replace('-', '/')}"
        return encoded.replace("-", "/")


def _entries(folder: Path, unreadable: Callable[[str, OSError], None]) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        return []
    except OSError as error:
        unreadable(str(folder), error)
        return []


def _is_whole(raw: bytes) -> bool:
    # No beginning of a JSON object is a JSON object: what parses is all of it.
    if not raw.rstrip().endswith(b"}"):
        return False
    try:
        return isinstance(_object(raw), dict)
    except _Unusable:
        return False


def _object(raw: bytes) -> Any:
    try:
        return json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise _Unusable(f"is not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise _Unusable("nests too deeply") from None
    except ValueError as error:
        raise _Unusable(f"is not JSON: {str(error)[:120]}") from None


def _message(raw: bytes, number: int, session: str, limits: Limits) -> Message | None:
    """The line as a message; None: it is something else. Raises _Unusable."""
    line = _object(raw)
    if not isinstance(line, dict):
        raise _Unusable("is not a JSON object")
    kind = line.get("type")
    if not isinstance(kind, str):
        raise _Unusable("has no type" if kind is None else "type is not text")
    body = line.get("message")
    if body is None and kind not in _TYPES_WITH_MESSAGE:
        return None
    if not isinstance(body, dict):
        raise _Unusable("has no message" if body is None else "message is not an object")
    moment, clamped = _moment(line.get("timestamp"), limits)
    message = Message(
        id=_text(line, "uuid", _ID_LENGTH),
        session_id=_text(line, "sessionId", _ID_LENGTH, session),
        role=_text(body, "role", _ID_LENGTH, kind),
        content=_content(body.get("content")),
        at=moment,
        cwd=_text(line, "cwd", _PATH_LENGTH, "") or None,
        line=number,
        clamped=clamped,
    )
    try:
        check_storable([message.id, message.session_id, message.role, message.cwd], "line")
        check_storable(message.content, "content")
    except PayloadRefused as error:
        # Not the value itself: what people wrote does not belong in a log.
        raise _Unusable(f"cannot be stored: {error.field[:200]} {error.problem}") from None
    return message


def _text(holder: dict[str, Any], field: str, longest: int, default: str | None = None) -> str:
    value = holder.get(field)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise _Unusable(f"has no {field}" if value is None else f"{field} is not text")
    if not value and default is None:
        raise _Unusable(f"{field} is empty")
    if len(value) > longest:
        raise _Unusable(f"{field} is longer than {longest} characters")
    return value or default or ""


def _content(value: object) -> str | list[dict[str, Any]]:
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise _Unusable("has no content" if value is None else "content is neither text nor a list of blocks")
    if not all(isinstance(block, dict) for block in value):
        raise _Unusable("content holds a block that is not an object")
    return value


def _moment(value: object, limits: Limits) -> tuple[datetime, bool]:
    if not isinstance(value, str):
        raise _Unusable("has no timestamp" if value is None else "timestamp is not text")
    try:
        moment = datetime.fromisoformat(value[:40])
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return (limits.now, True) if moment > limits.latest else (to_instant(moment), False)
    except (ValueError, OverflowError):
        raise _Unusable(f"timestamp {value[:40]!r} is not ISO 8601") from None
