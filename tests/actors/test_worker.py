"""What a worker does with handlers of all kinds; in one process, with the in-process broker and a real store."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from pymongo import monitoring
from structlog.testing import capture_logs

from actors.testing import Verger, sandbox
from actors.worker.run import Stop
from schemas.task import Task, TaskStatus
from service.broker.memory import MemoryBroker, MemoryConsumer
from service.broker.port import Publication
from service.client import Client, NewTask
from service.errors import Conflict, InvalidInput, StoreUnavailable
from service.store.mongo import MongoStore
from service.store.mongo.claims import MongoClaims
from service.store.mongo.database import OPTIONS
from service.store.port import ClaimAnswer, ClaimRequest
from service.testing import SettableClock


async def done(verger: Verger, task: Task) -> Task:
    await verger.run_until_idle()
    return await verger.client.get(task.id)


async def reread(verger: Verger, tasks: Sequence[Task]) -> list[Task]:
    return [await verger.client.get(task.id) for task in tasks]


async def started(verger: Verger, task: Task) -> None:
    async with asyncio.timeout(10):
        while (await verger.client.get(task.id)).status is TaskStatus.PENDING:
            await asyncio.sleep(0.01)


async def saved(verger: Verger, task: Task) -> None:
    """A checkpoint is in the store."""
    async with asyncio.timeout(10):
        while (await verger.client.get(task.id)).checkpoint is None:
            await asyncio.sleep(0.01)


@pytest.fixture
async def verger(mongo_url: str) -> Any:
    async with sandbox(["tests.handlers"], mongodb_url=mongo_url, concurrency=10) as running:
        yield running


async def test_a_handlers_answer_is_the_result(verger: Verger) -> None:
    task = await verger.client.enqueue("Test Alias", {"value": [1, {"a": None}]})

    finished = await done(verger, task)

    assert (finished.status, finished.task_type, finished.result) == (
        TaskStatus.COMPLETED,
        "test.work",
        {"value": [1, {"a": None}]},
    )


async def test_p15_snooze_burns_no_attempt_and_retry_burns_one(verger: Verger) -> None:
    snoozed = await verger.client.enqueue("test.steers", {"signal": "snooze", "seconds": 30})
    retried = await verger.client.enqueue("test.steers", {"signal": "retry"})
    await verger.run_until_idle()
    assert (await verger.client.get(snoozed.id)).attempt == 0
    assert (await verger.client.get(retried.id)).retry_count == 1

    await verger.advance(seconds=31)

    assert (await done(verger, snoozed)).attempt == 1
    assert (await done(verger, retried)).attempt == 2


async def test_discard_ends_cancelled_with_its_reason_and_is_no_dead_letter(verger: Verger) -> None:
    finished = await done(verger, await verger.client.enqueue("test.steers", {"signal": "discard"}))

    assert (finished.status, finished.reason) == (TaskStatus.CANCELLED, "pointless")
    assert await verger.failed() == []


async def test_a_plain_function_runs_in_a_thread_and_can_use_its_context(verger: Verger) -> None:
    finished = await done(verger, await verger.client.enqueue("test.threaded", {"seconds": 0.05}))

    assert finished.result == "ended"


async def test_a_cancel_request_stops_a_run_at_its_next_batch_and_its_checkpoint_stays(verger: Verger) -> None:
    task = await verger.client.enqueue("test.batches", {"rows": 1000, "seconds": 0.02})
    await saved(verger, task)

    await verger.client.cancel(task.id)
    finished = await done(verger, task)

    assert (finished.status, finished.reason) == (TaskStatus.CANCELLED, "cancel requested")
    assert 0 < finished.checkpoint < 1000


async def test_force_interrupts_a_handler_that_does_not_look(verger: Verger) -> None:
    task = await verger.client.enqueue("test.work", {"seconds": 60})
    await started(verger, task)

    await verger.client.cancel(task.id, force=True)

    assert (await done(verger, task)).status is TaskStatus.CANCELLED


async def test_force_reaches_a_worker_that_the_hint_does_not(mongo_url: str) -> None:
    async with sandbox(["tests.handlers"], mongodb_url=mongo_url, stale_claim_timeout=timedelta(seconds=3)) as verger:
        task = await verger.client.enqueue("test.work", {"seconds": 60})
        await started(verger, task)

        await verger.app.store.tasks.cancel(task.id, "asked for", force=True)

        assert (await done(verger, task)).status is TaskStatus.CANCELLED


async def test_a_thread_that_is_cancelled_is_told_and_its_slot_is_held_until_it_ends(verger: Verger) -> None:
    task = await verger.client.enqueue("test.threaded", {"seconds": 20})
    await started(verger, task)

    await verger.client.cancel(task.id, force=True)

    assert (await done(verger, task)).status is TaskStatus.CANCELLED


async def test_an_attempt_resumes_from_the_checkpoint_of_the_one_before(verger: Verger) -> None:
    task = await verger.client.enqueue("test.batches", {"rows": 100, "seconds": 0.02})
    await saved(verger, task)
    worker = verger.app.worker
    assert worker is not None
    worker.runs[task.id].stop(Stop.SHUTDOWN)

    finished = await done(verger, task)

    assert finished.result["rows"] == 100
    assert finished.result["begun_at"] > 0
    assert (finished.attempt, finished.fence) == (1, 2)
    assert finished.progress is not None
    assert finished.progress.progress == 1


async def test_a_paused_type_waits_and_goes_on_when_it_is_resumed(verger: Verger) -> None:
    await verger.client.set_paused("test.noop", True)
    worker = verger.app.worker
    assert worker is not None
    task = await verger.client.enqueue("test.noop", {})
    other = await verger.client.enqueue("test.work", {})
    await verger.client.wait(other.id)
    assert (await verger.client.get(task.id)).status is TaskStatus.PENDING

    await verger.client.set_paused("test.noop", False)

    assert (await done(verger, task)).status is TaskStatus.COMPLETED


class PausedDuringABeat(monitoring.CommandListener):
    """Pauses a type once, and waits until its worker knows, right after a heartbeat has read which types are paused."""

    def __init__(self) -> None:
        self.pause: Callable[[], Awaitable[None]] | None = None
        self.paused = False
        self.beats = 0
        self._loop = asyncio.get_running_loop()

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        pass

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        if threading.current_thread().name != "heartbeat" or event.command_name != "find":
            return
        self.beats += self.paused
        if self.pause is not None and not self.paused:
            asyncio.run_coroutine_threadsafe(self.pause(), self._loop).result(10)  # type: ignore[arg-type]
            self.paused = True

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        pass


async def test_a_pause_is_not_undone_by_a_heartbeat_that_asked_before_it(
    mongo_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    during = PausedDuringABeat()
    monkeypatch.setitem(OPTIONS, "event_listeners", [during])
    with capture_logs() as logs:
        async with sandbox(["tests.handlers"], mongodb_url=mongo_url, stale_claim_timeout=timedelta(seconds=3)) as one:

            async def pause() -> None:
                await one.client.set_paused("test.noop", True)
                while not any(line["event"] == "type.paused" for line in logs):
                    await asyncio.sleep(0.01)

            during.pause = pause
            async with asyncio.timeout(20):
                while during.beats < 2:
                    await asyncio.sleep(0.01)

    assert [line["event"] for line in logs if line.get("task_type") == "test.noop"] == ["type.paused"]


async def test_a_result_that_cannot_be_kept_is_left_out_and_the_history_says_why(verger: Verger) -> None:
    finished = await done(verger, await verger.client.enqueue("test.odd", {"kind": "huge"}))

    assert (finished.status, finished.result) == (TaskStatus.COMPLETED, None)
    assert "larger than" in (finished.history[-1].reason or "")


@pytest.mark.parametrize("kind", ["exit", "bad text", "surrogate", "generator"])
async def test_whatever_a_handler_raises_is_the_failure_of_its_run_alone(verger: Verger, kind: str) -> None:
    task = await verger.client.enqueue("test.odd", {"kind": kind}, max_attempts=1)
    good = await verger.client.enqueue("test.work", {})

    finished = await done(verger, task)

    assert (finished.status, finished.reason) == (TaskStatus.FAILED, "exhausted")
    assert finished.last_error is not None
    assert finished.last_error.type
    assert (await done(verger, good)).status is TaskStatus.COMPLETED


async def test_a_plain_function_that_lets_stop_iteration_out_fails_like_any_other(verger: Verger) -> None:
    task = await verger.client.enqueue("test.stops", {}, max_attempts=1)

    finished = await done(verger, task)

    assert finished.last_error is not None
    assert finished.last_error.message == "the handler raised StopIteration"


async def test_a_handler_that_leaves_badly_when_it_is_told_to_stop_burns_no_attempt(verger: Verger) -> None:
    task = await verger.client.enqueue("test.odd", {"kind": "group"}, max_attempts=1)
    await started(verger, task)
    worker = verger.app.worker
    assert worker is not None
    async with asyncio.timeout(10):
        while not (
            marks := await verger.app.store._database.client[verger.app.settings.database]["marks"].count_documents({})
        ):
            await asyncio.sleep(0.01)
    assert marks

    worker.runs[task.id].stop(Stop.CANCEL)

    assert (await done(verger, task)).status is TaskStatus.CANCELLED


async def test_a_reason_that_is_no_text_for_a_store_is_made_one(verger: Verger) -> None:
    task = await verger.client.enqueue("test.odd", {"kind": "strange reason"})

    finished = await done(verger, task)

    assert finished.status is TaskStatus.CANCELLED
    assert finished.reason is not None
    assert len(finished.reason) == 500


async def test_an_error_that_no_attempt_can_help_is_a_dead_letter_at_once(verger: Verger) -> None:
    finished = await done(verger, await verger.client.enqueue("test.odd", {"kind": "hopeless"}))

    assert (finished.status, finished.attempt, finished.reason) == (TaskStatus.FAILED, 1, "non_retryable")


async def test_enqueue_refuses_what_cannot_be_a_task_and_names_the_field(verger: Verger) -> None:
    for field, call in {
        "taskBody.seconds": {"body": {"seconds": "soon"}},
        "taskBody.value": {"body": {"value": 2**63}},
        "id": {"id": "fire:mine"},
        "delay": {"delay": "soon"},
        "maxAttempts": {"max_attempts": 0},
        "timeout": {"timeout": "-1s"},
    }.items():
        with pytest.raises(InvalidInput) as refused:
            await verger.client.enqueue("test.work", **call)  # type: ignore[arg-type]
        assert refused.value.field == field
    with pytest.raises(InvalidInput):
        await verger.client.enqueue("No Such Type!", {})


async def test_a_replay_of_a_name_that_is_taken_meanwhile_is_a_conflict(verger: Verger) -> None:
    task = await verger.client.enqueue("test.odd", {"kind": "hopeless"}, name="only")
    await verger.run_until_idle()
    other = await verger.client.enqueue("test.work", {}, name="only", delay="1h")
    assert other.id != task.id

    with pytest.raises(Conflict, match="live key"):
        await verger.client.replay(task.id)
    await verger.client.cancel(other.id)

    replayed = await verger.client.replay(task.id)
    assert replayed.live_key == "name:only"


async def test_p10_a_delivery_held_too_long_is_requeued_neither_stored_nor_claimed(
    verger: Verger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.worker.handler.HOLD_SECONDS", -1)
    await verger.app.broker.publish([Publication("test.noop", b'{"id": "held"}')])
    await asyncio.sleep(0.2)
    assert await verger.app.store.tasks.get("held") is None

    monkeypatch.undo()

    async with asyncio.timeout(10):
        while await verger.app.store.tasks.get("held") is None:
            await asyncio.sleep(0.01)
    finished = await verger.client.wait("held")
    assert (finished.status, finished.fence) == (TaskStatus.COMPLETED, 1)


def message(task_id: str) -> Publication:
    return Publication("test.noop", json.dumps({"id": task_id}).encode())


async def test_a_consumer_that_is_let_go_keeps_nothing_although_that_takes_a_while(
    mongo_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one is fed only then: what it is given would go back by the wrong one, and be in nobody's hands."""
    let_go: list[MemoryConsumer] = []
    cancel, claim = MemoryConsumer.cancel, MongoClaims.claim

    async def slow(self: MemoryConsumer) -> None:
        let_go.append(self)
        # What still comes wakes the actor, which would go on meanwhile.
        await self._broker.publish([message(f"late-{len(let_go)}")])
        await asyncio.sleep(0.2)
        await cancel(self)

    async def away(
        self: MongoClaims, requests: Sequence[ClaimRequest], worker: str, token: str | None = None
    ) -> list[ClaimAnswer]:
        if not let_go:
            raise StoreUnavailable("away")
        return await claim(self, requests, worker, token)

    monkeypatch.setattr(MemoryConsumer, "cancel", slow)
    monkeypatch.setattr(MongoClaims, "claim", away)
    monkeypatch.setattr("actors.worker.handler.STORE_REST_SECONDS", 0.0)
    async with sandbox(["tests.handlers"], mongodb_url=mongo_url, concurrency=10) as verger:
        ids = ["first", "late-1"]
        await verger.app.broker.publish([message("first")])
        async with asyncio.timeout(60):
            while len(await verger.app.store.tasks.get_many(ids)) < len(ids):
                await asyncio.sleep(0.01)
        await verger.run_until_idle()

        assert let_go
        assert [consumer._held for consumer in let_go] == [{}] * len(let_go)
        assert {(await verger.client.get(each)).status for each in ids} == {TaskStatus.COMPLETED}


async def test_an_author_sees_what_was_not_declared(verger: Verger) -> None:
    finished = await done(verger, await verger.client.enqueue("test.odd", {"kind": "resource"}, max_attempts=1))

    assert finished.last_error is not None
    assert "no resource 'absent' is loaded; there are: marks" in finished.last_error.message


async def test_a_handler_enqueues_through_its_context(verger: Verger) -> None:
    finished = await done(verger, await verger.client.enqueue("test.odd", {"kind": "enqueue"}))

    assert (await verger.client.get(finished.result)).status is TaskStatus.COMPLETED


async def test_wait_says_when_it_takes_too_long(verger: Verger) -> None:
    task = await verger.client.enqueue("test.noop", {}, delay="1h")

    with pytest.raises(TimeoutError):
        await verger.client.wait(task.id, timedelta(seconds=0.1))


async def test_numbers_of_a_result_that_are_called_like_parts_of_a_log_line_harm_nobody(verger: Verger) -> None:
    with capture_logs() as lines:
        task = await verger.client.enqueue("test.odd", {"kind": "numbers"})
        finished = await done(verger, task)
        await verger.run_until_idle()

    assert (finished.status, finished.attempt, finished.result["rows"]) == (TaskStatus.COMPLETED, 1, 7)
    (line,) = [line for line in lines if line["event"] == "task.finished"]
    assert (line["id"], line["rows"], line["log_level"]) == (task.id, 7, "info")
    assert not [line for line in lines if line["event"] == "actor.crashed"]


@pytest.fixture
def far_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are short in any case, however slow the machine is."""
    monkeypatch.setattr("actors.worker.handler.AHEAD_SECONDS", 5.0)


@pytest.mark.usefixtures("far_ahead")
async def test_short_runs_are_claimed_ahead_and_never_more_run_than_there_are_slots(verger: Verger) -> None:
    tasks = await verger.client.enqueue_many([NewTask("test.single", {"value": n}) for n in range(80)])
    await verger.run_until_idle()

    kept = await reread(verger, tasks)
    marks = verger.app.store._database.client[verger.app.settings.database]["marks"].find().sort("_id", 1)
    assert {(task.status, task.attempt) for task in kept} == {(TaskStatus.COMPLETED, 1)}
    assert len({task.claim_token for task in kept}) < len(kept)
    assert [mark["what"] async for mark in marks] == ["start", "end"] * 80


@pytest.mark.usefixtures("far_ahead")
async def test_what_waits_behind_a_run_that_is_not_short_is_given_back(verger: Verger) -> None:
    await verger.client.enqueue_many([NewTask("test.single", {"value": n}) for n in range(40)])
    await verger.run_until_idle()

    long, *behind = await verger.client.enqueue_many(
        [NewTask("test.single", {"seconds": 60 * (n == 0), "value": f"{n}"}) for n in range(6)]
    )

    async with asyncio.timeout(20):
        while not (given_back := [task for task in await reread(verger, behind) if task.history]):
            await asyncio.sleep(0.02)
    assert {(entry.event, entry.reason) for task in given_back for entry in task.history} == {
        ("released", "no slot became free")
    }
    await verger.client.cancel(long.id, force=True)
    await verger.run_until_idle()
    assert {(task.status, task.attempt) for task in await reread(verger, behind)} == {(TaskStatus.COMPLETED, 1)}


async def test_a_clock_that_is_a_little_behind_costs_the_difference_and_not_a_turn_on_the_ladder(
    verger: Verger, mongo_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed_at: list[datetime] = []
    delays: list[timedelta | None] = []
    claim, publish = MongoClaims.claim, MemoryBroker.publish

    async def noted_claim(self: MongoClaims, requests: Sequence[ClaimRequest], *rest: Any) -> list[ClaimAnswer]:
        claimed_at.append(verger.clock.now())
        return await claim(self, requests, *rest)

    async def noted_publish(self: MemoryBroker, publications: Sequence[Publication]) -> list[bool]:
        delays.extend(publication.delay for publication in publications)
        return await publish(self, publications)

    ahead = SettableClock()
    store = MongoStore(mongo_url, verger.app.settings.database, ahead)
    await store.open()
    ahead.advance(timedelta(milliseconds=40))
    monkeypatch.setattr(MongoClaims, "claim", noted_claim)
    monkeypatch.setattr(MemoryBroker, "publish", noted_publish)
    try:
        task = await Client(store, verger.app.broker, verger.app.registry).enqueue("test.noop", {})
        finished = await verger.client.wait(task.id)
    finally:
        await store.close()

    assert finished.status is TaskStatus.COMPLETED
    assert delays == [None]
    assert claimed_at[0] >= task.retry_at


async def test_a_clock_that_is_set_back_while_a_worker_waits_for_it_holds_up_nothing(
    verger: Verger, mongo_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asyncio.Event()
    claim, sleep = MongoClaims.claim, asyncio.sleep

    async def noted_claim(self: MongoClaims, requests: Sequence[ClaimRequest], *rest: Any) -> list[ClaimAnswer]:
        asked.set()
        return await claim(self, requests, *rest)

    async def set_back_meanwhile(seconds: float, *rest: Any) -> None:
        if 0 < seconds <= 0.05 and not asked.is_set():
            monkeypatch.setattr(asyncio, "sleep", sleep)
            at = verger.clock.monotonic()
            verger.clock.set_from(verger.clock.now() - timedelta(hours=1), at, at)
        await sleep(seconds, *rest)

    ahead = SettableClock()
    store = MongoStore(mongo_url, verger.app.settings.database, ahead)
    await store.open()
    ahead.advance(timedelta(milliseconds=40))
    monkeypatch.setattr(MongoClaims, "claim", noted_claim)
    monkeypatch.setattr(asyncio, "sleep", set_back_meanwhile)
    before = verger.clock.now()
    try:
        await Client(store, verger.app.broker, verger.app.registry).enqueue("test.noop", {})
        async with asyncio.timeout(10):
            await asked.wait()
    finally:
        await store.close()

    assert verger.clock.now() < before  # it was set back
