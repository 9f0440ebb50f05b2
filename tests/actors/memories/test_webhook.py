"""``webhook.deliver``: what an endpoint receives, and what becomes of a message that it does not take."""

import asyncio
import base64
import hmac
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from email.utils import format_datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiohttp import web
from bson import ObjectId

from actors import Snooze
from actors.maintenance.database import Database
from actors.memories import slow_endpoints
from actors.memories.webhook import DELAYS
from actors.testing import Verger
from schemas.duration import parse_duration
from schemas.task import Task, TaskStatus
from service.client import NewTask
from service.errors import Conflict
from tests.actors.families import Family, stages
from tests.actors.receivers import Received, raw_server, read_request, receiver

SECONDS = 60.0
KEYS = [b"k" * 24, bytes(range(64))]
PAYLOAD = {"type": "memory.created", "data": {"text": "Grüße, “Ada” 🦉", "n": 1.5, "none": None, "list": [1, True]}}


def secret(key: bytes) -> str:
    return f"whsec_{base64.b64encode(key).decode()}"


def verify(request: Received, *, key: bytes) -> bool:
    """As the standard tells a receiver to do it, by hand."""
    signed = f"{request.headers['Webhook-Id']}.{request.headers['Webhook-Timestamp']}.".encode() + request.body
    wanted = base64.b64encode(hmac.new(key, signed, sha256).digest()).decode()
    given = [each.split(",", 1) for each in request.headers["Webhook-Signature"].split(" ")]
    return any(version == "v1" and hmac.compare_digest(signature, wanted) for version, signature in given)


@pytest.fixture
def hooks(family: Family, tmp_path: Path) -> Family:
    """The family, with a secret, and local endpoints allowed."""
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "hook").write_text(secret(KEYS[0]) + "\n")
    family.settings |= {"secrets_dir": tmp_path / "secrets", "http_allow": ("127.0.0.1",)}
    return family


async def add_endpoint(memory: Database, url: str, **fields: Any) -> None:
    await memory.webhook_endpoints.insert_one(
        {"_id": "e1", "tenantId": "t1", "url": url, "secretRef": "hook", **fields}
    )


@asynccontextmanager
async def delivering(hooks: Family, **body: Any) -> AsyncIterator[tuple[Verger, Task]]:
    """The engine, after the first attempt."""
    async with hooks.engine() as verger:
        task = await verger.client.enqueue("webhook.deliver", {"endpointId": "e1", "payload": PAYLOAD, **body})
        await verger.run_until_idle()
        yield verger, await verger.client.get(task.id)


async def deliver(hooks: Family, **body: Any) -> Task:
    async with delivering(hooks, **body) as (_, task):
        return task


# ---- what arrives ----------------------------------------------------------------------------------------------------


async def test_a_message_arrives_signed(hooks: Family, memory: Database) -> None:
    async with receiver() as server:
        await add_endpoint(memory, server.url)
        with structlog.testing.capture_logs() as lines:
            task = await deliver(hooks)

    [request] = server.requests
    assert (request.method, request.path, request.headers["Content-Type"]) == ("POST", "/hook", "application/json")
    assert json.loads(request.body) == PAYLOAD
    assert verify(request, key=KEYS[0])
    assert not verify(request, key=KEYS[1])
    assert "." not in request.headers["Webhook-Id"]
    assert task.result == {"status": "delivered", "httpStatus": 200, "messageId": request.headers["Webhook-Id"]}
    [line] = [line for line in lines if line["event"] == "webhook.delivered"]
    assert (line["attempt"], line["status"], line["http_status"], line["endpoint"]) == (1, "delivered", 200, "e1")


async def test_while_a_secret_is_replaced_the_message_is_signed_with_both(
    hooks: Family, memory: Database, tmp_path: Path
) -> None:
    (tmp_path / "secrets" / "hook").write_text(f"{secret(KEYS[1])}\n{secret(KEYS[0])}\n")
    async with receiver() as server:
        await add_endpoint(memory, server.url)
        await deliver(hooks, messageId="msg-7")

    [request] = server.requests
    assert verify(request, key=KEYS[0])
    assert verify(request, key=KEYS[1])
    assert request.headers["Webhook-Id"] == "msg-7"


async def test_each_attempt_has_the_same_id_and_bytes_and_a_timestamp_of_its_own(
    hooks: Family, memory: Database
) -> None:
    async with receiver(500, 200) as server:
        await add_endpoint(memory, server.url)
        async with delivering(hooks) as (verger, task):
            assert task.status is TaskStatus.PENDING
            await verger.advance(seconds=5)
            await verger.run_until_idle()
            assert (await verger.client.get(task.id)).status is TaskStatus.COMPLETED

    first, second = server.requests
    assert first.headers["Webhook-Id"] == second.headers["Webhook-Id"]
    assert first.body == second.body
    assert int(second.headers["Webhook-Timestamp"]) - int(first.headers["Webhook-Timestamp"]) >= 5
    assert verify(first, key=KEYS[0])
    assert verify(second, key=KEYS[0])


# ---- what the endpoint says ------------------------------------------------------------------------------------------


async def test_a_message_that_nobody_takes_is_tried_for_three_days_and_is_a_dead_letter_then(
    hooks: Family, memory: Database
) -> None:
    async with receiver(500) as server:
        await add_endpoint(memory, server.url)
        async with delivering(hooks) as (verger, task):
            for number, delay in enumerate(DELAYS, start=1):
                waiting = await verger.client.get(task.id)
                assert (waiting.status, waiting.attempt) == (TaskStatus.PENDING, number)
                left = waiting.retry_at - verger.clock.now()
                assert parse_duration(delay) - timedelta(seconds=30) < left <= parse_duration(delay)
                await verger.advance(left)
                await verger.run_until_idle()
            ended = await verger.client.get(task.id)

    assert (ended.status, ended.reason, len(server.requests)) == (TaskStatus.FAILED, "exhausted", 10)


async def test_what_is_refused_is_not_tried_again(hooks: Family, memory: Database) -> None:
    statuses = [400, 401, 404, 408, 422]
    async with receiver(*statuses) as server, hooks.engine(concurrency=1) as verger:
        await add_endpoint(memory, server.url)
        for status in statuses:
            made = await verger.client.enqueue("webhook.deliver", {"endpointId": "e1", "payload": {}})
            await verger.run_until_idle()
            task = await verger.client.get(made.id)
            assert (task.status, task.reason, task.attempt) == (TaskStatus.FAILED, "non_retryable", 1)
            assert task.last_error is not None
            assert task.last_error.message == f"the endpoint answered {status}"


async def test_an_endpoint_that_is_gone_is_disabled(hooks: Family, memory: Database) -> None:
    async with receiver(410) as server:
        await add_endpoint(memory, server.url)
        gone = await deliver(hooks)
        later = await deliver(hooks)

    found = await memory.webhook_endpoints.find_one({"_id": "e1"})
    assert found is not None
    assert found["disabledAt"] is not None
    assert (gone.status, gone.reason) == (TaskStatus.CANCELLED, "the endpoint answered 410, and is disabled")
    assert (later.status, later.reason) == (TaskStatus.CANCELLED, "the endpoint 'e1' is disabled")
    assert len(server.requests) == 1


async def test_an_endpoint_that_has_moved_meanwhile_is_not_disabled(hooks: Family, memory: Database) -> None:
    async def move(request: Received) -> None:
        await memory.webhook_endpoints.update_one({"_id": "e1"}, {"$set": {"url": "https://new.example/"}})

    async with receiver(410) as server:
        server.before = move
        await add_endpoint(memory, server.url)
        await deliver(hooks)

    found = await memory.webhook_endpoints.find_one({"_id": "e1"})
    assert found is not None
    assert "disabledAt" not in found


async def test_an_endpoint_that_was_removed_has_no_messages(hooks: Family) -> None:
    task = await deliver(hooks)

    assert (task.status, task.reason) == (TaskStatus.CANCELLED, "there is no endpoint 'e1' any more")


async def test_a_busy_endpoint_says_when_to_come_back(hooks: Family, memory: Database) -> None:
    async with hooks.engine() as verger:
        now = verger.clock.now()
        for status in (429, 503):
            for said in ("7200", format_datetime(now + timedelta(hours=2), usegmt=True)):
                async with receiver(web.Response(status=status, headers={"Retry-After": said})) as server:
                    await memory.webhook_endpoints.delete_many({})
                    await add_endpoint(memory, server.url)
                    made = await verger.client.enqueue("webhook.deliver", {"endpointId": "e1", "payload": {}})
                    await verger.run_until_idle()
                    task = await verger.client.get(made.id)
                assert task.status is TaskStatus.PENDING
                assert timedelta(hours=1, minutes=59) < task.retry_at - now < timedelta(hours=2, minutes=1)


async def test_a_busy_endpoint_is_not_asked_sooner_than_by_the_schedule(hooks: Family, memory: Database) -> None:
    async with receiver(500, web.Response(status=429, headers={"Retry-After": "1"})) as server:
        await add_endpoint(memory, server.url)
        async with delivering(hooks) as (verger, task):
            await verger.advance(seconds=5)
            await verger.run_until_idle()
            left = (await verger.client.get(task.id)).retry_at - verger.clock.now()

    assert timedelta(minutes=4, seconds=30) < left <= timedelta(minutes=5)


async def test_a_redirect_is_a_failure_and_goes_nowhere(hooks: Family, memory: Database) -> None:
    async with receiver() as inside:
        for target in ("http://169.254.169.254/latest/meta-data/", inside.url):
            async with receiver(web.Response(status=307, headers={"Location": target})) as server:
                await memory.webhook_endpoints.delete_many({})
                await add_endpoint(memory, server.url)
                task = await deliver(hooks)
            assert (task.status, len(server.requests)) == (TaskStatus.PENDING, 1)
            assert task.last_error is not None
            assert task.last_error.message == "the endpoint answered 307"

    assert inside.requests == []


# ---- endpoints that are none -----------------------------------------------------------------------------------------


INSIDE = {
    "http://169.254.169.254/latest/": "169.254.169.254, which is not public",
    "https://localhost/hook": "which is not public",
    "https://[::ffff:10.0.0.1]/hook": "which is not public",
    "https://ada:SECRET@example.org/": "credentials",
    "ftp://example.org/": "https",
    None: "has no url",
}


async def test_a_destination_inside_is_a_dead_letter_at_once(hooks: Family, memory: Database) -> None:
    async with hooks.engine(http_allow=("192.0.2.1",)) as verger:
        for url, reason in INSIDE.items():
            await memory.webhook_endpoints.delete_many({})
            await memory.webhook_endpoints.insert_one({"_id": "e1", "url": url, "secretRef": "hook"})
            made = await verger.client.enqueue("webhook.deliver", {"endpointId": "e1", "payload": {}})
            await verger.run_until_idle()
            task = await verger.client.get(made.id)
            assert (task.status, task.reason, task.attempt) == (TaskStatus.FAILED, "non_retryable", 1)
            assert task.last_error is not None
            assert reason in task.last_error.message
            assert "SECRET" not in task.model_dump_json()


async def test_an_endpoint_of_another_tenant_is_not_asked(hooks: Family, memory: Database) -> None:
    async with receiver() as server:
        await add_endpoint(memory, server.url)
        async with hooks.engine() as verger:
            body = {"endpointId": "e1", "payload": {}}
            other = await verger.client.enqueue("webhook.deliver", body, tenant_id="t2")
            own = await verger.client.enqueue("webhook.deliver", body, tenant_id="t1")
            await verger.run_until_idle()
            assert (await verger.client.get(other.id)).reason == "non_retryable"
            assert (await verger.client.get(own.id)).status is TaskStatus.COMPLETED

    assert len(server.requests) == 1


async def test_without_a_good_secret_nothing_is_sent_and_the_next_attempt_may_find_one(
    hooks: Family, memory: Database, tmp_path: Path
) -> None:
    file = tmp_path / "secrets" / "hook"
    async with receiver() as server, hooks.engine() as verger:
        await add_endpoint(memory, server.url)
        for written in ("whsec_short", "plain", f"whsec_{'x' * 31}", secret(b"k" * 23), secret(b"k" * 65), None):
            file.unlink()
            if written is not None:
                file.write_text(written)
            made = await verger.client.enqueue("webhook.deliver", {"endpointId": "e1", "payload": {}})
            await verger.run_until_idle()
            task = await verger.client.get(made.id)
            assert server.requests == []
            assert task.last_error is not None
            assert "'hook'" in task.last_error.message
            assert written is None or written not in task.model_dump_json()
            await verger.client.cancel(task.id)
            file.write_text("to be replaced")

        made = await verger.client.enqueue("webhook.deliver", {"endpointId": "e1", "payload": {}})
        await verger.run_until_idle()
        file.write_text(secret(KEYS[0]))
        await verger.advance(minutes=10)
        await verger.run_until_idle()
        assert (await verger.client.get(made.id)).status is TaskStatus.COMPLETED


@pytest.mark.parametrize(
    "said", [b"", b"HTTP/1.1 200", b"no HTTP\r\n\r\n"], ids=["drops", "drops in the middle", "no HTTP"]
)
async def test_a_connection_that_breaks_is_tried_again(hooks: Family, memory: Database, said: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(said)
        await writer.drain()

    async with raw_server(talk) as port:
        await add_endpoint(memory, f"http://127.0.0.1:{port}/")
        task = await deliver(hooks)

    assert (task.status, task.attempt) == (TaskStatus.PENDING, 1)


async def test_an_endpoint_that_does_not_answer_is_left_after_the_time_limit(hooks: Family, memory: Database) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with raw_server(talk) as port:
        await add_endpoint(memory, f"http://127.0.0.1:{port}/")
        task = await deliver(hooks, timeout="1s")

    assert task.status is TaskStatus.PENDING
    assert task.last_error is not None
    assert task.last_error.message.endswith("no answer within 1 s")


async def test_an_endpoint_that_swallows_connections_leaves_slots_to_the_others(
    hooks: Family, memory: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow_endpoints, "SLOW", timedelta(seconds=0.5))
    swallowed = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal swallowed
        swallowed += 1
        await reader.read()

    async with raw_server(talk) as port, receiver() as good, hooks.engine() as verger:
        await add_endpoint(memory, f"http://127.0.0.1:{port}/")
        await add_endpoint(memory, good.url, _id="e2")
        body = {"endpointId": "e1", "payload": {}, "timeout": "1s"}
        to_bad = NewTask("webhook.deliver", body)
        [first] = await verger.client.enqueue_many([to_bad])
        async with asyncio.timeout(SECONDS):
            while (await verger.client.get(first.id)).retry_count == 0:  # by now it is known to be slow
                await asyncio.sleep(0.05)
        long = replace(to_bad, body=body | {"timeout": "60s"})
        waiting = await verger.client.enqueue_many([long] * 100)
        async with asyncio.timeout(SECONDS):
            while swallowed < 1 + slow_endpoints.SHARE:
                await asyncio.sleep(0.05)
        task = await verger.client.enqueue("webhook.deliver", {"endpointId": "e2", "payload": {}})

        assert (await verger.client.wait(task.id)).status is TaskStatus.COMPLETED
        assert swallowed == 1 + slow_endpoints.SHARE
        for each in waiting:
            with suppress(Conflict):
                await verger.client.cancel(each.id, force=True)
        snoozed = [await verger.client.get(each.id) for each in waiting]
        assert not any(each.retry_count for each in snoozed)


def test_an_endpoint_that_answers_quickly_again_has_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = slow_endpoints.SlowEndpoints()
    monkeypatch.setattr(slow_endpoints, "SLOW", timedelta(0))
    with slow.delivery("u"):
        pass
    monkeypatch.setattr(slow_endpoints, "SLOW", timedelta(hours=1))
    with ExitStack() as stack:
        for _ in range(slow_endpoints.SHARE - 1):
            stack.enter_context(slow.delivery("u"))
        with slow.delivery("u"), pytest.raises(Snooze), slow.delivery("u"):
            pass
        for _ in range(5 * slow_endpoints.SHARE):
            stack.enter_context(slow.delivery("u"))


async def test_a_2xx_counts_whatever_comes_after_it(hooks: Family, memory: Database) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 202 Accepted\r\n\r\n")
        while True:
            writer.write(secrets.token_bytes(65536))
            await writer.drain()

    async with raw_server(talk) as port:
        await add_endpoint(memory, f"http://127.0.0.1:{port}/")
        task = await deliver(hooks)

    assert task.result is not None
    assert task.result["httpStatus"] == 202


async def test_cancelled_it_hangs_up_and_ends(hooks: Family, memory: Database) -> None:
    async with receiver() as server:
        hold = asyncio.Event()

        async def wait(request: Received) -> None:
            await hold.wait()

        server.before = wait
        await add_endpoint(memory, server.url)
        async with hooks.engine() as verger:
            task = await verger.client.enqueue("webhook.deliver", {"endpointId": "e1", "payload": {}})
            await server.arrived.wait()
            await verger.client.cancel(task.id, force=True)
            await verger.run_until_idle()
            assert (await verger.client.get(task.id)).status is TaskStatus.CANCELLED
        hold.set()


async def test_killed_after_it_disabled_an_endpoint_it_ends_as_if_it_were_not(hooks: Family, memory: Database) -> None:
    async with receiver(410) as server:
        await add_endpoint(memory, server.url)
        await hooks.die("webhook.deliver", {"endpointId": "e1", "payload": PAYLOAD}, after=1)
        task = await deliver(hooks)

    assert (task.status, task.reason) == (TaskStatus.CANCELLED, "the endpoint 'e1' is disabled")
    assert len(server.requests) == 1


async def test_a_dead_letter_that_is_replayed_has_the_same_id(hooks: Family, memory: Database) -> None:
    async with receiver(404, 200) as server:
        await add_endpoint(memory, server.url)
        async with delivering(hooks) as (verger, task):
            await verger.client.replay(task.id)
            await verger.run_until_idle()
            assert (await verger.client.get(task.id)).status is TaskStatus.COMPLETED

    assert len({request.headers["Webhook-Id"] for request in server.requests}) == 1


async def test_an_endpoint_is_found_by_its_id_also_an_objectid(hooks: Family, memory: Database) -> None:
    which = ObjectId()
    async with receiver() as server:
        await add_endpoint(memory, server.url)
        await memory.webhook_endpoints.insert_one({"_id": which, "url": server.url, "secretRef": "hook"})
        await deliver(hooks, endpointId=str(which))

    assert len(server.requests) == 1
    plan = await memory.webhook_endpoints.find({"_id": {"$in": [str(which), which]}}).explain()
    assert "COLLSCAN" not in stages(plan)
