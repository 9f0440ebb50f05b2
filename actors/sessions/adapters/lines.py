"""Read a file of lines on from a position, in memory that does not depend on the file."""

import hashlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

from actors.sessions.adapters.port import Limits, Malformed, Portion, Position

FINGERPRINT_BYTES = 512


Take = Callable[[bytes, int, Portion], None]
IsWhole = Callable[[bytes], bool]


def read_lines(file: BinaryIO, position: Position, limits: Limits, take: Take, is_whole: IsWhole) -> Portion:
    """Give each line, without its end, and its number (from 1) to ``take``, which adds it to the portion.

    A last line without a line end waits: the position stays before it, unless ``is_whole`` says nothing is missing.
    A line longer than ``limits.line_bytes`` is skipped piece by piece and is malformed.
    """
    portion = Portion(position=position)
    for raw, number in _lines(file, portion, limits, is_whole):
        if raw and not raw.isspace():
            take(raw, number, portion)
    return portion


def _lines(file: BinaryIO, portion: Portion, limits: Limits, is_whole: IsWhole) -> Iterator[tuple[bytes, int]]:
    offset, line, skipping = portion.position.offset, portion.position.line, portion.position.skipping
    file.seek(offset)
    stop_at = offset + limits.chunk_bytes
    for _ in range(limits.lines):
        raw = file.readline(limits.line_bytes + 1)
        if not raw:
            break
        ended = raw.endswith(b"\n")
        if skipping or (not ended and len(raw) > limits.line_bytes):
            skipping = not ended
            if ended:
                line += 1
                portion.malformed.append(Malformed(line, f"longer than {limits.line_bytes} bytes"))
        elif ended:
            line += 1
            yield raw.rstrip(b"\r\n"), line
        elif is_whole(raw):
            # Its line end may never come. The number is not counted yet: the rest of the line counts it, when it comes.
            yield raw, line + 1
        else:
            break
        offset += len(raw)
        portion.position = Position(offset, line, skipping)
        if offset >= stop_at:
            portion.more = True
            return
    else:
        portion.more = True


def fingerprint(file: BinaryIO, offset: int) -> str:
    """Of the first bytes and of those just before the offset: it differs when what was read is not there any more."""
    digest = hashlib.sha256()
    file.seek(0)
    digest.update(file.read(min(FINGERPRINT_BYTES, offset)))
    file.seek(max(0, offset - FINGERPRINT_BYTES))
    digest.update(file.read(min(FINGERPRINT_BYTES, offset)))
    return digest.hexdigest()[:32]
