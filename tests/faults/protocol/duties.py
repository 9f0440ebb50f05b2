"""What schedulers do with tasks, and what people do to them."""

from dataclasses import replace
from typing import Any

from schemas.task import TaskStatus
from service import states
from service.envelope import dead_letter, for_stored
from service.errors import Conflict, NotFound, StoreUnavailable
from service.store.port import RelayMove, Retention
from tests.faults.protocol.base import Base, Reading, written_end
from tests.faults.protocol.model import Loss
from tests.faults.protocol.steps import ACTORS, DUTIES, PICK, PICKS, SOMETIMES, a_loss, among, step
from tests.faults.protocol.world import TICK, TYPE, Actor

STALE = 1.5 * TICK
RETENTION = {"window": 2, "completed": 6, "dead": 12}


class Duties(Base):
    """Rescue, relay, dead letters, prune; cancel, replay, discard, pause."""

    # ---- rescue ------------------------------------------------------------------------------------------------------

    @step(1)
    def look_for_stale_claims(self) -> None:
        stale, _ = self.run(self.actor(0).store.upkeep.stale_claims(STALE, 100))
        assert {task.id for task in stale} == self.model.stale(self.model.now)
        self.stale = [self.reading(task) for task in stale]

    @step(4, who=DUTIES, pick=PICK, loss=a_loss, dies=SOMETIMES)
    def rescue(self, who: int, pick: int, loss: Loss | None, dies: bool) -> None:
        """Of what was stale when it was read; it may have been renewed, ended, or claimed anew since."""
        if not self.stale:
            self.look_for_stale_claims()
        if not self.stale:
            return
        actor, loss = self.actor(who), self.loss(who, loss, "update")
        reading = self.stale.pop(pick % len(self.stale))
        now = actor.store.clock.now()
        move = states.rescue(reading.task, now)
        due = None if move.status is TaskStatus.CANCELLED else now + states.RELAY_SLACK
        with self.world.losing(loss):
            done = self.run(actor.store.upkeep.rescue(reading.task, move, STALE, due))
        expected = self.model.rescue(reading.record)
        assert done == (expected and not (loss is not None and loss.executed))
        self.world.happened["rescued" if expected else "rescue refused"] += 1
        if done:
            end = written_end(reading.task, move, states.Seen(), actor.name, now)
            self.tell(actor, reading.task, replace(end, relay_at=due), now, dies)

    # ---- relay, dead letters, prune ----------------------------------------------------------------------------------

    @step(1)
    def relay_looks(self) -> None:
        upkeep, soon = self.actor(0).store.upkeep, self.actor(0).store.clock.now() + TICK / 2
        pending = self.run(upkeep.relay_due(TYPE, soon, 500))
        dead = self.run(upkeep.dead_due(soon, 500))
        assert {task.id for task in pending} == self.model.due_for_relay("pending")
        assert {task.id for task in dead} == self.model.due_for_relay("failed")
        self.relayed = [self.reading(task) for task in [*pending, *dead]]

    @step(3, who=DUTIES, loss=a_loss, dies=SOMETIMES)
    def relay_publishes(self, who: int, loss: Loss | None, dies: bool) -> None:
        """What it read some steps ago."""
        if not self.relayed:
            self.relay_looks()
        if not self.relayed:
            return
        actor, loss = self.actor(who), self.loss(who, loss, "update")
        readings, self.relayed = self.relayed, []
        now = actor.store.clock.now()
        dues = [each.task.retry_at if each.task.status is TaskStatus.PENDING else now for each in readings]
        moves = [
            RelayMove(each.task, states.relay_at(now, due, published=True))
            for each, due in zip(readings, dues, strict=True)
        ]
        moved = self.move(actor, readings, moves, self.model.now, loss)
        mine = [
            replace(each, task=each.task.model_copy(update={"relay_at": move.relay_at}))
            for each, move, done in zip(readings, moves, moved, strict=True)
            if done and not dies
        ]
        self.publish([for_stored(each.task, now) for each in mine if each.task.status is TaskStatus.PENDING])
        dead = [each for each in mine if each.task.status is TaskStatus.FAILED]
        self.publish([dead_letter(each.task) for each in dead])
        self.letters += [self.reading(each.task) for each in dead]

    @step(3, pick=PICK)
    def dead_letter_is_confirmed(self, pick: int) -> None:
        """Perhaps long after it was sent."""
        if not self.letters:
            return
        reading = self.letters.pop(pick % len(self.letters))
        self.move(self.actor(0), [reading], [RelayMove(reading.task, None)], None, None)

    def move(
        self, actor: Actor, readings: list[Reading], moves: list[RelayMove], to: int | None, loss: Loss | None
    ) -> list[bool]:
        with self.world.losing(loss):
            try:
                moved = self.run(actor.store.upkeep.relay_move(moves))
            except StoreUnavailable:
                assert loss is not None
                if loss.executed:
                    self.moved(readings, to)
                return [False] * len(moves)
        assert loss is None
        assert moved == self.moved(readings, to)
        self.world.happened["relay moved"] += sum(moved)
        self.world.happened["relay refused"] += len(moved) - sum(moved)
        return list(moved)

    def moved(self, readings: list[Reading], to: int | None) -> list[bool]:
        answers = []
        for reading in readings:
            record = self.model.records.get(reading.record.id)
            # Cleared by another already, which comes to the same.
            same = to is None and record is not None and (record.status, record.relay) == ("failed", None)
            answers.append(self.model.relay(reading.record, to) or same)
        return answers

    @step(0.5, pick=PICK)
    def give_up(self, pick: int) -> None:
        if not self.relayed:
            return
        reading = self.relayed.pop(pick % len(self.relayed))
        if reading.task.status is not TaskStatus.PENDING:
            return
        store = self.actor(0).store
        due = store.clock.now() + states.RELAY_SLACK
        done = self.run(store.upkeep.give_up(reading.task, "unknown_type", "nobody knows it", due))
        assert done == self.model.give_up(reading.record)

    @step(1, keep=among([False, True]))
    def prune(self, keep: bool) -> None:
        store = self.actor(0).store
        window, completed, dead = ((ticks + 0.5) * TICK for ticks in RETENTION.values())
        retention = Retention(window, completed, dead, keep_completed=1000 if keep else 0)
        pruned = self.run(store.upkeep.prune(retention, store.clock.now(), 1000))
        assert pruned == self.model.prune(**RETENTION, keep=keep)
        self.pruned = True
        self.world.happened["pruned"] += bool(pruned)

    # ---- people ------------------------------------------------------------------------------------------------------

    @step(2, pick=PICK, force=among([False, True]), who=ACTORS, loss=a_loss)
    def cancel(self, pick: int, force: bool, who: int, loss: Loss | None) -> None:
        task_id = self.some_id(pick)
        actor, loss = self.actor(who), self.loss(who, loss, "findAndModify")
        with self.world.losing(loss):
            answer = self.answered(actor.client.cancel(task_id, force=force))
        assert answer == self.model.cancel(task_id, force=force)
        self.world.happened[f"cancel: {answer}"] += 1

    @step(3, pick=PICK, who=DUTIES, loss=a_loss)
    def replay(self, pick: int, who: int, loss: Loss | None) -> None:
        task_id = self.some_id(pick)
        actor, loss = self.actor(who), self.loss(who, loss, "findAndModify")
        with self.world.losing(loss):
            answer = self.answered(actor.client.replay(task_id))
        assert answer == self.model.replay(task_id)
        self.world.happened[f"replay: {answer}"] += 1
        self.replayed = {task_id}

    def answered(self, asked: Any) -> str:
        try:
            return str(self.run(asked).status)
        except NotFound:
            return "not found"
        except Conflict:
            return "conflict"

    @step(0.5, picks=PICKS)
    def discard(self, picks: list[int]) -> None:
        task_ids = sorted({self.some_id(pick) for pick in picks})
        assert self.run(self.actor(0).store.dead.discard(task_ids, "tidied")) == self.model.discard(task_ids)

    @step(0.5, paused=among([False, True]))
    def pause(self, paused: bool) -> None:
        self.run(self.actor(0).store.upkeep.set_paused(TYPE, paused))
        self.model.paused = paused
