"""What strangers send, checked before it joins a batch: one bad value would fail the whole bulk write."""

import json
from hashlib import sha256
from typing import Any

import orjson

from service.errors import PayloadRefused

MAX_DEPTH = 64
"""MongoDB stops at 180 levels for a whole document; bodies sit a few levels down in one."""
MAX_BYTES = 256 * 1024
HEAD_BYTES = 2048
"""How much of an oversized message is kept."""

_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1


def check_storable(value: Any, field: str) -> None:
    """See that a JSON value can be kept by any store, exactly as it is.

    Raises:
        PayloadRefused: an integer beyond 64 bits, NaN or infinity, a lone surrogate, a NUL in a key,
            more than 64 levels of nesting, or something that is not JSON. Names the path.
    """
    # A list instead of recursion: the depth of a stranger's body must not be the depth of our stack.
    todo: list[tuple[Any, str, int]] = [(value, field, 0)]
    while todo:
        item, path, depth = todo.pop()
        kind = type(item)
        if kind is str:
            _check_text(item, path)
        elif kind is int:
            if not _INT_MIN <= item <= _INT_MAX:
                raise PayloadRefused(path, item, "does not fit 64 bits", "send it as a string")
        elif kind is dict or kind is list:
            if depth >= MAX_DEPTH:
                raise PayloadRefused(field, "…", f"nests deeper than {MAX_DEPTH} levels", "flatten it")
            if kind is list:
                todo.extend((child, path, depth + 1) for child in item)
            else:
                for key, child in item.items():
                    if type(key) is not str:
                        raise PayloadRefused(path, key, "is not a text key", "JSON objects have text keys")
                    _check_text(key, path)
                    if "\0" in key:
                        raise PayloadRefused(path, key, "holds a NUL character in a key", "remove it")
                    todo.append((child, f"{path}.{key}" if depth < 4 else path, depth + 1))
        elif kind is float:
            if item != item or item in (float("inf"), float("-inf")):
                raise PayloadRefused(path, str(item), "is not a JSON number", "send null or a string")
        elif kind is not bool and item is not None:
            raise PayloadRefused(path, item, f"is a {kind.__name__}, not JSON", "convert it to JSON values")


def _check_text(text: str, path: str) -> None:
    # isascii is a flag of the string object: the usual text costs nothing here.
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise PayloadRefused(path, ascii(text), "holds a lone surrogate", "send valid UTF-8") from None


def safe_text(text: str) -> str:
    """Text that any store keeps, as a key too: NUL is escaped, and lone surrogates, as file names and strangers' JSON
    hold them."""
    return (text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()).replace("\0", "\\0")


def encode(value: Any) -> bytes:
    """Compact JSON, UTF-8. The value has been checked."""
    return orjson.dumps(value)


def check_size(value: Any, field: str, limit: int = MAX_BYTES) -> None:
    """Raises PayloadRefused when the value, as compact JSON, takes more than ``limit`` bytes."""
    size = len(encode(value))
    if size > limit:
        raise PayloadRefused(
            field, f"{size} bytes", f"is larger than {limit} bytes", "store it elsewhere and send a reference"
        )


def fingerprint(task_type: str, body: dict[str, Any]) -> str:
    """The same for the same type and body, whatever the order of keys."""
    text = json.dumps([task_type, body], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return sha256(text.encode()).hexdigest()[:32]


BODY_KEY = "body:"
"""How live keys begin that are made of type and body."""


def live_key(task_type: str, body: dict[str, Any], *, name: str | None, unique: bool) -> str | None:
    """What must be unique among live tasks: ``name:<name>``, ``body:<hash of type and body>``, or nothing."""
    if name is not None:
        return f"name:{name}"
    return f"{BODY_KEY}{fingerprint(task_type, body)}" if unique else None
