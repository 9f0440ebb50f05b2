"""How audit rows are written for a SIEM (pure): a line each, which nothing in a row can break or forge."""

import json
import re
from collections.abc import Callable
from typing import Any

import orjson

from actors.memories.audit_rows import Row

_LINE_BREAKS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_OWN_FIELDS = frozenset({"tenantId", "at", "actor", "action", "target"})
SEVERITY = 3


def as_json(row: Row) -> str:
    """An object with the fields of the row, and ``id``: a row may be sent twice, with the same one."""
    fields = {**row.fields, "id": row.position.id}
    if row.left_out:
        fields["leftOutBytes"] = row.left_out
    return _json(fields)


def as_cef(row: Row) -> str:
    """ArcSight's Common Event Format, version 0. What it has no field for is JSON in ``msg``."""
    fields = row.fields
    rest = {name: value for name, value in fields.items() if name not in _OWN_FIELDS}
    if row.left_out:
        rest["leftOutBytes"] = row.left_out
    action = _text(fields.get("action")) or "unknown"
    head = ["CEF:0", "Verger", "memories", "1", _head(action), _head(action), str(SEVERITY)]
    extension = {
        "rt": str(round(row.position.at.timestamp() * 1000)),
        "externalId": _text(row.position.id),
        "suser": _text(fields.get("actor")),
        "act": action,
        "cs1Label": "tenant",
        "cs1": _text(fields.get("tenantId")),
        "cs2Label": "target",
        "cs2": _text(fields.get("target")),
        "msg": _json(rest) if rest else "",
    }
    return "|".join([*head, " ".join(f"{key}={_extension(value)}" for key, value in extension.items() if value)])


FORMATS: dict[str, tuple[str, Callable[[Row], str]]] = {
    "jsonl": ("application/x-ndjson", as_json),
    "cef": ("text/plain; charset=utf-8", as_cef),
}
"""``format`` of an endpoint → the content type, and what writes a row."""


def _head(text: str) -> str:
    return _LINE_BREAKS.sub(" ", text).replace("\\", "\\\\").replace("|", "\\|")


def _extension(text: str) -> str:
    text = text.replace("\\", "\\\\").replace("=", "\\=").replace("\r", "\\r").replace("\n", "\\n")
    return _LINE_BREAKS.sub(" ", text)


def _text(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    written = _json(value)
    return json.loads(written) if written.startswith('"') else written


def _json(value: Any) -> str:
    # What JSON has no form for, such as an ObjectId, is written as its text.
    return orjson.dumps(value, default=str, option=orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS).decode()
