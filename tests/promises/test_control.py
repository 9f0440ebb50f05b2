"""Promises about stopping and looking, with real processes."""

import asyncio
import json
import os
import sys
import time
from asyncio.subprocess import PIPE

from schemas.dead_letter import ReplayRequest
from schemas.event import DETAILS, Event, EventName
from schemas.task import TaskStatus
from service.child_process import ending_with_parent
from service.client import NewTask
from service.dead_letters import DeadLetters
from tests.promises.installation import PATIENCE, ROOT, Installation


async def test_a_batch_job_is_cancelled_in_another_process_at_its_next_batch(
    installation: Installation,
) -> None:
    await installation.start("worker")
    task = await installation.client.enqueue("test.batches", {"rows": 10_000, "size": 10, "seconds": 0.1})
    await installation.until(lambda: installation.progress(task.id) is not None, "progress")

    await installation.client.cancel(task.id)

    ended = await installation.status(task.id, TaskStatus.CANCELLED)
    [asked] = [line.at for line in ended.history if line.event == "cancel requested"]
    assert ended.finished_at is not None
    # Some tenths of a second; the rest is for a machine that is busy.
    assert (ended.finished_at - asked).total_seconds() < 20
    # At a boundary: a whole number of batches was done and noted.
    assert isinstance(ended.checkpoint, int) and ended.checkpoint % 10 == 0
    assert ended.progress is not None and ended.progress.eta_ms is not None


async def test_a_replay_goes_on_when_its_worker_is_killed_and_replays_nothing_twice(
    installation: Installation,
) -> None:
    first = await installation.start("scheduler,worker")
    await installation.client.enqueue_many([NewTask("test.fails", {}, max_attempts=1) for _ in range(60)])
    dead = {"taskType": "test.fails", "status": "failed", "relayAt": {"$exists": False}}
    await installation.until(lambda: installation.tasks.count_documents(dead) == 60, "the dead letters")
    heap = DeadLetters(installation.store, installation.client, installation.registry)
    operation = await heap.order(ReplayRequest(task_type="test.fails", rate=10), "the test")
    replayed = {"taskType": "test.fails", "history.event": "replayed"}
    await installation.until(lambda: installation.tasks.count_documents(replayed) >= 15, "some replays")

    first.kill()
    await installation.start("scheduler,worker")

    ended = await installation.status(operation.id, TaskStatus.COMPLETED)
    assert ended.attempt == 2
    assert installation.tasks.count_documents(replayed) == 60
    for task in installation.tasks.find({"taskType": "test.fails"}):
        assert [line["event"] for line in task["history"]].count("replayed") == 1


async def test_progress_is_written_at_most_twice_a_second(installation: Installation) -> None:
    await installation.start("worker")
    begun = time.monotonic()
    task = await installation.client.enqueue("test.batches", {"rows": 300, "size": 1, "seconds": 0.01})
    seen = set()
    while (await installation.task(task.id)).status is not TaskStatus.COMPLETED:
        progress = installation.progress(task.id)
        if progress is not None:
            seen.add(progress["doneCount"])
    took = time.monotonic() - begun

    assert len(seen) <= took * 2 + 2


async def test_events_are_printed_on_the_command_line_as_they_happen(installation: Installation) -> None:
    await installation.start("worker")
    tail = await asyncio.create_subprocess_exec(
        *ending_with_parent(sys.executable, "-m", "actors.cli", "events", "tail", "--type", "task.completed"),
        *("--limit", "2", "--json"),
        cwd=ROOT,
        env={**os.environ, **installation.environment},
        stdout=PIPE,
        stderr=PIPE,
    )
    assert tail.stdout is not None and tail.stderr is not None
    async with asyncio.timeout(PATIENCE):
        assert b"Listening" in await tail.stderr.readline()
        tasks = [await installation.client.enqueue("test.work", {"value": number}) for number in range(2)]
        lines = [json.loads(await tail.stdout.readline()) for _ in tasks]
        assert await tail.wait() == 0

    assert {line["taskId"] for line in lines} == {task.id for task in tasks}
    assert {line["event"] for line in lines} == {"task.completed"}


async def test_every_event_is_as_its_schema_says(installation: Installation) -> None:
    heard: list[Event] = []
    await installation.broker.listen(heard.append, lambda: None)
    await installation.start("scheduler,worker")
    cancelled = await installation.client.enqueue("test.batches", {"rows": 10_000, "size": 1, "seconds": 0.05})
    for task_type, body in (
        ("test.work", {"value": 1}),
        ("test.fails", {}),
        ("test.steers", {"signal": "snooze"}),
        ("test.steers", {"signal": "discard"}),
    ):
        await installation.client.enqueue(task_type, body)
    await installation.status(cancelled.id, TaskStatus.RUNNING)
    await installation.client.cancel(cancelled.id)
    wanted = {name for name in EventName if name.startswith("task.")} - {EventName.TASK_RESCUED}

    await installation.until(lambda: {event.event for event in heard} >= wanted, f"all of {wanted}")

    for event in heard:
        DETAILS[EventName(event.event)].model_validate(event.detail)
        assert event.task_id is not None and event.worker is not None
