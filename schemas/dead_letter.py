"""Dead letters as an operator meets them: in heaps, by what went wrong."""

from typing import Annotated, Any, Self

from pydantic import Field, StringConstraints, model_validator

from schemas.base import Instant, Model
from schemas.task import Task

Text = Annotated[str, StringConstraints(min_length=1, max_length=400)]
Reason = Annotated[str, StringConstraints(min_length=1, max_length=300, strip_whitespace=True)]
MOST_IDS = 1000


class DeadGroup(Model):
    """Dead letters of one type that died of the same error at the same place."""

    fingerprint: str | None
    task_type: str
    error_type: str | None
    place: str | None
    """``file:function`` where the error was raised."""
    count: int
    first_seen: Instant
    last_seen: Instant
    sample_id: str
    """The newest of them."""
    sample_message: str | None


class DeadGroups(Model):
    """The largest groups, largest first."""

    groups: list[DeadGroup]
    counted: int
    """How many dead letters were looked at: the newest."""
    complete: bool
    """Whether these were all, and no group was left out."""


class DeadLetterPage(Model):
    """Dead letters, newest first, or their groups."""

    dead_letters: list[Task] | None = None
    cursor: str | None = None
    groups: list[DeadGroup] | None = None
    counted: int | None = None
    complete: bool | None = None


class Selection(Model):
    """Which dead letters: some ids, or all of a type, of a fingerprint, or of both."""

    ids: Annotated[list[Text], Field(min_length=1, max_length=MOST_IDS)] | None = None
    task_type: Text | None = Field(None, description="Type or alias.")
    fingerprint: Text | None = Field(None, description="As in the groups.")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.ids is not None and (self.task_type is not None or self.fingerprint is not None):
            raise ValueError("give ids, or a type or a fingerprint, not both")
        if self.ids is None and self.task_type is None and self.fingerprint is None:
            raise ValueError("give ids, a type or a fingerprint: not every dead letter is meant at once")
        return self


class ReplayRequest(Selection):
    """Replay dead letters, at a bounded rate."""

    rate: float = Field(20, gt=0, le=1000, description="How many a second at most.")
    first: int | None = Field(None, ge=1, le=100, description="Canary: replay so many, and wait until they ended.")
    stop_above: float = Field(0.0, ge=0, lt=1, description="Stop if more than this share of the canary failed.")
    dry_run: bool = Field(False, description="Only tell what would be replayed.")
    task_body: dict[str, Any] | None = Field(None, description="Replay the one id with this body instead of its own.")

    @model_validator(mode="after")
    def _one_body(self) -> Self:
        if self.task_body is not None and (self.ids is None or len(self.ids) != 1):
            raise ValueError("a taskBody goes with exactly one id")
        return self


class DiscardRequest(Selection):
    """End dead letters as cancelled: nobody is going to replay them."""

    reason: Reason = Field(description="For the history.")
    dry_run: bool = Field(False, description="Only tell what would be discarded.")


class Refusal(Model):
    """A dead letter that was left as it is."""

    id: str
    problem: str


class Matches(Model):
    """What a request means, before anything is done."""

    count: int
    complete: bool = True
    """False: there are more; counting stopped."""
    sample: list[Task]
    """The newest of them."""
    refused: list[Refusal] = []
    """With ids: what is no dead letter, or cannot be replayed."""


class Replayed(Model):
    """The answer to a replay: one of the three."""

    matches: Matches | None = None
    """Of a dry run."""
    task: Task | None = None
    """The one that was replayed with another body."""
    operation: Task | None = None
    """The task that replays them, by and by: its progress and its result tell how far it is, cancelling it stops it."""


class Discarded(Model):
    """The answer to a discard."""

    matches: Matches | None = None
    """Of a dry run."""
    discarded: int = 0
    refused: list[Refusal] = []
    more: bool = False
    """So many match that some are left: ask again."""


class ReplayOrder(Selection):
    """The body of a task ``verger.replay``."""

    rate: float = Field(gt=0, le=1000)
    first: int | None = Field(None, ge=1, le=100)
    stop_above: float = Field(0.0, ge=0, lt=1)
    until: Instant
    """Who died later is not meant: what fails again is not replayed again."""
    by: str
    """Who asked."""
    refused: list[Refusal] = []
    """Of the ids that were asked for: those that could not be replayed from the start."""


class ReplayState(Model):
    """How far a replay is: the checkpoint, and in the end the result, of its task."""

    total: int
    """How many there were when it began."""
    replayed: int = 0
    refused: int = 0
    """Could not be: their live key is taken, their message is incomplete, or somebody was quicker."""
    refusals: list[Refusal] = []
    """The first of them."""
    cursor: str | None = None
    canary: list[str] = []
    """The ids that go ahead, until it is known how they end."""
    canary_failed: int | None = None
    """How many of them failed, once that is known."""
    stopped: str | None = None
    """Why it ended before its time."""
