"""Ids of documents as tasks and vectors write them."""

from hashlib import sha256
from typing import Any

from bson import ObjectId

LONGEST = 120


def candidates(text: str) -> list[Any]:
    """What ``_id`` a text can stand for: itself, or the ObjectId that is written so."""
    return [text, ObjectId(text)] if ObjectId.is_valid(text) else [text]


def digest(*parts: object) -> str:
    """32 hexadecimal digits that stand for these values and their types, in this order."""
    told = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return sha256(told.encode()).hexdigest()[:32]


def shown(value: object) -> str:
    """A short, printable text for the name of a task: the value itself where that is one, else its digest."""
    text = str(value)
    return text if 0 < len(text) <= LONGEST and text.isprintable() else digest(value)
