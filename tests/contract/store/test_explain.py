"""Every query is served by an index: what it examines is what it returns, however much history there is."""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import pytest

from schemas.outcome import Completed
from schemas.task import Progress, Task, TaskStatus
from service.states import rescue
from service.store.mongo import MongoStore
from service.store.mongo.documents import task_document
from service.store.port import Claimed, DeadFilter, FireEnd, Page, RelayMove, Retention, RunEnd, Store, TaskFilter
from tests.conftest import DatabaseClient
from tests.contract.store.steps import (
    HOUR,
    SECOND,
    STALE,
    a_beat,
    a_fire,
    a_schedule,
    a_task,
    an_error,
    beat,
    end,
    failed,
    foreign,
    kept,
    look,
    now,
    some_tasks,
    stored,
)

TYPES = [f"type{number}" for number in range(6)]
FINISHED, PENDING, RUNNING = 5000, 200, 50
AGO = now() - timedelta(days=1, hours=20)
"""Early in the past that the tasks have."""
SLACK = 2
"""Keys beyond one for each document: the end of a range, or a type that has none."""


def history() -> Iterator[Task]:
    start = now() - timedelta(days=2)
    ends = [TaskStatus.COMPLETED] * 8 + [TaskStatus.CANCELLED, TaskStatus.FAILED]
    for number in range(FINISHED):
        at = start + number * 10 * SECOND
        yield a_task(
            f"f{number:04}",
            task_type=TYPES[number % 6],
            status=ends[number % 10],
            created_at=at,
            finished_at=at,
            relay_at=at if number % 500 == 9 else None,
            schedule_id=f"s{number % 40:02}",
            last_error=an_error("Rare" if number % 500 == 19 else "Usual") if number % 10 == 9 else None,
        )
    for number in range(PENDING):
        at = now() - (PENDING - number) * SECOND
        yield a_task(
            f"p{number:03}", task_type=TYPES[number % 6], created_at=at, relay_at=at, live_key=f"name:p{number}"
        )
    for number in range(RUNNING):
        at = now() - (RUNNING - number) * SECOND
        yield a_task(
            f"r{number:02}",
            task_type=TYPES[number % 6],
            status=TaskStatus.RUNNING,
            created_at=at,
            processing_at=at,
            relay_at=None,
            claimed_by=f"w{number % 2}",
            claim_token=f"token{number}",
            fence=1,
            attempt=1,
            live_key=f"name:r{number}",
        )


@dataclass
class Profile:
    """What the server did, in its own words."""

    database: Any

    async def of(self, operation: Callable[[], Awaitable[object]]) -> list[dict[str, Any]]:
        """The commands on tasks and schedules that the operation led to."""
        self.database["system.profile"].drop()
        self.database.command("profile", 2)
        try:
            await operation()
        finally:
            self.database.command("profile", 0)
        names = [f"{self.database.name}.{name}" for name in ("tasks", "schedules")]
        return list(self.database["system.profile"].find({"ns": {"$in": names}}))


@pytest.fixture(scope="module")
def made(database_client: DatabaseClient) -> Iterator[list[str]]:
    """The one database of this module, once it is made: that takes the server, which is there when a test runs."""
    names: list[str] = []
    yield names
    for name in names:
        database_client.drop_database(name)


@pytest.fixture
def crowded(mongo_url: str, made: list[str], database_client: DatabaseClient) -> str:
    """A database with a past. Each test leaves it nearly as it was."""
    if not made:
        made.append(f"test_{secrets.token_hex(4)}")
        database_client[made[0]]["tasks"].insert_many([task_document(task) for task in history()])
    return made[0]


@pytest.fixture
async def store(mongo_url: str, crowded: str, database_client: DatabaseClient) -> AsyncIterator[Store]:
    database_client[crowded]["schedules"].drop()
    store = MongoStore(mongo_url, crowded)
    await store.open()
    await store.schedules.write([a_schedule(f"s{number:02}", next_fire_at=now() + HOUR) for number in range(40)])
    yield store
    await store.close()


@pytest.fixture
def profile(crowded: str, database_client: DatabaseClient) -> Profile:
    return Profile(database_client[crowded])


def asked_for(entry: dict[str, Any]) -> int:
    """How many keys it takes to look for ids: one each, and one to get to the next."""
    command = entry.get("command", {})
    which = command.get("filter") or command.get("q") or command.get("query") or {}
    ids = which.get("_id")
    return 2 * len(ids["$in"]) if isinstance(ids, dict) else 0


def check(entries: list[dict[str, Any]], slack: int = SLACK) -> None:
    assert entries
    for entry in entries:
        plan = entry.get("planSummary", "")
        shown = {
            name: entry.get(name) for name in ("command", "planSummary", "keysExamined", "docsExamined", "nreturned")
        }
        assert "COLLSCAN" not in plan, shown
        assert not entry.get("hasSortStage"), shown
        useful = max(entry.get("nreturned", 0), entry.get("nMatched", 0), entry.get("ndeleted", 0), asked_for(entry))
        assert entry.get("keysExamined", 0) <= useful + slack, shown
        assert entry.get("docsExamined", 0) <= useful + slack, shown


# ---- lists -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [None, *TaskStatus])
@pytest.mark.parametrize("task_type", [None, "type3", "unknown"])
async def test_a_page_costs_what_it_shows(
    store: Store, profile: Profile, status: TaskStatus | None, task_type: str | None
) -> None:
    which = TaskFilter(status=status, task_type=task_type)
    pages = []

    async def look_through() -> None:
        cursor = None
        for _ in range(3):
            page = await store.tasks.find(which, limit=10, cursor=cursor)
            pages.append(page.tasks)
            cursor = page.cursor
            if cursor is None:
                break

    entries = await profile.of(look_through)

    # The merge of all types holds a key of each; of what runs there is one list for all types.
    check(entries, slack=RUNNING if status is TaskStatus.RUNNING and task_type else len(TYPES) + SLACK)
    assert [len(page) for page in pages] == (
        [0] if task_type == "unknown" else [10] * 3 if task_type is None else [len(page) for page in pages]
    )


def fields_of(which: TaskFilter) -> str:
    """A name of the test that is the same in every run, whatever the time."""
    return "+".join(name for name, value in asdict(which).items() if value is not None)


@pytest.mark.parametrize(
    "which",
    [
        TaskFilter(created_from=AGO, created_to=AGO + HOUR),
        TaskFilter(task_type="type3", created_to=AGO),
        TaskFilter(schedule_id="s07", created_from=AGO),
        TaskFilter(finished_from=AGO, finished_to=AGO + HOUR),
        TaskFilter(task_type="type3", status=TaskStatus.FAILED, finished_to=AGO),
    ],
    ids=fields_of,
)
async def test_the_time_that_orders_a_list_is_served_by_its_index(
    store: Store, profile: Profile, which: TaskFilter
) -> None:
    pages: list[Page] = []

    async def look_through() -> None:
        pages.append(await store.tasks.find(which, limit=10))
        pages.append(await store.tasks.find(which, limit=10, cursor=pages[0].cursor))

    # A key of each type, and with no status of each kind of end.
    check(await profile.of(look_through), slack=4 * len(TYPES))
    assert all(page.tasks for page in pages)


@pytest.mark.parametrize(
    "which",
    [
        TaskFilter(error="nothing says this"),
        TaskFilter(error="nothing says this", task_type="type3", status=TaskStatus.COMPLETED),
        TaskFilter(error="nothing says this", finished_from=AGO - HOUR * 1000),
        TaskFilter(tenant_id="nobody", status=TaskStatus.COMPLETED),
        TaskFilter(tenant_id="nobody", status=TaskStatus.PENDING),
        TaskFilter(created_to=AGO - HOUR * 1000, status=TaskStatus.COMPLETED),
    ],
    ids=fields_of,
)
async def test_what_no_index_serves_is_looked_for_in_so_many_tasks_and_no_more(
    store: Store, profile: Profile, which: TaskFilter, monkeypatch: pytest.MonkeyPatch
) -> None:
    scanned = 150
    monkeypatch.setattr("service.store.mongo.tasks.SCANNED", scanned)
    pages: list[Page] = []

    entries = await profile.of(lambda: find(store, which, pages))

    assert pages[0].tasks == []
    assert pages[0].cursor is not None
    for entry in entries:
        assert "COLLSCAN" not in entry.get("planSummary", "")
        assert not entry.get("hasSortStage")
        assert entry.get("keysExamined", 0) <= scanned + 4 * len(TYPES), entry["command"]
        assert entry.get("docsExamined", 0) <= scanned
    assert sum(entry.get("docsExamined", 0) for entry in entries) <= scanned


async def find(store: Store, which: TaskFilter, pages: list[Page]) -> None:
    pages.append(await store.tasks.find(which, limit=10))


@pytest.mark.parametrize("schedule_id", ["s07", "unknown"])
async def test_a_page_of_a_schedule_costs_what_it_shows(store: Store, profile: Profile, schedule_id: str) -> None:
    check(await profile.of(lambda: store.tasks.find(TaskFilter(schedule_id=schedule_id), limit=10)))


async def test_a_schedule_list_costs_what_it_shows(store: Store, profile: Profile) -> None:
    [schedule] = await kept(store, a_schedule("due"))
    check(await profile.of(lambda: store.schedules.upcoming(5)))
    check(await profile.of(store.schedules.open_fires))
    [held] = await store.schedules.begin_fires([a_fire(schedule)], "s1")
    check(await profile.of(store.schedules.open_fires))
    check(await profile.of(lambda: store.schedules.end_fires([FireEnd(held, "fire:due@t")])))
    check(await profile.of(lambda: store.schedules.record_runs([RunEnd("due", "t", TaskStatus.COMPLETED, now(), 1)])))


async def test_a_fire_costs_what_it_changes(store: Store, profile: Profile) -> None:
    schedules = await kept(store, *(a_schedule(f"due{number}") for number in range(5)))

    check(await profile.of(lambda: store.schedules.begin_fires([a_fire(each) for each in schedules], "s1")))
    [held, *_] = await store.schedules.open_fires()
    check(await profile.of(lambda: store.schedules.take_over(held, "s2")))
    check(await profile.of(lambda: store.schedules.mark_overdue(held, now())))


async def test_a_count_reads_an_index_and_no_task_but_those_that_run(store: Store, profile: Profile) -> None:
    entries = await profile.of(store.tasks.counts)

    assert len(entries) == 3
    for entry in entries:
        assert "COLLSCAN" not in entry["planSummary"]
        assert entry["docsExamined"] <= RUNNING


DEAD = FINISHED // 10


async def test_dead_letters_of_a_fingerprint_cost_keys_of_dead_letters_and_the_tasks_they_show(
    store: Store, profile: Profile
) -> None:
    which = DeadFilter(fingerprint="rare")
    found: list[Task] = []

    async def look_through() -> None:
        cursor = None
        while True:
            page = await store.dead.find(which, limit=4, cursor=cursor)
            found.extend(page.tasks)
            if (cursor := page.cursor) is None:
                break
        await store.dead.count(which, 1000)

    entries = await profile.of(look_through)

    assert len(found) == 10
    for entry in entries:
        assert "COLLSCAN" not in entry["planSummary"] and not entry.get("hasSortStage")
        assert entry["keysExamined"] <= DEAD + 10
        assert entry["docsExamined"] <= entry["nreturned"] + SLACK


async def test_groups_of_dead_letters_are_read_from_an_index_alone(store: Store, profile: Profile) -> None:
    entries = await profile.of(lambda: store.dead.groups(DeadFilter(), newest=200, most=10))

    grouping, samples = entries
    assert (grouping["docsExamined"], grouping["planSummary"].split()[0]) == (0, "IXSCAN")
    assert grouping["keysExamined"] <= 200 + SLACK
    check([samples])


async def test_a_discard_costs_what_it_writes(store: Store, profile: Profile) -> None:
    dead = [task.id for task in (await store.dead.find(DeadFilter(fingerprint="rare"), limit=3)).tasks]

    async def discard() -> None:
        assert await store.dead.discard([*dead, "gone"], "not needed") == set(dead)

    check(await profile.of(discard))


async def test_who_stands_for_an_id_is_found_by_an_index(store: Store, profile: Profile) -> None:
    await store.tasks.create([a_task("asker", live_key="name:p1")])

    async def look_for_it() -> None:
        assert await store.tasks.standing_for("asker") is not None
        assert await store.tasks.standing_for("nobody") is None
        assert await store.tasks.owner("name:p1") is not None

    check(await profile.of(look_for_it))


# ---- what happens all the time ---------------------------------------------------------------------------------------


async def test_a_claim_and_an_end_cost_what_they_change(store: Store, profile: Profile) -> None:
    tasks: list[Task] = []

    async def claim() -> None:
        requests = [
            *(foreign(task) for task in some_tasks(10, secrets.token_hex(4), task_type="type1")),
            stored("p000"),
            stored("f0000"),
            stored("gone"),
            foreign(a_task("twin", live_key="name:p1")),
            foreign(a_task("other", live_key="name:r1")),
        ]
        answers = await store.claims.claim(requests, "w1")
        tasks.extend(answer.task for answer in answers if isinstance(answer, Claimed))
        answers = await store.claims.claim([foreign(a_task(secrets.token_hex(4)))], "w1")
        tasks.extend(answer.task for answer in answers if isinstance(answer, Claimed))

    async def settle() -> None:
        lost = tasks[0].model_copy(update={"claim_token": "lost"})
        progress = Progress(progress=1, done_count=1, at=now())
        await store.claims.save(
            tasks[1].id, tasks[1].claim_token or "", progress=progress, checkpoint=1, keep_checkpoint=True
        )
        await store.claims.settle([end(task, Completed()) for task in (lost, *tasks[1:])])
        await store.claims.settle([end(tasks[0], failed(None))])

    entries = await profile.of(claim)
    assert len(tasks) == 12
    check(entries)
    check(await profile.of(settle))


async def test_a_beat_costs_what_it_renews(store: Store, profile: Profile) -> None:
    running = [await look(store, f"r{number:02}") for number in range(0, RUNNING, 2)]
    entries = await profile.of(lambda: beat(store, a_beat(*running)))

    check(entries, slack=len(running) + SLACK)  # ids and tokens are looked for at once
    assert sum(entry.get("nModified", 0) for entry in entries) == len(running)


async def test_a_creation_costs_what_it_writes(store: Store, profile: Profile) -> None:
    names = [f"name:{secrets.token_hex(4)}" for _ in range(3)]

    async def create() -> None:
        await store.tasks.create([a_task(name, live_key=name) for name in names])
        await store.tasks.create([a_task("x", live_key=names[0]), a_task(names[1]), a_task("y", live_key="name:r2")])
        await store.tasks.get_many(names)
        await store.tasks.cancel(names[0], "not needed")
        await store.tasks.cancel("r03", "not needed")

    check(await profile.of(create))


# ---- upkeep ----------------------------------------------------------------------------------------------------------


async def test_p12_relay_looks_at_one_key_of_each_type(store: Store, profile: Profile) -> None:
    heads: dict[str, Any] = {}

    async def look_at_heads() -> None:
        heads.update(await store.upkeep.relay_heads())

    entries = await profile.of(look_at_heads)

    assert set(TYPES) <= set(heads)
    assert [entry["planSummary"].split()[0] for entry in entries] == ["DISTINCT_SCAN"]
    assert entries[0]["keysExamined"] <= len(heads) + SLACK
    assert entries[0]["docsExamined"] == 0


async def test_relay_costs_what_it_moves(store: Store, profile: Profile) -> None:
    due: list[Task] = []

    async def relay() -> None:
        due.extend(await store.upkeep.relay_due("type3", now(), 10))
        due.extend(await store.upkeep.dead_due(now(), 5))
        await store.upkeep.relay_move([RelayMove(task, task.relay_at) for task in due])
        await store.upkeep.relay_move([RelayMove(task, now()) for task in [*due[:5], a_task("gone")]])
        await store.upkeep.relay_due("unknown", now(), 10)
        await store.upkeep.take_marker("type3", now())

    entries = await profile.of(relay)

    assert len(due) == 15
    check(entries)


async def test_a_dead_letter_costs_what_it_writes(store: Store, profile: Profile) -> None:
    task_id = secrets.token_hex(4)
    await store.tasks.create([a_task(task_id, task_type="dead")])

    async def die_and_live() -> None:
        await store.upkeep.give_up(await look(store, task_id), "unknown_type", "x", now())
        await store.upkeep.relay_move([RelayMove(await look(store, task_id), None)])
        await store.tasks.replay(task_id, now())
        await store.upkeep.put_dead(a_task(f"{task_id} bad", status=TaskStatus.FAILED, last_error=an_error()))

    check(await profile.of(die_and_live))


async def test_rescue_costs_what_it_takes(store: Store, profile: Profile) -> None:
    async def look_and_rescue() -> None:
        await store.upkeep.stale_claims(HOUR, 10)
        stale, _ = await store.upkeep.stale_claims(STALE, 5)
        for task in stale[:2]:
            assert await store.upkeep.rescue(task, rescue(task, now()), STALE, now())

    check(await profile.of(look_and_rescue))


async def test_the_claims_of_dead_workers_are_found_among_those_that_run(store: Store, profile: Profile) -> None:
    check(await profile.of(lambda: store.upkeep.rescue_workers(["w0"])), slack=RUNNING + 10)


async def test_prune_costs_what_it_deletes(store: Store, profile: Profile) -> None:
    rules = Retention(window=HOUR, completed=timedelta(days=1), dead=timedelta(days=30), keep_completed=50)
    [schedule] = await kept(store, a_schedule("due"))
    await store.schedules.begin_fires([a_fire(schedule)], "s1")
    deleted: list[dict[str, int]] = []

    async def prune() -> None:
        deleted.append(await store.upkeep.prune(rules, now(), 5))

    # To skip the newest costs a key for each that is kept.
    check(await profile.of(prune), slack=rules.keep_completed + SLACK)
    assert deleted[0][TaskStatus.COMPLETED] > 0


async def test_a_prune_that_finds_nothing_costs_nothing(store: Store, profile: Profile) -> None:
    rules = Retention(window=timedelta(days=5), completed=timedelta(days=5), dead=timedelta(days=30), keep_completed=50)

    check(await profile.of(lambda: store.upkeep.prune(rules, now(), 5)), slack=rules.keep_completed + SLACK)
