"""A part of the data set: the documents of one collection, or files of one folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Part:
    """``what`` says what there is to do."""

    collection: str
    documents: Sequence[Document]
    what: str


@dataclass(frozen=True, slots=True)
class DemoFile:
    """``path`` is below VERGER_DATA_DIR."""

    path: str
    content: bytes
    changed: datetime
