"""Promises about failures: retries at their time, dead letters with their reason, replay, relay, hostile messages."""

import asyncio
import json
import signal
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pika
import pytest

from schemas.task import TaskStatus
from service.client import NewTask
from tests.promises.installation import PATIENT, Installation
from tests.promises.test_tasks import message


async def test_a_failing_task_is_tried_at_the_policys_delays_then_is_a_dead_letter_that_can_be_replayed(
    installation: Installation,
) -> None:
    await installation.start("scheduler,worker")
    task = await installation.client.enqueue("test.fails", {"why": "test"})
    dead = await installation.status(task.id, TaskStatus.FAILED)

    starts = [mark["at"] for mark in installation.marks()]
    gaps = [(later - earlier).total_seconds() for earlier, later in pairwise(starts)]
    for gap, delay in zip(gaps, (1, 2), strict=True):
        assert delay - 0.01 <= gap <= delay + 10  # the rest is for a busy machine
    assert (dead.attempt, dead.retry_count, dead.reason) == (3, 3, "exhausted")
    assert dead.last_error is not None
    assert (dead.last_error.type, dead.last_error.message) == ("RuntimeError", "it never works")
    assert "tests/handlers.py" in (dead.last_error.traceback or "")

    await installation.until(lambda: "relayAt" not in installation.tasks.find_one({"_id": task.id}), "the dead letter")
    [(body, headers)] = installation.take_dead_letters()
    assert json.loads(body) == {"id": task.id, "taskType": "test.fails", "taskBody": {"why": "test"}}
    assert (headers["verger-reason"], headers["verger-error-type"]) == ("exhausted", "RuntimeError")

    await installation.client.replay(task.id)
    await installation.until(lambda: len(installation.marks()) == 6, "three more attempts")
    again = await installation.status(task.id, TaskStatus.FAILED)
    assert again.attempt == 3
    assert "replayed" in [entry.event for entry in again.history]


async def test_hostile_messages_in_a_burst_are_dead_letters_or_kept_verbatim_and_the_good_ones_complete(
    installation: Installation,
) -> None:
    operators = {"$function": {"body": "while(true){}"}, "a.b": 1, "$where": "1"}
    hostile: dict[str, bytes | tuple[bytes, dict[str, Any]]] = {
        "huge integer": b'{"taskBody": {"value": 9223372036854775808}}',
        "lone surrogate": b'{"taskBody": {"value": "\\ud800"}}',
        "deep": b'{"taskBody": {"value": ' + b"[" * 200 + b"]" * 200 + b"}}",
        "no JSON": b"{nope",
        "no object": b"[1, 2]",
        "no UTF-8": b'{"taskBody": {"value": "\xff"}}',
        "wrong type": message(taskBody={}, maxAttempts="many"),
        "unknown field": message(taskBody={}, retries=3),
        "contradiction": message(taskBody={}, taskType="test.fails"),
        "reserved id": message(id="fire:x", taskBody={}),
        "too large": message(taskBody={"value": "x" * 300_000}),
        "NaN": b'{"taskBody": {"value": NaN}}',
        "forged mark of ours": (b'{"id": "\\ud800"}', {"verger-stored": 1}),
        "strange header": (b"{", {"a\0b": "c", "$where": "d"}),
        "NUL in a key": b'{"taskBody": {"a\\u0000b": 1}}',
    }
    good = [("test.work", message(id=f"good-{n}", taskBody={"value": n}), None) for n in range(100)]
    strange = [body if isinstance(body, tuple) else (body, {}) for body in hostile.values()]
    bad = [("test.work", body, pika.BasicProperties(headers=headers, delivery_mode=2)) for body, headers in strange]
    verbatim = ("test.work", message(id="verbatim", taskBody={"value": operators}), None)
    installation.publish(*good[:50], *bad, verbatim, *good[50:])

    worker = await installation.start("scheduler,worker")
    await installation.all_finished(101 + len(hostile))

    assert installation.tasks.count_documents({"_id": {"$regex": "^good-"}, "status": "completed"}) == 100
    assert (await installation.task("verbatim")).result == {"value": operators}
    refused = list(installation.tasks.find({"status": "failed"}))
    assert len(refused) == len(hostile)
    assert {task["reason"] for task in refused} == {"invalid_message", "payload_refused"}
    assert all(task["lastError"]["message"] for task in refused)
    await installation.until(
        lambda: installation.tasks.count_documents({"status": "failed", "relayAt": {"$exists": True}}) == 0,
        "the dead letters",
    )
    letters = installation.take_dead_letters()
    assert sorted(body for body, _ in letters if len(body) < 2048) == sorted(
        body for body, _ in strange if len(body) < 2048
    )
    assert worker.alive


async def test_a_strange_message_of_an_unknown_type_stops_no_scheduler(installation: Installation) -> None:
    strange = pika.BasicProperties(headers={"a\0b": "c"}, delivery_mode=2)
    installation.publish(("nobody.knows", b"{", strange), ("Not A Type!", b"{}", None))
    scheduler = await installation.start("scheduler")

    await installation.until(lambda: installation.tasks.count_documents({"status": "failed"}) == 2, "both dead letters")

    assert scheduler.events("actor.crashed") == []


async def test_a_task_of_an_unknown_type_waits_for_a_roll_out_and_is_a_dead_letter_after_its_grace(
    installation: Installation,
) -> None:
    installation.publish(("test.nobody", message(id="stranger", taskBody={"n": 1}), None))
    scheduler = await installation.start("scheduler", environment={"VERGER_UNKNOWN_TYPE_GRACE": "4s"})

    await installation.until(lambda: installation.tasks.find_one({"_id": "stranger"}) is not None, "the record")
    assert installation.tasks.find_one({"_id": "stranger"})["status"] == "pending"
    dead = await installation.status("stranger", TaskStatus.FAILED)

    assert dead.reason == "unknown_type"
    assert dead.finished_at is not None
    assert dead.finished_at - dead.created_at >= timedelta(seconds=4)
    assert scheduler.events("task.unknown_type")


async def test_a_body_that_its_model_refuses_is_a_dead_letter_that_names_the_field(installation: Installation) -> None:
    await installation.start("scheduler,worker")
    installation.publish(("test.work", message(id="bad-body", taskBody={"seconds": "soon"}), None))

    dead = await installation.status("bad-body", TaskStatus.FAILED)

    assert (dead.reason, dead.attempt) == ("invalid_body", 1)
    assert dead.last_error is not None
    assert "seconds" in dead.last_error.message


async def test_a_run_past_its_limit_is_a_failed_attempt(installation: Installation) -> None:
    await installation.start("scheduler,worker")
    task = await installation.client.enqueue("test.short", {"seconds": 30})

    dead = await installation.status(task.id, TaskStatus.FAILED)

    assert dead.reason == "timeout"
    assert dead.last_error is not None
    assert "limit of 1 s" in dead.last_error.message


async def test_p12_a_backlog_is_not_amplified_by_relay(installation: Installation) -> None:
    """Stored long ago, published, and still waiting: relay must not publish them again."""
    tasks = await installation.client.enqueue_many([NewTask("test.noop", {"n": n}) for n in range(400)])
    ago = installation.store.clock.now() - timedelta(minutes=10)
    installation.tasks.update_many({}, {"$set": {"relayAt": ago, "createdAt": ago, "retryAt": ago}})

    await installation.start("scheduler", environment=PATIENT)
    await installation.until(lambda: installation.depth("test.noop") > len(tasks), "relay's marker")
    await asyncio.sleep(7)  # more than one look at a blocked type

    assert installation.depth("test.noop") == len(tasks) + 1
    await installation.start("worker", environment=PATIENT)
    await installation.all_finished(len(tasks))
    assert installation.tasks.count_documents({"fence": {"$gt": 1}}) == 0


async def test_p12_a_task_whose_message_is_gone_is_found_behind_a_backlog_by_the_marker(
    installation: Installation,
) -> None:
    lost = await installation.store.tasks.create([installation_task(installation, "lost")])
    await installation.client.enqueue_many([NewTask("test.single", {"seconds": 0.4, "value": n}) for n in range(60)])

    await installation.start("scheduler,worker", environment=PATIENT)
    done = await installation.status(lost[0].task.id, TaskStatus.COMPLETED)

    assert done.fence == 1


def installation_task(installation: Installation, task_id: str) -> Any:
    """A record whose message nobody sent, due for relay."""
    from service.envelope import new_task

    ago = installation.store.clock.now() - timedelta(seconds=30)
    handler = installation.registry.get("test.single")
    task = new_task(handler, task_type="test.single", body={"seconds": 0, "value": task_id}, now=ago, id=task_id)
    return task.model_copy(update={"relay_at": ago})


async def test_a_wiped_broker_is_healed_by_relay(installation: Installation, rabbit_server: Any) -> None:
    await installation.client.enqueue_many([NewTask("test.noop", {"n": n}) for n in range(200)])
    later = await installation.client.enqueue("test.work", {"value": "later"}, delay="2s")
    await rabbit_server.delete(installation.names.prefix)

    await installation.start("scheduler,worker")
    await installation.all_finished(201)

    assert (await installation.task(later.id)).result == {"value": "later"}
    assert installation.tasks.count_documents({"status": "completed", "fence": 1}) == 201


async def test_the_broker_is_killed_under_load_and_nothing_is_lost(
    installation: Installation, rabbit_server: Any
) -> None:
    process = await installation.start("scheduler,worker")
    tasks = await installation.client.enqueue_many(
        [NewTask("test.work", {"seconds": 0.2, "value": n}) for n in range(200)]
    )
    await installation.until(lambda: len(installation.marks()) >= 20, "work to be under way")

    rabbit_server.kill()
    during = await installation.client.enqueue("test.work", {"value": "during"})
    await rabbit_server.restart()
    await installation.all_finished(len(tasks) + 1, 120)

    assert (await installation.task(during.id)).status is TaskStatus.COMPLETED
    assert installation.tasks.count_documents({"status": "completed"}) == 201
    assert process.alive


async def test_the_database_is_killed_under_load_and_nothing_is_lost(
    installation: Installation, mongo_server: Any
) -> None:
    process = await installation.start("scheduler,worker")
    await installation.client.enqueue_many([NewTask("test.noop", {"n": n}) for n in range(50)])
    letters = [("test.noop", message(id=f"foreign-{n}", taskBody={}), None) for n in range(200)]

    def outages() -> list[dict[str, Any]]:
        names = ("store.unavailable", "duty.postponed", "heartbeat.failed")
        return [line for line in process.log() if line.get("event") in names]

    mongo_server.kill()
    installation.publish(*letters)
    await installation.until(lambda: bool(outages()), "the outage to be logged")
    await mongo_server.restart()
    await installation.all_finished(250, 120)

    assert installation.tasks.count_documents({"status": "completed"}) == 250
    assert process.alive
    assert all("127.0.0.1" in line["error"] for line in outages())


@pytest.mark.parametrize("server", ["mongo_server", "rabbit_server"])
async def test_started_before_its_servers_a_process_waits_and_says_for_whom(
    installation: Installation, servers: Any, server: str
) -> None:
    away = servers.mongo if server == "mongo_server" else servers.rabbit
    away.kill()
    process = await installation.start("scheduler,worker", ready=False)
    await installation.until(lambda: bool(process.events("server.unavailable")), "the log line")
    line = process.events("server.unavailable")[0]
    assert f"127.0.0.1:{away.port}" in line["error"]
    assert "guest:guest" not in line["error"]

    await away.restart()
    await installation.until(lambda: bool(process.events("verger.started")), "the start")
    process.signal(signal.SIGTERM)
    assert await process.ended() == 0
