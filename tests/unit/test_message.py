"""What a publisher may send."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, strategies as st
from pydantic import ValidationError

from schemas.message import MAX_ID, TaskMessage

EVERYTHING = {
    "id": "a",
    "taskType": "report.build",
    "taskBody": {"customer": "x"},
    "taskName": "n",
    "retryAt": "2026-12-24T18:00:00.123456+01:00",
    "maxAttempts": 3,
    "timeoutSeconds": 1.5,
    "tenantId": "t",
}


def test_every_field_is_read_by_either_name() -> None:
    message = TaskMessage.model_validate(EVERYTHING)

    assert (message.id, message.task_type, message.task_body) == ("a", "report.build", {"customer": "x"})
    assert message.retry_at == datetime(2026, 12, 24, 17, 0, 0, 123000, tzinfo=UTC)
    assert (message.task_name, message.max_attempts, message.timeout_seconds, message.tenant_id) == ("n", 3, 1.5, "t")
    by_snake = TaskMessage.model_validate({"task_type": "t", "task_body": {"a": 1}, "retry_at": "2026-12-24T18:00:00Z"})
    assert (by_snake.task_type, by_snake.task_body) == ("t", {"a": 1})


def test_nothing_needs_to_be_said() -> None:
    assert TaskMessage.model_validate_json(b"{}") == TaskMessage()


@pytest.mark.parametrize(("delay", "seconds"), [("90s", 90), ("PT10M", 600), (5, 5), (0, 0)])
def test_a_delay_is_a_duration_or_seconds(delay: Any, seconds: float) -> None:
    assert TaskMessage.model_validate({"delay": delay}).delay == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", ""),
        ("id", "x" * (MAX_ID + 1)),
        ("id", 5),
        ("id", "\ud800"),
        ("taskType", "Report"),
        ("taskType", "a b"),
        ("taskType", ""),
        ("taskType", "x" * 101),
        ("taskType", "report\n"),
        ("taskBody", []),
        ("taskBody", "{}"),
        ("taskBody", None),
        ("taskName", ""),
        ("unique", "perhaps"),
        ("retryAt", "2026-12-24T18:00:00"),
        ("retryAt", "yesterday"),
        ("retryAt", "9999-12-31T23:59:59Z"),
        ("retryAt", "9999-12-31T23:59:59-12:00"),
        ("retryAt", "0001-01-01T00:00:00+14:00"),
        ("retryAt", 1e300),
        ("delay", "soon"),
        ("delay", -1),
        ("delay", "-PT1S"),
        ("delay", "99999999999w"),
        ("delay", 1e300),
        ("maxAttempts", 0),
        ("maxAttempts", 1.5),
        ("maxAttempts", 10**9),
        ("timeoutSeconds", 0),
        ("timeoutSeconds", -1),
        ("timeoutSeconds", 10**9),
        ("timeoutSeconds", "nan"),
        ("tenantId", ""),
        ("surprise", 1),
    ],
)
def test_what_is_wrong_is_said_with_the_field(field: str, value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        TaskMessage.model_validate({field: value})

    assert [problem["loc"][0] for problem in caught.value.errors()] == [field]


@pytest.mark.parametrize(
    "both", [{"retryAt": "2026-12-24T18:00:00Z", "delay": "5s"}, {"unique": True, "taskName": "n"}]
)
def test_what_contradicts_itself_is_refused(both: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="not both"):
        TaskMessage.model_validate(both)


def test_a_name_may_say_that_it_is_not_unique_by_body() -> None:
    assert TaskMessage.model_validate({"taskName": "n", "unique": False}).unique is False


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"null", b"5", b'"x"', b"\xff", b'{"a":1}', b"{" * 100_000, b'{"id":"\\ud800"}']
)
def test_bytes_that_are_no_message_are_refused(text: bytes) -> None:
    with pytest.raises(ValidationError):
        TaskMessage.model_validate_json(text)


@given(
    st.dictionaries(
        st.sampled_from([*EVERYTHING, "delay", "unique", "x"]),
        st.none() | st.text() | st.integers() | st.floats() | st.datetimes(timezones=st.timezones()) | st.timedeltas(),
    )
)
def test_nothing_breaks_the_reader(fields: dict[str, Any]) -> None:
    with suppress(ValidationError):
        TaskMessage.model_validate(fields)
