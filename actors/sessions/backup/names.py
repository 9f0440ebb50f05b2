"""File names for what has hostile names: collections, and paths of files and folders; and names of databases."""

import base64
import hashlib
from urllib.parse import quote

LONGEST = 238
"""With the longest suffix it stays below the 255 bytes that file systems allow."""
_KEPT = 208


def names_database(name: str) -> bool:
    """Whether a MongoDB database can be called so."""
    raw = name.encode(errors="replace")
    return 0 < len(raw) <= 63 and raw.decode() == name and not set(name) & set('/\\. "$\0')


def escape(name: str) -> str:
    """A file name from any text: percent-encoded, so that it holds no slash and begins with no dot.

    One that gets too long is cut and ends in a hash, as ``mongodump`` does it: ``mongorestore`` then takes the name of
    the collection from the metadata file, as Verger does from the manifest.
    """
    raw = name.encode(errors="surrogateescape")
    escaped = quote(raw, safe="")
    if escaped.startswith("."):
        escaped = "%2E" + escaped[1:]
    if len(escaped) <= LONGEST:
        return escaped
    digest = hashlib.sha1(raw, usedforsecurity=False).digest()
    return f"{escaped[:_KEPT]}%24{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"
