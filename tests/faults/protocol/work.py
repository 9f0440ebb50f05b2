"""What clients, publishers and workers do; and what time does."""

import asyncio
from dataclasses import replace
from typing import Any

import orjson

from schemas.outcome import Cancelled, Completed, Discarded, Failed, Outcome as RealOutcome, Released, Snoozed
from schemas.task import Task, TaskError
from schemas.worker import Worker
from service import states
from service.broker.port import Delivery, Publication
from service.client import NewTask
from service.envelope import clean, early, for_stored, read, waits_in_store
from service.errors import StoreUnavailable
from service.payload import live_key
from service.store.port import Beat, Changed, Claimed, ClaimRequest, Deduplicated, Known, NotDone, Refused, Settled
from tests.faults.protocol.base import Base, Run, written_end
from tests.faults.protocol.model import Loss, Outcome, Record, Seen
from tests.faults.protocol.steps import (
    ACTORS,
    CEILINGS,
    DELAYS,
    IDS,
    NAMES,
    PICK,
    PICKS,
    SOMETIMES,
    a_loss,
    among,
    an_outcome,
    several,
    step,
)
from tests.faults.protocol.world import TICK, TYPE, Actor, shifted


class Work(Base):
    """A task from its creation to the end of a run."""

    # ---- creation ----------------------------------------------------------------------------------------------------

    def wanted(self, task_id: str, name: str | None, delay: int, ceiling: int, at: int) -> tuple[NewTask, Record]:
        body = {"of": name[1:]} if name is not None and name.startswith("=") else {}
        new = NewTask(
            TYPE,
            body,
            id=task_id,
            name=name if name is not None and not body else None,
            unique=bool(body),
            delay=delay * TICK or None,
            max_attempts=ceiling,
        )
        key = live_key(TYPE, body, name=new.name, unique=bool(body))
        return new, Record(task_id, key, ceiling, at + delay, at + delay)

    @step(8, task_id=IDS, name=NAMES, delay=DELAYS, ceiling=CEILINGS, who=ACTORS, loss=a_loss)
    def enqueue(self, task_id: str, name: str | None, delay: int, ceiling: int, who: int, loss: Loss | None) -> None:
        actor, loss = self.actor(who), self.loss(who, loss, "insert")
        new, record = self.wanted(task_id, name, delay, ceiling, self.at(actor))
        now = actor.store.clock.now()
        with self.world.losing(loss):
            (answer,) = self.run(actor.client.offer([new]))
        by = self.model.create(record)
        if by == "id" and loss is not None and answer.task.created_at == now:
            by = "created"  # by another, this very instant: the same as by a try whose reply was lost
        assert (answer.created, answer.by or "created") == (by == "created", by)

    @step(1, wanted=several(lambda random: (IDS(random), NAMES(random), DELAYS(random)), 2, 4), who=among([0, 1]))
    def enqueue_at_once(self, wanted: list[tuple[str, str | None, int]], who: int) -> None:
        actor = self.actor(who)
        new = [self.wanted(task_id, name, delay, 2, self.at(actor)) for task_id, name, delay in wanted]

        async def offer() -> list[Any]:
            return await asyncio.gather(*(actor.client.offer([task]) for task, _ in new))

        answers = [answer for (answer,) in self.run(offer())]
        # Those that one insert makes are there before the others are noted on them.
        assert [answer.by or "created" for answer in answers] == [self.model.create(record) for _, record in new]

    @step(6, task_id=IDS, name=NAMES, delay=DELAYS, ceiling=CEILINGS)
    def foreign_message(self, task_id: str, name: str | None, delay: int, ceiling: int) -> None:
        new, _ = self.wanted(task_id, name, delay, ceiling, 0)
        message = {
            "id": task_id,
            "taskBody": new.body,
            "maxAttempts": ceiling,
            **({"taskName": new.name} if new.name else {"unique": True} if new.unique else {}),
            **({"delay": f"{delay * 10}m"} if delay else {}),
        }
        self.publish([Publication(TYPE, orjson.dumps(message))])

    @step(1, pick=PICK)
    def duplicate(self, pick: int) -> None:
        if not self.world.bell.ready:
            return
        hand = self.run(self.world.hand())
        delivery = self.world.bell.as_of_now(hand[pick % len(hand)])
        self.publish([Publication(TYPE, delivery.body, clean(delivery.headers))])

    @step(0.5)
    def lose_all_messages(self) -> None:
        self.run(self.world.ack(self.run(self.world.hand())))
        self.world.bell.ladder.clear()

    # ---- a worker ----------------------------------------------------------------------------------------------------

    @step(12, who=ACTORS, picks=PICKS, loss=a_loss, dies=SOMETIMES)
    def claim(self, who: int, picks: list[int], loss: Loss | None, dies: bool) -> None:
        if not self.world.bell.ready:
            return
        actor = self.actor(who)
        hand = self.run(self.world.hand())
        chosen = [hand[index] for index in sorted({pick % len(hand) for pick in picks})]
        now = actor.store.clock.now()
        running = {run.task.id for run in self.runs[actor.name] if not run.forgotten}
        done: list[Delivery] = []
        held: list[Delivery] = []
        ready: dict[str, tuple[Delivery, Task | None]] = {}
        for delivery in chosen:
            seen = self.world.bell.as_of_now(delivery)
            incoming = read(seen, None, now, 1_000_000)
            if incoming.retry_at is not None and incoming.retry_at > now:
                self.send_back(actor, seen, incoming.record)
                done.append(delivery)
            elif incoming.id in running:
                done.append(delivery)
            elif incoming.id not in ready:
                ready[incoming.id] = (delivery, incoming.record)
        if ready:
            answers = self.claim_all(who, [(task_id, record) for task_id, (_, record) in ready.items()], loss)
            for (delivery, _), answer in zip(ready.values(), answers, strict=True):
                (held if isinstance(answer, NotDone) else done).append(delivery)
        if dies:
            for run in self.runs[actor.name]:
                run.forgotten = True
            return
        self.run(self.world.ack(done))
        self.run(self.world.requeue(held))

    def claim_all(self, who: int, asked: list[tuple[str, Task | None]], loss: Loss | None) -> list[object]:
        actor, at = self.actor(who), self.at(self.actor(who))
        loss = self.loss(who, loss, *(["findAndModify"] if len(asked) == 1 else ["insert", "update"]))
        with self.world.losing(loss) as lost:
            answers = self.run(
                actor.store.claims.claim([ClaimRequest(task_id, record) for task_id, record in asked], actor.name)
            )
        records = [(task_id, self.recorded(task, at) if task else None) for task_id, task in asked]
        expected = self.model.claim(records, at, loss if lost else None)
        tokens = set()
        for (task_id, _), answer, wanted in zip(asked, answers, expected, strict=True):
            match answer:
                case Claimed(task=task):
                    self.world.happened["claimed"] += 1
                    self.world.happened["claimed again"] += task.fence > 1
                    assert wanted == "claimed"
                    record = self.model.records[task_id]
                    assert (task.attempt, task.fence) == (record.attempt, record.fence)
                    assert task.attempt <= (task.max_attempts or 0), "more attempts than the ceiling"
                    assert task.claim_token is not None
                    tokens.add(task.claim_token)
                    record.token = task.claim_token
                    self.runs[actor.name].append(Run(task))
                case Known():
                    assert wanted == "known"
                case NotDone():
                    self.world.happened["not done"] += 1
                    assert wanted == "not done"
                case Deduplicated(by=by, again=again):
                    self.world.happened["asked again" if again else "deduplicated"] += 1
                    assert wanted == (by, again)
        assert not tokens & self.model.tokens, "a token was given twice"
        self.model.tokens |= tokens
        return list(answers)

    def send_back(self, actor: Actor, delivery: Delivery, record: Task | None) -> None:
        """As a worker does with what is early (P3)."""
        now = actor.store.clock.now()
        if record is None:
            incoming = read(delivery, None, now, 1_000_000)
            assert incoming.retry_at is not None
            self.publish([early(Publication(TYPE, delivery.body, clean(delivery.headers)), incoming.retry_at, now)])
            return
        (answer,) = self.run(actor.store.tasks.create([record.model_copy(update={"relay_at": record.retry_at})]))
        due = self.at(actor) + round((record.retry_at - now) / TICK)
        new = replace(self.recorded(record, due), relay=due)
        assert (answer.by or "created") == self.model.create(new)
        if answer.created and not waits_in_store(answer.task.retry_at, now):
            self.publish([for_stored(answer.task, now)])

    @step(8, who=ACTORS, picks=PICKS, outcomes=several(an_outcome, 4, 4), loss=a_loss, dies=SOMETIMES)
    def settle(self, who: int, picks: list[int], outcomes: list[Outcome], loss: Loss | None, dies: bool) -> None:
        """One write for several runs. What is refused for a request that came meanwhile is tried by a later step."""
        actor = self.actor(who)
        if not self.runs[actor.name]:
            actor = next((each for each in self.world.actors if self.runs[each.name]), actor)
        mine = self.runs[actor.name]
        if not mine:
            return
        ending = [mine[index] for index in sorted({pick % len(mine) for pick in picks})]
        now, at = actor.store.clock.now(), self.at(actor)
        loss = self.loss(self.world.actors.index(actor), loss, "update")
        settlements = []
        for run, outcome in zip(ending, outcomes, strict=False):
            run.outcome = run.outcome or outcome
            seen = states.Seen(run.seen.again, run.seen.cancel)
            move = states.settle(real(run.outcome, now), run.task, seen, now)
            settlements.append(written_end(run.task, move, seen, actor.name, now))
        with self.world.losing(loss) as lost:
            answers = self.run(actor.store.claims.settle(settlements))
        executed = not (lost and loss is not None and not loss.executed)
        for run, settlement, answer in zip(ending, settlements, answers, strict=True):
            assert run.outcome is not None
            expected = self.model.settle(run.task.id, settlement.token, run.outcome, run.seen, at, executed=executed)
            match answer:
                case Changed(seen=seen):
                    run.seen = Seen(seen.again, seen.cancel_requested)
                    assert run.seen == expected
                    self.world.happened["end changed"] += 1
                    continue
                case Settled(status=status):
                    assert status == expected
                    self.world.happened[f"settled {status}"] += 1
                    self.tell(actor, run.task, settlement, now, dies)
                case Refused():
                    assert expected == "refused"
                    live = self.model.records.get(run.task.id)
                    self.world.happened["refused"] += 1
                    self.world.happened["refused while another runs"] += live is not None and live.status == "running"
            mine.remove(run)

    @step(5, who=ACTORS, loss=a_loss)
    def heartbeat(self, who: int, loss: Loss | None) -> None:
        actor = self.actor(who)
        mine = [run for run in self.runs[actor.name] if not run.forgotten]
        claims = {run.task.id: run.task.claim_token or "" for run in mine}
        loss = self.loss(who, loss, "update") if claims else None
        now = actor.store.clock.now()
        me = Worker(id=actor.name, host="h", pid=1, roles=[], started_at=now, seen_at=now, version="1")
        with self.world.losing(loss):
            try:
                reply = actor.link.beat(Beat(me, claims, {}))
            except StoreUnavailable:
                assert loss is not None
                if loss.executed:
                    self.model.renew(claims)
                return
        assert loss is None
        assert (set(reply.lost), set(reply.cancel), set(reply.forced)) == self.model.renew(claims)
        for run in mine:
            run.forgotten = run.task.id in reply.lost
        assert reply.paused == ({TYPE} if self.model.paused else frozenset())
        # It has heard the time from the store, if the answer was a quick one.
        actor.skew = round((actor.store.clock.now() - self.world.actors[0].store.clock.now()) / TICK)

    # ---- time --------------------------------------------------------------------------------------------------------

    @step(5, ticks=among([1, 1, 2, 2, 3, 12]))
    def time_passes(self, ticks: int) -> None:
        self.run(self.world.pass_time(ticks))
        self.model.now += ticks
        for readings in (self.stale, self.relayed, self.letters):
            for reading in readings:
                reading.task = shifted(reading.task, ticks * TICK)
        for runs in self.runs.values():
            for run in runs:
                run.task = shifted(run.task, ticks * TICK)

    @step(1, ticks=among(range(-3, 4)))
    def clock_of_a_worker_goes_wrong(self, ticks: int) -> None:
        self.actor(1).skew_clock(ticks)


def real(outcome: Outcome, now: Any) -> RealOutcome:
    error = TaskError(type="Boom", message="it broke", fingerprint="boom", at=now)
    match outcome.kind:
        case "completed":
            return Completed({"ticks": outcome.delay} if outcome.delay else None)
        case "failed":
            return Failed(error, None)
        case "retry":
            return Failed(error, outcome.delay * TICK)
        case "snooze":
            return Snoozed(now + outcome.delay * TICK)
        case "release":
            return Released("shutdown")
        case "discard":
            return Discarded("not worth it")
        case "cancelled":
            return Cancelled("asked for")
