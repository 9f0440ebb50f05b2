"""Options that many jobs have."""

from typing import Annotated

from pydantic import Field, StringConstraints

from schemas.base import Model

CollectionName = Annotated[str, StringConstraints(pattern=r"^[^$\x00.][^$\x00]{0,119}$", strip_whitespace=True)]
"""What MongoDB takes as the name of a collection; ``system.`` is the server's own."""


class BatchParams(Model):
    """Of a job that works in batches."""

    batch_size: int = Field(500, ge=1, le=10_000, description="Documents read and written at once.")


class DeletingParams(BatchParams):
    """Of a job that deletes. See ``guard``."""

    dry_run: bool = Field(False, description="Count what would be deleted, and change nothing.")
    max_delete_ratio: float = Field(
        0.5, ge=0, le=1, description="Refuse to delete more than this part of what was looked at."
    )
    force: bool = Field(False, description="Delete past that part.")
