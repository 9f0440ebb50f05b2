"""Names on the broker, as pure functions of the prefix. Changing what a name declares means changing the name."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True)
class Names:
    """All exchanges and queues of one installation."""

    prefix: str = "verger"

    @property
    def tasks(self) -> str:
        """Direct exchange; publish here with the task type as the routing key."""
        return f"{self.prefix}.tasks"

    @property
    def intake(self) -> str:
        """Fanout exchange and queue for what could not be delivered."""
        return f"{self.prefix}.intake"

    @property
    def dead(self) -> str:
        """Topic exchange of dead letters."""
        return f"{self.prefix}.dead"

    @property
    def dead_letters(self) -> str:
        """The queue behind ``dead``."""
        return f"{self.prefix}.dead-letters"

    @property
    def events(self) -> str:
        return f"{self.prefix}.events"

    @property
    def control(self) -> str:
        return f"{self.prefix}.control"

    def queue(self, task_type: str) -> str:
        """The queue of a task type."""
        return f"{self.prefix}.tasks.{task_type}"

    def delay(self, step: timedelta) -> str:
        """Fanout exchange and queue that hold a message for ``step``."""
        return f"{self.prefix}.delay.{int(step.total_seconds())}s"

    def control_queue(self, token: str) -> str:
        """The queue of one process behind ``control``; ``token`` tells it from all others."""
        return f"{self.prefix}.control.{token}"

    def events_queue(self, token: str) -> str:
        """The queue of one listener behind ``events``."""
        return f"{self.prefix}.events.{token}"
