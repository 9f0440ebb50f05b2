"""Why a task did, or did not, run."""

from schemas.base import Instant, Model
from schemas.task import TaskStatus


class Step(Model):
    """One sentence, and when it became true."""

    at: Instant | None
    text: str


class Explanation(Model):
    """What happened to a task, oldest first; what it waits for now, and what can be done."""

    id: str
    status: TaskStatus | None
    """Null: there is no record of it."""
    story: list[Step]
    now: list[str]
    """What holds it up, or how it ended."""
    advice: list[str] = []
    """What to do; empty where waiting is all there is to do."""
