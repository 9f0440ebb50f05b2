"""The names of the family's collections."""

from actors.maintenance.params import CollectionName
from schemas.base import Model


class Collections(Model):
    """A service with its own names gives them here."""

    files: CollectionName = "files"
    blobs: CollectionName = "blobs"
    snapshots: CollectionName = "snapshots"
    file_index: CollectionName = "file_index"
    index_state: CollectionName = "index_state"
    """What is being reindexed; see ``actors/maintenance/index_state.py``."""
    gc_garbage: CollectionName = "gc_garbage"
    """Files of GridFS whose blobs are about to be swept: what remains of them after a crash is removed by the next
    run."""
    bucket: CollectionName = "fs"
    """Of GridFS: its collections are ``fs.files`` and ``fs.chunks``."""
