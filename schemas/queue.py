"""The queues on the broker, as they are looked at."""

from schemas.base import Model


class Queue(Model):
    """The queue of one task type."""

    task_type: str
    name: str
    """On the broker."""
    ready: int
    """Messages that wait; those in a worker's hands are not counted."""
    consumers: int
    """Workers that take from it now: none while the type is paused, or while all slots of a worker are taken."""


class Queues(Model):
    """All of them, at about the same moment."""

    queues: list[Queue]
    """By task type."""
    delayed: int
    """Messages that wait for their time, of all types. What is far off, or waits in the store alone, is not here."""
    intake: int
    """Messages that no queue wanted; a scheduler decides on them."""
    dead_letters: int
