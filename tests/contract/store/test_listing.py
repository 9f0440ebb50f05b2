"""Looking through tasks, page by page."""

from base64 import urlsafe_b64encode
from dataclasses import replace

import pytest

from schemas.outcome import Cancelled
from schemas.task import Task, TaskStatus
from service.errors import InvalidInput
from service.store.port import Store, TaskFilter
from tests.contract.store.steps import (
    HOUR,
    MINUTE,
    SECOND,
    a_task,
    an_error,
    claim,
    dead,
    end,
    failed,
    finished,
    look,
    now,
    running,
    some_tasks,
)

EVERYTHING = TaskFilter()


async def pages(store: Store, which: TaskFilter, limit: int) -> list[list[str]]:
    """The ids of each page, to the end."""
    found, cursor = [], None
    while True:
        page = await store.tasks.find(which, limit=limit, cursor=cursor)
        found.append([task.id for task in page.tasks])
        cursor = page.cursor
        if cursor is None:
            return found


async def ids(store: Store, which: TaskFilter) -> list[str]:
    return [task.id for task in (await store.tasks.find(which, limit=100)).tasks]


def created(task_id: str, seconds: int, **fields: object) -> Task:
    at = now() - MINUTE
    return a_task(task_id, created_at=at.replace(microsecond=0) + seconds * SECOND, **fields)


async def test_the_newest_come_first_across_types(store: Store) -> None:
    await store.tasks.create([created(f"t{n}", n, task_type=f"type{n % 3}") for n in (4, 0, 3, 1, 2)])

    assert await pages(store, EVERYTHING, 2) == [["t4", "t3"], ["t2", "t1"], ["t0"]]
    assert await pages(store, TaskFilter(task_type="type1"), 1) == [["t4"], ["t1"]]


async def test_a_page_that_is_exactly_full_is_the_last(store: Store) -> None:
    await store.tasks.create([created(f"t{n}", n) for n in range(4)])

    assert await pages(store, EVERYTHING, 4) == [["t3", "t2", "t1", "t0"]]
    assert await pages(store, EVERYTHING, 2) == [["t3", "t2"], ["t1", "t0"]]


async def test_no_tasks_no_pages(store: Store) -> None:
    for status in (None, *TaskStatus):
        assert await pages(store, TaskFilter(status=status), 10) == [[]]


@pytest.mark.parametrize("status", [None, TaskStatus.PENDING, TaskStatus.RUNNING, TaskStatus.COMPLETED])
async def test_pages_go_through_ties_without_loss_or_repetition(store: Store, status: TaskStatus | None) -> None:
    at = now() - MINUTE
    tasks = [a_task(f"t{n:03}", task_type=f"type{n % 2}", created_at=at, relay_at=at) for n in range(60)]
    await store.tasks.create(tasks)
    if status in (TaskStatus.RUNNING, TaskStatus.COMPLETED):
        claimed = await claim(store, *(task.id for task in tasks))
        if status is TaskStatus.COMPLETED:
            # Written by one bulk write: most have the same instant.
            await store.claims.settle([end(task, Cancelled("x")) for task in claimed])
            status = TaskStatus.CANCELLED

    found = [task_id for page in await pages(store, TaskFilter(status=status), 7) for task_id in page]

    assert len(found) == 60
    assert set(found) == {task.id for task in tasks}


async def test_what_is_added_meanwhile_does_not_shift_the_pages(store: Store) -> None:
    await store.tasks.create([created(f"t{n}", n) for n in range(4)])
    first = await store.tasks.find(EVERYTHING, limit=2)
    await store.tasks.create([created("new", 9)])

    second = await store.tasks.find(EVERYTHING, limit=2, cursor=first.cursor)

    assert [task.id for task in second.tasks] == ["t1", "t0"]


async def test_each_status_is_listed_by_when_a_task_got_there(store: Store) -> None:
    for name in ("a", "b"):
        await finished(store, f"completed-{name}")
        await finished(store, f"cancelled-{name}", Cancelled("asked for"))
        await dead(store, f"failed-{name}", published=name == "a")
        await running(store, f"running-{name}")
    await store.tasks.create([created(f"pending-{n}", 0, relay_at=now() + n * SECOND) for n in range(2)])

    for status in ("completed", "cancelled", "failed", "running"):
        assert await ids(store, TaskFilter(status=TaskStatus(status))) == [f"{status}-b", f"{status}-a"]
        assert await ids(store, TaskFilter(status=TaskStatus(status), task_type="report")) == [
            f"{status}-b",
            f"{status}-a",
        ]
        assert await ids(store, TaskFilter(status=TaskStatus(status), task_type="other")) == []
    assert await ids(store, TaskFilter(status=TaskStatus.PENDING)) == ["pending-1", "pending-0"]


async def test_times_select_from_the_one_on_and_before_the_other(store: Store) -> None:
    await store.tasks.create([created(f"t{n}", n, schedule_id="s") for n in range(5)])
    first, last = (await look(store, "t1")).created_at, (await look(store, "t3")).created_at

    for which in (TaskFilter(), TaskFilter(schedule_id="s"), TaskFilter(status=TaskStatus.PENDING)):
        between = replace(which, created_from=first, created_to=last)
        assert sorted(await ids(store, between)) == ["t1", "t2"]
        assert sorted(await ids(store, replace(which, created_from=last))) == ["t3", "t4"]
        assert sorted(await ids(store, replace(which, created_to=first))) == ["t0"]


async def test_the_time_of_the_end_selects_what_has_finished(store: Store) -> None:
    await finished(store, "completed")
    await dead(store, "failed")
    await running(store, "running")
    await store.tasks.create([created("pending", 0)])
    failed_at = (await look(store, "failed")).finished_at
    assert failed_at is not None

    assert await ids(store, TaskFilter(finished_from=now() - HOUR)) == ["failed", "completed"]
    assert await ids(store, TaskFilter(finished_to=failed_at)) == ["completed"]
    assert await ids(store, TaskFilter(finished_from=failed_at, status=TaskStatus.FAILED)) == ["failed"]
    for status in (TaskStatus.RUNNING, TaskStatus.PENDING):
        assert await ids(store, TaskFilter(finished_from=now() - HOUR, status=status)) == []


async def test_the_last_error_is_searched_as_it_is_written(store: Store) -> None:
    for task_id, kind, message in (("a", "OSError", "No space left (disk 7)"), ("b", "Timeout", "it took too long")):
        error = an_error(kind).model_copy(update={"message": message})
        await store.upkeep.put_dead(a_task(task_id, status=TaskStatus.FAILED, last_error=error))
    await finished(store, "c")

    assert await ids(store, TaskFilter(error="LEFT (disk")) == ["a"]
    assert await ids(store, TaskFilter(error=".*")) == []
    assert await ids(store, TaskFilter(error="timeout", status=TaskStatus.FAILED, task_type="report")) == ["b"]


@pytest.mark.parametrize("status", [None, TaskStatus.PENDING])
async def test_a_search_goes_on_where_it_stopped(
    store: Store, status: TaskStatus | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.store.mongo.tasks.SCANNED", 4)
    at = now()
    tasks = [
        # Every second has the same time as its neighbour, every fifth is looked for.
        created(f"t{n:02}", n // 2, task_type=f"type{n % 3}", tenant_id="x" if n % 5 == 0 else None)
        for n in range(22)
    ]
    await store.tasks.create([task.model_copy(update={"relay_at": at + (task.created_at - at)}) for task in tasks])

    found = await pages(store, TaskFilter(tenant_id="x", status=status), 10)

    assert [task_id for page in found for task_id in page] == ["t20", "t15", "t10", "t05", "t00"]
    assert [] in found
    assert max(map(len, found)) <= 4


async def test_a_search_that_is_full_before_it_stops_goes_on_there(store: Store) -> None:
    await store.tasks.create([created(f"t{n}", n, tenant_id="x") for n in range(5)])

    assert await pages(store, TaskFilter(tenant_id="x"), 2) == [["t4", "t3"], ["t2", "t1"], ["t0"]]


async def test_filters_add_up(store: Store) -> None:
    await store.tasks.create(
        [
            created("a", 4, schedule_id="s", tenant_id="one"),
            created("b", 3, schedule_id="s", tenant_id="two"),
            created("c", 2, schedule_id="s", task_type="mail", tenant_id="one"),
            created("d", 1, tenant_id="one"),
        ]
    )
    await claim(store, "a")

    assert await ids(store, TaskFilter(schedule_id="s")) == ["a", "b", "c"]
    assert await ids(store, TaskFilter(schedule_id="s", tenant_id="one")) == ["a", "c"]
    assert await ids(store, TaskFilter(schedule_id="s", task_type="mail")) == ["c"]
    assert await ids(store, TaskFilter(schedule_id="s", status=TaskStatus.PENDING)) == ["b", "c"]
    assert await ids(store, TaskFilter(tenant_id="one")) == ["a", "c", "d"]
    assert await ids(store, TaskFilter(tenant_id="one", task_type="report")) == ["a", "d"]
    assert await ids(store, TaskFilter(tenant_id="one", status=TaskStatus.RUNNING)) == ["a"]
    assert await ids(store, TaskFilter(tenant_id="three")) == []


async def test_the_tasks_of_a_schedule_are_paged_too(store: Store) -> None:
    await store.tasks.create([created(f"t{n}", 0, schedule_id="s") for n in range(5)])

    assert await pages(store, TaskFilter(schedule_id="s"), 2) == [["t4", "t3"], ["t2", "t1"], ["t0"]]


def encoded(text: str) -> str:
    return urlsafe_b64encode(text.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "%%%",
        "ünïcode",
        encoded("5"),
        encoded("[1]"),
        encoded('["2026-01-01", 1, 2]'),
        encoded('[1, "a"]'),
        encoded('["yesterday", "a"]'),
        encoded('["9999-12-31T23:59:59-12:00", "a"]'),
        encoded(r'["2026-01-01T00:00:00+00:00", "\ud800"]'),
        encoded("[" * 100_000),
    ],
)
async def test_a_cursor_that_is_none_is_refused(store: Store, cursor: str) -> None:
    with pytest.raises(InvalidInput, match="is no cursor"):
        await store.tasks.find(EVERYTHING, limit=1, cursor=cursor)


async def test_tasks_are_counted_by_type_and_status(store: Store) -> None:
    await store.tasks.create(some_tasks(3))
    await running(store, "running")
    await finished(store, "completed", task_type="mail")
    await finished(store, "retried", failed(), task_type="mail")
    await dead(store, "dead")
    await dead(store, "unpublished", published=False)

    assert await store.tasks.counts() == {
        "report": {TaskStatus.PENDING: 3, TaskStatus.RUNNING: 1, TaskStatus.FAILED: 2},
        "mail": {TaskStatus.PENDING: 1, TaskStatus.COMPLETED: 1},
    }


async def test_an_empty_store_counts_nothing(store: Store) -> None:
    assert await store.tasks.counts() == {}
