"""Cut a text into chunks that a model can take: code apart from prose, prose by paragraphs, long ones by length."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, model_validator

from schemas.base import Model

_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})[^\n]*$", re.MULTILINE)
_BLANK = re.compile(r"\n[^\S\n]*\n\s*")
_EDGES = re.compile(r"\s+")

Kind = Literal["text", "code"]


class Chunking(Model):
    """How texts are cut."""

    max_chars: int = Field(1200, ge=50, le=20_000, description="Characters of a chunk at most.")
    overlap: int = Field(
        150, ge=0, le=10_000, description="Characters that two pieces of one long paragraph share; under half a chunk."
    )

    @model_validator(mode="after")
    def _advances(self) -> "Chunking":
        if self.overlap * 2 > self.max_chars:
            raise ValueError("overlap is more than half of maxChars")
        return self


@dataclass(frozen=True, slots=True)
class Chunk:
    """``text`` is what was at ``start`` to ``end``; it begins and ends with something to see."""

    kind: Kind
    start: int
    end: int
    text: str


def chunks(text: str, how: Chunking) -> Iterator[Chunk]:
    """In their order. Every character that is no white space is in at least one of them.

    Code is what stands between fences, which go with it. Short paragraphs in a row share a chunk.
    """
    for kind, start, end in _sections(text):
        for a, b in _packed(text, start, end, how) if kind == "text" else _cut(text, start, end, how):
            piece = text[a:b]
            if seen := piece.strip():
                first = a + len(piece) - len(piece.lstrip())
                yield Chunk(kind, first, first + len(seen), seen)


def _sections(text: str) -> Iterator[tuple[Kind, int, int]]:
    """Prose and code in turn. A fence that nobody closes reaches to the end."""
    done, opened = 0, None
    for fence in _FENCE.finditer(text):
        mark = fence[1]
        if opened is None:
            if mark[0] == "`" and "`" in fence[0].strip()[len(mark) :]:
                continue  # code within a line
            yield "text", done, fence.start()
            done, opened = fence.start(), mark
        elif mark.startswith(opened) and fence[0].strip() == mark:
            yield "code", done, fence.end()
            done, opened = fence.end(), None
    yield "text" if opened is None else "code", done, len(text)


def _packed(text: str, start: int, end: int, how: Chunking) -> Iterator[tuple[int, int]]:
    first = last = start
    for a, b in _paragraphs(text, start, end):
        if b - first > how.max_chars:
            if last > first:
                yield first, last
            first = a
            if b - a > how.max_chars:
                *whole, (first, _) = _cut(text, a, b, how)
                yield from whole
        last = b
    yield first, last


def _paragraphs(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    for blank in _BLANK.finditer(text, start, end):
        yield start, blank.start()
        start = blank.end()
    yield start, end


def _cut(text: str, start: int, end: int, how: Chunking) -> Iterator[tuple[int, int]]:
    """Pieces of at most ``max_chars``, cut at a line's end or between words where there is one in the last third."""
    while end - start > how.max_chars:
        most = start + how.max_chars
        least = most - how.max_chars // 3
        cut = text.rfind("\n", least, most) + 1 or text.rfind(" ", least, most) + 1 or most
        yield start, cut
        start = _back(text, start, cut, how.overlap)
    yield start, end


def _back(text: str, start: int, cut: int, overlap: int) -> int:
    """Where the next piece begins: so far back, at a word's beginning if there is one."""
    begin = max(start + 1, cut - overlap)
    between = _EDGES.search(text, begin, cut)
    return between.end() if between else begin
