"""Schedules that are edited, and their fires."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from actors.scheduler.fire import _end as fire_end, _waits as waits_for_publish
from schemas.schedule import Misfire, Overlap, Schedule
from service.envelope import for_stored
from service.errors import Conflict, StoreUnavailable
from service.fires import fire_id
from service.store.port import Edit
from tests.faults.protocol.base import Base, Draft, HeldFire
from tests.faults.protocol.model import Loss, Timing
from tests.faults.protocol.steps import ACTORS, DUTIES, PICK, SCHEDULES, a_loss, among, step
from tests.faults.protocol.world import PAST, TYPE

SECOND = timedelta(seconds=1)


class Fires(Base):
    """Any number of schedulers, which look, die and come back."""

    @step(
        3,
        schedule_id=SCHEDULES,
        every=among([1, 2]),
        overlap=among(list(Overlap)),
        misfire=among(list(Misfire)),
        enabled=among([True, True, True, False]),
        waits=among([False, False, True]),
    )
    def edit(
        self, schedule_id: str, every: int, overlap: Overlap, misfire: Misfire, enabled: bool, waits: bool
    ) -> None:
        """By someone who reads the schedule and writes it at once; or ``waits``."""
        old = self.model.timings.get(schedule_id)
        before = self.run(self.actor(0).store.schedules.get(schedule_id))
        new = Timing(schedule_id, every, overlap.value, misfire.value, enabled, None)
        new.next = new.after(self.model.now) if enabled else None
        schedule = Schedule(
            id=schedule_id,
            task_type=TYPE,
            task_body={"of": schedule_id},
            schedule=f"*/{every * 10} * * * *",
            overlap=overlap,
            misfire=misfire,
            enabled=enabled,
            next_fire_at=self.world.instant(new.next) if new.next is not None else None,
        )
        draft = Draft(before, replace(old) if old is not None else None, schedule, new)
        if waits:
            self.drafts.append(draft)
        else:
            self.write(draft)

    @step(1, pick=PICK)
    def write_a_draft(self, pick: int) -> None:
        """Whatever has been edited, fired, deleted and created since it was read."""
        if self.drafts:
            self.write(self.drafts.pop(pick % len(self.drafts)))

    def write(self, draft: Draft) -> None:
        now = self.model.timings.get(draft.new.id)
        fired = now is not None and draft.read is not None and now.revision == draft.read.revision
        if draft.before is None:
            written = self.written(create=[draft.after])
        else:
            written = self.written(edit=[Edit(draft.before, draft.after)])
        assert written == self.model.put(draft.new, draft.read)
        what = "edited" if written else "edit refused after a fire" if fired else "edit refused"
        self.world.happened[what] += 1

    @step(0.3, schedule_id=SCHEDULES, behind=among([0, 0, 1]))
    def remove(self, schedule_id: str, behind: int) -> None:
        old = self.model.timings.get(schedule_id)
        if old is None:
            return
        schedule = Schedule(id=schedule_id, task_type=TYPE, schedule="* * * * *", revision=old.revision - behind)
        assert self.written(delete=[schedule]) == self.model.remove(schedule_id, old.revision - behind)

    def written(
        self, create: Sequence[Schedule] = (), edit: Sequence[Edit] = (), delete: Sequence[Schedule] = ()
    ) -> bool:
        try:
            self.run(self.actor(0).store.schedules.write(create, edit, delete))
        except Conflict:
            return False
        return True

    @step(1)
    def look_for_fires(self) -> None:
        upcoming = self.run(self.actor(0).store.schedules.upcoming(100))
        assert {schedule.id for schedule in upcoming} == self.model.upcoming()
        now = self.world.instant(self.model.now)
        self.due = [
            (schedule, replace(self.model.timings[schedule.id]))
            for schedule in upcoming
            if schedule.next_fire_at is not None and schedule.next_fire_at <= now
        ]

    @step(6, who=DUTIES, loss=a_loss, again=among([False, False, True]))
    def begin_fires(self, who: int, loss: Loss | None, again: bool) -> None:
        """Of what was due when it was read; ``again``: another scheduler has read the same."""
        if not self.due:
            self.look_for_fires()
        if not self.due:
            return
        actor, loss = self.actor(who), self.loss(who, loss, "update")
        due, self.due = self.due, self.due if again else []
        now = self.world.instant(self.model.now) + SECOND
        claims = [claim for schedule, _ in due if (claim := self.fires[actor.name]._claim(schedule, now)) is not None]
        won: list[Schedule] = []
        with self.world.losing(loss) as lost:
            try:
                won = self.run(actor.store.schedules.begin_fires(claims, actor.name))
            except StoreUnavailable:
                assert lost
        begun = {}
        if not (lost and loss is not None and not loss.executed):
            for schedule, timing in due:
                if (instant := self.model.begin(timing, "?")) is not None:
                    begun[schedule.id] = instant
        stored = self.world.schedules()
        for schedule_id, instant in begun.items():
            fire = fire_id(schedule_id, self.world.instant(instant))
            self.model.begun[fire] += 1
            assert self.model.begun[fire] == 1, f"{fire} was begun twice"
            holder = stored[schedule_id]["firing"][1]
            self.model.timings[schedule_id].firing = (instant, holder)
            self.opened[schedule_id, holder] = self.model.now
        if not lost:
            assert {
                schedule.id: self.world.tick_of(schedule.firing.fire_at) for schedule in won if schedule.firing
            } == begun
        self.world.happened["fires begun"] += len(begun)
        self.world.happened["fires not begun"] += len(due) - len(begun)
        self.held += [HeldFire(schedule, self.model.now) for schedule in won]

    @step(8, who=ACTORS, pick=PICK, dies_after=among(["begin", "insert", "publish", "", "", "", "", ""]))
    def finish_fire(self, who: int, pick: int, dies_after: str) -> None:
        if not self.held:
            return
        held = self.held.pop(pick % len(self.held))
        if dies_after == "begin" or held.tick != self.model.now:
            return  # whoever held it that long writes nothing more for it
        actor, firing = self.actor(who), held.schedule.firing
        assert firing is not None
        now = actor.store.clock.now()
        task = self.fires[actor.name]._task(held.schedule, now)
        (answer,) = self.run(actor.store.tasks.create([task], ask_again=False, repeat=False))
        record = replace(self.recorded(task, PAST), relay=self.at(actor), schedule=held.schedule.id)
        assert (answer.by or "created") == self.model.create(record, ask_again=False)
        self.world.happened[f"fire: {answer.by or 'created'}"] += 1
        if dies_after == "insert":
            return
        if answer.created or waits_for_publish(answer):
            self.publish([for_stored(answer.task, now)])
        if dies_after == "publish":
            return
        self.run(actor.store.schedules.end_fires([fire_end(held.schedule, answer)]))
        known = (self.world.tick_of(firing.fire_at), firing.by)
        self.model.end_fire(held.schedule.id, known, overlap=answer.by == "live_key")

    @step(1)
    def look_at_open_fires(self) -> None:
        self.open = self.run(self.actor(0).store.schedules.open_fires())
        assert {each.id for each in self.open} == {each.id for each in self.model.timings.values() if each.firing}

    @step(2, who=DUTIES, pick=PICK, loss=a_loss)
    def take_over(self, who: int, pick: int, loss: Loss | None) -> None:
        """What was left open, as it was read."""
        if not self.open:
            self.look_at_open_fires()
        if not self.open:
            return
        schedule = self.open[pick % len(self.open)]
        assert schedule.firing is not None
        if self.opened[schedule.id, schedule.firing.by] == self.model.now:
            return  # not stale yet
        actor, loss = self.actor(who), self.loss(who, loss, "findAndModify")
        mine: Schedule | None = None
        with self.world.losing(loss) as lost:
            try:
                mine = self.run(actor.store.schedules.take_over(schedule, actor.name))
            except StoreUnavailable:
                assert lost
        expected = not (lost and loss is not None and not loss.executed) and self.model.take_over(
            schedule.id, (self.world.tick_of(schedule.firing.fire_at), schedule.firing.by), "?"
        )
        assert (mine is not None) == (expected and not lost)
        if expected:
            firing = self.world.schedules()[schedule.id]["firing"]
            self.model.timings[schedule.id].firing = firing
            self.opened[schedule.id, firing[1]] = self.model.now
        self.world.happened["taken over" if expected else "not taken over"] += 1
        if mine is not None:
            self.held.append(HeldFire(mine, self.model.now))
