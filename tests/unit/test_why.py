"""Why a task did, or did not, run: a sentence for each cause."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from schemas.schedule import Schedule, Skip, SkipReason
from schemas.task import Asked, HistoryEntry, Payload, Progress, Task, TaskError, TaskStatus
from schemas.why import Explanation
from schemas.worker import TaskTypeState, Worker
from service.settings import Settings
from service.why import Facts, fire_of, tell

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
BOOM = TaskError(type="Boom", message="it broke\nbadly", fingerprint="f", place="jobs.py:work", at=NOW - HOUR)
SETTINGS = Settings()


def a_task(**fields: Any) -> Task:
    usual: dict[str, Any] = {"created_at": NOW - HOUR, "retry_at": NOW - HOUR, "relay_at": NOW - HOUR}
    return Task(id="a", task_type="report", task_body={}, **(usual | fields))


def running(**fields: Any) -> Task:
    usual: dict[str, Any] = {
        "status": TaskStatus.RUNNING,
        "claimed_by": "w1",
        "started_at": NOW - MINUTE,
        "processing_at": NOW - timedelta(seconds=4),
        "relay_at": None,
        "attempt": 1,
        "fence": 1,
    }
    return a_task(**(usual | fields))


def dead(**fields: Any) -> Task:
    usual: dict[str, Any] = {
        "status": TaskStatus.FAILED,
        "reason": "exhausted",
        "finished_at": NOW - MINUTE,
        "relay_at": None,
        "last_error": BOOM,
    }
    return a_task(**(usual | fields))


def a_worker(*types: str) -> Worker:
    return Worker(
        id="w1", host="h", pid=1, roles=["worker"], task_types=list(types), started_at=NOW, seen_at=NOW, version="1"
    )


def why(task: Task | None, *, workers: tuple[Worker, ...] | None = None, **facts: Any) -> Explanation:
    alive = (a_worker("report"),) if workers is None else workers
    return tell(Facts(facts.pop("id", "a"), NOW, task, SETTINGS, workers=alive, **facts))


def line(event: str, reason: str | None = None, *, worker: str | None = None, fence: int | None = None) -> HistoryEntry:
    return HistoryEntry(at=NOW - 30 * MINUTE, event=event, reason=reason, worker=worker, fence=fence)


# ---- pending ---------------------------------------------------------------------------------------------------------


def test_it_is_early() -> None:
    told = why(a_task(retry_at=NOW + HOUR))

    assert told.now == ["It is early: it may not run until 2026-03-01 13:00:00Z (in 1h)."]
    assert told.advice == []
    assert [step.text for step in told.story] == ["It was stored as report."]


def test_it_waits_for_another_attempt_after_an_error() -> None:
    retried = line("retried", "Boom", worker="w1")
    told = why(
        a_task(retry_at=NOW + MINUTE, attempt=2, retry_count=2, max_attempts=8, last_error=BOOM, history=[retried])
    )

    assert told.now == [
        "It waits for attempt 3 of 8 until 2026-03-01 12:01:00Z (in 1m), after Boom: it broke in jobs.py:work."
    ]
    assert told.story[1].text == "An attempt failed on w1: Boom; it was put back for another one."


def test_its_type_is_paused() -> None:
    state = TaskTypeState(id="report", paused=True, paused_at=NOW - HOUR, paused_by="ada")

    told = why(a_task(), state=state, depth=7)

    assert told.now == ["The type report is paused since 2026-03-01 11:00:00Z, by ada: no worker takes its tasks."]
    assert told.advice == ["Resume the type report."]


@pytest.mark.parametrize(
    ("workers", "said"),
    [((), "No worker is alive at all."), ((a_worker("mail", "chat"),), "1 alive take chat, mail.")],
)
def test_nobody_takes_its_type(workers: tuple[Worker, ...], said: str) -> None:
    told = why(a_task(), workers=workers, depth=3)

    assert told.now == [f"No worker takes tasks of the type report. {said}"]
    assert told.advice[0].startswith("Start a worker whose VERGER_ACTORS has a handler for report")


@pytest.mark.parametrize(
    ("depth", "said"),
    [
        (None, "the broker was not asked how many messages wait."),
        (0, "and its queue is empty: a worker has its message in hand, or relay sends it."),
        (1, "1 message in its queue, and it is one of them or behind them."),
        (40, "40 messages in its queue, and it is one of them or behind them."),
    ],
)
def test_it_waits_in_its_queue(depth: int | None, said: str) -> None:
    told = why(a_task(relay_at=NOW + MINUTE), depth=depth)

    assert told.now[0].startswith("It is due. 1 worker takes its type")
    assert told.now[0].endswith(said)
    assert told.now[1] == "Its message was sent; relay looks after it at 2026-03-01 12:01:00Z."


@pytest.mark.parametrize(
    ("seen", "said"),
    [(None, "Relay waits for a marker behind the backlog"), (NOW, "A marker sent after its message has come through")],
)
def test_behind_a_backlog_a_marker_tells_whether_its_message_is_lost(seen: datetime | None, said: str) -> None:
    told = why(a_task(), depth=40, state=TaskTypeState(id="report", marker_seen_at=seen))

    assert told.now[1].startswith(said)


# ---- running ---------------------------------------------------------------------------------------------------------


def test_it_runs() -> None:
    progress = Progress(progress=0.5, eta_ms=90_000, done_count=5, total_count=10, message="rows", at=NOW)

    told = why(running(progress=progress, again=True))

    assert told.now == [
        "It runs on w1 since 2026-03-01 11:59:00Z; its claim was renewed 4s ago.",
        "It has done 5 of 10, about 1m30s left (rows).",
        "It was asked for once more, and runs again afterwards.",
    ]


def test_its_worker_is_lost() -> None:
    told = why(running(processing_at=NOW - MINUTE))

    assert told.now[1] == "That is longer than 30s: its worker is lost, and rescue takes it back."
    assert told.advice == ["See that a scheduler runs: rescue is one of its duties."]


def test_it_was_asked_to_stop() -> None:
    told = why(running(cancel_requested_at=NOW))

    assert told.now[-1] == "It was asked to stop at 2026-03-01 12:00:00Z, and stops at its next checkpoint."
    assert told.advice == ["verger tasks cancel --force a interrupts its handler."]


# ---- what happened before --------------------------------------------------------------------------------------------


def test_every_step_is_a_sentence_oldest_first() -> None:
    steps = [
        line("rescued", "claim of w0 went stale"),
        line("refused", "completed: the claim was lost", worker="w0", fence=1),
        line("asked again", "by other"),
        line("snoozed", "not now"),
        line("released", "the worker was stopped"),
        line("replayed", "by ada"),
        line("failed, again", "exhausted"),
        line("something new", "of a later version"),
    ]

    told = why(running(history=steps, fence=3))

    assert [step.text for step in told.story] == [
        "It was stored as report.",
        "It was rescued from its worker: claim of w0 went stale; that attempt counts.",
        "The end of an earlier run on w0 was refused (claim 1): completed: the claim was lost; a later run decides.",
        "It was asked for once more while it ran, by other: it runs again afterwards.",
        "Its handler put it off (not now); the attempt does not count.",
        "It was given back (the worker was stopped); the attempt does not count.",
        "It was replayed (by ada), with fresh attempts.",
        "An attempt failed: exhausted; no other one was left. It runs once more, as was asked.",
        "something new (of a later version).",
        "The last run began (claim 3).",
    ]
    assert told.story == sorted(told.story, key=lambda step: step.at or NOW)


def test_requests_that_it_stands_for_are_told_once() -> None:
    asked = [Asked(id="early", at=NOW - 40 * MINUTE), Asked(id="late", at=NOW - 30 * MINUTE)]

    told = why(running(asked_by=asked, history=[line("asked again", "by late")]))

    assert [step.text.partition(" ")[0] for step in told.story[1:-1]] == ["early", "It"]


def test_a_fire_names_its_schedule() -> None:
    told = why(a_task(schedule_id="nightly", fire_at=NOW - HOUR))

    assert told.story[0].text == "Schedule nightly fired for 2026-03-01 11:00:00Z, and stored it as report."


# ---- ended -----------------------------------------------------------------------------------------------------------


def test_a_dead_letter_can_be_replayed() -> None:
    told = why(dead())

    assert told.now == [
        "It is a dead letter since 2026-03-01 11:59:00Z: exhausted, Boom: it broke in jobs.py:work.",
        "It can be replayed.",
    ]
    assert told.advice == ["When the cause is gone: verger tasks retry a"]


@pytest.mark.parametrize(
    ("fields", "facts", "said"),
    [
        ({"relay_at": NOW}, {}, "It cannot be replayed yet: the dead-letter exchange has not confirmed it."),
        (
            {"payload": Payload(body="", size=10**6, sha256="", complete=False)},
            {},
            "It cannot be replayed: its message was too large, and only its first bytes were kept.",
        ),
        (
            {"task_name": "only"},
            {"owner": a_task().model_copy(update={"id": "z"})},
            "It cannot be replayed now: z is pending under the same name.",
        ),
    ],
)
def test_a_dead_letter_that_cannot_be_replayed_says_why(
    fields: dict[str, Any], facts: dict[str, Any], said: str
) -> None:
    told = why(dead(**fields), **facts)

    assert told.now[1:] == [said]
    assert told.advice


def test_a_body_that_did_not_fit_can_be_replaced() -> None:
    assert why(dead(reason="invalid_body")).advice == [
        "Replay it with a body that fits: verger dead replay a --body '{…}'"
    ]


def test_what_has_ended_says_how() -> None:
    cancelled = a_task(status=TaskStatus.CANCELLED, finished_at=NOW, reason="not needed")

    assert why(cancelled).now == ["It was cancelled at 2026-03-01 12:00:00Z: not needed."]
    assert why(a_task(status=TaskStatus.COMPLETED, finished_at=NOW)).now == ["It completed at 2026-03-01 12:00:00Z."]


# ---- not there -------------------------------------------------------------------------------------------------------


def test_an_unknown_id_was_never_seen_or_pruned_or_not_yet_consumed() -> None:
    told = why(None)

    assert told.status is None
    assert told.now[0] == "There is no such task."
    assert "was pruned: completed and cancelled tasks are kept for 1d and 100 of a type" in told.now[1]
    assert "dead letters for 30d" in told.now[1]
    assert "no worker has taken its message yet" in told.now[2]


def test_an_id_that_another_task_stands_for() -> None:
    standing = a_task(task_name="only", asked_by=[Asked(id="other", at=NOW)]).model_copy(update={"id": "z"})

    told = why(None, id="other", standing=standing)

    assert told.story[0].text == "It was asked for while z was pending or running under the name only."
    assert told.story[0].at == NOW
    assert told.now == ["It was not stored: z, which is pending, stands for it."]


FIRE = "fire:nightly@2026-03-01T11:00:00Z"


def nightly(**fields: Any) -> Schedule:
    return Schedule(id="nightly", task_type="report", schedule="@daily", next_fire_at=NOW + HOUR, **fields)


@pytest.mark.parametrize(
    ("reason", "by", "said"),
    [
        (SkipReason.OVERLAP, "z", "the previous run was still going: z was pending or running."),
        (SkipReason.COALESCED, "z", "it was found due too late, and z ran for all that were late."),
        (SkipReason.MISFIRE, None, "it was found due too late, and the schedule's misfire policy skips such fires."),
    ],
)
def test_a_fire_that_was_skipped(reason: SkipReason, by: str | None, said: str) -> None:
    skip = Skip(reason=reason, since=NOW - HOUR, until=NOW - HOUR, count=1, by=by)

    told = why(None, id=FIRE, schedule=nightly(), skips=[skip])

    assert told.story[0].text == f"The fire of nightly for 2026-03-01 11:00:00Z was skipped: {said}"


def test_a_fire_of_a_schedule_that_is_paused_gone_or_not_due() -> None:
    paused = why(None, id=FIRE, schedule=nightly(enabled=False, paused_at=NOW - HOUR))
    gone = why(None, id=FIRE)
    later = why(None, id="fire:nightly@2026-03-02T00:00:00Z", schedule=nightly())
    unknown = why(None, id=FIRE, schedule=nightly())

    assert paused.now == ["Schedule nightly is paused since 2026-03-01 11:00:00Z."]
    assert gone.now == ["There is no schedule nightly, or not any more."]
    assert later.now == ["It is early: schedule nightly fires next at 2026-03-01 13:00:00Z."]
    assert unknown.now[0] == "There is no such task."


@pytest.mark.parametrize(
    ("task_id", "schedule", "fire_at"),
    [
        (FIRE, "nightly", NOW - HOUR),
        ("fire:nightly@manual-1", "nightly", None),
        ("fire:nightly", None, None),
        ("fire:@", None, None),
        ("nightly@2026-03-01T11:00:00Z", None, None),
    ],
)
def test_the_id_of_a_fire_is_read(task_id: str, schedule: str | None, fire_at: datetime | None) -> None:
    assert fire_of(task_id) == (schedule, fire_at)
