"""What the store says has happened, a majority has; what it reads, a majority will not forget."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from schemas.outcome import Completed
from schemas.task import TaskStatus
from service.states import rescue
from service.store.mongo import MongoStore, database
from service.store.port import FireEnd, RelayMove, Retention, RunEnd, Store, TaskFilter
from tests.contract.store.steps import (
    HOUR,
    STALE,
    a_beat,
    a_fire,
    a_schedule,
    a_task,
    beat,
    claim,
    dead,
    end,
    foreign,
    kept,
    look,
    now,
    running,
    some_tasks,
)

WRITES = {"insert", "update", "delete", "findAndModify", "commitTransaction"}
READS = {"find", "aggregate", "distinct"}


class Listener(CommandListener):
    """Every command that a client sends."""

    def __init__(self) -> None:
        self.commands: list[dict[str, Any]] = []

    def started(self, event: CommandStartedEvent) -> None:
        if event.command_name in WRITES | READS:
            self.commands.append(dict(event.command))

    def succeeded(self, event: CommandSucceededEvent) -> None:
        pass

    def failed(self, event: CommandFailedEvent) -> None:
        pass


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Listener:
    listener = Listener()
    monkeypatch.setitem(database.OPTIONS, "event_listeners", [listener])
    return listener


@pytest.fixture
async def store(mongo_url: str, emptied_database: str, listener: Listener) -> AsyncIterator[Store]:
    # Whatever the address asks for.
    store = MongoStore(f"{mongo_url}&w=1&readConcernLevel=local&readPreference=secondaryPreferred", emptied_database)
    await store.open()
    yield store
    await store.close()


async def test_every_write_and_every_read_is_of_a_majority(store: Store, listener: Listener) -> None:
    [schedule] = await kept(store, a_schedule())
    [held] = await store.schedules.begin_fires([a_fire(schedule)], "s1")
    taken = await store.schedules.take_over(held, "s2")
    assert taken is not None
    await store.schedules.end_fires([FireEnd(taken, "fire:s@t")])
    await store.schedules.record_runs([RunEnd("s", "fire:s@t", TaskStatus.COMPLETED, now(), 1)])
    await store.schedules.upcoming(10)
    await store.tasks.create(some_tasks(3))
    await store.claims.claim([foreign(a_task("b"))], "w1")
    tasks = await claim(store, "t000", "t001")
    await store.claims.save("t000", tasks[0].claim_token or "", progress=None, checkpoint=1, keep_checkpoint=True)
    await beat(store, a_beat(*tasks, report=now()))
    await store.claims.settle([end(task, Completed()) for task in tasks])
    await store.tasks.cancel("t002", "not needed")
    await store.upkeep.put_dead(a_task("bad"))
    await dead(store, "dead")
    await store.tasks.replay("dead", now())
    await store.upkeep.relay_move([RelayMove(await look(store, "dead"), now() + HOUR)])
    await store.upkeep.give_up(await look(store, "dead"), "unknown_type", "", now())
    lost = await running(store, "lost")
    await store.upkeep.rescue_workers(["w1"])
    await store.upkeep.stale_claims(STALE, 10)
    await store.upkeep.rescue(lost, rescue(lost, now()), STALE, now())
    await store.upkeep.relay_heads()
    await store.upkeep.relay_due("report", now(), 10)
    await store.upkeep.take_marker("report", now())
    await store.upkeep.set_paused("report", True)
    rules = Retention(window=HOUR, completed=HOUR, dead=HOUR, keep_completed=1)
    await store.upkeep.prune(rules, now() + timedelta(days=9), 10)
    await store.tasks.find(TaskFilter(), limit=10)
    await store.tasks.counts()
    await store.workers.alive(now())
    await store.workers.prune(now())

    seen = set()
    for command in listener.commands:
        name = next(iter(command))
        seen.add(name)
        preference = command.get("$readPreference", {"mode": "primary"})
        # To a server that is addressed directly the driver says "preferred" by itself.
        assert preference["mode"] in ("primary", "primaryPreferred"), command
        if name in READS:
            assert command["readConcern"]["level"] in ("majority", "linearizable"), command
        elif "autocommit" not in command or name == "commitTransaction":
            assert command["writeConcern"]["w"] == "majority", command
    assert seen == WRITES | READS
