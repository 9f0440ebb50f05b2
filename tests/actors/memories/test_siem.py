"""``memories.siem_forward`` and ``memories.siem_forward_tenant``: a collector receives every audit row, in order."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from bson import ObjectId

from actors.maintenance.database import Database
from actors.maintenance.indexes import ensure_indexes
from actors.memories.audit_formats import as_cef, as_json
from actors.memories.audit_rows import AuditRows, Position, Row
from actors.memories.collections import Collections
from actors.memories.indexes import audit_log
from actors.memories.siem_forward_tenant import DELAYS, TASK_TYPE
from schemas.duration import parse_duration
from schemas.task import Task, TaskStatus
from service.store.port import TaskFilter
from tests.actors.families import Family, stages
from tests.actors.receivers import Received, Receiver, raw_server, read_request, receiver

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
NAMED = f"{TASK_TYPE}:t1"


@pytest.fixture
def siem(family: Family, tmp_path: Path) -> Family:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "token").write_text("s3cret\n")
    family.settings |= {"secrets_dir": tmp_path / "secrets", "http_allow": ("127.0.0.1",)}
    return family


async def add_rows(memory: Database, count: int, *, tenant: str = "t1", begin: int = 0) -> None:
    rows = [
        {
            "_id": f"{tenant}-{number:05}",
            "tenantId": tenant,
            "at": BEGIN + timedelta(seconds=number // 3),
            "actor": "ada",
            "action": "memory.read",
            "target": f"m{number}",
            "detail": {"n": number},
        }
        for number in range(begin, begin + count)
    ]
    await memory.audit_log.insert_many(rows)


async def add_endpoint(memory: Database, url: str, *, tenant: str = "t1", **fields: Any) -> None:
    endpoint = {"_id": tenant, "url": url, "format": "jsonl", "enabled": True}
    await memory.siem_endpoints.insert_one({**endpoint, **fields})


async def cursor(memory: Database, tenant: str = "t1") -> Any:
    found = await memory.siem_endpoints.find_one({"_id": tenant})
    assert found is not None
    return found.get("cursor", {}).get("id")


def sent(server: Receiver) -> list[Any]:
    """The ids of the rows, in the order of their arrival."""
    return [json.loads(line)["id"] for request in server.requests for line in request.body.splitlines()]


def ids(count: int, tenant: str = "t1") -> list[str]:
    return [f"{tenant}-{number:05}" for number in range(count)]


# ---- what arrives ----------------------------------------------------------------------------------------------------


async def test_all_rows_arrive_in_order_in_batches_and_once(siem: Family, memory: Database) -> None:
    await add_rows(memory, 250)
    await add_rows(memory, 10, tenant="t2")
    async with receiver() as server:
        await add_endpoint(memory, server.url, secretRef="token")
        first = await siem.run(TASK_TYPE, {"tenantId": "t1"})
        second = await siem.run(TASK_TYPE, {"tenantId": "t1"})

    assert sent(server) == ids(250)
    assert [len(request.body.splitlines()) for request in server.requests] == [100, 100, 50]
    assert json.loads(server.requests[0].body.splitlines()[4]) == {
        "id": "t1-00004",
        "tenantId": "t1",
        "at": "2026-01-01T00:00:01Z",
        "actor": "ada",
        "action": "memory.read",
        "target": "m4",
        "detail": {"n": 4},
    }
    assert server.requests[0].headers["Content-Type"] == "application/x-ndjson"
    assert server.requests[0].headers["Authorization"] == "Bearer s3cret"
    assert (first["rows"], first["batches"]) == (250, 3)
    assert (second["rows"], second["batches"]) == (0, 0)
    assert await cursor(memory) == "t1-00249"


async def test_rows_of_one_instant_are_told_apart_whatever_their_ids_are(siem: Family, memory: Database) -> None:
    kinds: list[Any] = [3, 1.5, "b", "a", ObjectId(), ObjectId(), {"a": 1}, True, BEGIN]
    await memory.audit_log.insert_many([{"_id": kind, "tenantId": "t1", "at": BEGIN} for kind in kinds])
    async with receiver() as server:
        await add_endpoint(memory, server.url)
        result = await siem.run(TASK_TYPE, {"tenantId": "t1", "batchSize": 1})

    assert result["rows"] == len(kinds)
    written = [json.dumps(json.loads(request.body)["id"]) for request in server.requests]
    assert len(set(written)) == len(kinds)


async def test_rows_that_are_younger_than_half_a_minute_wait(siem: Family, memory: Database) -> None:
    async with receiver() as server, siem.engine() as verger:
        await add_endpoint(memory, server.url)
        for seconds in (600, 300, 20, -3600):
            at = verger.clock.now() - timedelta(seconds=seconds)
            await memory.audit_log.insert_one({"_id": f"{seconds} ago", "tenantId": "t1", "at": at})
        await memory.audit_log.insert_one({"_id": "without a date", "tenantId": "t1", "at": "yesterday"})
        await verger.client.enqueue(TASK_TYPE, {"tenantId": "t1"})
        await verger.run_until_idle()
        assert sent(server) == ["600 ago", "300 ago"]

        await verger.advance(minutes=1)
        await verger.client.enqueue(TASK_TYPE, {"tenantId": "t1"})
        await verger.run_until_idle()
        assert sent(server) == ["600 ago", "300 ago", "20 ago"]


async def test_a_row_that_is_too_large_is_sent_without_what_makes_it_so(siem: Family, memory: Database) -> None:
    row = {"_id": 1, "tenantId": "t1", "at": BEGIN, "actor": "ada", "action": "import", "target": {"x": 1}}
    await memory.audit_log.insert_one({**row, "detail": "x" * 2_000_000})
    await add_rows(memory, 2)
    async with receiver() as server:
        await add_endpoint(memory, server.url)
        result = await siem.run(TASK_TYPE, {"tenantId": "t1"})

    assert result["shortened"] == 1
    [large] = [json.loads(line) for line in server.requests[0].body.splitlines() if b"import" in line]
    assert (large["id"], large["actor"], large["action"], large["target"]) == (1, "ada", "import", "")
    assert large["leftOutBytes"] > 2_000_000
    assert len(server.requests[0].body) < 2000


async def test_a_batch_that_would_be_too_large_is_sent_in_parts(siem: Family, memory: Database) -> None:
    await memory.audit_log.insert_many(
        [
            {"_id": number, "tenantId": "t1", "at": BEGIN, "detail": "x" * (1500 if number == 4 else 400)}
            for number in range(9)
        ]
    )
    async with receiver() as server:
        await add_endpoint(memory, server.url)
        result = await siem.run(TASK_TYPE, {"tenantId": "t1", "maxBatchBytes": 1024})

    assert [len(request.body.splitlines()) for request in server.requests] == [2, 2, 1, 2, 2]
    assert sent(server) == list(range(9))
    assert (result["rows"], result["batches"], await cursor(memory)) == (9, 5, 8)


async def test_a_collector_of_cef_gets_a_line_for_each_row(siem: Family, memory: Database) -> None:
    await add_rows(memory, 2)
    async with receiver() as server:
        await add_endpoint(memory, server.url, format="cef")
        await siem.run(TASK_TYPE, {"tenantId": "t1"})

    [request] = server.requests
    assert request.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert request.body.decode().splitlines() == [
        f"CEF:0|Verger|memories|1|memory.read|memory.read|3|rt=1767225600000 externalId=t1-0000{n} suser=ada "
        f'act=memory.read cs1Label=tenant cs1=t1 cs2Label=target cs2=m{n} msg={{"detail":{{"n":{n}}}}}'
        for n in range(2)
    ]


# ---- formats ---------------------------------------------------------------------------------------------------------

EVIL = "a\r\nCEF:0|x|y|1|forged|forged|10|suser=root\\|= \u2028\u0085\x00\x1b[31m b"


def row(**fields: Any) -> Row:
    return Row(Position(BEGIN, "r1"), {"tenantId": "t1", "at": BEGIN, **fields}, 0)


def read_cef(line: str) -> tuple[list[str], dict[str, str]]:
    """As a collector reads it."""
    parts, at = [""], 0
    while len(parts) < 8 and at < len(line):
        if line[at] == "\\":
            at += 1
            parts[-1] += line[at]
        elif line[at] == "|":
            parts.append("")
        else:
            parts[-1] += line[at]
        at += 1
    extension: dict[str, str] = {}
    key, value, text = "", "", parts.pop() + line[at:]
    at = 0
    while at < len(text):
        if text[at] == "\\":
            at += 1
            value += {"n": "\n", "r": "\r"}.get(text[at], text[at])
        elif text[at] == "=":
            value, _, next_key = value.rpartition(" ")
            if key:
                extension[key] = value
            key, value = next_key, ""
        else:
            value += text[at]
        at += 1
    extension[key] = value
    return parts, extension


@pytest.mark.parametrize("field", ["actor", "action", "target", "tenantId", "detail"])
@pytest.mark.parametrize("write", [as_json, as_cef])
def test_nothing_in_a_row_makes_a_line_of_its_own(write: Callable[[Row], str], field: str) -> None:
    line = write(row(**{"actor": "ada", "action": "read", field: EVIL}))

    assert line.split("\n") == [line]
    assert "\r" not in line
    if write is as_json:
        assert json.loads(line)[field] == EVIL
    else:
        assert line.splitlines() == [line]
        head, extension = read_cef(line)
        assert len(head) == 7
        assert head[4] == head[5]
        assert head[6] == "3"
        assert set(extension) <= {"rt", "externalId", "suser", "act", "cs1Label", "cs1", "cs2Label", "cs2", "msg"}
        assert extension["suser"].startswith("a\r\nCEF:0|x" if field == "actor" else "ada")


def test_what_json_has_no_form_for_is_written_as_text() -> None:
    there = ObjectId()
    written = json.loads(as_json(row(detail={"id": there, "raw": b"\x00", "nan": float("nan"), "big": 2**60})))

    assert written["detail"] == {"id": str(there), "raw": "b'\\x00'", "nan": None, "big": 2**60}
    assert f"cs2={there}" in as_cef(row(target=there))


# ---- what goes wrong -------------------------------------------------------------------------------------------------


async def test_the_cursor_stays_before_a_batch_that_was_not_taken(siem: Family, memory: Database) -> None:
    await add_rows(memory, 250)
    async with receiver(200, 500, 200) as server, siem.engine() as verger:
        await add_endpoint(memory, server.url)
        task = await verger.client.enqueue(TASK_TYPE, {"tenantId": "t1"})
        await verger.run_until_idle()
        assert await cursor(memory) == "t1-00099"

        await verger.advance(seconds=10)
        await verger.run_until_idle()
        assert (await verger.client.get(task.id)).status is TaskStatus.COMPLETED

    assert sent(server) == [*ids(200), *ids(250)[100:]]
    assert await cursor(memory) == "t1-00249"


async def test_an_endpoint_that_takes_rows_and_drops_the_connection_gets_them_again(
    siem: Family, memory: Database
) -> None:
    got: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append((await read_request(reader)).partition(b"\r\n\r\n")[2])
        if len(got) > 1:
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
            await writer.drain()

    await add_rows(memory, 3)
    async with raw_server(talk) as port, siem.engine() as verger:
        await add_endpoint(memory, f"http://127.0.0.1:{port}/")
        await verger.client.enqueue(TASK_TYPE, {"tenantId": "t1"})
        await verger.run_until_idle()
        assert await cursor(memory) is None
        await verger.advance(seconds=10)
        await verger.run_until_idle()

    assert got[0] == got[1]
    assert await cursor(memory) == "t1-00002"


async def test_only_a_2xx_counts(siem: Family, memory: Database) -> None:
    statuses = [302, 400, 401, 404, 410, 500]
    answers = [web.Response(status=status, headers={"Location": "http://169.254.169.254/"}) for status in statuses]
    await add_rows(memory, 1)
    async with receiver(*answers, 204) as server, siem.engine() as verger:
        await add_endpoint(memory, server.url)
        for status in statuses:
            made = await verger.client.enqueue(TASK_TYPE, {"tenantId": "t1"})
            await verger.run_until_idle()
            task = await verger.client.get(made.id)
            assert (task.status, await cursor(memory)) == (TaskStatus.PENDING, None)
            assert task.last_error is not None
            assert task.last_error.message == f"the SIEM endpoint of 't1' answered {status}"
            await verger.client.cancel(task.id)
        await verger.client.enqueue(TASK_TYPE, {"tenantId": "t1"})
        await verger.run_until_idle()

    assert sent(server) == ids(1) * 7
    assert await cursor(memory) == "t1-00000"


async def test_a_busy_endpoint_says_when_to_come_back(siem: Family, memory: Database) -> None:
    await add_rows(memory, 1)
    async with receiver(web.Response(status=503, headers={"Retry-After": "600"})) as server, siem.engine() as verger:
        await add_endpoint(memory, server.url)
        made = await verger.client.enqueue(TASK_TYPE, {"tenantId": "t1"})
        await verger.run_until_idle()
        left = (await verger.client.get(made.id)).retry_at - verger.clock.now()

    assert timedelta(minutes=9) < left <= timedelta(minutes=10)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"url": "http://10.0.0.1/"}, "not public"),
    ({"url": None}, "has no url"),
    ({"format": "xml"}, "none of jsonl, cef"),
    ({"secretRef": "missing"}, "'missing'"),
    ({"secretRef": "../x"}, "'../x'"),
    ({"cursor": {"at": "yesterday", "id": 1}}, "the cursor"),
]


async def test_an_endpoint_that_is_written_wrongly_says_so(siem: Family, memory: Database) -> None:
    await add_rows(memory, 1)
    async with receiver() as server, siem.engine() as verger:
        for fields, reason in WRONG:
            await memory.siem_endpoints.delete_many({})
            await add_endpoint(memory, **{"url": server.url, **fields})
            made = await verger.client.enqueue(TASK_TYPE, {"tenantId": "t1"})
            await verger.run_until_idle()
            task = await verger.client.get(made.id)
            assert task.status is TaskStatus.PENDING
            assert task.last_error is not None
            assert reason in task.last_error.message

    assert server.requests == []


@pytest.mark.parametrize("enabled", [False, None])
async def test_an_endpoint_that_is_disabled_or_gone_has_no_rows(
    siem: Family, memory: Database, enabled: bool | None
) -> None:
    if enabled is not None:
        await add_endpoint(memory, "http://127.0.0.1:1/", enabled=enabled)
    task = await siem.task(TASK_TYPE, {"tenantId": "t1"})

    assert (task.status, task.reason) == (
        TaskStatus.CANCELLED,
        "the tenant 't1' has no SIEM endpoint that is enabled",
    )


async def test_killed_in_the_middle_it_goes_on_from_its_cursor(siem: Family, memory: Database) -> None:
    await add_rows(memory, 500)
    async with receiver() as server:
        await add_endpoint(memory, server.url)
        await siem.die(TASK_TYPE, {"tenantId": "t1"}, after=2)
        assert await cursor(memory) == "t1-00199"
        result = await siem.run(TASK_TYPE, {"tenantId": "t1"})

    assert result["rows"] == 300
    assert sorted(set(sent(server))) == ids(500)
    assert await cursor(memory) == "t1-00499"


async def test_two_at_once_lose_nothing_and_never_go_back(siem: Family, memory: Database) -> None:
    """Both have read the first rows when the first is answered."""
    await add_rows(memory, 300)
    cursors: list[str] = []
    both = asyncio.Event()

    async def wait(request: Received) -> None:
        if len(server.requests) >= 2:
            both.set()
        await both.wait()
        cursors.append(await cursor(memory) or "")

    async with receiver() as server, siem.engine() as verger:
        server.before = wait
        await add_endpoint(memory, server.url)
        tasks = [await verger.client.enqueue(TASK_TYPE, {"tenantId": "t1"}) for _ in range(2)]
        await verger.run_until_idle()
        results = [(await verger.client.get(task.id)).result or {} for task in tasks]

    assert sorted(result["overtaken"] for result in results) == [0, 1]
    assert set(sent(server)) == set(ids(300))
    assert cursors == sorted(cursors)
    assert await cursor(memory) == "t1-00299"


async def test_cancelled_it_stops_after_a_batch_and_keeps_its_cursor(siem: Family, memory: Database) -> None:
    await add_rows(memory, 300)
    async with receiver() as server, siem.engine() as verger:
        await add_endpoint(memory, server.url)
        task = await verger.client.enqueue(TASK_TYPE, {"tenantId": "t1"}, delay="1h")

        async def cancel(request: Received) -> None:
            await verger.client.cancel(task.id)

        server.before = cancel
        await verger.advance(hours=1)
        await verger.run_until_idle()
        assert (await verger.client.get(task.id)).status is TaskStatus.CANCELLED

    assert sent(server) == ids(100)
    assert await cursor(memory) == "t1-00099"


async def test_a_long_backlog_is_sent_in_turns(siem: Family, memory: Database) -> None:
    await add_rows(memory, 250)
    async with receiver() as server, siem.engine() as verger:
        await add_endpoint(memory, server.url)
        await verger.client.enqueue(TASK_TYPE, {"tenantId": "t1", "batchSize": 50, "maxRows": 100}, name=NAMED)
        await verger.run_until_idle()

    assert sent(server) == ids(250)


async def test_the_next_batch_is_read_while_one_is_sent(siem: Family, memory: Database) -> None:
    await add_rows(memory, 250)
    await memory.command({"profile": 2})

    async def wait(request: Received) -> None:
        """Answers when the batch after this one was read."""
        if len(server.requests) == 1:
            while await memory["system.profile"].count_documents({"ns": f"{memory.name}.audit_log", "op": "query"}) < 2:
                await asyncio.sleep(0.02)

    async with receiver() as server:
        server.before = wait
        await add_endpoint(memory, server.url)
        result = await siem.run(TASK_TYPE, {"tenantId": "t1"})
    await memory.command({"profile": 0})

    assert result["rows"] == 250


# ---- the dispatch ----------------------------------------------------------------------------------------------------


async def tasks(verger: Any) -> list[Task]:
    page = await verger.app.store.tasks.find(TaskFilter(task_type=TASK_TYPE), limit=100)
    return sorted(page.tasks, key=lambda task: str(task.task_name))


async def test_each_tenant_with_new_rows_gets_a_task_by_its_name(siem: Family, memory: Database) -> None:
    for tenant in ("t1", "t2", "t3", "off"):
        await add_rows(memory, 5, tenant=tenant)
    async with receiver() as server, siem.engine() as verger:
        for tenant in ("t1", "t2", "new"):
            await add_endpoint(memory, server.url, tenant=tenant)
        await add_endpoint(
            memory, server.url, tenant="t3", cursor={"at": BEGIN + timedelta(seconds=1), "id": "t3-00004"}
        )
        await add_endpoint(memory, server.url, tenant="off", enabled=False)
        await add_endpoint(memory, server.url, tenant="broken", cursor="x")
        await memory.siem_endpoints.insert_one({"_id": 7, "enabled": True})
        made = await verger.client.enqueue("siem_forwarding_job")
        await verger.run_until_idle()
        result = (await verger.client.get(made.id)).result
        made_tasks = await tasks(verger)
        again = await verger.client.enqueue("memories.siem_forward")
        await verger.run_until_idle()
        nothing = (await verger.client.get(again.id)).result

    assert result == {"endpoints": 6, "dispatched": 2, "up_to_date": 2, "invalid": 2}
    assert nothing == {"endpoints": 6, "dispatched": 0, "up_to_date": 4, "invalid": 2}
    assert [(task.task_name, task.tenant_id) for task in made_tasks] == [
        (f"{TASK_TYPE}:t1", "t1"),
        (f"{TASK_TYPE}:t2", "t2"),
    ]
    assert sorted(sent(server)) == [*ids(5), *ids(5, "t2")]


async def test_without_endpoints_there_is_nothing_to_do(siem: Family) -> None:
    assert await siem.run("memories.siem_forward") == {"endpoints": 0, "dispatched": 0, "up_to_date": 0, "invalid": 0}


async def test_a_dead_endpoint_holds_up_nobody_else_and_is_tried_by_its_own_schedule(
    siem: Family, memory: Database
) -> None:
    for tenant in ("t1", "t2"):
        await add_rows(memory, 150, tenant=tenant)
    async with receiver(500) as dead, receiver() as alive, siem.engine() as verger:
        await add_endpoint(memory, dead.url, tenant="t1")
        await add_endpoint(memory, alive.url, tenant="t2")
        await verger.client.enqueue("memories.siem_forward")
        await verger.run_until_idle()
        assert sent(alive) == ids(150, "t2")

        for delay in DELAYS:
            # Dispatched meanwhile, it is not asked any sooner.
            await verger.client.enqueue("memories.siem_forward")
            await verger.run_until_idle()
            [task] = [task for task in await tasks(verger) if task.tenant_id == "t1"]
            left = task.retry_at - verger.clock.now()
            assert parse_duration(delay) - timedelta(seconds=9) < left <= parse_duration(delay)
            await verger.advance(left)
            await verger.run_until_idle()
        assert [task.status for task in await tasks(verger) if task.tenant_id == "t1"] == [TaskStatus.FAILED]
        assert len(dead.requests) == 6

        dead.answers = [200]
        await verger.client.enqueue("memories.siem_forward")
        await verger.run_until_idle()
        assert await cursor(memory, "t1") == "t1-00149"


# ---- queries ---------------------------------------------------------------------------------------------------------


async def test_no_query_reads_a_whole_collection(siem: Family, memory: Database) -> None:
    await add_rows(memory, 500)
    await add_rows(memory, 500, tenant="t2")
    await ensure_indexes(memory, audit_log(Collections()))
    rows = AuditRows(memory.audit_log, "t1", BEGIN + timedelta(days=1))
    for after in (None, Position(BEGIN + timedelta(seconds=10), "t1-00031")):
        plan = await rows._find(after, {"_id": 1}, limit=100).explain()
        assert "COLLSCAN" not in stages(plan)
        assert "SORT" not in stages(plan)
        assert plan["executionStats"]["totalKeysExamined"] <= 102
    endpoints = memory.siem_endpoints.find({"$and": [{"enabled": True}, {"_id": {"$gt": "a"}}]}, sort=[("_id", 1)])
    assert "COLLSCAN" not in stages(await endpoints.explain())
