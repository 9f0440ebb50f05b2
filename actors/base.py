"""What an actor is: it owns its state, has one mailbox and one loop, and is supervised."""

from abc import ABC, abstractmethod


class Actor(ABC):
    """Others only put into its mailbox; its loop is the only one that touches its state."""

    name: str

    @abstractmethod
    async def run(self) -> None:
        """The loop; returns once ``stop`` was called. An exception is a crash: the supervisor runs it again."""

    @abstractmethod
    def stop(self) -> None:
        """Ask the loop to return; does not wait."""
