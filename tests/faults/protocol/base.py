"""What the steps of the protocol machine have in common."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from actors.scheduler.fire import Fire
from schemas.schedule import Schedule
from schemas.task import Task, TaskStatus
from service import states
from service.broker.port import Publication
from service.envelope import dead_letter, for_stored, waits_in_store
from service.metrics import Metrics
from service.registry import Registry
from service.store.port import Settlement
from tests.faults.protocol.model import Loss, Model, Outcome, Record, Seen, Timing
from tests.faults.protocol.steps import WIRED
from tests.faults.protocol.world import Actor, World


@dataclass
class Run:
    """A claim as its worker knows it, which may be lost."""

    task: Task
    outcome: Outcome | None = None
    seen: Seen = field(default_factory=Seen)
    forgotten: bool = False
    """Its process has died, or was told that the claim is lost; what it sent before may still arrive."""


@dataclass
class Reading:
    """A task as a scheduler read it some steps ago."""

    task: Task
    record: Record


@dataclass
class Draft:
    """What an editor made of a schedule, or of none, as he read it."""

    before: Schedule | None
    read: Timing | None
    after: Schedule
    new: Timing


@dataclass
class HeldFire:
    schedule: Schedule
    tick: int


class Base:
    """The state of a walk, and what every step needs."""

    def __init__(self, world: World, run: Callable[[Any], Any]) -> None:
        self.world, self.run = world, run
        self.run(world.reset())
        self.model = Model()
        self.before: dict[str, dict[str, Any]] = {}
        self.replayed: set[str] = set()
        self.pruned = False
        self.runs: dict[str, list[Run]] = {actor.name: [] for actor in world.actors}
        self.stale: list[Reading] = []
        self.relayed: list[Reading] = []
        self.letters: list[Reading] = []
        """Dead letters that have reached their exchange, and whose mark is still to be cleared."""
        self.drafts: list[Draft] = []
        self.due: list[tuple[Schedule, Timing]] = []
        self.open: list[Schedule] = []
        self.opened: dict[tuple[str, str], int] = {}
        """Schedule and holder → when."""
        self.held: list[HeldFire] = []
        self.fires = {
            actor.name: Fire(actor.store, world.bell, Registry(), Metrics([]), actor.name) for actor in world.actors
        }

    def actor(self, who: int) -> Actor:
        return self.world.actors[who]

    def at(self, actor: Actor) -> int:
        return self.model.now + actor.skew

    def loss(self, who: int, loss: Loss | None, *commands: str) -> Loss | None:
        return loss if loss is not None and who == WIRED and loss.command in commands else None

    def reading(self, task: Task) -> Reading:
        return Reading(task, replace(self.model.records[task.id]))

    def some_id(self, pick: int) -> str:
        ids = ["nobody", *sorted(self.model.records)]
        return ids[pick % len(ids)]

    def publish(self, publications: Sequence[Publication]) -> None:
        self.run(self.world.bell.publish(publications))

    def recorded(self, task: Task, at: int) -> Record:
        return Record(task.id, task.live_key, task.max_attempts or 0, at)

    def tell(self, actor: Actor, task: Task, settlement: Settlement, now: Any, dies: bool) -> None:
        """Publish what has become of it, unless its process dies before."""
        ended = task.model_copy(
            update={
                "status": settlement.move.status,
                "relay_at": settlement.relay_at,
                "retry_at": settlement.retry_at or task.retry_at,
            }
        )
        if dies:
            return
        if ended.status is TaskStatus.PENDING and not waits_in_store(ended.retry_at, now):
            self.publish([for_stored(ended, now)])
        elif ended.status is TaskStatus.FAILED:
            self.publish([dead_letter(ended)])
            self.letters.append(Reading(ended, replace(self.model.records[task.id])))


def written_end(task: Task, move: states.Move, seen: states.Seen, worker: str, now: Any) -> Settlement:
    """As a worker's settler makes it."""
    due: dict[str, Any] = {}
    if move.retry_at is not None:
        due = {
            "retry_at": move.retry_at,
            "relay_at": states.relay_at(now, move.retry_at, published=not waits_in_store(move.retry_at, now)),
        }
    elif move.status is TaskStatus.FAILED:
        due = {"relay_at": now + states.RELAY_SLACK}
    return Settlement(
        id=task.id, token=task.claim_token or "", move=move, seen=seen, worker=worker, fence=task.fence, **due
    )
