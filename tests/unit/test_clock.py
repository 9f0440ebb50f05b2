"""The store's time, carried forward by this machine's monotonic clock."""

import time
from datetime import UTC, datetime, timedelta, timezone
from threading import Event, Thread

import pytest

from schemas.base import to_instant
from service.clock import SLOW_SECONDS, StoreClock, SystemClock, suspended, uptime

SERVER = datetime(2031, 5, 4, 3, 2, 1, 7000, tzinfo=UTC)


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock that counts on while the machine is suspended, set by hand."""
    seconds = [100.0]
    monkeypatch.setattr(time, "clock_gettime", lambda _: seconds[0])
    return seconds


def test_until_the_first_look_it_is_the_system_s() -> None:
    assert abs(StoreClock().now() - datetime.now(UTC)) < timedelta(seconds=1)
    assert StoreClock().offset == timedelta()


def test_it_is_the_server_s_time_half_a_round_trip_ago_and_goes_on_from_there(ticking: list[float]) -> None:
    clock = StoreClock()
    ticking[0] = 100.4
    clock.set_from(SERVER, 100.0, 100.4)
    assert clock.now() == SERVER + timedelta(seconds=0.2)

    ticking[0] += 60
    assert clock.now() == SERVER + timedelta(seconds=60.2)


def test_a_suspension_of_the_machine_counts(ticking: list[float]) -> None:
    """Linux stops its monotonic clock meanwhile: what is claimed after waking would be as old as the sleep was long."""
    clock = StoreClock()
    clock.set_from(SERVER, 100.0, 100.0)
    begun, before = clock.monotonic(), suspended()

    ticking[0] += 45

    assert clock.now() == SERVER + timedelta(seconds=45)
    assert clock.monotonic() - begun == 45
    assert 44 < suspended() - before <= 45


def test_this_machine_s_clock_does_not_matter_once_it_is_set(
    ticking: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = StoreClock()
    clock.set_from(SERVER, 100.0, 100.0)

    class Broken(datetime):
        @classmethod
        def now(cls, tz: object = None) -> "Broken":
            raise AssertionError("nobody asks for this machine's time")

    monkeypatch.setattr("service.clock.datetime", Broken)
    assert clock.now() == SERVER


def test_the_offset_is_that_of_the_last_look(ticking: list[float]) -> None:
    clock = StoreClock()

    clock.set_from(datetime.now(UTC) + timedelta(hours=1), 100.0, 100.0)

    assert abs(clock.offset - timedelta(hours=1)) < timedelta(seconds=5)


def test_a_slow_answer_does_not_move_it(ticking: list[float]) -> None:
    clock = StoreClock()
    clock.set_from(SERVER, 100.0, 100.0)
    ticking[0] = 110.0

    clock.set_from(SERVER + timedelta(hours=1), 110.0 - SLOW_SECONDS - 0.1, 110.0)
    assert clock.now() == SERVER + timedelta(seconds=10)

    clock.set_from(SERVER + timedelta(hours=1), 110.0, 110.0)
    assert clock.now() == SERVER + timedelta(hours=1)


def test_a_slow_answer_is_better_than_none(ticking: list[float]) -> None:
    clock = StoreClock()
    ticking[0] = 104.0

    clock.set_from(SERVER, 100.0, 104.0)

    assert clock.now() == SERVER + timedelta(seconds=2)


def test_instants_are_utc_in_whole_milliseconds() -> None:
    for clock in (SystemClock(), StoreClock()):
        assert clock.now().tzinfo is UTC
        assert clock.now().microsecond % 1000 == 0
        assert clock.monotonic() <= uptime()


def test_a_look_in_another_thread_never_shows_half_of_itself() -> None:
    """The heartbeat sets the clock from its own thread."""
    clock, stop = StoreClock(), Event()
    start = uptime()

    def look_again_and_again() -> None:
        while not stop.is_set():
            for at in (start, start - 1000):  # two ways to say the same time
                clock.set_from(SERVER + timedelta(seconds=at - start), at, at)

    thread = Thread(target=look_again_and_again)
    thread.start()
    try:
        for _ in range(20_000):
            since = timedelta(seconds=uptime() - start)
            assert abs(clock.now() - SERVER - since) < timedelta(seconds=10) or clock.offset == timedelta()
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize(
    ("moment", "instant"),
    [
        (datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=2))), datetime(2026, 1, 1, 10, tzinfo=UTC)),
        (datetime(2026, 1, 1, 0, 0, 0, 123999, tzinfo=UTC), datetime(2026, 1, 1, 0, 0, 0, 123000, tzinfo=UTC)),
        (datetime(2, 1, 1, tzinfo=UTC), datetime(2, 1, 1, tzinfo=UTC)),
    ],
)
def test_an_instant_is_cut_to_what_a_store_keeps(moment: datetime, instant: datetime) -> None:
    assert to_instant(moment) == instant


@pytest.mark.parametrize(
    "moment",
    [
        datetime.max.replace(tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, tzinfo=timezone(-timedelta(hours=12))),
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))),
        datetime(9000, 1, 1, tzinfo=UTC),
    ],
)
def test_an_instant_beyond_all_reason_is_refused(moment: datetime) -> None:
    with pytest.raises(ValueError, match="out of range"):
        to_instant(moment)
