"""Control messages and events."""

import asyncio
from datetime import UTC, datetime

import pytest

from schemas.event import ControlCommand, ControlMessage, Event, EventName
from service.broker.port import Broker
from service.errors import BrokerUnavailable
from tests.brokers import SECONDS
from tests.contract.broker.conftest import TYPES, Adapter

CANCEL = ControlMessage(command=ControlCommand.CANCEL, task_id="7", task_type="report", force=True)
STARTED = Event(event=EventName.TASK_STARTED, at=datetime(2026, 1, 1, tzinfo=UTC), task_id="7", detail={"attempt": 1})


async def hear(told: "asyncio.Queue[ControlMessage]") -> ControlMessage:
    return await asyncio.wait_for(told.get(), SECONDS)


async def test_a_control_message_reaches_every_callback_of_its_own_process(adapter: Adapter) -> None:
    before, after = asyncio.Queue[ControlMessage](), asyncio.Queue[ControlMessage]()
    broker = adapter.make()
    adapter.made.append(broker)
    broker.on_control(before.put_nowait)
    await broker.open(TYPES)
    broker.on_control(after.put_nowait)

    await broker.send_control(CANCEL)

    assert await hear(before) == await hear(after) == CANCEL


async def test_a_control_message_reaches_other_processes_where_there_are_any(adapter: Adapter) -> None:
    told = asyncio.Queue[ControlMessage]()
    sender, receiver = await adapter.open(), await adapter.open()
    receiver.on_control(told.put_nowait)

    await sender.send_control(CANCEL)
    await receiver.send_control(ControlMessage(command=ControlCommand.RESUME))

    heard = await hear(told)
    assert heard == (CANCEL if adapter.shared else ControlMessage(command=ControlCommand.RESUME))


async def test_control_and_events_on_a_closed_broker_are_lost_in_silence(adapter: Adapter) -> None:
    closed = await adapter.open()
    await closed.close()

    await closed.send_control(CANCEL)
    closed.emit(lambda: STARTED)


async def test_emitting_neither_waits_nor_drops_what_fits(broker: Broker) -> None:
    for _ in range(100):
        broker.emit(lambda: STARTED)

    assert broker.events_dropped == 0


# ---- listening -------------------------------------------------------------------------------------------------------


def no_gap() -> None:
    raise AssertionError("nothing was interrupted")


async def told(heard: "asyncio.Queue[Event]") -> Event:
    return await asyncio.wait_for(heard.get(), SECONDS)


async def test_events_reach_every_listener_until_it_is_closed(adapter: Adapter) -> None:
    broker = await adapter.open()
    first, second = asyncio.Queue[Event](), asyncio.Queue[Event]()
    broker.emit(lambda: STARTED)  # before anybody listens
    leaving = await broker.listen(first.put_nowait, no_gap)
    await broker.listen(second.put_nowait, no_gap)
    # What was sent before may still be on its way to the broker, but not after this one.
    other = STARTED.model_copy(update={"task_id": "8"})
    broker.emit(lambda: other)
    while (event := await told(first)) != other:
        assert event == STARTED
    while await told(second) != other:
        pass

    await leaving.close()
    await leaving.close()
    broker.emit(lambda: STARTED)

    assert await told(second) == STARTED
    assert first.empty()


async def test_events_of_other_processes_are_heard_where_there_are_any(adapter: Adapter) -> None:
    heard = asyncio.Queue[Event]()
    sender, receiver = await adapter.open(), await adapter.open()
    await receiver.listen(heard.put_nowait, no_gap)

    sender.emit(lambda: STARTED)
    if not adapter.shared:
        receiver.emit(lambda: STARTED)

    assert await told(heard) == STARTED


async def test_nobody_listens_to_a_broker_that_is_not_open(adapter: Adapter) -> None:
    broker = adapter.make()
    adapter.made.append(broker)

    with pytest.raises(BrokerUnavailable):
        await broker.listen(lambda event: None, no_gap)
