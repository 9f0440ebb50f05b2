"""What becomes of a run: a pure function of its outcome and of the requests made while it ran."""

from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest

from schemas.outcome import Cancelled, Completed, Discarded, Failed, Outcome, Released, Snoozed
from schemas.task import Task, TaskError, TaskStatus
from service.states import LONGEST_WAIT, RELAY_SLACK, WORKER_LOST, Move, Seen, relay_at, rescue, settle

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SOON = timedelta(seconds=10)
BOOM = TaskError(type="Boom", message="it broke", fingerprint="boom", at=NOW)

NOTHING, AGAIN, CANCEL = Seen(), Seen(again=True), Seen(cancel_requested=True)
BOTH = Seen(again=True, cancel_requested=True)

COMPLETED = Completed({"rows": 1})
FAILED = Failed(BOOM, SOON)
HOPELESS = Failed(BOOM, None)
SNOOZED = Snoozed(NOW + SOON)
RELEASED = Released("shutdown")
DISCARDED = Discarded("too old")
CANCELLED = Cancelled("asked for")
OUTCOMES: list[Outcome] = [COMPLETED, FAILED, HOPELESS, SNOOZED, RELEASED, DISCARDED, CANCELLED]


def a_run(**fields: Any) -> Task:
    usual: dict[str, Any] = {"attempt": 1, "max_attempts": 3, "claimed_by": "w1", "status": TaskStatus.RUNNING}
    return Task(id="a", task_type="report", task_body={}, created_at=NOW, retry_at=NOW, **(usual | fields))


def move(outcome: Outcome, seen: Seen = NOTHING, **fields: Any) -> Move:
    return settle(outcome, a_run(**fields), seen, NOW)


# ---- where each outcome leads ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (COMPLETED, TaskStatus.COMPLETED),
        (FAILED, TaskStatus.PENDING),
        (HOPELESS, TaskStatus.FAILED),
        (SNOOZED, TaskStatus.PENDING),
        (RELEASED, TaskStatus.PENDING),
        (DISCARDED, TaskStatus.CANCELLED),
        (CANCELLED, TaskStatus.CANCELLED),
    ],
)
def test_an_undisturbed_run_ends_as_its_outcome_says(outcome: Outcome, status: TaskStatus) -> None:
    assert move(outcome).status is status


def test_the_happy_path_writes_no_history() -> None:
    assert move(COMPLETED) == Move(TaskStatus.COMPLETED, guards_cancel=False)


def test_a_completed_run_may_leave_a_note() -> None:
    noted = move(Completed(None, note="the result was too large"))

    assert (noted.status, noted.event, noted.reason) == (TaskStatus.COMPLETED, "note", "the result was too large")


def test_a_failure_waits_for_its_delay() -> None:
    retried = move(FAILED)

    assert (retried.retry_at, retried.failed, retried.error) == (NOW + SOON, True, BOOM)
    assert (retried.event, retried.reason) == ("retried", "Boom")
    assert move(Failed(BOOM, SOON, "timeout")).reason == "timeout"


@pytest.mark.parametrize(("attempt", "most", "dead"), [(2, 3, False), (3, 3, True), (4, 3, True), (999, None, False)])
def test_p15_the_ceiling_bounds_the_attempts(attempt: int, most: int | None, dead: bool) -> None:
    end = move(FAILED, attempt=attempt, max_attempts=most)

    assert end.status is (TaskStatus.FAILED if dead else TaskStatus.PENDING)
    assert end.reason == ("exhausted" if dead else "Boom")
    assert end.error == BOOM


def test_a_hopeless_failure_says_why_it_is_one() -> None:
    assert move(Failed(BOOM, None, "non_retryable")).reason == "non_retryable"


@pytest.mark.parametrize("outcome", [SNOOZED, RELEASED])
def test_p15_what_is_given_back_burns_no_attempt_even_at_the_ceiling(outcome: Outcome) -> None:
    back = move(outcome, attempt=3)

    assert (back.status, back.give_back, back.failed) == (TaskStatus.PENDING, True, False)


def test_only_what_is_given_back_gives_an_attempt_back() -> None:
    assert [outcome for outcome in OUTCOMES if move(outcome).give_back] == [SNOOZED, RELEASED]


def test_a_snooze_into_the_past_is_due_at_once() -> None:
    assert move(Snoozed(NOW - SOON)).retry_at == NOW


@pytest.mark.parametrize("outcome", [Failed(BOOM, timedelta.max), Snoozed(datetime.max.replace(tzinfo=UTC))])
def test_nobody_waits_beyond_the_calendar(outcome: Outcome) -> None:
    assert move(outcome).retry_at == NOW + LONGEST_WAIT


# ---- P5: asked for once more -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seen", [AGAIN, BOTH])
@pytest.mark.parametrize("outcome", [COMPLETED, HOPELESS, DISCARDED, CANCELLED])
def test_p5_any_end_with_a_request_is_a_new_run(outcome: Outcome, seen: Seen) -> None:
    fresh = move(outcome, seen)

    assert (fresh.status, fresh.new_run, fresh.retry_at) == (TaskStatus.PENDING, True, NOW)
    assert not fresh.failed
    assert not fresh.give_back
    assert fresh.event is not None
    assert fresh.event.endswith("again")


def test_p5_exhaustion_with_a_request_is_a_new_run_that_keeps_the_failure() -> None:
    fresh = move(FAILED, AGAIN, attempt=3)

    assert (fresh.new_run, fresh.error, fresh.reason) == (True, BOOM, "exhausted")


@pytest.mark.parametrize("outcome", [FAILED, SNOOZED, RELEASED])
def test_p5_what_runs_again_anyway_answers_the_request(outcome: Outcome) -> None:
    assert move(outcome, AGAIN) == move(outcome)


# ---- P6: asked to stop -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [FAILED, SNOOZED, RELEASED])
def test_p6_what_would_run_again_is_cancelled_when_that_was_asked(outcome: Outcome) -> None:
    end = move(outcome, CANCEL)

    assert (end.status, end.reason, end.new_run) == (TaskStatus.CANCELLED, "cancel requested", False)


@pytest.mark.parametrize("outcome", [FAILED, SNOOZED, RELEASED])
def test_p6_p5_unless_it_was_asked_for_again(outcome: Outcome) -> None:
    assert move(outcome, BOTH).new_run


@pytest.mark.parametrize("outcome", [COMPLETED, HOPELESS])
def test_p6_what_has_ended_has_ended_whatever_was_asked(outcome: Outcome) -> None:
    assert move(outcome, CANCEL) == move(outcome)
    assert not move(outcome).guards_cancel


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("again", [False, True])
def test_p6_an_end_that_does_not_compare_the_cancel_is_the_same_with_it(outcome: Outcome, again: bool) -> None:
    """A cancel may arrive between the look and the write, but is never taken back while the claim lasts."""
    end, late = move(outcome, Seen(again)), move(outcome, Seen(again, cancel_requested=True))

    assert end.guards_cancel or (end.status, end.new_run) == (late.status, late.new_run)


def test_every_move_to_pending_says_when_and_no_other_does() -> None:
    for outcome, again, cancel, attempt in product(OUTCOMES, [False, True], [False, True], [1, 3]):
        end = move(outcome, Seen(again, cancel), attempt=attempt)
        assert (end.retry_at is not None) == (end.status is TaskStatus.PENDING)
        assert end.status is not TaskStatus.RUNNING
        assert not (end.new_run and end.status is not TaskStatus.PENDING)


# ---- P9: rescue ------------------------------------------------------------------------------------------------------


def test_p9_a_stale_claim_goes_back_at_once() -> None:
    back = rescue(a_run(), NOW)

    assert (back.status, back.retry_at, back.event) == (TaskStatus.PENDING, NOW, "rescued")
    assert not back.give_back
    assert not back.failed


def test_p9_at_the_ceiling_it_is_a_dead_letter_that_names_the_worker() -> None:
    end = rescue(a_run(attempt=3), NOW)

    assert (end.status, end.reason, end.failed) == (TaskStatus.FAILED, WORKER_LOST, True)
    assert end.error is not None
    assert (end.error.fingerprint, end.error.at) == (WORKER_LOST, NOW)
    assert "w1" in end.error.message


def test_p9_it_is_cancelled_if_that_was_asked() -> None:
    assert rescue(a_run(cancel_requested_at=NOW, attempt=3), NOW).status is TaskStatus.CANCELLED


@pytest.mark.parametrize("fields", [{"attempt": 3}, {"cancel_requested_at": NOW}])
def test_p9_p5_a_request_makes_any_end_a_new_run(fields: dict[str, Any]) -> None:
    assert rescue(a_run(again=True, **fields), NOW).new_run


# ---- P11 -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("retry_at", [NOW - SOON, NOW, NOW + SOON])
def test_p11_relay_looks_when_a_task_is_due_and_later_if_it_was_published(retry_at: datetime) -> None:
    due = max(NOW, retry_at)

    assert relay_at(NOW, retry_at, published=False) == due
    assert relay_at(NOW, retry_at, published=True) == due + RELAY_SLACK
