"""The ring that listeners resume from, and the queue of each."""

import pytest

from schemas.event import Event, EventName, Gap
from service import event_ring
from service.event_ring import Entry, EventListener, EventRing
from tests.contract.store.steps import now


class Time:
    at = 0.0

    def monotonic(self) -> float:
        return self.at


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def ring(time: Time) -> EventRing:
    return EventRing(time.monotonic)


def put(ring: EventRing, *numbers: int, name: EventName = EventName.TASK_STARTED) -> None:
    for number in numbers:
        ring.put(Event(event=name, at=now(), task_id=str(number)))


async def heard(listener: EventListener) -> list[str]:
    """Task ids, and gaps as ``gap`` and what is missing."""
    told: list[str] = []
    while taken := await listener.take(3, 0.001):
        for each in taken:
            what = each.what if isinstance(each, Entry) else each
            told.append(str(what.task_id) if isinstance(what, Event) else f"gap {what.missed}")
    return told


async def last_id(listener: EventListener) -> str:
    [*_, last] = await listener.take(100, 1)
    assert isinstance(last, Entry)
    return last.id


async def test_a_listener_hears_what_comes_after_he_joined(ring: EventRing) -> None:
    put(ring, 1)
    listener = ring.join()
    put(ring, 2, 3, 4, 5)

    assert await heard(listener) == ["2", "3", "4", "5"]
    ring.leave(listener)
    put(ring, 6)
    assert await heard(listener) == []


async def test_he_who_comes_back_has_missed_nothing_that_the_ring_holds(ring: EventRing) -> None:
    first = ring.join()
    put(ring, 1, 2)
    seen = await last_id(first)
    ring.leave(first)
    put(ring, 3, 4)

    assert await heard(ring.join(last_id=seen)) == ["3", "4"]


async def test_he_who_comes_back_too_late_is_told_how_many_he_missed(
    ring: EventRing, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = ring.join()
    put(ring, 1)
    seen = await last_id(listener)
    put(ring, 2, 3)
    time.at += event_ring.RING_SECONDS + 1
    put(ring, 4)

    assert await heard(ring.join(last_id=seen)) == ["gap 2", "4"]
    monkeypatch.setattr(event_ring, "RING_MOST", 2)
    put(ring, 5, 6)
    assert await heard(ring.join(last_id=seen)) == ["gap 3", "5", "6"]
    assert len(ring) == 2


@pytest.mark.parametrize("strange", ["", "7", "x-1", "1-x", "-", "😀", "1" * 5000])
async def test_an_id_of_another_process_is_a_gap(ring: EventRing, strange: str) -> None:
    put(ring, 1)

    assert await heard(ring.join(last_id=strange)) == ["gap None"]
    assert await heard(EventRing(lambda: 0.0).join(last_id="ab-1")) == ["gap None"]


async def test_an_id_with_a_number_of_any_length_is_a_gap(ring: EventRing) -> None:
    ring.put(Event(event=EventName.TASK_STARTED, at=now(), task_id="1"))
    listener = ring.join()
    ring.put(Event(event=EventName.TASK_STARTED, at=now(), task_id="2"))

    assert await heard(ring.join(last_id=await last_id(listener) + "9" * 5000)) == ["gap None"]


async def test_types_are_chosen_and_gaps_always_told(ring: EventRing) -> None:
    listener = ring.join([EventName.TASK_FAILED])
    put(ring, 1)
    put(ring, 2, name=EventName.TASK_FAILED)
    ring.put(Gap(reason="interrupted"))

    assert await heard(listener) == ["2", "gap None"]


async def test_he_who_is_too_slow_is_told_what_he_missed_where_it_is_missing(
    ring: EventRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_ring, "QUEUE_MOST", 3)
    slow, quick = ring.join(), ring.join()
    put(ring, 1, 2)
    assert await heard(quick) == ["1", "2"]
    put(ring, 3, 4, 5)
    assert await heard(quick) == ["3", "4", "5"]

    taken = await slow.take(1, 1)
    put(ring, 6)

    assert isinstance(taken[0], Entry)
    assert await heard(slow) == ["2", "3", "gap 2", "6"]
    put(ring, 7, 8, 9, 10)
    assert await heard(slow) == ["7", "8", "9", "gap 1"]


async def test_a_ring_ends_the_waiting(ring: EventRing) -> None:
    listener = ring.join()
    listener.ring()

    assert await listener.take(1, 60) == []
