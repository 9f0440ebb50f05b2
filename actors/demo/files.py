"""The family ``files``: files of a document database with their blobs, and blobs that nothing refers to."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from hashlib import sha256

from actors.demo.part import Document, Part
from actors.demo.tenants import TENANTS, Tenant

NAMES = {"notes.md": "text/markdown", "page.html": "text/html", "list.txt": "text/plain", "photo.png": "image/png"}
"""Of each tenant's files."""
ROOT = "/demo/"
"""Path of all files: ``files.reindex`` takes it."""
KEPT = b"A draft that only last week's snapshot knows."


def parts(now: datetime) -> list[Part]:
    return [
        Part("files", [_file(tenant, name, now) for tenant in TENANTS for name in NAMES], "not indexed as yet"),
        Part("blobs", list(_blobs(now)), "some unused: condemned before, old, or too young; one in use again"),
        Part("snapshots", [_snapshot(now)], "keeps a blob that no file has any more"),
    ]


def _content(tenant: Tenant, name: str) -> bytes:
    match NAMES[name]:
        case "text/html":
            lines = "".join(f"<p>{line}</p>" for line in tenant.topic)
            return f"<html><title>{tenant.id}</title><body>{lines}</body></html>".encode()
        case "image/png":
            return b"\x89PNG\r\n\x1a\n" + tenant.id.encode()
    return "\n\n".join((name, *tenant.topic)).encode()


def _blob_id(content: bytes) -> str:
    return f"demo-{sha256(content).hexdigest()}"


def _file(tenant: Tenant, name: str, now: datetime) -> Document:
    content = _content(tenant, name)
    return {
        "_id": f"{ROOT}{tenant.id.removeprefix('demo-')}/{name}",
        "blobs": [_blob_id(content)],
        "size": len(content),
        "contentType": NAMES[name],
        "hash": sha256(content).hexdigest(),
        "modifiedAt": now - timedelta(days=3),
        "indexedAt": None,
        "indexError": None,
    }


def _blobs(now: datetime) -> Iterable[Document]:
    used = [_content(tenant, name) for tenant in TENANTS for name in NAMES]
    yield from (_blob(content, now, hours=72) for content in (*used[1:], KEPT))
    yield _blob(used[0], now, hours=72, condemned=2)
    for number in range(4):
        yield _blob(f"Condemned {number}. ".encode() * 40, now, hours=48, condemned=2)
        yield _blob(f"Old {number}. ".encode() * 40, now, hours=48)
        yield _blob(f"An upload runs {number}. ".encode() * 40, now, hours=0.1)


def _blob(content: bytes, now: datetime, *, hours: float, condemned: float | None = None) -> Document:
    """Made so many hours ago."""
    blob = {"_id": _blob_id(content), "data": content, "size": len(content), "createdAt": now - timedelta(hours=hours)}
    return blob if condemned is None else blob | {"condemnedAt": now - timedelta(hours=condemned)}


def _snapshot(now: datetime) -> Document:
    return {"_id": "demo-last-week", "roots": [_blob_id(KEPT)], "at": now - timedelta(days=7)}
