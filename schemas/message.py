"""What a publisher sends to ``verger.tasks``."""

from typing import Annotated, Any, Self

from pydantic import Field, StringConstraints, model_validator

from schemas.base import Duration, Instant, Model
from schemas.task import TaskType

MAX_ID = 200
TaskId = Annotated[str, StringConstraints(min_length=1, max_length=MAX_ID)]


class TaskMessage(Model):
    """The body of a message; its content type is ``application/json``.

    ``taskType`` defaults to the routing key, ``id`` to the ``message_id`` property.
    """

    id: TaskId | None = None
    """The idempotency key: publishing it again changes nothing while its record lives."""
    task_type: TaskType | None = None
    task_body: dict[str, Any] = {}
    task_name: Annotated[str, StringConstraints(min_length=1, max_length=MAX_ID)] | None = None
    """Singleton: while one with this name is pending or running, another is not created."""
    unique: bool | None = None
    """Singleton by type and body; null: as the type says."""
    retry_at: Instant | None = None
    """Not before this instant."""
    delay: Duration | None = None
    """Not before this long after the first delivery."""
    max_attempts: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    timeout_seconds: Annotated[float, Field(gt=0, le=30 * 86400)] | None = None
    tenant_id: Annotated[str, StringConstraints(min_length=1, max_length=MAX_ID)] | None = None

    @model_validator(mode="after")
    def _one_time(self) -> Self:
        if self.retry_at is not None and self.delay is not None:
            raise ValueError("give retryAt or delay, not both")
        if self.unique and self.task_name is not None:
            raise ValueError("give taskName or unique, not both")
        return self
