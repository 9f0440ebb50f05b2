"""memories.sync_due and memories.sync: from an integration's other side into the capture queue."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from actors.maintenance.database import Database, Document
from actors.maintenance.indexes import ensure_indexes
from actors.memories.collections import Collections
from actors.memories.indexes import DUE, integrations
from actors.memories.sync_due import due_integrations, next_time, read_interval
from actors.testing import Verger
from schemas.task import Task, TaskStatus
from service.store.port import TaskFilter
from tests.actors.families import Family, stages

SYNC, SYNC_DUE = "memories.sync", "memories.sync_due"
LOCAL = {"http_allow": "127.0.0.0/8"}
TIMES = frozenset({"createdAt", "lastSyncAt", "nextScheduledSync"})


# ---- the other side --------------------------------------------------------------------------------------------------

Respond = Callable[[str | None, int], Any]


@dataclass
class OtherSide:
    """Pages of JSON; the cursor is the number of items that were read."""

    items: list[Any] = field(default_factory=list)
    url: str = ""
    respond: Respond | None = None
    asked: list[str] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    slow_after: int | None = None
    """It waits for ``go_on`` from this request on."""
    at_once: int = 0
    most_at_once: int = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            self.asked.append(request.query_string)
            self.tokens.append(request.headers.get("Authorization"))
            if self.slow_after is not None and len(self.asked) > self.slow_after:
                self.reached.set()
                await self.go_on.wait()
            answer = (self.respond or self.page)(request.query.get("cursor"), int(request.query["limit"]))
            return answer if isinstance(answer, web.StreamResponse) else web.json_response(answer)
        finally:
            self.at_once -= 1

    def page(self, cursor: str | None, limit: int) -> dict[str, Any]:
        start = int(cursor or 0)
        some = self.items[start : start + limit]
        return {"items": some, "nextCursor": start + len(some)}


@asynccontextmanager
async def other_side(items: Sequence[Any] = ()) -> AsyncIterator[OtherSide]:
    side = OtherSide(list(items))
    app = web.Application()
    app.router.add_get("/notes", side.handle)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        side.url = f"http://127.0.0.1:{runner.addresses[0][1]}/notes"
        yield side
    finally:
        side.go_on.set()
        await runner.cleanup()


def items(count: int) -> list[Document]:
    return [{"id": number, "text": f"note {number}", "clusterId": "c", "colour": "red"} for number in range(count)]


def integration(name: str, side: OtherSide | None = None, tenant: str = "acme", **fields: Any) -> Document:
    return {
        "_id": name,
        "tenantId": tenant,
        "kind": "http_json",
        "enabled": True,
        "config": {"url": side.url if side is not None else "https://127.0.0.1/"},
        "syncInterval": 600,
        **fields,
    }


async def queued(memory: Database) -> list[str]:
    rows = memory.capture_queue.find({}, sort=[("tenantId", 1), ("createdAt", 1), ("_id", 1)])
    return [row["candidate"]["text"] async for row in rows]


async def ended(verger: Verger, body: Document | None = None, task_type: str = SYNC, **options: Any) -> Task:
    task = await verger.client.enqueue(task_type, {"integrationId": "crm"} if body is None else body, **options)
    await verger.run_until_idle()
    return await verger.client.get(task.id)


def told(task: Task) -> dict[str, int]:
    assert task.status is TaskStatus.COMPLETED, (task.reason, task.last_error)
    return {name: count for name, count in task.result.items() if count}


# ---- memories.sync ---------------------------------------------------------------------------------------------------


async def test_what_is_new_is_queued_in_its_order_and_captured(
    family: Family, memory: Database, tmp_path: Path
) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "connector-crm").write_text("s3same\n")
    async with other_side(items(7)) as side, family.engine(**LOCAL, secrets_dir=secrets) as verger:
        config = {"url": side.url + "?scope=all&limit=9#x", "secretRef": "connector-crm"}
        await memory.integrations.insert_one(integration("crm", config=config))
        body = {"integrationId": "crm", "pageSize": 3}
        assert told(await ended(verger, body)) == {"pages": 4, "items": 7, "inserted": 7}
        assert await queued(memory) == [f"note {number}" for number in range(7)]
        assert side.asked[1] == "scope=all&cursor=3&limit=3"
        assert side.tokens == ["Bearer s3same"] * 4

        # Twice changes nothing; what came since is found, and what changed is a new candidate.
        assert told(await ended(verger, body)) == {"pages": 1}
        side.items += [{"id": 3, "text": "note 3, changed"}, side.items[0]]
        assert told(await ended(verger, body)) == {"pages": 2, "items": 2, "inserted": 1, "known": 1}

        assert (await ended(verger, {}, "memories.capture")).result["promoted"] == 8

    [first] = await memory.memories.find({"text": "note 0"}).to_list(None)
    assert (first["clusterId"], first["source"]) == (
        "c",
        {"integrationId": "crm", "kind": "http_json", "itemId": "0"},
    )
    crm = await memory.integrations.find_one({"_id": "crm"}) or {}
    assert (crm["cursor"], crm["lastSyncError"]) == (9, None)
    assert crm["lastSyncAt"] <= datetime.now(UTC) + timedelta(minutes=1)


async def test_killed_between_insert_and_cursor_nothing_is_doubled_or_lost(family: Family, memory: Database) -> None:
    async with other_side(items(10)) as side:
        outcomes = []
        for after in (None, 1, 4):  # the insert of a page, its cursor, …
            await memory.capture_queue.delete_many({})
            await memory.integrations.delete_many({})
            await memory.integrations.insert_one(integration("crm", side))
            body = {"integrationId": "crm", "pageSize": 4}
            if after is not None:
                await family.die(SYNC, body, after=after, **LOCAL)
            result = await family.run(SYNC, body, **LOCAL)
            assert result["known"] == (4 if after == 1 else 0)
            outcomes.append((await family.contents(without=TIMES), await queued(memory)))

    assert outcomes[1:] == outcomes[:1] * 2
    assert len(outcomes[0][1]) == 10


async def test_cancelled_it_keeps_its_cursor_and_the_next_run_goes_on(family: Family, memory: Database) -> None:
    async with other_side(items(10)) as side, family.engine(**LOCAL) as verger:
        await memory.integrations.insert_one(integration("crm", side))
        side.slow_after = 2
        body = {"integrationId": "crm", "pageSize": 2}
        task = await verger.client.enqueue(SYNC, body)
        await side.reached.wait()
        await verger.client.cancel(task.id)
        side.go_on.set()
        await verger.run_until_idle()
        assert (await verger.client.get(task.id)).status is TaskStatus.CANCELLED
        cursor = (await memory.integrations.find_one({}) or {})["cursor"]
        assert cursor < 10
        assert await queued(memory) == [f"note {number}" for number in range(cursor)]

        assert told(await ended(verger, body))["inserted"] == 10 - cursor


async def test_one_bad_item_is_skipped_and_rubbish_alone_ends_the_run(family: Family, memory: Database) -> None:
    good = items(4)
    bad = [7, {"id": "x"}, {"text": "no id"}, {"id": True, "text": "t"}, {"id": "big", "text": "x" * 2000}]
    deep: Any = []
    for _ in range(300):
        deep = [deep]
    bad += [
        {"id": "large", "text": "t", "metadata": {"a": 2**63}},
        {"id": "deep", "text": "t", "metadata": {"a": deep}},
    ]
    async with other_side([good[0], *bad[:3], good[1], *bad[3:], *good[2:]]) as side, family.engine(**LOCAL) as verger:
        await memory.integrations.insert_one(integration("crm", side))
        body = {"integrationId": "crm", "maxItemBytes": 1024}
        assert told(await ended(verger, body)) == {"pages": 2, "items": 4, "inserted": 4, "skipped": 7}

        side.items += [7] * 5
        task = await ended(verger, {**body, "maxFailuresInRow": 5}, max_attempts=1)
        assert task.last_error is not None
        assert (task.status, task.last_error.type) == (TaskStatus.FAILED, "CircuitOpen")
        crm = await memory.integrations.find_one({}) or {}
        assert crm["cursor"] == 11
        assert "5 items in a row failed" in crm["lastSyncError"]


async def test_a_connector_that_is_down_slow_or_wrong_fails_as_it_should(family: Family, memory: Database) -> None:
    async with other_side() as side, family.engine(**LOCAL) as verger:
        await memory.integrations.insert_one(integration("crm", side))

        async def error(respond: Respond, **body: Any) -> tuple[TaskStatus, str]:
            side.respond = respond
            task = await ended(verger, {"integrationId": "crm", **body}, max_attempts=2)
            assert task.last_error is not None
            await verger.client.cancel(task.id) if task.status is TaskStatus.PENDING else None
            return task.status, f"{task.last_error.type}: {task.last_error.message}"

        again, never = TaskStatus.PENDING, TaskStatus.FAILED
        down = await error(lambda *_: web.Response(status=503))
        assert down == (again, "ConnectorUnavailable: the other side answers 503")
        gone = await error(lambda *_: web.Response(status=404))
        assert gone == (never, "ConnectorRefused: the other side answers 404")
        redirect = web.HTTPFound("http://169.254.169.254/")
        assert await error(lambda *_: web.Response(status=302, headers=redirect.headers)) == (
            never, "ConnectorRefused: the other side answers 302",
        )  # fmt: skip
        assert "not JSON" in (await error(lambda *_: web.Response(text="<html>")))[1]
        assert "no list at 'items'" in (await error(lambda *_: ["rows"]))[1]
        assert "is no cursor" in (await error(lambda *_: {"items": [], "nextCursor": {"a": 1}}))[1]
        assert "64 bits" in (await error(lambda *_: {"items": [], "nextCursor": 2**63}))[1]
        long = await error(lambda *_: web.Response(text="x" * 5000), maxPageBytes=1024)
        assert long[0] is again
        assert "longer than 1024 bytes" in long[1]

        turn = {None: "a", "a": "b", "b": "a"}
        circle = await error(lambda cursor, _: {"items": items(1), "nextCursor": turn[cursor]})
        assert circle == (never, "ConnectorRefused: the other side's cursors go round in a circle")

        await memory.integrations.update_one({}, {"$unset": {"cursor": ""}})
        side.respond = lambda cursor, _: {"items": items(1), "nextCursor": f"{cursor}x"[-100:] + str(len(side.asked))}
        endless = told(await ended(verger, {"integrationId": "crm", "maxPages": 5}))
        assert (endless["pages"], endless["cut_off"]) == (5, 1)

        side.respond, side.slow_after = None, 0
        slow = await error(lambda *_: {}, requestTimeout="200ms")
        assert slow[0] is again
        assert "no answer within 0.2 s" in slow[1]


@pytest.mark.parametrize("dated", [False, True])
async def test_a_busy_side_is_not_asked_again_before_it_says(family: Family, memory: Database, dated: bool) -> None:
    async with other_side() as side, family.engine(**LOCAL) as verger:
        await memory.integrations.insert_one(integration("crm", side))
        until = verger.clock.now() + timedelta(hours=2)
        said = format_datetime(until, usegmt=True) if dated else "7200"
        side.respond = lambda *_: web.Response(status=429, headers={"Retry-After": said})

        task = await ended(verger, {"integrationId": "crm"})

        assert task.status is TaskStatus.PENDING
        assert abs(task.retry_at - until) < timedelta(minutes=1)
        assert (await memory.integrations.find_one({}) or {})["lastSyncError"] == "the other side answers 429"


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"kind": "carrier_pigeon"}, "there is no connector 'carrier_pigeon'; known: http_json, folder"),
        ({"config": None}, "config is not an object"),
        ({"config": {}}, "config.url: field required"),
        ({"config": {"url": "http://169.254.169.254/latest"}}, "169.254.169.254"),
        ({"config": {"url": "https://x/", "secretRef": "webhook-key"}}, "begins with 'connector-'"),
        ({"tenantId": 7}, "tenantId is not a text"),
        ({"kind": "folder", "config": {"path": "../other"}}, "write it like acme/notes"),
        ({"kind": "folder", "config": {"path": "/etc"}}, "write it like acme/notes"),
        ({"kind": "folder", "config": {"path": "a"}, "cursor": 7}, "the cursor is none of this connector's"),
    ],
)
async def test_a_config_that_cannot_work_is_a_dead_letter_at_once(
    engine: Verger, memory: Database, fields: Document, problem: str
) -> None:
    await memory.integrations.insert_one(integration("crm") | fields)

    task = await ended(engine)

    assert task.last_error is not None
    assert (task.status, task.attempt, task.last_error.type) == (TaskStatus.FAILED, 1, "ConnectorRefused")
    assert problem in task.last_error.message
    assert problem in (await memory.integrations.find_one({}) or {})["lastSyncError"]


@pytest.fixture
async def engine(family: Family) -> AsyncIterator[Verger]:
    async with family.engine() as verger:
        yield verger


async def test_an_integration_that_is_gone_or_disabled_is_not_synchronised(engine: Verger, memory: Database) -> None:
    await memory.integrations.insert_one(integration("off", enabled=False))

    assert (await ended(engine, {"integrationId": "gone"})).status is TaskStatus.CANCELLED
    assert (await ended(engine, {"integrationId": "off"})).status is TaskStatus.CANCELLED


# ---- the folder ------------------------------------------------------------------------------------------------------


async def test_a_folders_files_are_found_once_and_nothing_outside_it_ever(
    engine: Verger, memory: Database, tmp_path: Path
) -> None:
    folder = tmp_path / "connectors" / "acme" / "notes"
    (folder / "deep").mkdir(parents=True)
    outside = tmp_path / "secret.md"
    outside.write_text("the key")
    for number in range(5):
        (folder / f"{number}.md").write_text(f"note {number}")
    (folder / "deep" / "5.txt").write_text("note 5")
    (folder / "image.png").write_text("no text")
    (folder / "latin.md").write_bytes(b"\xff\xfe")
    (folder / "large.md").write_text("x" * 2000)
    (folder / "link.md").symlink_to(outside)
    (folder / "way").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe.md")
    (folder / os.fsdecode(b"\xff.md")).write_text("nameless")
    config = {"path": "acme/notes", "settle": "0s"}
    await memory.integrations.insert_one(integration("crm", kind="folder", config=config))
    body = {"integrationId": "crm", "pageSize": 2, "maxItemBytes": 1024}

    result = told(await ended(engine, body))
    assert (result["items"], result["inserted"], result["skipped"]) == (6, 6, 2)
    assert sorted(await queued(memory)) == [f"note {number}" for number in range(6)]
    assert told(await ended(engine, body)) == {"pages": 1}

    # Moved in with a date of its own, and changed: both are found. A cursor from ahead of now is no obstacle.
    old = tmp_path / "old.md"
    old.write_text("older")
    os.utime(old, (0, 0))
    old.rename(folder / "old.md")
    (folder / "0.md").write_text("note 0, changed")
    assert told(await ended(engine, body))["inserted"] == 2
    ahead = {"changedNs": 2**62, "path": "z"}
    await memory.integrations.update_one({}, {"$set": {"cursor": ahead}})
    assert told(await ended(engine, body)) == {"pages": 1}
    (folder / "new.md").write_text("new")
    assert told(await ended(engine, body))["inserted"] == 1

    # What is too young waits; a symlink on the way to the folder is refused.
    (folder / "young.md").write_text("half a sen")
    config = {"path": "acme/notes", "settle": "1h"}
    await memory.integrations.update_one({}, {"$set": {"config": config}})
    assert told(await ended(engine, body)) == {"pages": 1}
    (tmp_path / "connectors" / "way").symlink_to(tmp_path / "connectors" / "acme")
    await memory.integrations.update_one({}, {"$set": {"config": {"path": "way/notes"}}})
    refused = await ended(engine, body)
    assert refused.last_error is not None
    assert "leads through a symlink" in refused.last_error.message


# ---- memories.sync_due -----------------------------------------------------------------------------------------------


async def times(memory: Database) -> dict[str, Any]:
    return {each["_id"]: each.get("nextScheduledSync") async for each in memory.integrations.find()}


async def syncs(verger: Verger) -> list[Task]:
    return list((await verger.client.find(TaskFilter(task_type=SYNC), limit=100)).tasks)


async def test_due_integrations_are_synchronised_and_their_times_advance_without_drift(
    family: Family, memory: Database
) -> None:
    async with other_side(items(3)) as side, family.engine(**LOCAL) as verger:
        now = verger.clock.now()
        due = now - timedelta(hours=5, minutes=3)
        await memory.integrations.insert_many(
            [
                integration("late", side, nextScheduledSync=due),
                integration("new", side, syncInterval=None),
                integration("text", side, syncInterval="15m", nextScheduledSync=due),
                integration("later", side, nextScheduledSync=now + timedelta(hours=1)),
                integration("off", side, enabled=False, nextScheduledSync=due),
                integration("odd", side, syncInterval="often", nextScheduledSync=due),
                integration("other", side, tenant="zoo", nextScheduledSync="soon"),
            ]
        )
        counted = told(await ended(verger, {}, "process_scheduled_syncs"))
        assert counted == {"scanned": 5, "dispatched": 4, "invalid": 1}
        made = {task.task_body["integrationId"]: task for task in await syncs(verger)}
        assert set(made) == {"late", "new", "text", "other"}
        assert {task.status for task in made.values()} == {TaskStatus.COMPLETED}
        assert (made["late"].task_name, made["other"].tenant_id) == ("memories.sync late", "zoo")
        after = await times(memory)
        assert after["late"] == due + timedelta(minutes=310)
        assert after["text"] == due + timedelta(minutes=315)
        assert now + timedelta(minutes=59) < after["new"] < now + timedelta(minutes=61)
        assert after["off"] == due
        assert after["odd"] == due + timedelta(hours=6)

        assert told(await ended(verger, {}, SYNC_DUE)) == {}
        # Unset again, to have it now: this makes another task.
        await memory.integrations.update_one({"_id": "new"}, {"$set": {"nextScheduledSync": None}})
        await verger.advance(seconds=1)
        assert told(await ended(verger, {}, SYNC_DUE)) == {"scanned": 1, "dispatched": 1}
        assert len(await syncs(verger)) == 5


async def test_one_integration_never_syncs_twice_at_once_and_none_that_was_asked_for_is_missed(
    family: Family, memory: Database
) -> None:
    async with other_side(items(2)) as side, family.engine(**LOCAL) as verger:
        side.slow_after = 0
        await memory.integrations.insert_one(integration("crm", side, nextScheduledSync=verger.clock.now()))
        await verger.client.enqueue(SYNC_DUE)
        await side.reached.wait()
        first = await syncs(verger)
        await verger.advance(minutes=10)
        again = await verger.client.enqueue(SYNC_DUE)
        while not (await verger.client.get(again.id)).status.finished:
            await asyncio.sleep(0.01)
        assert told(await verger.client.get(again.id)) == {"scanned": 1, "joined": 1}
        assert [task.id for task in await syncs(verger)] == [task.id for task in first]
        side.go_on.set()
        await verger.run_until_idle()

    assert side.most_at_once == 1
    assert len(side.asked) > 2  # it ran once more
    assert await queued(memory) == ["note 0", "note 1"]


async def test_two_dispatchers_at_once_or_one_that_is_killed_make_one_task_for_each_due_time(
    family: Family, memory: Database
) -> None:
    async with other_side() as side, family.engine(**LOCAL, concurrency=1) as verger:
        due = verger.clock.now() - timedelta(minutes=1)
        names = [f"i{number:02}" for number in range(20)]
        await memory.integrations.insert_many([integration(name, side, nextScheduledSync=due) for name in names])
        tasks = [await verger.client.enqueue(SYNC_DUE, {"batchSize": size}) for size in (3, 4)]
        await verger.run_until_idle()
        # As after a kill between the task and the time.
        await memory.integrations.update_one({"_id": "i07"}, {"$set": {"nextScheduledSync": due}})
        await ended(verger, {}, SYNC_DUE)

        for task in tasks:
            told(await verger.client.get(task.id))
        assert sorted(task.task_body["integrationId"] for task in await syncs(verger)) == names
        assert set((await times(memory)).values()) == {due + timedelta(minutes=10)}


async def test_one_tenants_backlog_does_not_hold_up_the_others(family: Family, memory: Database) -> None:
    due = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=1)
    rows = [integration(f"h{number:03}", tenant="a-huge", nextScheduledSync=due) for number in range(99)]
    await memory.integrations.insert_many([*rows, integration("small", tenant="b-small", nextScheduledSync=due)])

    await family.die(SYNC_DUE, {"batchSize": 2}, after=3, types=SYNC_DUE)  # the syncs' own writes do not count

    moved = [name for name, at in (await times(memory)).items() if at != due]
    assert moved == ["h000", "h001", "small"]


async def test_every_query_is_served_by_an_index(memory: Database) -> None:
    await ensure_indexes(memory, integrations(Collections()))
    await memory.integrations.insert_one(integration("crm"))
    due = due_integrations(datetime.now(UTC))

    order = [("nextScheduledSync", 1), ("_id", 1)]
    page = memory.integrations.find({"tenantId": "acme", **due}, sort=order, limit=5, hint=DUE)
    tenants = memory.integrations.find({**due, "tenantId": {"$gt": ""}}, sort=[("tenantId", 1)], limit=1)
    for query in (page, tenants):
        assert not stages(await query.explain()) & {"COLLSCAN", "SORT"}


def test_intervals_are_read_and_times_lie_ahead_of_now_in_whole_intervals() -> None:
    hour = timedelta(hours=1)
    assert read_interval(None, hour) == read_interval("60m", hour) == read_interval(3600.0, hour) == hour
    for wrong in (0, -5, True, "soon", "0s", [1], float("nan"), 10**12, "9000w"):
        with pytest.raises(ValueError, match="syncInterval|not a duration"):
            read_interval(wrong, hour)
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert next_time(noon, hour, noon) == noon + hour
    assert next_time(noon, hour, noon + timedelta(days=40, minutes=1)) == noon + timedelta(days=40, hours=1)
