"""A guard against a bad filter: a job does not delete most of what there is, unless it was told to."""

from actors.maintenance.params import DeletingParams
from service.errors import VergerError

FEW = 20
"""So many may always be deleted: of three sessions, all three expire some day."""


class TooMuch(VergerError):
    """A job was about to delete a larger part than it may; it has deleted nothing."""


def check(params: DeletingParams, *, deleting: int, looked_at: int, what: str) -> None:
    """Raises TooMuch if ``deleting`` of ``looked_at`` documents is more than the params allow."""
    if params.force or deleting <= max(FEW, params.max_delete_ratio * looked_at):
        return
    raise TooMuch(
        f"refused to delete {deleting} of {looked_at} {what}, more than maxDeleteRatio {params.max_delete_ratio:g}; "
        "look at them with dryRun, then run it with force, or with a higher maxDeleteRatio"
    )
