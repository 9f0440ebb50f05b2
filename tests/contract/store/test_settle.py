"""Ending a run, and what a run writes before it ends: only its own claim may."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from schemas.outcome import Cancelled, Completed, Discarded, Outcome, Released, Snoozed
from schemas.task import HISTORY_LIMIT, Progress, Task, TaskStatus
from service.errors import PayloadRefused
from service.states import RELAY_SLACK, Seen, rescue
from service.store.port import Changed, Claimed, Deduplicated, Refused, Settled, Store
from tests.contract.store.conftest import Adapter
from tests.contract.store.steps import (
    AT_ONCE,
    HOUR,
    SECOND,
    STALE,
    a_task,
    an_error,
    claim,
    end,
    failed,
    foreign,
    look,
    now,
    running,
    settle,
    some_tasks,
)
from tests.contract.store.test_claims import UNSTORABLE

ENDS: dict[str, tuple[Outcome, TaskStatus]] = {
    "completed": (Completed({"rows": 3}), TaskStatus.COMPLETED),
    "exhausted": (failed(None), TaskStatus.FAILED),
    "cancelled": (Cancelled("asked for"), TaskStatus.CANCELLED),
    "discarded": (Discarded("too old"), TaskStatus.CANCELLED),
}
STAYS: dict[str, Callable[[], Outcome]] = {
    "retried": lambda: failed(10 * SECOND),
    "snoozed": lambda: Snoozed(now() + HOUR),
    "released": lambda: Released("shutdown"),
}


def each(cases: dict[str, Any]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases.values(), ids=cases.keys())


async def ask_again(store: Store, key: str = "name:n") -> None:
    answers = await store.tasks.create([a_task("request", live_key=key)])
    assert answers[0].by == "live_key"


# ---- the happy path --------------------------------------------------------------------------------------------------


async def test_a_completed_task_keeps_its_result_and_nothing_to_do(store: Store) -> None:
    task = await running(store, live_key="name:n")

    assert await settle(store, task, Completed({"rows": [1, None]})) == Settled(TaskStatus.COMPLETED)

    done = await look(store)
    assert (done.status, done.result, done.history) == (TaskStatus.COMPLETED, {"rows": [1, None]}, [])
    assert (done.live_key, done.relay_at, done.processing_at, done.claimed_by) == (None, None, None, None)
    assert done.finished_at is not None
    assert abs(done.finished_at - now()) < 5 * SECOND


async def test_a_failure_is_kept_and_tried_again(store: Store) -> None:
    task = await running(store, live_key="name:n")

    assert await settle(store, task, failed(10 * SECOND)) == Settled(TaskStatus.PENDING)

    pending = await look(store)
    assert (pending.status, pending.attempt, pending.retry_count) == (TaskStatus.PENDING, 1, 1)
    assert (pending.live_key, pending.processing_at, pending.claimed_by) == ("name:n", None, None)
    assert pending.last_error is not None
    assert pending.last_error.type == "Boom"
    assert abs(pending.retry_at - (now() + 10 * SECOND)) < 5 * SECOND
    assert [line.event for line in pending.history] == ["retried"]


async def test_p11_whoever_publishes_himself_lets_relay_wait(store: Store) -> None:
    task = await running(store)

    await settle(store, task, failed(10 * SECOND))

    pending = await look(store)
    assert pending.relay_at == pending.retry_at + RELAY_SLACK


async def test_p13_a_dead_letter_is_left_for_relay(store: Store) -> None:
    task = await running(store, live_key="name:n")

    assert await settle(store, task, failed(None)) == Settled(TaskStatus.FAILED)

    dead = await look(store)
    assert (dead.status, dead.reason, dead.retry_count, dead.live_key) == (TaskStatus.FAILED, "exhausted", 1, None)
    assert dead.relay_at is not None
    assert dead.finished_at is not None
    assert [line.event for line in dead.history] == ["failed"]


async def test_a_pending_task_and_a_dead_letter_are_never_hidden_from_relay(store: Store) -> None:
    ends = [
        end(await running(store, "pending"), Released("shutdown")),
        end(await running(store, "dead"), failed(None)),
    ]

    await store.claims.settle([replace(item, retry_at=None, relay_at=None) for item in ends])

    assert None not in [(await look(store, item.id)).relay_at for item in ends]


@each({"completed": Completed(), "retried": failed(), "released": Released("shutdown")})
async def test_a_batch_of_ends_is_written_at_once(store: Store, case: Outcome) -> None:
    await store.tasks.create(some_tasks(100))
    tasks = await claim(store, *(f"t{number:03}" for number in range(100)))

    answers = await store.claims.settle([end(task, case) for task in tasks])

    assert len({type(answer) for answer in answers}) == 1
    assert {(await look(store, task.id)).status for task in tasks} == {
        answer.status for answer in answers if isinstance(answer, Settled)
    }


# ---- P15 -------------------------------------------------------------------------------------------------------------


@each({name: STAYS[name] for name in ("snoozed", "released")})
async def test_p15_a_run_that_is_given_back_burns_no_attempt(store: Store, case: Callable[[], Outcome]) -> None:
    task = await running(store)

    assert await settle(store, task, case()) == Settled(TaskStatus.PENDING)

    pending = await look(store)
    assert (pending.attempt, pending.retry_count, pending.fence) == (0, 0, 1)


async def test_p15_p16_the_fence_counts_every_claim(store: Store) -> None:
    await store.tasks.create([a_task()])

    for fence in range(1, 4):
        [task] = await claim(store, "a")
        assert (task.fence, task.attempt) == (fence, 1)
        await settle(store, task, Released("shutdown"))


async def test_p15_the_ceiling_bounds_the_attempts(store: Store) -> None:
    await store.tasks.create([a_task(max_attempts=2)])

    [first] = await claim(store, "a")
    assert await settle(store, first, failed(AT_ONCE)) == Settled(TaskStatus.PENDING)
    [second] = await claim(store, "a")
    assert await settle(store, second, failed(AT_ONCE)) == Settled(TaskStatus.FAILED)


# ---- P6 --------------------------------------------------------------------------------------------------------------


@each(STAYS | {name: lambda o=o: o for name, (o, _) in ENDS.items()})
async def test_p6_a_run_that_lost_its_claim_changes_nothing_but_the_history(
    store: Store, case: Callable[[], Outcome]
) -> None:
    lost = await running(store, live_key="name:n")
    await settle(store, lost, Released("shutdown"))
    [current] = await claim(store, "a", worker="w2")

    assert await settle(store, lost, case()) == Refused()

    after = await look(store)
    assert after.model_copy(update={"history": []}) == current.model_copy(update={"history": []})
    assert [(line.event, line.worker, line.fence) for line in after.history[1:]] == [("refused", "w1", 1)]


async def test_p6_a_paused_worker_cannot_end_a_run_that_was_rescued(store: Store) -> None:
    paused = await running(store)
    assert await store.upkeep.rescue(paused, rescue(paused, now()), STALE, now())

    assert await settle(store, paused, Completed("late")) == Refused()

    after = await look(store)
    assert (after.status, after.result) == (TaskStatus.PENDING, None)


async def test_p6_of_two_ends_of_one_task_in_a_batch_the_one_whose_claim_lives_is_written(store: Store) -> None:
    """A worker that was paused, and has claimed the task again since."""
    paused = await running(store)
    assert await store.upkeep.rescue(paused, rescue(paused, now() - SECOND), STALE, now())
    (mine,) = await claim(store, "a")

    answers = await store.claims.settle([end(paused, Released("late")), end(mine, Released("shutdown"))])

    assert answers == [Refused(), Settled(TaskStatus.PENDING)]
    assert (await look(store)).attempt == 1


async def test_p6_a_pruned_task_has_no_run_to_end(store: Store) -> None:
    task = (await running(store)).model_copy(update={"id": "pruned"})

    assert await settle(store, task, Completed()) == Refused()
    assert await store.tasks.get("pruned") is None


@each({name: outcome for name, (outcome, _) in ENDS.items()})
async def test_p6_a_request_that_arrived_meanwhile_refuses_an_end_that_ignores_it(store: Store, case: Outcome) -> None:
    task = await running(store, live_key="name:n")
    await ask_again(store)
    before = await look(store)

    assert await settle(store, task, case) == Changed(Seen(again=True))

    assert await look(store) == before


@each(STAYS | {"cancelled": lambda: Cancelled("asked for"), "discarded": lambda: Discarded("too old")})
async def test_p6_a_cancel_that_arrived_meanwhile_refuses_an_end_that_ignores_it(
    store: Store, case: Callable[[], Outcome]
) -> None:
    task = await running(store)
    await store.tasks.cancel("a", "not needed")
    before = await look(store)

    assert await settle(store, task, case()) == Changed(Seen(cancel_requested=True))

    assert await look(store) == before


@each(STAYS)
async def test_p6_what_would_run_again_is_cancelled_when_that_was_asked(
    store: Store, case: Callable[[], Outcome]
) -> None:
    task = await running(store)
    await store.tasks.cancel("a", "not needed")

    assert await settle(store, task, case(), Seen(cancel_requested=True)) == Settled(TaskStatus.CANCELLED)

    assert (await look(store)).reason == "cancel requested"


@each({"completed": ENDS["completed"], "exhausted": ENDS["exhausted"]})
async def test_p6_what_ended_before_it_saw_the_cancel_has_ended(store: Store, case: tuple[Outcome, TaskStatus]) -> None:
    outcome, status = case
    task = await running(store)
    await store.tasks.cancel("a", "not needed")

    assert await settle(store, task, outcome) == Settled(status)


@each({name: outcome for name, (outcome, _) in ENDS.items()})
async def test_p6_a_settled_record_keeps_its_token(store: Store, case: Outcome) -> None:
    task = await running(store)

    await settle(store, task, case)

    assert (await look(store)).claim_token == task.claim_token


async def test_p6_to_settle_twice_is_to_settle_once(store: Store) -> None:
    task = await running(store)
    written = [end(task, Completed(1)), end(task, Completed(2))]

    answers = [(await store.claims.settle([item]))[0] for item in written]

    assert answers == [Settled(TaskStatus.COMPLETED)] * 2
    assert (await look(store)).result == 1


# ---- P5 --------------------------------------------------------------------------------------------------------------


@each({name: outcome for name, (outcome, _) in ENDS.items()})
async def test_p5_any_end_with_a_request_is_a_new_run(store: Store, case: Outcome) -> None:
    task = await running(store, live_key="name:n")
    token = task.claim_token or ""
    progress = Progress(progress=0.5, done_count=1, at=now())
    await store.claims.save("a", token, progress=progress, checkpoint={"row": 7}, keep_checkpoint=True)
    if isinstance(case, Cancelled):
        await store.tasks.cancel("a", "not needed", force=True)
    await ask_again(store)
    seen = Seen(again=True, cancel_requested=isinstance(case, Cancelled))

    assert await settle(store, task, case, seen) == Settled(TaskStatus.PENDING)

    fresh = await look(store)
    assert (fresh.status, fresh.attempt, fresh.retry_count, fresh.fence) == (TaskStatus.PENDING, 0, 0, 1)
    assert (fresh.checkpoint, fresh.progress, fresh.cancel_requested_at, fresh.again) == (None, None, None, False)
    assert (fresh.live_key, fresh.finished_at, fresh.reason, fresh.result) == ("name:n", None, None, None)
    assert not fresh.cancel_forced
    assert fresh.retry_at <= now()
    assert fresh.relay_at is not None
    assert [task.id for task in await claim(store, "a")] == ["a"]


async def test_p5_the_failure_before_a_new_run_is_kept(store: Store) -> None:
    task = await running(store, live_key="name:n")
    await ask_again(store)

    await settle(store, task, failed(None), Seen(again=True))

    fresh = await look(store)
    assert fresh.last_error is not None
    assert fresh.last_error.type == "Boom"
    assert [(line.event, line.reason) for line in fresh.history[1:]] == [("failed, again", "exhausted")]


async def test_p5_a_retry_answers_the_request_too(store: Store) -> None:
    task = await running(store, live_key="name:n")
    await ask_again(store)

    assert await settle(store, task, failed(AT_ONCE), Seen(again=True)) == Settled(TaskStatus.PENDING)

    [second] = await claim(store, "a")
    assert (second.attempt, second.again) == (2, False)
    assert await settle(store, second, Completed()) == Settled(TaskStatus.COMPLETED)


async def test_p5_a_cancel_withdraws_the_request(store: Store) -> None:
    task = await running(store, live_key="name:n")
    await ask_again(store)

    await store.tasks.cancel("a", "not needed")

    assert await settle(store, task, Cancelled("asked for"), Seen(again=True, cancel_requested=True)) == Changed(
        Seen(again=False, cancel_requested=True)
    )
    assert await settle(store, task, Cancelled("asked for"), Seen(cancel_requested=True)) == Settled(
        TaskStatus.CANCELLED
    )


async def test_p5_a_request_after_the_cancel_stands(store: Store) -> None:
    task = await running(store, live_key="name:n")
    await store.tasks.cancel("a", "not needed")
    await ask_again(store)

    assert await settle(store, task, Cancelled("asked for"), Seen(cancel_requested=True)) == Changed(
        Seen(again=True, cancel_requested=True)
    )
    assert await settle(store, task, Cancelled("asked for"), Seen(again=True, cancel_requested=True)) == Settled(
        TaskStatus.PENDING
    )


async def test_p5_no_request_is_lost_to_an_end_at_the_same_time(adapter: Adapter) -> None:
    worker, client = await adapter.open(), await adapter.open()

    async def run_to_its_end(task: Task) -> None:
        seen = Seen()
        while isinstance(answer := await settle(worker, task, Completed(), seen), Changed):
            seen = answer.seen
        assert isinstance(answer, Settled)

    for number in range(30):
        key = f"name:{number}"
        task = await running(worker, f"live{number}", live_key=key)
        request = a_task(f"request{number}", live_key=key)

        async def ask(request: Task = request, number: int = number) -> bool:
            if number % 2:
                return (await client.tasks.create([request]))[0].created
            [answer] = await client.claims.claim([foreign(request)], "w2")
            assert isinstance(answer, (Claimed, Deduplicated))
            return isinstance(answer, Claimed)

        created, _ = await asyncio.gather(ask(), run_to_its_end(task))

        # Either it became a task of its own, or the live one runs once more.
        status = (await look(worker, task.id)).status
        assert status is (TaskStatus.COMPLETED if created else TaskStatus.PENDING)


# ---- P8 --------------------------------------------------------------------------------------------------------------


async def test_p8_a_short_count_is_resolved_for_each(store: Store) -> None:
    await store.tasks.create(some_tasks(5))
    await store.tasks.create([a_task("asked", live_key="name:n")])
    tasks = await claim(store, *(f"t{number:03}" for number in range(5)), "asked")
    await ask_again(store)
    await settle(store, tasks[1], Released("shutdown"))
    await claim(store, tasks[1].id, worker="w2")
    await settle(store, tasks[3], Completed())

    answers = await store.claims.settle([end(task, Completed()) for task in tasks])

    assert answers == [
        Settled(TaskStatus.COMPLETED),
        Refused(),
        Settled(TaskStatus.COMPLETED),
        Settled(TaskStatus.COMPLETED),
        Settled(TaskStatus.COMPLETED),
        Changed(Seen(again=True)),
    ]


@each({name: UNSTORABLE[name] for name in UNSTORABLE if name != "17 MiB"})
async def test_p8_one_result_that_cannot_be_kept_is_left_out_alone(store: Store, case: dict[str, Any]) -> None:
    await store.tasks.create(some_tasks(10))
    tasks = await claim(store, *(f"t{number:03}" for number in range(10)))

    answers = await store.claims.settle(
        [end(task, Completed(case if task.id == "t004" else {"ok": True})) for task in tasks]
    )

    assert answers == [Settled(TaskStatus.COMPLETED)] * 10
    bad = await look(store, "t004")
    assert bad.result is None
    assert [line.event for line in bad.history] == ["note"]
    assert "the result was not kept" in (bad.history[0].reason or "")
    assert [(await look(store, task.id)).result for task in tasks if task.id != "t004"] == [{"ok": True}] * 9


async def test_a_reason_that_no_store_keeps_is_escaped(store: Store) -> None:
    await store.tasks.create(some_tasks(2))
    one, other = await claim(store, "t000", "t001")

    answers = await store.claims.settle([end(one, Discarded("file \udc80")), end(other, Completed())])

    assert answers == [Settled(TaskStatus.CANCELLED), Settled(TaskStatus.COMPLETED)]
    assert (await look(store, "t000")).reason == "file \\udc80"


# ---- while it runs ---------------------------------------------------------------------------------------------------


async def test_p6_progress_and_checkpoint_are_the_claim_s_own(store: Store) -> None:
    task = await running(store)
    progress = Progress(progress=0.25, done_count=5, total_count=20, eta_ms=900, message="half", at=now())

    saved = await store.claims.save(
        "a", task.claim_token or "", progress=progress, checkpoint={"row": 5}, keep_checkpoint=True
    )
    assert saved
    assert ((await look(store)).progress, (await look(store)).checkpoint) == (progress, {"row": 5})

    await settle(store, task, Released("shutdown"))
    await claim(store, "a")
    saved = await store.claims.save("a", task.claim_token or "", progress=None, checkpoint=None, keep_checkpoint=True)
    assert not saved
    assert (await look(store)).checkpoint == {"row": 5}


async def test_the_checkpoint_stays_when_only_progress_is_saved(store: Store) -> None:
    token = (await running(store)).claim_token or ""
    await store.claims.save("a", token, progress=None, checkpoint=[1], keep_checkpoint=True)

    progress = Progress(progress=1, done_count=1, at=now())
    assert await store.claims.save("a", token, progress=progress, checkpoint=None, keep_checkpoint=False)

    assert (await look(store)).checkpoint == [1]
    assert await store.claims.save("a", token, progress=None, checkpoint=None, keep_checkpoint=True)
    assert (await look(store)).checkpoint is None


@each(UNSTORABLE)
async def test_a_checkpoint_that_cannot_be_kept_is_refused(store: Store, case: dict[str, Any]) -> None:
    token = (await running(store)).claim_token or ""

    with pytest.raises(PayloadRefused):
        await store.claims.save("a", token, progress=None, checkpoint=case, keep_checkpoint=True)


async def test_the_history_is_bounded_and_keeps_the_newest(store: Store) -> None:
    await store.tasks.create([a_task(max_attempts=None)])

    for number in range(HISTORY_LIMIT + 5):
        [task] = await claim(store, "a")
        await settle(store, task, Released(f"release {number}"))

    history = (await look(store)).history
    assert len(history) == HISTORY_LIMIT
    assert history[-1].reason == f"release {HISTORY_LIMIT + 4}"


async def test_a_long_reason_is_cut(store: Store) -> None:
    task = await running(store)

    await settle(store, task, Snoozed(now() + timedelta(hours=1), "x" * 10_000))

    assert len((await look(store)).history[0].reason or "") == 500


async def test_the_last_error_is_that_of_the_last_failure(store: Store) -> None:
    task = await running(store)
    await settle(store, task, failed(AT_ONCE))
    [task] = await claim(store, "a")
    assert task.last_error == (await look(store)).last_error

    await settle(store, task, type(failed())(an_error("Other"), None))

    last = (await look(store)).last_error
    assert last is not None
    assert last.type == "Other"
