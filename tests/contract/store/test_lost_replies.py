"""P7: a reply that never came. What happened is read back, and nothing is guessed."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from actors.scheduler.fire import Fire
from schemas.outcome import Completed, Outcome, Released
from schemas.task import Task, TaskStatus
from service.broker.memory import MemoryBroker
from service.errors import StoreUnavailable
from service.fires import fire_id
from service.metrics import Metrics
from service.registry import Registry
from service.states import Seen, rescue
from service.store.mongo import MongoStore, database
from service.store.port import (
    Changed,
    Claimed,
    ClaimRequest,
    Deduplicated,
    FireEnd,
    Known,
    NotDone,
    RelayMove,
    RunEnd,
    Settled,
    Store,
)
from tests.conftest import DatabaseClient
from tests.contract.store.steps import (
    HOUR,
    SECOND,
    STALE,
    a_beat,
    a_fire,
    a_schedule,
    a_skip,
    a_task,
    claim,
    dead,
    end,
    failed,
    foreign,
    kept,
    look,
    look_at,
    now,
    running,
    settle,
    some_tasks,
    stored,
)
from tests.contract.store.wire import Wire, wire_to
from tests.servers import MongoServer


@pytest.fixture
def wire(mongo_server: MongoServer) -> Iterator[Wire]:
    with wire_to(mongo_server.port) as wire:
        yield wire


@pytest.fixture
async def store(wire: Wire, emptied_database: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Store]:
    # The driver tries again by itself until its time is up; only then it is ours to find out. Here that is at once.
    monkeypatch.setitem(database.OPTIONS, "retryWrites", False)
    monkeypatch.setitem(database.OPTIONS, "retryReads", False)
    # After a lost connection the driver lets half a second pass before it looks at the server again.
    monkeypatch.setattr("pymongo.common.MIN_HEARTBEAT_INTERVAL", 0.02)
    monkeypatch.setattr(database, "REPEAT_SECONDS", 0.0)
    store = MongoStore(wire.url, emptied_database)
    await store.open()
    yield store
    await store.close()


@pytest.fixture(params=[1, 20], ids=["alone", "in a batch"])
def tasks(request: pytest.FixtureRequest) -> list[Task]:
    return some_tasks(request.param)


Requests = Callable[[list[Task]], list[ClaimRequest]]


def foreign_ones(tasks: list[Task]) -> list[ClaimRequest]:
    return [foreign(task) for task in tasks]


def stored_ones(tasks: list[Task]) -> list[ClaimRequest]:
    return [stored(task.id) for task in tasks]


def command_for(requests: list[ClaimRequest]) -> str:
    """What a claim is, on the wire: in a batch, new records are inserted and stored ones updated."""
    if len(requests) == 1:
        return "findAndModify"
    return "insert" if requests[0].record is not None else "update"


# ---- claims ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("requests", [foreign_ones, stored_ones])
async def test_p7_a_claim_whose_reply_was_lost_is_read_back(
    store: Store, wire: Wire, tasks: list[Task], requests: Requests
) -> None:
    if requests is stored_ones:
        await store.tasks.create(tasks)
    wire.lose_replies(command_for(requests(tasks)))

    answers = await store.claims.claim(requests(tasks), "w1")

    assert wire.lost
    assert [answer.task for answer in answers if isinstance(answer, Claimed)] == [
        await look(store, task.id) for task in tasks
    ]
    assert {task.attempt for task in (await store.tasks.get_many([task.id for task in tasks])).values()} == {1}


async def test_p7_a_foreign_claim_that_never_arrived_is_requeued(store: Store, wire: Wire, tasks: list[Task]) -> None:
    wire.lose_requests(command_for(foreign_ones(tasks)))

    answers = await store.claims.claim(foreign_ones(tasks), "w1")

    assert wire.lost
    assert answers == [NotDone()] * len(tasks)
    assert await store.tasks.get_many([task.id for task in tasks]) == {}


@pytest.mark.parametrize("requests", [foreign_ones, stored_ones])
async def test_p7_a_claim_that_never_arrived_is_acknowledged_when_there_is_a_record(
    store: Store, wire: Wire, tasks: list[Task], requests: Requests
) -> None:
    await store.tasks.create(tasks)
    # Foreign ones with a record are found out by their insert, and then claimed as stored.
    wire.lose_requests(command_for(stored_ones(tasks)))

    answers = await store.claims.claim(requests(tasks), "w1")

    assert wire.lost
    assert answers == [Known()] * len(tasks)
    assert (await look(store, tasks[0].id)).status is TaskStatus.PENDING


@pytest.mark.parametrize("requests", [foreign_ones, stored_ones])
async def test_p7_a_claim_that_never_arrived_is_not_mine_when_another_has_it(
    store: Store, wire: Wire, tasks: list[Task], requests: Requests
) -> None:
    await store.tasks.create(tasks)
    await claim(store, *(task.id for task in tasks), worker="w2")
    wire.lose_requests(command_for(requests(tasks)))

    assert await store.claims.claim(requests(tasks), "w1") == [Known()] * len(tasks)


@pytest.mark.parametrize("command", ["insert", "update"])
async def test_p7_a_lost_reply_to_a_mixed_batch_is_resolved_for_each(store: Store, wire: Wire, command: str) -> None:
    await store.tasks.create([a_task("waiting"), a_task("early", retry_at=now() + HOUR)])
    await running(store, "live", live_key="name:n")
    wire.lose_replies(command)

    answers = await store.claims.claim(
        [
            foreign(a_task("new")),
            stored("waiting"),
            stored("early"),
            foreign(a_task("twin", live_key="name:n")),
            stored("gone"),
        ],
        "w1",
    )

    # The twin has no record: the next delivery notes the request.
    assert [answer.task.id if isinstance(answer, Claimed) else answer for answer in answers] == [
        "new",
        "waiting",
        Known(),
        NotDone(),
        Known(),
    ]


async def test_p7_a_reply_that_is_lost_once_is_the_driver_s_to_ask_for_again(
    wire: Wire, emptied_database: str, tasks: list[Task]
) -> None:
    store = MongoStore(wire.url, emptied_database)
    await store.open()
    command = command_for(foreign_ones(tasks))
    wire.lose_replies(command, times=1)

    answers = await store.claims.claim(foreign_ones(tasks), "w1")
    await store.close()

    assert wire.lost == [command]
    assert [answer.task.attempt for answer in answers if isinstance(answer, Claimed)] == [1] * len(tasks)


@pytest.mark.parametrize("lose", ["requests", "replies"])
async def test_p4_a_request_whose_note_was_lost_costs_no_neighbour_its_claim(
    store: Store, wire: Wire, lose: str
) -> None:
    await running(store, "live", live_key="name:n")
    request, *others = [foreign(a_task("a", live_key="name:n")), *foreign_ones(some_tasks(3))]
    (wire.lose_requests if lose == "requests" else wire.lose_replies)("update")

    answers = await store.claims.claim([request, *others], "w1")

    assert wire.lost
    assert answers[0] == NotDone()
    assert all(isinstance(answer, Claimed) for answer in answers[1:])
    wire.mend()
    assert await store.claims.claim([request], "w1") == [Deduplicated("live", again=True)]


# ---- ends ------------------------------------------------------------------------------------------------------------

ENDS: dict[str, tuple[Outcome, TaskStatus]] = {
    "completed": (Completed({"ok": 1}), TaskStatus.COMPLETED),
    "exhausted": (failed(None), TaskStatus.FAILED),
    "retried": (failed(HOUR), TaskStatus.PENDING),
    "released": (Released("shutdown"), TaskStatus.PENDING),
}


@pytest.mark.parametrize("case", ENDS.values(), ids=ENDS.keys())
async def test_p7_a_settle_whose_reply_was_lost_was_done(
    store: Store, wire: Wire, tasks: list[Task], case: tuple[Outcome, TaskStatus]
) -> None:
    outcome, status = case
    await store.tasks.create(tasks)
    claimed = await claim(store, *(task.id for task in tasks))
    wire.lose_replies("update")

    answers = await store.claims.settle([end(task, outcome) for task in claimed])

    assert wire.lost
    assert answers == [Settled(status)] * len(tasks)
    after = await look(store, tasks[0].id)
    assert (after.status, after.fence, len(after.history)) == (status, 1, 0 if status is TaskStatus.COMPLETED else 1)


async def test_p7_a_settle_that_never_arrived_is_to_be_written_again(
    store: Store, wire: Wire, tasks: list[Task]
) -> None:
    await store.tasks.create(tasks)
    claimed = await claim(store, *(task.id for task in tasks))
    wire.lose_requests("update")

    answers = await store.claims.settle([end(task, Completed()) for task in claimed])
    assert wire.lost
    assert answers == [Changed(Seen())] * len(tasks)

    wire.mend()
    answers = await store.claims.settle([end(task, Completed()) for task in claimed])
    assert answers == [Settled(TaskStatus.COMPLETED)] * len(tasks)


async def test_p7_a_settle_that_never_arrived_hears_of_the_requests(store: Store, wire: Wire) -> None:
    task = await running(store, live_key="name:n")
    await store.tasks.create([a_task("request", live_key="name:n")])
    wire.lose_requests("update")

    assert await settle(store, task, Completed()) == Changed(Seen(again=True))


async def test_p7_a_record_that_vanished_is_found_out_when_the_store_is_gone_for_long(
    store: Store, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.store.mongo.claims._READ_BACK_SECONDS", 0.0)
    task = await running(store)
    wire.lose_replies("find")

    with pytest.raises(StoreUnavailable):
        await settle(store, task.model_copy(update={"claim_token": "lost"}), Completed())


# ---- everything else -------------------------------------------------------------------------------------------------


async def test_what_is_idempotent_is_repeated(store: Store, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reply is lost, and the driver gives up; then the adapter itself tries again."""
    [schedule] = await kept(store, a_schedule())
    [held] = await store.schedules.begin_fires([a_fire(schedule)], "s1")
    token = (await running(store, "running")).claim_token or ""
    await dead(store, "dead")
    await store.tasks.create([a_task("pending")])
    due = now() + HOUR
    operations: list[tuple[str, Callable[[], Awaitable[object]]]] = [
        ("insert", lambda: store.tasks.create([a_task("new")])),
        ("findAndModify", lambda: store.tasks.cancel("running", "not needed")),
        ("findAndModify", lambda: store.tasks.cancel("pending", "not needed")),
        ("findAndModify", lambda: store.tasks.replay("dead", due)),
        ("update", lambda: store.claims.save("running", token, progress=None, checkpoint=1, keep_checkpoint=True)),
        ("update", lambda: store.schedules.end_fires([FireEnd(held, "fire:s@t", a_skip())])),
        ("update", lambda: store.schedules.record_runs([RunEnd("s", "t", TaskStatus.COMPLETED, due, 1)])),
    ]
    monkeypatch.undo()
    for command, operation in operations:
        wire.lose_replies(command, times=1)
        await operation()
        assert wire.lost.pop() == command

    assert (await look(store, "new")).status is TaskStatus.PENDING
    assert (await look(store, "running")).cancel_requested_at is not None
    assert (await look(store, "pending")).status is TaskStatus.CANCELLED
    assert (await look(store, "running")).checkpoint == 1
    assert (await look(store, "dead")).status is TaskStatus.PENDING
    schedule = await look_at(store)
    assert (schedule.skipped, len(schedule.recent_skips), len(schedule.recent_runs)) == ({"overlap": 1}, 1, 1)


async def test_a_task_is_new_to_the_call_that_made_it_though_the_first_reply_was_lost(
    store: Store, wire: Wire, tasks: list[Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would not be published, and wait for relay."""
    known = a_task("known")
    await store.tasks.create([known])
    monkeypatch.setattr(database, "REPEAT_SECONDS", 60.0)
    wire.lose_replies("insert", times=1)

    answers = await store.tasks.create([*tasks, a_task("known", created_at=known.created_at - HOUR), tasks[0]])

    assert wire.lost
    assert [answer.created for answer in answers] == [True] * len(tasks) + [False, False]
    assert [answer.by for answer in answers] == [None] * len(tasks) + ["id", "id"]


async def test_p18_the_task_of_a_fire_is_inserted_once_and_a_lost_reply_is_left_to_take_over(
    store: Store, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inserted again it could be refused by a live key and counted as skipped, and the first insert, still under way,
    make the task as well."""
    monkeypatch.setattr(database, "REPEAT_SECONDS", 5.0)
    await kept(store, a_schedule())
    scheduler = Fire(store, MemoryBroker(store.clock), Registry(), Metrics([]), "s1")
    wire.lose_requests("insert", times=1)

    with pytest.raises(StoreUnavailable):
        await scheduler.tick()

    assert wire.lost == ["insert"]
    [left] = await store.schedules.open_fires()
    assert left.firing is not None
    assert await store.tasks.get(fire_id("s", left.firing.fire_at)) is None


async def test_p18_a_fire_whose_reply_was_lost_is_left_to_take_over(store: Store, wire: Wire) -> None:
    [schedule] = await kept(store, a_schedule())
    wire.lose_replies("update")

    with pytest.raises(StoreUnavailable):
        await store.schedules.begin_fires([a_fire(schedule)], "s1")

    wire.mend()
    [left] = await store.schedules.open_fires()
    assert await store.schedules.take_over(left, "s2") is not None


async def test_p18_a_take_over_whose_reply_was_lost_is_left_to_the_next(store: Store, wire: Wire) -> None:
    [schedule] = await kept(store, a_schedule())
    [left] = await store.schedules.begin_fires([a_fire(schedule)], "s1")
    wire.lose_replies("findAndModify")

    with pytest.raises(StoreUnavailable):
        await store.schedules.take_over(left, "s2")

    wire.mend()
    assert await store.schedules.take_over(left, "s3") is None
    [taken] = await store.schedules.open_fires()
    assert await store.schedules.take_over(taken, "s3") is not None


async def test_p11_a_move_whose_reply_was_lost_is_not_published(store: Store, wire: Wire) -> None:
    task = a_task()
    await store.tasks.create([task])
    wire.lose_replies("update")

    with pytest.raises(StoreUnavailable):
        await store.upkeep.relay_move([RelayMove(task, now() + HOUR)])


async def test_p9_a_rescue_whose_reply_was_lost_leaves_the_task_to_relay(store: Store, wire: Wire) -> None:
    task = await running(store)
    due = now() + 10 * SECOND
    wire.lose_replies("update")

    with pytest.raises(StoreUnavailable):
        await store.upkeep.rescue(task, rescue(task, now()), STALE, due)

    wire.mend()
    assert not await store.upkeep.rescue(task, rescue(task, now()), STALE, due)
    assert (await look(store)).relay_at == due


@pytest.mark.parametrize("lose", ["requests", "replies"])
async def test_a_beat_that_was_lost_is_told_and_may_be_repeated(store: Store, wire: Wire, lose: str) -> None:
    task = await running(store)
    link = store.claims.heartbeat()
    try:
        (wire.lose_requests if lose == "requests" else wire.lose_replies)("update")
        with pytest.raises(StoreUnavailable):
            await asyncio.to_thread(link.beat, a_beat(task))

        wire.mend()
        assert (await asyncio.to_thread(link.beat, a_beat(task))).lost == set()
    finally:
        link.close()


async def test_p7_what_is_not_durable_yet_is_read_back_too(
    store: Store, tasks: list[Task], database_client: DatabaseClient
) -> None:
    """The server answers, but cannot say that a majority has it."""
    data = {
        "failCommands": ["findAndModify", "update"],
        "writeConcernError": {"code": 64, "errmsg": "waiting for replication timed out"},
    }
    database_client.admin.command("configureFailPoint", "failCommand", mode={"times": 2}, data=data)
    try:
        answers = await store.claims.claim(foreign_ones(tasks), "w1")
        claimed = [answer.task for answer in answers if isinstance(answer, Claimed)]
        ends = await store.claims.settle([end(task, Completed()) for task in claimed])
    finally:
        database_client.admin.command("configureFailPoint", "failCommand", mode="off")

    assert ends == [Settled(TaskStatus.COMPLETED)] * len(tasks)


async def test_a_server_that_steps_down_in_a_batch_costs_no_claim(
    store: Store, tasks: list[Task], database_client: DatabaseClient
) -> None:
    """Interrupted before the write, and not to be repeated by the driver."""
    data = {"failCommands": ["findAndModify", "insert", "update"], "errorCode": 50}
    database_client.admin.command("configureFailPoint", "failCommand", mode={"times": 1}, data=data)
    try:
        assert await store.claims.claim(foreign_ones(tasks), "w1") == [NotDone()] * len(tasks)
    finally:
        database_client.admin.command("configureFailPoint", "failCommand", mode="off")
