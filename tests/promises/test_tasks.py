"""Promises about tasks: nothing lost, nothing doubled, whatever is killed."""

import json
import signal
from datetime import timedelta
from typing import Any

import pika

from schemas.task import TaskStatus
from service.client import NewTask
from service.store.port import Retention
from tests.promises.installation import PATIENT, STALE_SECONDS, Installation


def message(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


async def test_500_foreign_messages_complete_once_each_and_the_same_ids_again_change_nothing(
    installation: Installation,
) -> None:
    letters = [("test.work", message(id=f"job-{n}", taskBody={"value": n}), None) for n in range(500)]
    installation.publish(*letters, *letters[:100])
    await installation.start("scheduler,worker", environment=PATIENT)
    installation.publish(*letters[100:200])

    await installation.all_finished(500)
    hasty = Retention(window=timedelta(hours=1), completed=timedelta(), dead=timedelta(), keep_completed=0)
    assert await installation.store.upkeep.prune(hasty, installation.store.clock.now(), 1000) == {}
    installation.publish(*letters)
    await installation.until(lambda: installation.depth("test.work") == 0, "the queue to drain")
    sentinel = await installation.client.enqueue("test.work", {"value": "last"})
    await installation.client.wait(sentinel.id)

    assert installation.runs() == {**{f"job-{n}": 1 for n in range(500)}, sentinel.id: 1}
    assert installation.tasks.count_documents({"status": "completed", "fence": 1}) == 501
    assert (await installation.task("job-7")).result == {"value": 7}


async def test_the_message_id_property_is_the_id_when_the_body_names_none(installation: Installation) -> None:
    await installation.start()
    properties = pika.BasicProperties(message_id="from-property", content_type="application/json")

    installation.publish(("test.work", message(taskBody={"value": 1}), properties))

    assert (await installation.status("from-property", TaskStatus.COMPLETED)).result == {"value": 1}


async def test_a_killed_workers_tasks_run_again_within_the_timeout_and_five_seconds(installation: Installation) -> None:
    await installation.start("scheduler")
    workers = [await installation.start() for _ in range(3)]
    tasks = await installation.client.enqueue_many(
        [NewTask("test.work", {"seconds": 0.5, "value": n}) for n in range(300)]
    )
    await installation.until(lambda: len(installation.marks(pid=workers[0].pid)) >= 15, "the first worker to be busy")

    held = {
        task["_id"]
        for task in installation.tasks.find({"status": "running", "claimedBy": {"$regex": f"-{workers[0].pid}-"}})
    }
    workers[0].kill()
    assert held
    seconds = await installation.until(
        lambda: all(
            task["fence"] > 1
            for task in installation.tasks.find({"_id": {"$in": list(held)}, "status": {"$ne": "completed"}})
        ),
        "the dead worker's tasks to run again",
    )
    await installation.all_finished(300)

    assert seconds < STALE_SECONDS + 30
    assert (
        installation.tasks.count_documents({"_id": {"$in": [task.id for task in tasks]}, "status": "completed"}) == 300
    )
    runs = installation.runs()
    assert {task_id for task_id, count in runs.items() if count > 1} <= held
    assert max(runs.values()) == 2


async def test_a_worker_that_was_paused_past_the_timeout_is_refused_and_the_rescuers_result_stands(
    installation: Installation,
) -> None:
    await installation.start("scheduler")
    first = await installation.start()
    task = await installation.client.enqueue("test.work", {"seconds": 2, "value": "x"})
    await installation.until(lambda: len(installation.marks(pid=first.pid)) == 1, "the first run")

    first.signal(signal.SIGSTOP)
    second = await installation.start()
    await installation.until(lambda: len(installation.marks(pid=second.pid)) == 1, "the second run")
    first.signal(signal.SIGCONT)
    done = await installation.status(task.id, TaskStatus.COMPLETED)
    await installation.until(
        lambda: bool(first.events("claim.lost") or first.events("task.refused")), "the first worker to hear of it"
    )

    assert done.fence == 2
    assert [mark["pid"] for mark in installation.marks("end")][-1] == second.pid
    events = [entry.event for entry in (await installation.task(task.id)).history]
    assert "rescued" in events

    def finishes() -> list[dict[str, Any]]:
        return [
            line for process in (first, second) for line in process.events("task.finished") if line["id"] == task.id
        ]

    # The line comes after the write.
    await installation.until(lambda: bool(finishes()), "the line that says so")
    assert len(finishes()) == 1


async def test_a_finish_of_a_lost_claim_is_refused_and_history_says_so(installation: Installation) -> None:
    """The handler blocks the loop while its process is stopped: it ends before it can hear that its claim is lost."""
    await installation.start("scheduler")
    first = await installation.start()
    task = await installation.client.enqueue("test.blocks", {"seconds": 1})
    await installation.until(lambda: len(installation.marks(pid=first.pid)) == 1, "the first run")

    first.signal(signal.SIGSTOP)
    second = await installation.start()
    await installation.status(task.id, TaskStatus.COMPLETED)
    second.signal(signal.SIGSTOP)
    first.signal(signal.SIGCONT)

    def refused() -> bool:
        return "refused" in [
            entry["event"] for entry in installation.tasks.find_one({"_id": task.id})["history"]
        ] or bool(first.events("claim.lost"))

    await installation.until(refused, "the refusal")
    done = await installation.task(task.id)
    assert (done.status, done.fence) == (TaskStatus.COMPLETED, 2)


async def test_sigterm_during_work_burns_no_attempt_and_loses_nothing(installation: Installation) -> None:
    await installation.start("scheduler", environment=PATIENT)
    first = await installation.start(environment=PATIENT)
    quick = await installation.client.enqueue_many([NewTask("test.work", {"seconds": 1}) for _ in range(10)])
    slow = await installation.client.enqueue("test.batches", {"rows": 1000, "seconds": 0.1})
    waiting = await installation.client.enqueue_many(
        [NewTask("test.single", {"seconds": 0.2, "value": n}) for n in range(50)]
    )
    await installation.until(lambda: len(installation.marks(pid=first.pid)) >= 12, "work in hand")

    first.signal(signal.SIGTERM)
    assert await first.ended() == 0
    released = await installation.task(slow.id)
    assert (released.status, released.attempt) == (TaskStatus.PENDING, 0)
    assert "released" in [entry.event for entry in released.history]
    finished = await installation.store.tasks.get_many([task.id for task in quick])
    assert {task.status for task in finished.values()} == {TaskStatus.COMPLETED}

    await installation.start(environment=PATIENT)
    await installation.client.cancel(slow.id)
    await installation.all_finished(len(quick) + len(waiting) + 1)
    assert installation.tasks.count_documents({"attempt": {"$gt": 1}}) == 0
    assert all(count == 1 for task_id, count in installation.runs().items() if task_id != slow.id)


async def test_a_handler_that_blocks_the_event_loop_keeps_its_claim(installation: Installation) -> None:
    await installation.start("scheduler")
    await installation.start()
    other = await installation.start()

    task = await installation.client.enqueue("test.blocks", {"seconds": 3 * STALE_SECONDS})
    done = await installation.status(task.id, TaskStatus.COMPLETED)

    assert installation.runs()[task.id] == 1
    assert (done.attempt, done.fence) == (1, 1)
    assert other.alive


async def test_a_task_that_kills_its_process_every_time_ends_as_worker_lost(installation: Installation) -> None:
    await installation.start("scheduler")
    task = await installation.client.enqueue("test.kills", {})

    for attempt in (1, 2):
        worker = await installation.start(ready=False)  # it may be dead before anyone looks
        await worker.ended()
        await installation.until(lambda n=attempt: len(installation.marks()) == n, f"run {attempt}")  # type: ignore[misc]
    done = await installation.status(task.id, TaskStatus.FAILED)

    assert (done.reason, done.attempt) == ("worker_lost", 2)
    await installation.until(lambda: "relayAt" not in installation.tasks.find_one({"_id": task.id}), "the dead letter")
    letters = installation.take_dead_letters()
    assert [headers["verger-reason"] for _, headers in letters] == ["worker_lost"]


async def test_a_singleton_asked_for_while_it_runs_runs_exactly_once_more(installation: Installation) -> None:
    await installation.start("scheduler,worker", environment=PATIENT)
    first = await installation.client.enqueue("test.work", {"seconds": 1}, name="only")
    await installation.until(lambda: len(installation.marks()) == 1, "the first run")

    again = [await installation.client.enqueue("test.work", {"seconds": 1}, name="only") for _ in range(5)]
    installation.publish(("test.work", message(id="foreign", taskName="only", taskBody={}), None))
    await installation.until(lambda: len(installation.marks("end")) == 2, "the second run")
    done = await installation.status(first.id, TaskStatus.COMPLETED)

    assert {task.id for task in again} == {first.id}
    assert installation.runs() == {first.id: 2}
    assert done.fence == 2
    assert installation.tasks.find_one({"_id": "foreign"}) is None


async def test_a_task_cancelled_while_its_worker_dies_ends_cancelled(installation: Installation) -> None:
    await installation.start("scheduler")
    worker = await installation.start()
    task = await installation.client.enqueue("test.work", {"seconds": 60}, name="only")
    await installation.until(lambda: len(installation.marks()) == 1, "the run")

    worker.kill()
    await installation.client.cancel(task.id)
    await installation.start()
    done = await installation.status(task.id, TaskStatus.CANCELLED)

    assert done.reason == "cancel requested"
    assert installation.runs() == {task.id: 1}


async def test_two_processes_that_start_at_once_on_nothing_make_everything_once(installation: Installation) -> None:
    await installation.broker.close()
    installation.environment["VERGER_DATABASE"] = f"{installation.database}_new"
    installation.environment["VERGER_PREFIX"] = f"{installation.names.prefix}-new"

    both = [await installation.start("scheduler,worker", ready=False) for _ in range(2)]
    for process in both:
        await installation.until(lambda p=process: bool(p.events("verger.started")), "the start")  # type: ignore[misc]

    for process in both:
        assert [line for line in process.log() if line.get("level") in ("error", "warning") or "raw" in line] == []
        process.signal(signal.SIGTERM)
        assert await process.ended() == 0


async def test_sigterm_in_the_middle_of_a_stream_of_tasks_burns_no_attempt(installation: Installation) -> None:
    """Short tasks: at any moment a claim is under way."""
    await installation.start("scheduler", environment=PATIENT)
    tasks = await installation.client.enqueue_many([NewTask("test.noop", {"n": n}) for n in range(3000)])
    first = await installation.start(environment=PATIENT)
    await installation.until(lambda: installation.tasks.count_documents({"status": "completed"}) > 100, "the stream")

    first.signal(signal.SIGTERM)
    assert await first.ended() == 0
    assert installation.tasks.count_documents({"status": "running"}) == 0
    assert first.events("worker.stopped")[0]["left_running"] == 0

    await installation.start(environment=PATIENT)
    await installation.all_finished(len(tasks))
    assert installation.tasks.count_documents({"status": "completed", "attempt": 1}) == len(tasks)


async def test_a_plain_function_that_does_not_stop_is_released_and_dies_with_its_process(
    installation: Installation,
) -> None:
    await installation.start("scheduler")
    worker = await installation.start(environment={"VERGER_SHUTDOWN_GRACE": "1s"})
    task = await installation.client.enqueue("test.deaf", {"seconds": 60})
    await installation.until(lambda: len(installation.marks()) == 1, "the run")

    worker.signal(signal.SIGTERM)
    assert await worker.ended() == 0

    released = await installation.task(task.id)
    assert (released.status, released.attempt) == (TaskStatus.PENDING, 0)
