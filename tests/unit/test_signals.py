"""What a handler may raise to steer its task."""

from datetime import UTC, datetime, timedelta

import pytest

from service.signals import Discard, Retry, Signal, Snooze
from service.states import LONGEST_WAIT


@pytest.mark.parametrize("after", ["90s", 90, 90.0, timedelta(seconds=90)])
def test_a_wait_is_a_text_or_seconds_or_a_timedelta(after: timedelta | str | float) -> None:
    assert Retry(after=after).after == Snooze(after=after).after == timedelta(seconds=90)


@pytest.mark.parametrize(
    ("after", "kept"), [(-5, timedelta()), (timedelta.max, LONGEST_WAIT), ("99999d", LONGEST_WAIT)]
)
def test_no_wait_is_negative_or_longer_than_the_calendar(after: timedelta | str | float, kept: timedelta) -> None:
    assert Retry(after=after).after == Snooze(after=after).after == kept


def test_a_retry_may_leave_the_wait_to_the_policy() -> None:
    assert (Retry().after, str(Retry("not yet"))) == (None, "not yet")


def test_a_snooze_says_until_when_or_for_how_long() -> None:
    until = datetime(2026, 1, 1, tzinfo=UTC)
    assert (Snooze(until=until).until, Snooze(until=until).after) == (until, None)

    with pytest.raises(ValueError, match="either"):
        Snooze()
    with pytest.raises(ValueError, match="either"):
        Snooze(until=until, after=1)
    with pytest.raises(ValueError, match="time zone"):
        Snooze(until=until.replace(tzinfo=None))
    with pytest.raises(ValueError, match="write 90s"):
        Snooze(after="soon")


def test_all_are_signals_with_a_reason() -> None:
    for signal in (Retry("why"), Snooze("why", after=1), Discard("why")):
        assert isinstance(signal, Signal)
        assert str(signal) == "why"
